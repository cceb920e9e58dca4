//! The documentation page at `/docs`: a viewer for `/openapi.json`, all of it in this program.

use std::io::Read;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use souk_common::error::{OrProblem, Problem};
use tonic::body::Body;

use crate::{accept, answer};

/// Allows no requests to other hosts. The viewer's icons are in its style sheet.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
/// It only changes with the program. It is revalidated each time, so that an old viewer never shows
/// a new document.
const CACHE: HeaderValue = HeaderValue::from_static("no-cache");

/// A file of the page.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    /// Where it is served.
    pub path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
    /// `bytes` are compressed with gzip.
    packed: bool,
}

/// The page itself.
pub const PATH: &str = "/docs";

/// Where its files are served.
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

/// The file at a path.
pub fn at(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

impl File {
    /// The file, packed for those who can unpack it.
    ///
    /// # Errors
    /// `INTERNAL`, where what was built in is broken.
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
