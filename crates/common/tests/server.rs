//! The server stack around a service: which calls are admitted or refused, and what a response reveals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

use std::{
    collections::BTreeSet,
    io::Write,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use http::Method;
use prost::Message;
use prost_reflect::DescriptorPool;
use souk_common::{
    auth::{self, Caller, KeySource, PublishedKey, ServiceTokens, Verifier},
    client,
    config::Secret,
    contract::Contract,
    error::{Problem, Reason},
    ids::ProductId,
    local::Local,
    server::{Config, Server, Stop},
    tls::{ClientSettings, ClientTls, GRPC, ServerSettings},
};
use souk_proto::inventory::v1::{
    ArchiveProductRequest, BatchGetProductsRequest, BatchGetProductsResponse, BatchUpsertProductsRequest,
    BatchUpsertProductsResponse, CreateProductRequest, GetProductRequest, ListProductsRequest, ListProductsResponse,
    Product, UpdateProductRequest,
    product_service_client::ProductServiceClient,
    product_service_server::{ProductService, ProductServiceServer},
};
use souk_testkit::{http2, wait};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

const PRODUCTS: &str = "souk.inventory.v1.ProductService";
const SECRET: &str = "a secret of the test, long enough";

struct NoKeys;

#[tonic::async_trait]
impl KeySource for NoKeys {
    async fn keys(&self) -> Result<Vec<PublishedKey>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Vec::new())
    }
}

/// A service that fails in the way that the title of the request names.
struct Fake;

#[tonic::async_trait]
impl ProductService for Fake {
    async fn get_product(&self, request: Request<GetProductRequest>) -> Result<Response<Product>, Status> {
        let title = Caller::of(&request)?.actor();
        let description = if request.remote_addr().is_some() { "over the network" } else { "within the process" };
        let sku = request.remote_addr().map(|address| address.to_string()).unwrap_or_default();
        let name = request.into_inner().name;
        Ok(Response::new(Product { name, title, sku, description: description.into(), ..Product::default() }))
    }

    async fn list_products(
        &self,
        request: Request<ListProductsRequest>,
    ) -> Result<Response<ListProductsResponse>, Status> {
        match request.get_ref().filter.as_str() {
            "panic" => panic!("the secret inside"),
            "slow" => std::future::pending().await,
            "fault" => Err(Problem::internal().caused_by("the secret inside").into()),
            _ => Ok(Response::new(ListProductsResponse::default())),
        }
    }

    async fn create_product(&self, _: Request<CreateProductRequest>) -> Result<Response<Product>, Status> {
        Ok(Response::new(Product::default()))
    }

    async fn batch_get_products(
        &self,
        _: Request<BatchGetProductsRequest>,
    ) -> Result<Response<BatchGetProductsResponse>, Status> {
        Ok(Response::new(BatchGetProductsResponse::default()))
    }

    async fn batch_upsert_products(
        &self,
        _: Request<BatchUpsertProductsRequest>,
    ) -> Result<Response<BatchUpsertProductsResponse>, Status> {
        Ok(Response::new(BatchUpsertProductsResponse::default()))
    }

    async fn update_product(&self, _: Request<UpdateProductRequest>) -> Result<Response<Product>, Status> {
        Ok(Response::new(Product::default()))
    }

    async fn archive_product(&self, _: Request<ArchiveProductRequest>) -> Result<Response<Product>, Status> {
        Ok(Response::new(Product::default()))
    }
}

fn config() -> Config {
    Config {
        deadline: Duration::from_millis(500),
        max_concurrent_requests: 2,
        max_streams: 2,
        max_health_streams: 2,
        max_request_bytes: 4096,
        max_receiving_bytes: 1 << 20,
        receive_timeout: LONG,
        max_connections: 100,
        max_connections_per_address: 100,
        max_streams_per_connection: 2000,
        shutdown_delay: Duration::ZERO,
        drain: Duration::from_secs(1),
        max_connection_age: Duration::ZERO,
        max_connection_age_grace: LONG,
        tls: ServerSettings::default(),
        local: Local::default(),
        stop: Stop::default(),
    }
}

fn verifier() -> Arc<Verifier> {
    let config = auth::Config {
        issuer: "souk".into(),
        audience: "souk".into(),
        leeway: Duration::ZERO,
        recent_log_in: Duration::from_secs(900),
        internal_secret: Secret::new(SECRET),
    };
    Arc::new(Verifier::new(&config, Arc::new(NoKeys)))
}

async fn boot() -> (Channel, CancellationToken) {
    boot_channel(config()).await
}

async fn boot_channel(config: Config) -> (Channel, CancellationToken) {
    let (address, shutdown) = boot_with(config).await;
    (Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap(), shutdown)
}

async fn boot_at() -> (String, CancellationToken) {
    boot_with(config()).await
}

