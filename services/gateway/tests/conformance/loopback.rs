//! The backend of the suite: it returns the bytes of a message as it received them.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use souk_common::{
    contract::Contract,
    error::{Problem, Reason},
};
use souk_testkit::verbatim::Verbatim;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, UnaryService},
};

/// `souk.test.v1.Encoded`.
#[derive(Clone, PartialEq, Message)]
pub struct Encoded {
    #[prost(bytes = "bytes", tag = "1")]
    pub message: Bytes,
}

#[derive(Clone)]
struct Loopback {
    /// The descriptor of the messages in the cases.
    message: MessageDescriptor,
    method: Method,
}

#[derive(Debug, Clone, Copy)]
enum Method {
    Echo,
    Encode,
    Decode,
}

impl NamedService for Loopback {
    const NAME: &'static str = "souk.test.v1.ConformanceService";
}

/// Serves until the runtime ends. Returns the address.
pub async fn serve(contract: &Contract) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let message = contract.pool().get_message_by_name("protobuf_test_messages.proto3.TestAllTypesProto3").unwrap();
    let server = tonic::transport::Server::builder().add_service(Loopback { message, method: Method::Echo });
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

impl tower::Service<http::Request<Body>> for Loopback {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = match request.uri().path().rsplit('/').next() {
            Some("Echo") => Method::Echo,
            Some("Encode") => Method::Encode,
            Some("Decode") => Method::Decode,
            other => panic!("the service has no method {other:?}"),
        };
        let called = Self { method, ..self.clone() };
        Box::pin(async move { Ok(Grpc::new(Verbatim).unary(called, request).await) })
    }
}

impl UnaryService<Bytes> for Loopback {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let bytes = request.into_inner();
        ready(match self.method {
            Method::Echo => Ok(Response::new(bytes)),
            Method::Encode => Ok(Response::new(Encoded { message: bytes }.encode_to_vec().into())),
            Method::Decode => self.readable(&bytes).map(Response::new),
        })
    }
}

impl Loopback {
    /// Checks the message inside as a service would: a message that cannot be decoded is refused.
    fn readable(&self, bytes: &Bytes) -> Result<Bytes, Status> {
        let refused = |error: prost::DecodeError| Problem::new(Reason::MalformedRequest, error.to_string());
        let inside = Encoded::decode(bytes.clone()).map_err(refused)?.message;
        DynamicMessage::decode(self.message.clone(), inside.clone()).map_err(refused)?;
        Ok(inside)
    }
}
