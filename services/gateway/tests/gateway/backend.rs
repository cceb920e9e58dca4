//! A gRPC server for any contract, on raw HTTP/2: a function answers each call. It knows nothing of souk, and has no
//! health service or reflection unless the test adds it.

use std::{convert::Infallible, path::Path, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use souk_common::framing;
use souk_testkit::{
    process::{Process, Program, souk_binary},
    wait,
};
use tokio::net::TcpListener;
use tonic::{Status, body::Body};

use crate::boot::Answer;

/// A received call.
pub struct Call {
    pub path: String,
    pub headers: HeaderMap,
    pub message: Bytes,
}

/// The response to a call.
#[derive(Default)]
pub struct Reply {
    pub messages: Vec<Bytes>,
    pub headers: Vec<(&'static str, &'static str)>,
    pub status: Option<Status>,
}

impl Reply {
    pub fn message(message: impl Into<Bytes>) -> Self {
        Self { messages: vec![message.into()], ..Self::default() }
    }

    pub fn failed(status: Status) -> Self {
        Self { status: Some(status), ..Self::default() }
    }

    pub fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// Serves until the test's runtime ends. Returns the address. For `None`, it responds as a server without gRPC does:
/// 404 with a page.
pub async fn serve(answer: impl Fn(Call) -> Option<Reply> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer.clone();
                async move { Ok::<_, Infallible>(respond(request, &*answer).await) }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { builder.serve_connection(TokioIo::new(stream), service).await });
        }
    });
    address
}

async fn respond(request: Request<Incoming>, answer: &impl Fn(Call) -> Option<Reply>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let framed = body.collect().await.unwrap().to_bytes();
    let message = framed.slice(framing::FRAME.min(framed.len())..);
    let call = Call { path: parts.uri.path().to_owned(), headers: parts.headers, message };
    let Some(reply) = answer(call) else {
        return Response::builder().status(404).body(Body::new(Full::new(Bytes::from("404 page not found")))).unwrap();
    };
    let mut trailers = HeaderMap::new();
    reply.status.unwrap_or_else(|| Status::ok("")).add_header(&mut trailers).unwrap();
    let messages = reply.messages.into_iter().map(|message| Frame::data(framing::frame(&message)));
    let frames: Vec<_> = messages.chain([Frame::trailers(trailers)]).map(Ok::<_, Infallible>).collect();
    let mut response = Response::new(Body::new(StreamBody::new(futures::stream::iter(frames))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    for (name, value) in reply.headers {
        response.headers_mut().append(name, HeaderValue::from_static(value));
    }
    response
}

/// Compiles a contract of tests/proto/foreign, as `protoc --include_imports --descriptor_set_out` writes it.
pub fn compile(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let includes = [root.join("tests/proto/foreign"), root.join("../../proto/third_party")];
    let mut compiler = protox::Compiler::new(includes).unwrap();
    compiler.include_imports(true).include_source_info(true);
    compiler.open_file(format!("{name}.proto")).unwrap_or_else(|error| panic!("{error:?}"));
    compiler.encode_file_descriptor_set()
}

/// `souk gateway` without a contract.
pub fn program() -> Program {
    let program = Program::new(souk_binary(), "serving").args(["gateway", "--listen", "127.0.0.1:0"]);
    program.env("SOUK_TELEMETRY__METRICS_LISTEN", "").env("NO_COLOR", "1")
}

/// `souk gateway` with descriptors in a file. The file is deleted with the folder.
pub fn serving(descriptors: &[u8], backend: &str) -> (tempfile::TempDir, Program) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("api.binpb");
    std::fs::write(&file, descriptors).unwrap();
    let program = program().arg("--descriptors").arg(&file).args(["--backend", &format!("foreign={backend}")]);
    let program = program.current_dir(folder.path());
    (folder, program)
}

/// A running gateway.
pub struct Gateway {
    pub process: Process,
    pub url: String,
    client: reqwest::Client,
}

impl Gateway {
    /// Starts the gateway and waits until it is ready.
    pub async fn start(program: Program) -> Self {
        let gateway = Self::listening(program).await;
        wait::until(std::time::Duration::from_secs(20), "the gateway to be ready", async || {
            gateway.get("/readyz").await.status == 200
        })
        .await;
        gateway
    }

    /// Starts the gateway and waits until it responds.
    pub async fn listening(program: Program) -> Self {
        let process = program.start().await;
        let line = process.ready_line();
        let address = line.split_once("address=").and_then(|(_, rest)| rest.split_whitespace().next()).unwrap();
        let url = format!("http://{address}");
        let client = reqwest::Client::builder().timeout(std::time::Duration::from_secs(20)).build().unwrap();
        let gateway = Self { process, url, client };
        assert_eq!(gateway.get("/livez").await.status, 200);
        gateway
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        Answer::read(request.send().await.unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path)).await
    }

    pub async fn json(&self, method: &str, path: &str, body: &str) -> Answer {
        self.send(self.request(method, path).header("content-type", "application/json").body(body.to_owned())).await
    }
}
