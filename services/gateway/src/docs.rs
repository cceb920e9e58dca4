//! The documentation page at `/docs`: a viewer for `/openapi.json`. All its files are part of the binary.

use std::io::Read;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use souk_common::error::{OrProblem, Problem};
use tonic::body::Body;

use crate::{accept, answer};

/// Allows no requests to other hosts. The style sheet contains the viewer's icons.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
/// The files change only with the binary. Browsers revalidate them each time, so that an old viewer never shows a new
/// document.
const CACHE: HeaderValue = HeaderValue::from_static("no-cache");

/// A file of the documentation page.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    /// Path of the file.
    pub path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
    /// True if `bytes` are compressed with gzip.
    packed: bool,
}

/// Path of the documentation page.
pub const PATH: &str = "/docs";

/// Paths of all files of the documentation page.
pub fn paths() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|file| file.path)
}

static FILES: [File; 4] = [
    File {
        path: PATH,
        content_type: "text/html; charset=utf-8",
        bytes: include_bytes!("../assets/docs.html"),
        packed: false,
    },
    File {
        path: "/docs/start.js",
        content_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../assets/docs.js"),
        packed: false,
    },
    File {
        path: "/docs/swagger-ui-bundle.js",
        content_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../assets/swagger-ui/swagger-ui-bundle.js.gz"),
        packed: true,
    },
    File {
        path: "/docs/swagger-ui.css",
        content_type: "text/css; charset=utf-8",
        bytes: include_bytes!("../assets/swagger-ui/swagger-ui.css.gz"),
        packed: true,
    },
];

/// Finds the file at a path.
pub fn at(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

impl File {
    /// Responds with the file, compressed if the client accepts gzip.
    ///
    /// # Errors
    /// `INTERNAL` if the embedded file is corrupt.
    pub fn answer(&self, request: &HeaderMap) -> Result<Response<Body>, Problem> {
        let as_it_is = !self.packed || accept::names_coding(request, "gzip");
        let body = if as_it_is { Bytes::from_static(self.bytes) } else { self.unpacked()? };
        let content_type = HeaderValue::from_static(self.content_type);
        let mut response = answer::with_body(StatusCode::OK, content_type, body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
        headers.insert(header::CACHE_CONTROL, CACHE);
        if self.packed {
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
            if as_it_is {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
        }
        Ok(response)
    }

    fn unpacked(&self) -> Result<Bytes, Problem> {
        let mut bytes = Vec::new();
        GzDecoder::new(self.bytes).read_to_end(&mut bytes).or_internal()?;
        Ok(bytes.into())
    }
}
