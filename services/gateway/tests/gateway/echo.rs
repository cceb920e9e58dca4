//! A real gRPC server for the test contract. It returns what it receives, and fails on request.

use std::{
    collections::HashSet,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use http::Request as HttpRequest;
use prost::Message;
use prost_reflect::{DynamicMessage, MapKey, MessageDescriptor, ReflectMessage, Value};
use souk_common::{
    contract::{Contract, Method},
    error::{Problem, Reason},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, NamedService, ServerStreamingService, StreamingService, UnaryService},
    transport::ServerTlsConfig,
};

#[derive(Clone)]
pub struct Echo {
    contract: Arc<Contract>,
    seen: Arc<Mutex<HashSet<String>>>,
}

impl NamedService for Echo {
    const NAME: &'static str = "souk.test.v1.EchoService";
}

/// Serves until the test's runtime ends. Returns the address, and a handle that sets its health.
pub async fn serve(contract: Arc<Contract>) -> (String, tonic_health::server::HealthReporter) {
    serve_until(contract, CancellationToken::new()).await
}

/// Serves until it is stopped: then running calls end, and no new ones are accepted.
pub async fn serve_until(
    contract: Arc<Contract>,
    stop: CancellationToken,
) -> (String, tonic_health::server::HealthReporter) {
    serve_over(None, contract, stop).await
}

/// The same, over TLS if given.
pub async fn serve_over(
    tls: Option<ServerTlsConfig>,
    contract: Arc<Contract>,
    stop: CancellationToken,
) -> (String, tonic_health::server::HealthReporter) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    serve_on(listener, tls, contract, stop)
}

/// The same on this listener.
pub fn serve_on(
    listener: TcpListener,
    tls: Option<ServerTlsConfig>,
    contract: Arc<Contract>,
    stop: CancellationToken,
) -> (String, tonic_health::server::HealthReporter) {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let address = format!("{scheme}://{}", listener.local_addr().unwrap());
    let (reporter, health) = tonic_health::server::health_reporter();
    let echo = Echo { contract, seen: Arc::default() };
    let mut server = tonic::transport::Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls).unwrap();
    }
    let server = server.add_service(health).add_service(echo);
    tokio::spawn(server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned()));
    (address, reporter)
}

impl tower::Service<HttpRequest<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            let Some(method) = echo.contract.method(request.uri().path()).cloned() else {
                return Ok(Status::unimplemented("the echo has no such method").into_http());
            };
            let mut grpc = Grpc::new(EchoCodec(method.descriptor.input()));
            let answerer = Answerer { echo, method };
            Ok(
                match (
                    answerer.method.descriptor.is_client_streaming(),
                    answerer.method.descriptor.is_server_streaming(),
                ) {
                    (false, false) => grpc.unary(answerer, request).await,
                    (false, true) => grpc.server_streaming(answerer, request).await,
                    _ => grpc.streaming(answerer, request).await,
                },
            )
        })
    }
}

struct EchoCodec(MessageDescriptor);

impl Codec for EchoCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = EchoEncoder;
    type Decoder = EchoDecoder;

    fn encoder(&mut self) -> EchoEncoder {
        EchoEncoder
    }

    fn decoder(&mut self) -> EchoDecoder {
        EchoDecoder(self.0.clone())
    }
}

pub struct EchoEncoder;

impl Encoder for EchoEncoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(buffer).map_err(|error| Problem::internal().caused_by(error).into())
    }
}

pub struct EchoDecoder(MessageDescriptor);

impl Decoder for EchoDecoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        DynamicMessage::decode(self.0.clone(), buffer)
            .map(Some)
            .map_err(|error| Problem::new(Reason::MalformedRequest, error.to_string()).into())
    }
}

#[derive(Clone)]
struct Answerer {
    echo: Echo,
    method: Arc<Method>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<DynamicMessage, Status>> + Send>>;

impl Answerer {
    fn reply(&self, message: &DynamicMessage, metadata: &tonic::metadata::MetadataMap) -> DynamicMessage {
        let mut reply = DynamicMessage::new(self.method.descriptor.output());
        reply.set_field_by_name("method", Value::String(self.method.name.to_string()));
        if self.method.descriptor.input().full_name() == "souk.test.v1.Request" {
            for field in ["thing", "tags", "etag"] {
                if message.has_field_by_name(field) {
                    reply.set_field_by_name(field, message.get_field_by_name(field).unwrap().into_owned());
                }
            }
            reply.set_field_by_name("request", Value::Message(message.clone()));
        }
        match self.method.descriptor.input().full_name() {
            "souk.test.v1.ReceiveRequest" => reply.set_field_by_name("received", Value::Message(message.clone())),
            "google.api.HttpBody" => {
                let field = reply.descriptor().get_field_by_name("received").unwrap();
                let mut received = DynamicMessage::new(field.kind().as_message().unwrap().clone());
                received.set_field_by_name("body", Value::Message(message.clone()));
                reply.set_field(&field, Value::Message(received));
            }
            _ => {}
        }
        let headers = metadata.clone().into_headers();
        let headers = headers.iter().map(|(name, value)| {
            (MapKey::String(name.to_string()), Value::String(String::from_utf8_lossy(value.as_bytes()).into_owned()))
        });
        reply.set_field_by_name("headers", Value::Map(headers.collect()));
        reply
    }
}

fn text(message: &DynamicMessage, field: &str) -> String {
    message.get_field_by_name(field).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

impl UnaryService<DynamicMessage> for Answerer {
    type Response = DynamicMessage;
    type Future = Pin<Box<dyn Future<Output = Result<Response<DynamicMessage>, Status>> + Send>>;

    fn call(&mut self, request: Request<DynamicMessage>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let (metadata, _, message) = request.into_parts();
            if &*this.method.name == "Fail" {
                fail(&text(&message, "name")).await?;
            }
            if this.method.etag.is_some() && !["", "current"].contains(&&*text(&message, "etag")) {
                return Err(Problem::etag_mismatch().into());
            }
            let mut response = Response::new(this.reply(&message, &metadata));
            let key = text(&message, "request_id");
            if !key.is_empty() && !this.echo.seen.lock().unwrap().insert(key) {
                response.metadata_mut().insert("idempotent-replayed", "true".parse().unwrap());
            }
            response.metadata_mut().insert("x-secret-of-the-service", "do not tell".parse().unwrap());
            Ok(response)
        })
    }
}

