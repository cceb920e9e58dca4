//! Compresses responses with gzip for clients that accept it.
//!
//! It uses only gzip: every client can read it, and a CDN in front can compress again for browsers.

use std::convert::Infallible;

use http::{Request, Response, header};
use tonic::body::Body;
use tower::ServiceExt;
use tower_http::{
    CompressionLevel,
    compression::{Compression, Predicate},
};

use super::layer::NextInfallible;
use crate::{etag, gateway::Gateway};

/// Minimum size of a compressed response, in bytes. Below it, compression saves no packet.
const WORTH_IT: u64 = 1024;
/// The compressible content types. gRPC has its own compression, and streams must not be buffered.
const TEXT: [&str; 7] = [
    "application/json",
    "application/problem+json",
    "application/javascript",
    "application/yaml",
    "image/svg+xml",
    "text/",
    "application/manifest+json",
];
const EVENT_STREAM: &str = "text/event-stream";

/// Compresses a response if it is large enough and the client accepts gzip. A compressed response has its own entity
/// tag.
pub async fn compress(
    gateway: &Gateway,
    request: Request<Body>,
    next: &NextInfallible,
) -> Result<Response<Body>, Infallible> {
    if !gateway.config.settings.compression || !request.headers().contains_key(header::ACCEPT_ENCODING) {
        return next.run(request).await;
    }
    let compression = Compression::new(next).quality(CompressionLevel::Fastest).compress_when(WorthIt);
    let Ok(mut response) = Box::pin(compression.oneshot(request)).await;
    let headers = response.headers_mut();
    if headers.contains_key(header::CONTENT_ENCODING)
        && let Some(packed) = headers.get(header::ETAG).and_then(etag::packed)
    {
        headers.insert(header::ETAG, packed);
    }
    Ok(response.map(Body::new))
}

#[derive(Clone, Copy)]
struct WorthIt;

impl Predicate for WorthIt {
    fn should_compress<B: http_body::Body>(&self, response: &Response<B>) -> bool {
        let size = response.body().size_hint().exact();
        let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        size.is_some_and(|size| size >= WORTH_IT)
            && content_type.is_some_and(|given| {
                TEXT.iter().any(|text| given.starts_with(text)) && !given.starts_with(EVENT_STREAM)
            })
    }
}
