//! Forwards gRPC calls without decoding their messages.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header, request::Parts};
use http_body::Frame;
use http_body_util::Full;
use souk_common::{
    context::RequestContext,
    contract::Method,
    error::Problem,
    framing::{self, Coding, FRAME, GRPC_ENCODING},
};
use tonic::{Code, Status, body::Body};
use tower::Service;

use crate::{
    gateway::Gateway,
    request::{self, WholeBody},
    streams,
};

/// Request headers that are forwarded. No other header is: the headers of one HTTP connection mean nothing on another,
/// and no header that a client makes up may reach a service. The client towards the service sets request id, trace and
/// deadline. Messages are decompressed here, so `grpc-encoding` is not forwarded either.
const REQUEST_HEADERS: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::TE, header::AUTHORIZATION, HeaderName::from_static("grpc-accept-encoding")];

/// Response headers that are returned to the client. A response without a body consists of the first four.
const RESPONSE_HEADERS: [HeaderName; 7] = [
    header::CONTENT_TYPE,
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
    GRPC_ENCODING,
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("idempotent-replayed"),
];

/// True if a request is gRPC (and not gRPC-Web).
pub fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    let rest = content_type.and_then(|value| value.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        && request.version() == http::Version::HTTP_2
}

impl Gateway {
    /// Forwards a call. Messages are forwarded unchanged, except for their compression.
    pub(crate) async fn pass(&self, method: &Method, request: Request<Body>) -> Result<Response<Body>, Problem> {
        let limit = self.request_limit(method);
        if method.descriptor.is_client_streaming() {
            let (parts, body) = framing::inflated(request, limit)?.into_parts();
            return self.forward(method, &parts, body).await;
        }
        // A single message is read whole. So a message that is too large gets a proper response instead of a broken
        // stream, and a missing message does not leave the service waiting for it.
        let (parts, _) = request.into_parts();
        let coding = Coding::of_messages(&parts.headers)?;
        let WholeBody(body) = request::part::<WholeBody>(&parts.extensions)?.clone();
        let framed = framing::single(body, coding, limit)?;
        self.limits.surcharge_encoded(method, framed.get(FRAME..).unwrap_or_default(), &parts).await?;
        let body = Body::new(Full::new(framed));
        self.forward(method, &parts, body).await
    }

    /// Handles a call of health or reflection. Both services have streaming methods, so each of their calls takes the
    /// place of a stream.
    pub(crate) async fn own(&self, request: Request<Body>) -> Result<Response<Body>, Problem> {
        let request = framing::inflated(request, self.config.common.server.max_request_bytes)?;
        let place = self.streams.place(request::site(request.extensions())?, None)?;
        let end = self.streams.end(request::part::<RequestContext>(request.extensions())?, true);
        Ok(streams::bound(self.own.call(request).await, end, Some(place)))
    }

    /// Calls the service with a body of gRPC frames.
    pub(crate) async fn forward(&self, method: &Method, parts: &Parts, body: Body) -> Result<Response<Body>, Problem> {
        let upstream = self.upstreams.of(&method.service).ok_or_else(Problem::internal)?;
        let context = request::part::<RequestContext>(&parts.extensions)?;
        let streams = method.descriptor.is_server_streaming();
        let place = if streams { Some(self.place(parts)?) } else { None };
        let mut onward = Request::new(body);
        *onward.method_mut() = http::Method::POST;
        *onward.uri_mut() = method.path.parse().map_err(|_| Problem::internal())?;
        *onward.version_mut() = http::Version::HTTP_2;
        *onward.headers_mut() = only(&parts.headers, &REQUEST_HEADERS);
        onward.extensions_mut().insert(context.clone());
        self.api.request_headers.copy(&parts.headers, onward.headers_mut());
        request::add_client_details(method, parts, onward.headers_mut())?;
        let Ok(response) = upstream.client.clone().call(onward).await;
        if let Some(status) = response.extensions().get::<Status>() {
            // The status was created by the client of the service: the service was not reached, or not in time.
            return Err(Problem::from_status(status));
        }
        let mut back = Response::new(Body::empty());
        *back.headers_mut() = only(response.headers(), &RESPONSE_HEADERS);
        self.api.response_headers.copy(response.headers(), back.headers_mut());
        *back.body_mut() = response.into_body();
        let end = || self.streams.end(context, method.cursor.is_some());
        Ok(if streams { streams::bound(back, end(), place) } else { back })
    }

    /// Takes a place for the response stream of a call.
    ///
    /// # Errors
    /// `OVERLOADED` if no place is free.
    pub(crate) fn place(&self, parts: &Parts) -> Result<streams::Place, Problem> {
        self.streams.place(request::site(&parts.extensions)?, request::user(&parts.extensions)?)
    }
}

fn only(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(names.len());
    for name in names {
        for value in headers.get_all(name) {
            kept.append(name, value.clone());
        }
    }
    kept
}

/// The HTTP status that represents a gRPC code in metrics.
pub fn http_status(code: Code) -> StatusCode {
    if code == Code::Ok {
        return StatusCode::OK;
    }
    let status = Problem::from_status(&Status::new(code, "")).http_status();
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Calls `done` with the final gRPC code of a call, from the headers or from the trailers.
pub fn observe(response: Response<Body>, done: impl FnOnce(Code) + Send + Unpin + 'static) -> Response<Body> {
    match code_in(response.headers()) {
        Some(code) => {
            done(code);
            response
        }
        None => response.map(|inner| Body::new(Observed { inner, done: Some(done) })),
    }
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

/// A body that reports the final code of its call.
struct Observed<D: FnOnce(Code)> {
    inner: Body,
    done: Option<D>,
}

impl<D: FnOnce(Code)> Observed<D> {
    fn finish(&mut self, code: Code) {
        if let Some(done) = self.done.take() {
            done(code);
        }
    }
}

impl<D: FnOnce(Code) + Unpin> http_body::Body for Observed<D> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(code) = frame.trailers_ref().and_then(code_in) {
                    self.finish(code);
                }
            }
            Poll::Ready(Some(Err(status))) => {
                let code = status.code();
                self.finish(code);
            }
            // A gRPC response without trailers is broken.
            Poll::Ready(None) => self.finish(Code::Unknown),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

/// A body that is dropped before its end means that the client has left.
impl<D: FnOnce(Code)> Drop for Observed<D> {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
    }
}