async fn boot_with(config: Config) -> (String, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = Server::new(&config, "inventory", Contract::souk().unwrap(), verifier());
    tokio::spawn(server.with(ProductServiceServer::new(Fake)).serve(listener, shutdown.clone()));
    (address.to_string(), shutdown)
}

/// Sends a request exactly as given. Returns its status, its headers with its trailers, and its body.
async fn raw(address: &str, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Raw {
    let (client, connection) = h2::client::handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::builder().method(method).uri(format!("http://{address}{path}"));
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")].iter().chain(headers) {
        request = request.header(*name, *value);
    }
    let (response, mut sending) = client.ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap();
    // The server may respond before it has read the whole body.
    let _ = sending.send_data(body.into(), true);
    let (parts, mut receiving) = response.await.unwrap().into_parts();
    let mut body = Vec::new();
    while let Some(data) = receiving.data().await {
        let data = data.unwrap();
        let _ = receiving.flow_control().release_capacity(data.len());
        body.extend_from_slice(&data);
    }
    let mut headers = parts.headers;
    headers.extend(receiving.trailers().await.unwrap().unwrap_or_default());
    Raw { status: parts.status, headers, body }
}

#[derive(Debug)]
struct Raw {
    status: http::StatusCode,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

impl Raw {
    fn code(&self) -> Code {
        Code::from_bytes(self.headers["grpc-status"].as_bytes())
    }
}

fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const GET: &str = "/souk.inventory.v1.ProductService/GetProduct";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const GZIP: (&str, &str) = ("grpc-encoding", "gzip");

#[tokio::test]
async fn a_failure_is_one_frame_of_headers() {
    let (address, _shutdown) = boot_at().await;
    for (path, message) in [
        (GET, GetProductRequest { name: "products/x".into() }.encode_to_vec()),
        ("/souk.inventory.v1.ProductService/ListProducts", list("fault").encode_to_vec()),
        ("/souk.inventory.v1.ProductService/CreateProduct", Vec::new()),
        ("/souk.inventory.v1.ProductService/Nothing", Vec::new()),
        (HEALTH, HealthCheckRequest { service: "no.Such".into() }.encode_to_vec()),
    ] {
        let headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "souk"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        let frames = http2::exchange(&address, &headers, Some(&frame(0, &message))).await;
        assert_eq!(frames.iter().map(|frame| frame.kind).collect::<Vec<_>>(), [http2::HEADERS], "{path}");
    }
}

#[tokio::test]
async fn compressed_messages_are_accepted_within_the_limit_and_invalid_calls_are_refused() {
    let (address, _shutdown) = boot_at().await;
    let name = ProductId::new().name();
    let message = GetProductRequest { name: name.clone() }.encode_to_vec();
    let post = async |path: &str, headers: &[(&str, &str)], body: Vec<u8>| {
        raw(&address, Method::POST, path, headers, body).await
    };
    for body in [frame(1, &gzip(&message)), frame(0, &message)] {
        let taken = post(GET, &[GZIP], body).await;
        assert_eq!(taken.code(), Code::Ok, "{taken:?}");
        assert!(String::from_utf8_lossy(&taken.body).contains(&name));
    }
    assert_eq!(post(HEALTH, &[GZIP], frame(1, &gzip(b""))).await.code(), Code::Ok);
    // `list_services: "*"`, encoded.
    let services = post(REFLECTION, &[GZIP], frame(1, &gzip(b"\x3a\x01*"))).await;
    assert!(String::from_utf8_lossy(&services.body).contains("souk.inventory.v1.ProductService"), "{services:?}");

    let bomb = frame(1, &gzip(&vec![0; 1 << 20]));
    assert!(bomb.len() < 4096);
    let table = [
        ("a bomb", GET, vec![GZIP], bomb.clone(), Code::ResourceExhausted),
        ("a bomb", HEALTH, vec![GZIP], bomb, Code::ResourceExhausted),
        ("not gzip", GET, vec![GZIP], frame(1, &message), Code::InvalidArgument),
        ("compressed without saying how", GET, vec![], frame(1, &gzip(&message)), Code::InvalidArgument),
        ("another coding", GET, vec![("grpc-encoding", "br")], frame(1, &message), Code::Unimplemented),
        ("another coding", HEALTH, vec![("grpc-encoding", "br")], frame(1, b""), Code::Unimplemented),
        ("no message", GET, vec![], Vec::new(), Code::Unimplemented),
        ("two messages", GET, vec![], [frame(0, &message), frame(0, &message)].concat(), Code::Unimplemented),
        ("a timeout without a unit", GET, vec![("grpc-timeout", "100")], frame(0, &message), Code::InvalidArgument),
    ];
    for (what, path, headers, body, code) in table {
        let refused = post(path, &headers, body).await;
        assert_eq!(refused.code(), code, "{what}: {refused:?}");
        let accepted = refused.headers.get("grpc-accept-encoding").map(|value| value.to_str().unwrap());
        assert_eq!(accepted, (what == "another coding").then_some("gzip"), "{what}");
    }
    for method in [Method::GET, Method::DELETE, Method::PUT] {
        for path in [GET, HEALTH] {
            let refused = raw(&address, method.clone(), path, &[], frame(0, &message)).await;
            assert_eq!((refused.status.as_u16(), refused.headers["allow"].as_bytes()), (405, &b"POST"[..]), "{path}");
            assert!(refused.body.is_empty());
        }
    }
}

fn list(filter: &str) -> ListProductsRequest {
    ListProductsRequest { filter: filter.into(), ..ListProductsRequest::default() }
}

fn problem(status: &Status) -> Problem {
    assert!(!format!("{status:?}").contains("secret inside"), "internals leak: {status:?}");
    Problem::from_status(status)
}

#[tokio::test]
async fn a_method_without_an_access_rule_keeps_its_service_from_starting() {
    let source = r#"
        syntax = "proto3";
        package souk.inventory.v1;
        message Empty {}
        service ProductService { rpc GetProduct(Empty) returns (Empty); }
    "#;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("test.proto"), source).unwrap();
    let mut compiler = protox::Compiler::new([folder.path()]).unwrap();
    compiler.open_file("test.proto").unwrap();
    let descriptors = compiler.encode_file_descriptor_set();
    assert!(DescriptorPool::decode(descriptors.as_slice()).is_ok());
    let contract = Arc::new(Contract::load(&descriptors).unwrap());

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::new(&config(), "inventory", &contract, verifier()).with(ProductServiceServer::new(Fake));
    let error = server.serve(listener, CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("souk.inventory.v1.ProductService.GetProduct"), "{error}");
    assert!(error.to_string().contains("access"), "{error}");
}

#[tokio::test]
async fn the_access_rule_is_checked_and_the_service_gets_the_caller() {
    let (channel, _shutdown) = boot().await;
    let mut client = ProductServiceClient::new(channel);
    let name = ProductId::new().name();
    let answer = client.get_product(GetProductRequest { name: name.clone() }).await.unwrap().into_inner();
    assert_eq!((answer.name, answer.title), (name.clone(), "anonymous".to_owned()));

    let mut request = Request::new(GetProductRequest { name });
    let bearer = ServiceTokens::new(&Secret::new(SECRET), "order").bearer(PRODUCTS).unwrap();
    request.metadata_mut().insert("authorization", bearer.to_str().unwrap().parse().unwrap());
    assert_eq!(client.get_product(request).await.unwrap().into_inner().title, "services/order");

    let create = CreateProductRequest { product: Some(Product::default()) };
    let status = client.create_product(create.clone()).await.unwrap_err();
    assert_eq!((status.code(), problem(&status).reason()), (Code::Unauthenticated, Reason::TokenMissing));

    let forged =
        ServiceTokens::new(&Secret::new("another secret, just as long as it"), "order").bearer(PRODUCTS).unwrap();
    let elsewhere =
        ServiceTokens::new(&Secret::new(SECRET), "order").bearer("souk.inventory.v1.ReservationService").unwrap();
    let claims = serde_json::json!({ "iss": "souk-internal", "sub": "order", "exp": 4_000_000_000_u32 });
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    let older = format!("Bearer {}", jsonwebtoken::encode(&header, &claims, &key).unwrap());
    for (token, says) in [
        (forged.to_str().unwrap(), "signature"),
        (
            elsewhere.to_str().unwrap(),
            "the token is for souk.inventory.v1.ReservationService, and souk.inventory.v1.Prod",
        ),
        (&older, "lacks the claim `aud`: an older souk made it"),
        ("Bearer x.y.z", ""),
        ("Basic abc", ""),
        ("Bearer ", ""),
    ] {
        let mut request = Request::new(create.clone());
        request.metadata_mut().insert("authorization", token.parse().unwrap());
        let status = client.create_product(request).await.unwrap_err();
        assert_eq!(
            (status.code(), problem(&status).reason()),
            (Code::Unauthenticated, Reason::TokenInvalid),
            "{token}"
        );
        assert!(status.message().contains(says), "{status:?}");
    }
}

#[tokio::test]
async fn an_invalid_message_never_reaches_the_service() {
    let (channel, _shutdown) = boot().await;
    let mut client = ProductServiceClient::new(channel);
    let status = client.get_product(GetProductRequest { name: "products/7".into() }).await.unwrap_err();
    let refused = problem(&status);
    assert_eq!((status.code(), refused.reason()), (Code::InvalidArgument, Reason::FieldInvalid));
    assert_eq!(refused.field_violations()[0].path, "name");

    let status = client.list_products(list(&"x".repeat(5000))).await.unwrap_err();
    assert_eq!((status.code(), problem(&status).reason()), (Code::ResourceExhausted, Reason::BodyTooLarge));
}

#[tokio::test]
async fn panics_errors_and_timeouts_reveal_no_internals() {
    let (channel, _shutdown) = boot().await;
    let mut client = ProductServiceClient::new(channel);
    for (filter, reason) in
        [("panic", Reason::Internal), ("fault", Reason::Internal), ("slow", Reason::DeadlineExceeded)]
    {
        let status = client.list_products(list(filter)).await.unwrap_err();
        assert_eq!(problem(&status).reason(), reason, "{filter}");
        assert!(status.metadata().get("x-request-id").is_some(), "{filter}");
    }
    client.list_products(list("")).await.unwrap();
}

#[tokio::test]
async fn more_work_than_the_service_can_do_is_refused_at_once() {
    let (channel, _shutdown) = boot().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let mut client = ProductServiceClient::new(channel.clone());
        calls.spawn(async move { client.list_products(list("slow")).await.unwrap_err() });
    }
    let reasons: Vec<_> = calls.join_all().await.iter().map(|status| problem(status).reason()).collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == Reason::DeadlineExceeded).count(), 2, "{reasons:?}");
    assert_eq!(reasons.iter().filter(|reason| **reason == Reason::Overloaded).count(), 8, "{reasons:?}");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_flood_of_refusals_logs_only_a_few_lines() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    // The subscriber applies to this thread. The server runs on it, too.
    let _logged = tracing::subscriber::set_default(subscriber);
    let (channel, _shutdown) = boot().await;
    let mut client = ProductServiceClient::new(channel);
    let began = Instant::now();
    for _ in 0..500 {
        let request = GetProductRequest { name: "x".repeat(5000) };
        assert_eq!(problem(&client.get_product(request).await.unwrap_err()).reason(), Reason::BodyTooLarge);
    }
    let lines = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = lines.lines().filter(|line| line.contains("requests refused")).collect();
    assert!(!lines.is_empty() && lines[0].contains("BODY_TOO_LARGE") && lines[0].contains("refused=1"), "{lines:?}");
    assert!(lines.len() as u64 <= 1 + began.elapsed().as_secs(), "{lines:?}");
}

