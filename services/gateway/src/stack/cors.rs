//! CORS: allows calls from web pages of other origins.

use std::convert::Infallible;

use http::{HeaderValue, Method as HttpMethod, Request, Response, header};
use tonic::body::Body;
use tower::{Layer, ServiceExt};

use super::layer::NextInfallible;
use crate::{cors::is_preflight, gateway::Gateway, request, target::Protocol};

/// Applies CORS. An OPTIONS request that is not a preflight is left to the routes. A request without an origin does not
/// come from a web page.
pub async fn cross_origin(
    gateway: &Gateway,
    request: Request<Body>,
    next: &NextInfallible,
) -> Result<Response<Body>, Infallible> {
    // Web pages cannot send plain gRPC, but they can send gRPC-Web.
    let is_grpc = request::target(request.extensions()).is_ok_and(|target| target.protocol == Protocol::Grpc);
    let Some(cors) = gateway.cors.as_ref().filter(|_| !is_grpc) else {
        return next.run(request).await;
    };
    let is_call = request.headers().contains_key(header::ORIGIN) && *request.method() != HttpMethod::OPTIONS;
    let Ok(mut response) = match is_call || is_preflight(&request) {
        true => Box::pin(cors.layer.layer(next).oneshot(request)).await,
        false => next.run(request).await,
    };
    if cors.varies {
        // Set without an origin, too: the response must not be cached for requests with one.
        response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
    }
    Ok(response)
}
