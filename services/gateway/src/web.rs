//! gRPC-Web: gRPC without HTTP trailers, for browsers. Messages are not decoded; they are sent in binary or as base64.
//! The last frame of the body contains the trailers.

mod base64;

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use http_body::Frame;
use souk_common::{
    error::{Problem, Reason},
    framing::FRAME,
};
use tonic::{Code, Status, body::Body};

use self::base64::Decoder;

/// The encoding of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Unchanged, in binary.
    Binary,
    /// As base64, piece by piece, for clients that can read only text.
    Text,
}

const BINARY: &str = "application/grpc-web";
const TEXT: &str = "application/grpc-web-text";

/// Flag of the frame that contains the trailers.
const TRAILERS: u8 = 0x80;

impl Encoding {
    /// The encoding of a request. `None` if it is not gRPC-Web.
    pub fn of(request: &Request<Body>) -> Option<Self> {
        let content_type = request.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
        let essence = content_type.split(';').next()?.trim().to_ascii_lowercase();
        let encoding = match essence.strip_suffix("+proto").unwrap_or(&essence) {
            BINARY => Self::Binary,
            TEXT => Self::Text,
            _ => return None,
        };
        (*request.method() == Method::POST).then_some(encoding)
    }

    /// Converts a request to plain gRPC.
    pub fn unwrap(self, request: Request<Body>) -> Request<Body> {
        let (mut parts, body) = request.into_parts();
        parts.version = Version::HTTP_2;
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let body = match self {
            Self::Binary => body,
            Self::Text => Body::new(Decoded { inner: body, decoder: Decoder::default() }),
        };
        Request::from_parts(parts, body)
    }

    /// Converts a response to gRPC-Web. A status in its headers becomes a frame, too: browsers hide response headers of
    /// other origins from a page unless CORS exposes them.
    pub fn wrap(self, response: Response<Body>) -> Response<Body> {
        let (mut parts, inner) = response.into_parts();
        let mut status = HeaderMap::new();
        for name in [Status::GRPC_STATUS, Status::GRPC_MESSAGE, Status::GRPC_STATUS_DETAILS] {
            if let Some(value) = parts.headers.remove(&name) {
                status.insert(name, value);
            }
        }
        let content_type = match self {
            Self::Binary => "application/grpc-web+proto",
            Self::Text => "application/grpc-web-text+proto",
        };
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        parts.headers.remove(header::CONTENT_LENGTH);
        let early = (!status.is_empty()).then_some(status);
        Response::from_parts(parts, Body::new(Encoded { inner, encoding: self, early, over: false }))
    }

    fn encode(self, bytes: Bytes) -> Bytes {
        match self {
            Self::Binary => bytes,
            Self::Text => base64::encode(&bytes).into(),
        }
    }
}

/// Encodes trailers as a frame: a flag, the length, and lines as in HTTP/1.1.
fn trailers_frame(trailers: &HeaderMap) -> Bytes {
    let mut lines = BytesMut::new();
    for (name, value) in trailers {
        lines.put_slice(name.as_str().as_bytes());
        lines.put_slice(b": ");
        lines.put_slice(value.as_bytes());
        lines.put_slice(b"\r\n");
    }
    let mut frame = BytesMut::with_capacity(lines.len() + FRAME);
    frame.put_u8(TRAILERS);
    // Headers are limited to far less than 4 GiB, so the length fits.
    frame.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
    frame.put(lines);
    frame.freeze()
}

/// The trailers of a response that broke off or has no trailers.
fn broken(status: Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("2"));
    }
    trailers
}

/// Decodes a body of base64.
struct Decoded {
    inner: Body,
    decoder: Decoder,
}

impl http_body::Body for Decoded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let not_base64 = |_| Status::from(Problem::new(Reason::MalformedRequest, "the body is not base64"));
        let Poll::Ready(polled) = Pin::new(&mut self.inner).poll_frame(context) else { return Poll::Pending };
        Poll::Ready(match polled {
            Some(Ok(frame)) => Some(match frame.into_data() {
                Ok(data) => self.decoder.push(&data).map(|bytes| Frame::data(bytes.into())).map_err(not_base64),
                Err(trailers) => Ok(trailers),
            }),
            Some(Err(status)) => Some(Err(status)),
            None => self.decoder.finish().err().map(|error| Err(not_base64(error))),
        })
    }
}

/// A response whose trailers are encoded as a frame.
struct Encoded {
    inner: Body,
    encoding: Encoding,
    /// The status from the headers, if the response has no body.
    early: Option<HeaderMap>,
    over: bool,
}

impl Encoded {
    fn end(&mut self, trailers: &HeaderMap) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.over = true;
        // Dropping the body cancels the call of the service.
        self.inner = Body::empty();
        Poll::Ready(Some(Ok(Frame::data(self.encoding.encode(trailers_frame(trailers))))))
    }
}