#[tokio::test]
async fn access_is_checked_before_load_is() {
    let (channel, _shutdown) = boot_channel(Config { deadline: LONG, ..config() }).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let mut client = ProductServiceClient::new(channel.clone());
        calls.spawn(async move { client.list_products(list("slow")).await });
    }
    let mut client = ProductServiceClient::new(channel);
    wait::until(LONG, "all room to be taken", async || {
        client.list_products(list("")).await.is_err_and(|status| problem(&status).reason() == Reason::Overloaded)
    })
    .await;
    let create = CreateProductRequest { product: Some(Product::default()) };
    let status = client.create_product(create).await.unwrap_err();
    assert_eq!(problem(&status).reason(), Reason::TokenMissing);
}

/// A client of raw HTTP/2 that connects from one address of this machine.
struct Client(h2::client::SendRequest<bytes::Bytes>);

impl Client {
    async fn at(from: [u8; 4], server: &str) -> std::io::Result<Self> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(server.parse().unwrap()).await?;
        let (mut client, connection) = h2::client::handshake(stream).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        // The server's settings have arrived once a ping or a call was answered. A call is simpler.
        let (response, _) = client.send_request(call(server, HEALTH), true).map_err(std::io::Error::other)?;
        response.await.map_err(std::io::Error::other)?;
        Ok(Self(client))
    }

    /// A call that announces a message of 100 bytes and sends ten of them.
    async fn half(&self, server: &str, path: &str) -> (h2::client::ResponseFuture, h2::SendStream<bytes::Bytes>) {
        let mut client = self.0.clone().ready().await.unwrap();
        let (response, mut sending) = client.send_request(call(server, path), false).unwrap();
        sending.send_data([&[0, 0, 0, 0, 100][..], &[b'x'; 10]].concat().into(), false).unwrap();
        (response, sending)
    }

    /// Returns whether a complete call is served.
    async fn is_served(&self, server: &str) -> bool {
        let mut client = self.0.clone().ready().await.unwrap();
        let (response, mut sending) = client.send_request(call(server, LIST), false).unwrap();
        sending.send_data(frame(0, b"").into(), true).unwrap();
        // A refused call has its gRPC status among the headers.
        !response.await.unwrap().headers().contains_key("grpc-status")
    }
}