impl ServerStreamingService<DynamicMessage> for Answerer {
    type Response = DynamicMessage;
    type ResponseStream = Answers;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answers>, Status>> + Send>>;

    /// Three responses, then a late failure if requested.
    fn call(&mut self, request: Request<DynamicMessage>) -> Self::Future {
        let (metadata, _, message) = request.into_parts();
        if &*self.method.name == "Follow" {
            let ticks = follow(&message, self.method.descriptor.output());
            return Box::pin(async move { Ok(Response::new(ticks)) });
        }
        let mut answers: Vec<Result<_, Status>> = (0..3).map(|_| Ok(self.reply(&message, &metadata))).collect();
        if text(&message, "name") == "break" {
            answers.push(Err(out_of_stock().into()));
        }
        Box::pin(async move { Ok(Response::new(Box::pin(stream::iter(answers)) as Answers)) })
    }
}

impl StreamingService<DynamicMessage> for Answerer {
    type Response = DynamicMessage;
    type ResponseStream = Answers;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answers>, Status>> + Send>>;

    /// Answers each message when it arrives.
    fn call(&mut self, request: Request<tonic::Streaming<DynamicMessage>>) -> Self::Future {
        let this = self.clone();
        let (metadata, _, messages) = request.into_parts();
        let answers = messages.map(move |message| Ok(this.reply(&message?, &metadata)));
        Box::pin(async move { Ok(Response::new(Box::pin(answers) as Answers)) })
    }
}

fn number(message: &DynamicMessage, field: &str) -> i64 {
    let value = message.get_field_by_name(field);
    value.and_then(|value| value.as_i64().or(value.as_u32().map(Into::into))).unwrap_or_default()
}

fn follow(request: &DynamicMessage, output: MessageDescriptor) -> Answers {
    let (after, until) = (number(request, "after"), number(request, "until"));
    let pause = Duration::from_millis(number(request, "pause_millis").unsigned_abs());
    let then = text(request, "then");
    let watched = Watched::new(text(request, "watcher"));
    let ticks = stream::iter(after + 1..=until).then(move |number| {
        let mut tick = DynamicMessage::new(output.clone());
        tick.set_field_by_name("number", Value::I64(number));
        tick.set_field_by_name("text", Value::String("two\nlines".into()));
        async move {
            tokio::time::sleep(pause).await;
            Ok(tick)
        }
    });
    let last = async move {
        let _watched = watched;
        fail(&then).await.err().map(Err)
    };
    Box::pin(ticks.chain(stream::once(last).filter_map(std::future::ready)))
}

/// The number of open streams of a watcher.
pub fn open(watcher: &str) -> usize {
    WATCHED.lock().unwrap().iter().filter(|name| *name == watcher).count()
}

static WATCHED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Watched(String);

impl Watched {
    fn new(watcher: String) -> Self {
        WATCHED.lock().unwrap().push(watcher.clone());
        Self(watcher)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut watched = WATCHED.lock().unwrap();
        let at = watched.iter().position(|name| *name == self.0).unwrap();
        watched.remove(at);
    }
}

pub fn out_of_stock() -> Problem {
    Problem::new(Reason::OutOfStock, "only 3 left")
        .violation("STOCK", "things/1", "5 wanted, 3 available")
        .metadata("available", 3)
}

async fn fail(how: &str) -> Result<(), Status> {
    match how {
        "wait" => std::future::pending().await,
        "out-of-stock" => Err(out_of_stock().into()),
        "busy" => Err(Problem::new(Reason::Overloaded, "too much").retry_after(Duration::from_millis(2500)).into()),
        "field" => Err(Problem::invalid("name", "must be nicer").into()),
        "internal" => Err(Status::new(tonic::Code::Internal, "the secret inside: postgres://10.0.0.7")),
        "panic" => panic!("the secret inside"),
        "key-reused" => Err(Problem::new(Reason::IdempotencyKeyReused, "another request had this key").into()),
        code => match code.parse::<i32>() {
            Ok(code) => Err(Status::new(tonic::Code::from(code), "the secret inside")),
            Err(_) => Ok(()),
        },
    }
}