impl http_body::Body for Encoded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Some(trailers) = self.early.take() {
            return self.end(&trailers);
        }
        let Poll::Ready(polled) = Pin::new(&mut self.inner).poll_frame(context) else { return Poll::Pending };
        match polled {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Poll::Ready(Some(Ok(Frame::data(self.encoding.encode(data))))),
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => self.end(&trailers),
                    Err(other) => Poll::Ready(Some(Ok(other))),
                },
            },
            Some(Err(status)) => self.end(&broken(Problem::from_status(&status).into())),
            None => self.end(&broken(Status::new(Code::Unknown, "the answer ended without a status"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use proptest::prelude::*;

    use super::*;

    fn body(chunks: Vec<Vec<u8>>, trailers: Option<HeaderMap>) -> Body {
        let frames = chunks.into_iter().map(|chunk| Frame::data(Bytes::from(chunk)));
        let frames = frames.chain(trailers.map(Frame::trailers)).map(Ok::<_, Status>);
        Body::new(StreamBody::new(futures::stream::iter(frames.collect::<Vec<_>>())))
    }

    fn collect(body: Body) -> Result<Bytes, Status> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(body.collect()).map(|collected| collected.to_bytes())
    }

    fn request(content_type: &str, body: Body) -> Request<Body> {
        Request::post("/a.B/C").header("content-type", content_type).body(body).unwrap()
    }

    #[test]
    fn grpc_web_requests_are_recognised() {
        let table = [
            ("application/grpc-web", Some(Encoding::Binary)),
            ("application/grpc-web+proto", Some(Encoding::Binary)),
            ("Application/gRPC-Web+Proto; charset=utf-8", Some(Encoding::Binary)),
            ("application/grpc-web-text", Some(Encoding::Text)),
            ("application/grpc-web-text+proto", Some(Encoding::Text)),
            ("application/grpc-web+json", None),
            ("application/grpc-webs", None),
            ("application/grpc", None),
            ("application/grpc+proto", None),
            ("application/json", None),
        ];
        for (content_type, expected) in table {
            assert_eq!(Encoding::of(&request(content_type, Body::empty())), expected, "{content_type}");
        }
    }

    fn cut(bytes: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
        let mut rest = bytes;
        let mut chunks = Vec::new();
        for size in sizes.iter().cycle() {
            if rest.is_empty() || sizes.iter().all(|size| *size == 0) {
                break;
            }
            let (chunk, after) = rest.split_at(rest.len().min(*size));
            chunks.push(chunk.to_vec());
            rest = after;
        }
        chunks.push(rest.to_vec());
        chunks
    }

    proptest! {
        #![proptest_config(crate::fuzz::cases())]

        /// A client reads exactly what the gateway wrote, however the network splits the bytes. The same holds in the
        /// other direction.
        #[test]
        fn a_response_is_the_same_however_the_network_splits_it(
            data in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            message in "[ -~]{0,30}",
            sizes in prop::collection::vec(0usize..9, 1..6),
        ) {
            let mut trailers = HeaderMap::new();
            Status::new(Code::Aborted, message).add_header(&mut trailers).unwrap();
            let expected = [data.concat(), trailers_frame(&trailers).to_vec()].concat();
            for encoding in [Encoding::Binary, Encoding::Text] {
                let response = encoding.wrap(Response::new(body(data.clone(), Some(trailers.clone()))));
                let wire = collect(response.into_body()).unwrap();
                let content_type = match encoding { Encoding::Binary => BINARY, Encoding::Text => TEXT };
                let back = encoding.unwrap(request(content_type, body(cut(&wire, &sizes), None)));
                prop_assert_eq!(&collect(back.into_body()).unwrap(), &expected);
            }
        }

        #[test]
        fn no_request_panics(bytes in prop::collection::vec(any::<u8>(), 0..60), sizes in prop::collection::vec(0usize..9, 1..6)) {
            let decoded = Encoding::Text.unwrap(request(TEXT, body(cut(&bytes, &sizes), None)));
            if let Err(status) = collect(decoded.into_body()) {
                prop_assert_eq!(status.code(), Code::InvalidArgument);
            }
        }
    }

    #[test]
    fn every_response_ends_with_a_status() {
        let early = Encoding::Binary.wrap(Status::new(Code::NotFound, "no such thing").into_http());
        assert!(early.headers().get("grpc-status").is_none());
        let text = collect(early.into_body()).unwrap();
        assert_eq!(text[0], TRAILERS);
        assert!(text.ends_with(b"grpc-status: 5\r\ngrpc-message: no%20such%20thing\r\n"), "{text:?}");
        let none = Encoding::Binary.wrap(Response::new(body(vec![b"abc".to_vec()], None)));
        let text = collect(none.into_body()).unwrap();
        assert!(text.starts_with(b"abc\x80") && text[8..].starts_with(b"grpc-status: 2\r\n"), "{text:?}");
        let broken = stream_that_breaks();
        let text = collect(Encoding::Binary.wrap(Response::new(broken)).into_body()).unwrap();
        assert!(text.starts_with(b"\x80") && !text.windows(6).any(|window| window == b"secret"), "{text:?}");
    }

    fn stream_that_breaks() -> Body {
        let broken = Err::<Frame<Bytes>, _>(Status::new(Code::Internal, "secret"));
        Body::new(StreamBody::new(futures::stream::iter([broken])))
    }
}