fn call(server: &str, path: &str) -> http::Request<()> {
    let request = http::Request::post(format!("http://{server}{path}"));
    request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

const LIST: &str = "/souk.inventory.v1.ProductService/ListProducts";
const HERE: [u8; 4] = [127, 0, 0, 1];
const THERE: [u8; 4] = [127, 0, 0, 2];

#[tokio::test]
async fn incomplete_requests_do_not_block_other_requests() {
    // The server accepts two concurrent calls.
    let config = Config { deadline: LONG, receive_timeout: Duration::from_secs(2), ..config() };
    let (server, _shutdown) = boot_with(config).await;
    let hostile = Client::at(HERE, &server).await.unwrap();
    let mut half = Vec::new();
    for _ in 0..20 {
        half.push(hostile.half(&server, LIST).await);
    }
    assert!(hostile.is_served(&server).await);
    assert!(Client::at(THERE, &server).await.unwrap().is_served(&server).await);
    for (response, _sending) in half {
        let refused = tokio::time::timeout(LONG / 2, response).await.unwrap().unwrap();
        let status = Status::from_header_map(refused.headers()).unwrap();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("did not arrive within 2s"), "{status:?}");
    }
}

#[tokio::test]
async fn one_address_cannot_use_up_the_bytes_for_incomplete_requests() {
    // Each incomplete request counts as 4 KiB and its bytes: the half that an address may use is enough for seven.
    let config = Config { deadline: LONG, max_receiving_bytes: 64 << 10, ..config() };
    let (server, _shutdown) = boot_with(config).await;
    let hostile = Client::at(HERE, &server).await.unwrap();
    let mut half = Vec::new();
    for _ in 0..20 {
        half.push(hostile.half(&server, LIST).await);
    }
    let (kept, refused): (Vec<_>, Vec<_>) =
        futures::future::join_all(half.into_iter().map(|(response, sending)| async move {
            (tokio::time::timeout(Duration::from_secs(1), response).await, sending)
        }))
        .await
        .into_iter()
        .partition(|(answered, _)| answered.is_err());
    assert_eq!((kept.len(), refused.len()), (7, 13));
    for (answered, _) in refused {
        let status = Status::from_header_map(answered.unwrap().unwrap().headers()).unwrap();
        assert_eq!(problem(&status).reason(), Reason::Overloaded);
    }
    assert!(Client::at(THERE, &server).await.unwrap().is_served(&server).await);
    drop(kept);
    wait::until(LONG, "what was held to be given back", async || hostile.is_served(&server).await).await;
}

#[tokio::test]
async fn connections_and_streams_per_connection_are_limited() {
    let config =
        Config { max_connections: 5, max_connections_per_address: 3, max_streams_per_connection: 7, ..config() };
    let (server, _shutdown) = boot_with(config).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(Client::at(HERE, &server).await.unwrap());
    }
    assert!(Client::at(HERE, &server).await.is_err());
    for _ in 0..2 {
        open.push(Client::at(THERE, &server).await.unwrap());
    }
    assert!(Client::at([127, 0, 0, 3], &server).await.is_err(), "there are five");
    for client in &open {
        assert!(client.is_served(&server).await);
        assert_eq!(client.0.current_max_send_streams(), 7);
    }
    drop(open);
    wait::until(LONG, "a connection to be closed", async || Client::at(HERE, &server).await.is_ok()).await;

    let large = raw(&server, Method::POST, LIST, &[("x-large", &"x".repeat(20 << 10))], frame(0, b"")).await;
    assert_eq!((large.status.as_u16(), large.headers.contains_key("grpc-status")), (431, false));
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_call_is_closed() {
    let (server, _shutdown) = boot_at().await;
    let began = tokio::time::Instant::now();
    let mut silent = TcpStream::connect(&server).await.unwrap();
    let mut slow = TcpStream::connect(&server).await.unwrap();
    slow.write_all(b"PRI * HTTP/2.0").await.unwrap();
    for stream in [&mut silent, &mut slow] {
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
    assert!((Duration::from_secs(30)..LONG).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_health_status_follows_the_service_until_it_stops() {
    let (channel, shutdown) = boot().await;
    let mut health = HealthClient::new(channel.clone());
    let mut changes = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(changes.message().await.unwrap().unwrap().status, 1);
    shutdown.cancel();
    assert_eq!(changes.message().await.unwrap().unwrap().status, 2);
}

#[tokio::test]
async fn streams_that_need_no_token_have_their_own_limit() {
    let (channel, _shutdown) = boot().await;
    let mut health = HealthClient::new(channel.clone());
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let mut watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watched.message().await.unwrap().unwrap();
    let asked = reflection.server_reflection_info(futures::stream::pending()).await.unwrap();
    let refused = [
        health.watch(HealthCheckRequest::default()).await.map(drop),
        reflection.server_reflection_info(futures::stream::pending()).await.map(drop),
    ];
    for refused in refused {
        assert_eq!(problem(&refused.unwrap_err()).reason(), Reason::Overloaded);
    }
    // Health checks and calls are still answered.
    health.check(HealthCheckRequest::default()).await.unwrap();
    ProductServiceClient::new(channel).list_products(list("")).await.unwrap();
    drop((watched, asked));
    wait::until(LONG, "places to be free again", async || health.watch(HealthCheckRequest::default()).await.is_ok())
        .await;
}

#[tokio::test]
async fn a_stopping_server_reports_not_ready_still_serves_and_does_not_wait_for_health_watchers() {
    let (stop, shutdown) = (Stop::default(), CancellationToken::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let config = Config { stop: stop.clone(), drain: LONG, ..config() };
    let server = Server::new(&config, "inventory", Contract::souk().unwrap(), verifier());
    let serving = tokio::spawn(server.with(ProductServiceServer::new(Fake)).serve(listener, shutdown.clone()));
    let channel = Channel::from_shared(address.clone()).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let mut changes = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(changes.message().await.unwrap().unwrap().status, 1);

    stop.announce();
    assert_eq!(changes.message().await.unwrap().unwrap().status, 2);
    ProductServiceClient::new(channel).list_products(list("")).await.unwrap();
    let anew = Channel::from_shared(address).unwrap().connect().await.unwrap();
    ProductServiceClient::new(anew).list_products(list("")).await.unwrap();
    assert!(!serving.is_finished());

    let began = std::time::Instant::now();
    shutdown.cancel();
    let ended = changes.message().await.unwrap_err();
    assert_eq!(problem(&ended).reason(), Reason::ServiceUnavailable, "{ended:?}");
    serving.await.unwrap().unwrap();
    assert!(began.elapsed() < LONG / 2, "nothing runs any more: {:?}", began.elapsed());
}

#[tokio::test]
async fn callers_without_a_client_certificate_are_refused() {
    let authority = souk_testkit::tls::Authority::new();
    let (own, callers) = (authority.sign("service"), authority.sign("caller"));
    let tls = ServerSettings {
        certificate: own.certificate,
        key: own.key,
        client_ca: authority.certificate(),
        ..ServerSettings::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let shutdown = CancellationToken::new();
    let _guard = shutdown.clone().drop_guard();
    let contract = Contract::souk().unwrap();
    let server = Server::new(&Config { tls, ..config() }, "inventory", contract, verifier());
    tokio::spawn(server.with(ProductServiceServer::new(Fake)).serve(listener, shutdown));

    let client = |settings: &ClientSettings| {
        let config = client::Config {
            address: address.clone(),
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            tls: ClientTls::load(settings).unwrap(),
            local: Local::default(),
        };
        client::Client::new(&config, contract, None)
    };
    let get = async |settings: ClientSettings| {
        ProductServiceClient::new(client(&settings).unwrap())
            .get_product(GetProductRequest { name: ProductId::new().name() })
            .await
    };
    let (ca, stranger) = (authority.certificate(), souk_testkit::tls::Authority::new());
    let known = ClientSettings { ca: ca.clone(), certificate: callers.certificate, key: callers.key };
    get(known.clone()).await.unwrap();
    let strange = stranger.sign("caller");
    let refused = [
        ("no certificate", ClientSettings { ca: ca.clone(), ..ClientSettings::default() }),
        ("another authority's", ClientSettings { ca, certificate: strange.certificate, key: strange.key }),
        ("a service it cannot know", ClientSettings { ca: stranger.certificate(), ..known }),
    ];
    for (what, settings) in refused {
        assert_eq!(get(settings).await.unwrap_err().code(), Code::Unavailable, "{what}");
    }
    let without = client(&ClientSettings::default()).err().unwrap().to_string();
    assert!(without.contains("[client.tls]"), "{without}");
}

#[tokio::test]
async fn a_service_token_is_valid_only_with_the_certificate_of_its_service() {
    let authority = souk_testkit::tls::Authority::new();
    let own = authority.sign("inventory");
    let tls = ServerSettings {
        certificate: own.certificate,
        key: own.key,
        client_ca: authority.certificate(),
        ..ServerSettings::default()
    };
    let (server, _shutdown) = boot_with(Config { tls, ..config() }).await;
    let get = async |certificate: &souk_testkit::tls::Files, service: &str| {
        let settings = ClientSettings {
            ca: authority.certificate(),
            certificate: certificate.certificate.clone(),
            key: certificate.key.clone(),
        };
        let config = client::Config {
            address: format!("https://{}", server.replace("127.0.0.1", "localhost")),
            timeout: LONG,
            connect_timeout: LONG,
            tls: ClientTls::load(&settings).unwrap(),
            local: Local::default(),
        };
        let tokens = ServiceTokens::new(&Secret::new(SECRET), service);
        let client = client::Client::new(&config, Contract::souk().unwrap(), Some(tokens)).unwrap();
        ProductServiceClient::new(client).get_product(GetProductRequest { name: ProductId::new().name() }).await
    };
    let order = authority.sign_for("order", &["order", "localhost"]);
    assert_eq!(get(&order, "order").await.unwrap().into_inner().title, "services/order");
    // Every service knows the secret, so it can create a token with any name.
    for name in ["gateway", "localhost2", "ORDER2"] {
        let status = get(&order, name).await.unwrap_err();
        assert_eq!((problem(&status).reason(), status.code()), (Reason::TokenInvalid, Code::Unauthenticated), "{name}");
        assert!(status.message().contains("certificate is not for that name"), "{status:?}");
    }
}

#[test]
fn inconsistent_tls_settings_are_refused() {
    let path = |text: &str| std::path::PathBuf::from(text);
    let server = |certificate, key, client_ca| {
        let settings = ServerSettings {
            certificate: path(certificate),
            key: path(key),
            client_ca: path(client_ca),
            ..ServerSettings::default()
        };
        settings.load(GRPC).map(|tls| tls.is_some()).map_err(|error| error.setting())
    };
    assert_eq!(server("", "", ""), Ok(false));
    assert_eq!(server("", "k", ""), Err("certificate"));
    assert_eq!(server("", "", "ca"), Err("certificate"));
    assert_eq!(server("c", "", ""), Err("key"));
    assert_eq!(server("/nowhere/c.pem", "k", ""), Err("certificate"));
    let client = |ca, certificate, key| {
        let settings = ClientSettings { ca: path(ca), certificate: path(certificate), key: path(key) };
        ClientTls::load(&settings).map(drop).map_err(|error| error.setting())
    };
    assert_eq!(client("", "", ""), Ok(()));
    assert_eq!(client("", "c", "k"), Err("ca"));
    assert_eq!(client("ca", "c", ""), Err("key"));
    assert_eq!(client("ca", "", "k"), Err("certificate"));
    assert_eq!(client("/nowhere/ca.pem", "", ""), Err("ca"));
}

const LONG: Duration = Duration::from_secs(60);

/// A server in this process, and a client that uses it.
async fn inside(deadline: Duration) -> (ProductServiceClient<client::Client>, JoinHandle<()>, CancellationToken) {
    let (local, contract, shutdown) = (Local::default(), Contract::souk().unwrap(), CancellationToken::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = client::Config {
        address: format!("http://{}", listener.local_addr().unwrap()),
        timeout: LONG,
        connect_timeout: LONG,
        tls: ClientTls::default(),
        local: local.clone(),
    };
    let server =
        Server::new(&Config { local, deadline, drain: LONG, ..self::config() }, "inventory", contract, verifier());
    let serving = server.with(ProductServiceServer::new(Fake)).serve(listener, shutdown.clone());
    let tokens = ServiceTokens::new(&Secret::new(SECRET), "order");
    let client = client::Client::new(&config, contract, Some(tokens)).unwrap();
    // The client tries to connect before the server has started.
    wait::until(LONG, "an attempt to connect", async || !client.check(Duration::from_millis(10)).await.is_empty())
        .await;
    let serving = tokio::spawn(async move { serving.await.unwrap() });
    (ProductServiceClient::new(client), serving, shutdown)
}

#[tokio::test]
async fn an_old_connection_is_replaced_and_no_call_fails() {
    let (contract, shutdown) = (Contract::souk().unwrap(), CancellationToken::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let server = Config {
        deadline: LONG,
        max_concurrent_requests: 1000,
        max_connection_age: Duration::from_millis(300),
        ..config()
    };
    let server = Server::new(&server, "inventory", contract, verifier()).with(ProductServiceServer::new(Fake));
    tokio::spawn(server.serve(listener, shutdown.clone()));
    let config = client::Config {
        address: address.clone(),
        timeout: LONG,
        connect_timeout: LONG,
        tls: ClientTls::default(),
        local: Local::default(),
    };
    let backend = client::Client::new(&config, contract, None).unwrap();
    let client = ProductServiceClient::new(backend.clone());
    let get = GetProductRequest { name: ProductId::new().name() };
    let channel = Channel::from_shared(address.clone()).unwrap().connect().await.unwrap();
    let mut watched = HealthClient::new(channel).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status, 1);
    // Readiness checks must not fail at any moment either.
    let not_up = tokio::spawn(async move {
        loop {
            let states = backend.check(LONG).await;
            if states.iter().any(|(_, state)| *state != client::AddressState::Up) {
                break states;
            }
        }
    });
    let mut connections = BTreeSet::new();
    wait::until(LONG, "several connections to have been called over", async || {
        let calls = (0..8).map(|_| {
            let (mut client, get) = (client.clone(), get.clone());
            async move { client.get_product(get).await.unwrap().into_inner().sku }
        });
        connections.extend(futures::future::join_all(calls).await);
        connections.len() >= 5
    })
    .await;
    assert!(!not_up.is_finished(), "{:?}", not_up.await);
    not_up.abort();
    // The stream is on the first connection, which received its GOAWAY long ago.
    shutdown.cancel();
    assert_eq!(watched.message().await.unwrap().unwrap().status, 2);
}

#[tokio::test]
async fn a_call_on_an_old_connection_is_cut_off_when_the_grace_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let short = Duration::from_millis(200);
    let server = Config { max_connection_age: short, max_connection_age_grace: short, ..config() };
    let server = Server::new(&server, "inventory", Contract::souk().unwrap(), verifier());
    let shutdown = CancellationToken::new();
    let _guard = shutdown.clone().drop_guard();
    tokio::spawn(server.with(ProductServiceServer::new(Fake)).serve(listener, shutdown));
    let goodbye = http2::goodbye(&address).await;
    // The error code after the last stream id: NO_ERROR.
    assert_eq!(goodbye.payload[4..8], [0; 4]);
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut watched = HealthClient::new(channel).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status, 1);
    let cut = tokio::time::timeout(LONG, watched.message()).await.expect("the end of the grace");
    assert!(cut.is_err(), "{cut:?}");
}

#[tokio::test]
async fn a_thousand_concurrent_short_calls_do_not_count_as_an_attack() {
    let (contract, shutdown) = (Contract::souk().unwrap(), CancellationToken::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let server = Config { deadline: LONG, max_concurrent_requests: 1000, max_receiving_bytes: 64 << 20, ..config() };
    let server = Server::new(&server, "inventory", contract, verifier()).with(ProductServiceServer::new(Fake));
    tokio::spawn(server.serve(listener, shutdown.clone()));
    let config = client::Config {
        address,
        timeout: LONG,
        connect_timeout: LONG,
        tls: ClientTls::default(),
        local: Local::default(),
    };
    let tokens = ServiceTokens::new(&Secret::new(SECRET), "order");
    let client = ProductServiceClient::new(client::Client::new(&config, contract, Some(tokens)).unwrap());
    let get = GetProductRequest { name: ProductId::new().name() };
    client.clone().get_product(get.clone()).await.unwrap();
    let ask = |_| {
        let (mut client, get) = (client.clone(), get.clone());
        async move { client.get_product(get).await }
    };
    // If the connection were lost, more calls would fail than the retry budget allows.
    for answer in futures::future::join_all((0..1000).map(ask)).await {
        answer.unwrap();
    }
    shutdown.cancel();
}

#[tokio::test]
async fn a_server_in_the_same_process_is_called_without_the_network_and_responds_alike() {
    let (mut client, _serving, _shutdown) = inside(Duration::from_millis(500)).await;
    let get = GetProductRequest { name: ProductId::new().name() };
    let answer = client.get_product(get.clone()).await.unwrap().into_inner();
    assert_eq!((&*answer.name, &*answer.title), (&*get.name, "services/order"));
    assert_eq!(answer.description, "within the process");
    let (channel, _other) = boot().await;
    let over = ProductServiceClient::new(channel).get_product(get).await.unwrap().into_inner();
    assert_eq!(over.description, "over the network");

    let status = client.get_product(GetProductRequest { name: "products/7".into() }).await.unwrap_err();
    assert_eq!((status.code(), problem(&status).reason()), (Code::InvalidArgument, Reason::FieldInvalid));
    for (filter, reason) in
        [("panic", Reason::Internal), ("fault", Reason::Internal), ("slow", Reason::DeadlineExceeded)]
    {
        let status = client.list_products(list(filter)).await.unwrap_err();
        assert_eq!(problem(&status).reason(), reason, "{filter}");
    }
}

#[tokio::test]
async fn a_caller_in_the_same_process_that_leaves_cancels_its_call() {
    let (mut client, _serving, _shutdown) = inside(LONG).await;
    // The server accepts two concurrent calls.
    for _ in 0..6 {
        let left = tokio::time::timeout(Duration::from_millis(20), client.list_products(list("slow"))).await;
        assert!(left.is_err(), "{left:?}");
    }
    client.list_products(list("")).await.unwrap();
}

#[tokio::test]
async fn a_server_in_the_same_process_finishes_running_calls_before_it_stops() {
    let (mut client, serving, shutdown) = inside(LONG).await;
    let mut other = client.clone();
    let mut slow = Box::pin(other.list_products(list("slow")));
    client.list_products(list("")).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut slow).await.is_err(), "it is under way");
    shutdown.cancel();
    wait::until(LONG, "calls to be refused", async || {
        client.clone().list_products(list("")).await.is_err_and(|refused| refused.code() == Code::Unavailable)
    })
    .await;
    assert!(!serving.is_finished(), "one call is under way");
    drop(slow);
    tokio::time::timeout(LONG / 2, serving).await.unwrap().unwrap();
}
