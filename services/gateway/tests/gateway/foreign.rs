//! `souk gateway` in front of services that were not written for souk.

use std::{net::TcpListener as Listener, time::Duration};

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Value as Proto};
use serde_json::{Value, json};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::backend::{self, Call, Gateway, Reply, compile, serving};

const WAIT: Duration = Duration::from_secs(20);

/// The bookstore: it returns requests where it can, and the headers that it received.
fn bookstore(call: Call) -> Option<Reply> {
    let has = |name: &str| call.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let pool = DescriptorPool::decode(compile("bookstore").as_slice()).unwrap();
    let message = |name: &str| DynamicMessage::new(pool.get_message_by_name(name).unwrap());
    let method = call.path.strip_prefix("/foreign.bookstore.v1.Bookstore/")?;
    Some(match method {
        "ListShelves" => Reply::message(Bytes::new()),
        "GetShelf" => {
            let mut shelf = message("foreign.bookstore.v1.Shelf");
            let seen =
                ["authorization", "x-tenant", "x-shop-lane", "x-other"].map(|name| has(name).unwrap_or_default());
            shelf.set_field_by_name("theme", Proto::String(seen.join("|")));
            Reply::message(shelf.encode_to_vec()).with("x-shelf-kind", "oak").with("x-secret", "1")
        }
        "CreateShelf" => {
            let descriptor = pool.get_message_by_name("foreign.bookstore.v1.CreateShelfRequest").unwrap();
            let request = DynamicMessage::decode(descriptor, call.message).unwrap();
            Reply::message(request.get_field_by_name("shelf").unwrap().as_message().unwrap().encode_to_vec())
        }
        "ReadBooks" => {
            let books = (1..=2).map(|id| {
                let mut book = message("foreign.bookstore.v1.Book");
                book.set_field_by_name("id", Proto::I64(id));
                book.encode_to_vec().into()
            });
            let status = Some(Status::data_loss("the third book is lost"));
            Reply { messages: books.collect(), status, ..Reply::default() }.with("x-shelf-kind", "oak")
        }
        "GetCover" => {
            let mut cover = message("google.api.HttpBody");
            cover.set_field_by_name("content_type", Proto::String("image/png".to_owned()));
            cover.set_field_by_name("data", Proto::Bytes(Bytes::from_static(b"\x89PNG")));
            Reply::message(cover.encode_to_vec())
        }
        "Fail" => {
            let code = Code::from(i32::from(*call.message.get(1).unwrap_or(&0)));
            let mut details = ErrorDetails::with_error_info("NO_PAPER", "print.example", []);
            details.set_retry_info(Some(Duration::from_secs(7)));
            Reply::failed(Status::with_error_details(code, "in its own words", details)).with("x-shelf-kind", "broken")
        }
        _ => return None,
    })
}

async fn started(settings: &[(&str, &str)]) -> (Gateway, tempfile::TempDir) {
    let backend = backend::serve(bookstore).await;
    let (folder, mut program) = serving(&compile("bookstore"), &backend);
    program = program.arg("--public");
    for (name, value) in settings {
        program = program.env(format!("SOUK_GATEWAY__CONTRACT__{name}"), value);
    }
    (Gateway::start(program).await, folder)
}

/// Every code is passed on with its details, on REST, Connect and gRPC.
#[tokio::test]
async fn errors_of_a_service_are_passed_on_unchanged() {
    let (gateway, _folder) = started(&[("RESPONSE_HEADERS", "x-shelf-*")]).await;
    let mut channel = bookstore_client(&gateway).await;
    let usual = [499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401];
    for (code, status) in (1..).zip(usual) {
        let answer = gateway.get(&format!("/fail/{code}")).await;
        assert_eq!(answer.status.as_u16(), status, "{code}: {answer:?}");
        let problem = answer.json();
        assert_eq!(problem["detail"], "in its own words", "{problem}");
        let details = problem["details"].as_array().unwrap();
        let info = details.iter().find(|detail| detail["@type"] == "type.googleapis.com/google.rpc.ErrorInfo").unwrap();
        assert_eq!(info["reason"], "NO_PAPER", "{problem}");
        assert_eq!(problem["type"], format!("/errors/{}", problem["reason"].as_str().unwrap()));
        assert_eq!((answer.header("retry-after"), answer.header("x-shelf-kind")), ("7", "broken"), "{answer:?}");

        let path = "/foreign.bookstore.v1.Bookstore/Fail";
        let connect = gateway.json("POST", path, &format!("{{\"code\": {code}}}")).await.json();
        assert_eq!(connect["message"], "in its own words", "{connect}");
        let types: Vec<_> = connect["details"].as_array().unwrap().iter().map(|detail| &detail["type"]).collect();
        assert!(types.contains(&&json!("google.rpc.ErrorInfo")), "{connect}");
        assert_eq!(
            connect["code"].as_str().unwrap().to_uppercase().replace("CANCELED", "CANCELLED"),
            problem["reason"]
        );

        let failed = channel.call("Fail", Bytes::copy_from_slice(&[8, code])).await.unwrap_err();
        assert_eq!((failed.code(), failed.message()), (Code::from(i32::from(code)), "in its own words"));
        assert_eq!(failed.get_details_error_info().unwrap().reason, "NO_PAPER");
    }
    // In the stream, too.
    let stream = gateway.send(gateway.request("GET", "/shelves/1/books").header("accept", "text/event-stream")).await;
    assert_eq!(stream.header("x-shelf-kind"), "oak", "{stream:?}");
    assert!(stream.text.contains("the third book is lost") && stream.text.contains("DATA_LOSS"), "{stream:?}");
    // Errors of the gateway itself keep their reasons.
    gateway.get("/no/such/path").await.problem(404, "ROUTE_NOT_FOUND");
    gateway.get("/shelves/x").await.problem(400, "MALFORMED_REQUEST");
}

struct Client(tonic::client::Grpc<tonic::transport::Channel>);

async fn bookstore_client(gateway: &Gateway) -> Client {
    let endpoint = tonic::transport::Endpoint::from_shared(gateway.url.clone()).unwrap();
    Client(tonic::client::Grpc::new(endpoint.connect().await.unwrap()))
}

impl Client {
    async fn call(&mut self, method: &str, message: Bytes) -> Result<Bytes, Status> {
        self.0.ready().await.unwrap();
        let path = format!("/foreign.bookstore.v1.Bookstore/{method}").parse().unwrap();
        Ok(self.0.unary(tonic::Request::new(message), path, souk_testkit::verbatim::Verbatim).await?.into_inner())
    }
}

#[tokio::test]
async fn only_listed_headers_are_passed_on() {
    let sent = |gateway: &Gateway| {
        let headers = [("authorization", "Basic xyz"), ("x-tenant", "a"), ("x-shop-lane", "b"), ("x-other", "c")];
        headers
            .into_iter()
            .fold(gateway.request("GET", "/shelves/1"), |request, (name, value)| request.header(name, value))
    };
    let (gateway, _folder) = started(&[]).await;
    let answer = gateway.send(sent(&gateway)).await;
    assert_eq!(answer.ok()["theme"], "|||");
    assert_eq!((answer.header("x-shelf-kind"), answer.header("x-secret")), ("", ""));

    let lists = [("REQUEST_HEADERS", "x-tenant,x-shop-*"), ("RESPONSE_HEADERS", "x-shelf-kind")];
    let (gateway, _folder) = started(&[lists[0], lists[1], ("PASS_AUTHORIZATION", "true")]).await;
    let answer = gateway.send(sent(&gateway)).await;
    assert_eq!(answer.ok()["theme"], "Basic xyz|a|b|");
    assert_eq!((answer.header("x-shelf-kind"), answer.header("x-secret")), ("oak", ""));
    let connect = gateway.json("POST", "/foreign.bookstore.v1.Bookstore/GetShelf", "{}").await;
    assert_eq!((connect.header("x-shelf-kind"), connect.header("x-secret")), ("oak", ""));
}

#[tokio::test]
async fn each_rule_is_relaxed_by_a_setting() {
    let (strict, _folder) = started(&[]).await;
    let (lenient, _folder_too) = started(&[("LENIENT__ALL", "true")]).await;
    let (system, _folder_three) = started(&[("LENIENT__SYSTEM_PARAMETERS", "true")]).await;

    for (path, reads_system) in [("/shelves/1?colour=red", false), ("/shelves/1?$alt=json&prettyPrint=true", true)] {
        strict.get(path).await.problem(400, "UNKNOWN_FIELD");
        lenient.get(path).await.ok();
        assert_eq!(system.get(path).await.status == 200, reads_system, "{path}");
    }
    strict.json("DELETE", "/shelves/1", "{}").await.problem(400, "MALFORMED_REQUEST");
    // The backend has no such method and responds without gRPC, which shows that it was called.
    assert_ne!(lenient.json("DELETE", "/shelves/1", "{}").await.status, 400);
    assert_eq!(strict.get("/shelves").await.ok(), json!({"shelves": []}));
    assert_eq!(lenient.get("/shelves").await.ok(), json!({}));
    let cover = strict.get("/shelves/1/books/2/cover").await.ok();
    assert_eq!(cover["contentType"], "image/png", "{cover}");
    let request = lenient.request("GET", "/shelves/1/books/2/cover").header("accept", "image/*");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "image/png");
    assert_eq!(&response.bytes().await.unwrap()[..], b"\x89PNG");
}

#[tokio::test]
async fn methods_that_cannot_be_served_are_logged_and_the_others_served() {
    let (gateway, _folder) = started(&[("METHODS__FOREIGN__BOOKSTORE__V1__ODD__ANY__ACCESS", "deny")]).await;
    let log = gateway.process.log();
    for says in [
        "method foreign.bookstore.v1.Odd.Docs: `/docs` is a page of the gateway's own",
        "method foreign.bookstore.v1.Odd.Shelves: `GET /shelves` is the same route as `GET /shelves` of \
         foreign.bookstore.v1.Bookstore.ListShelves",
        "method foreign.bookstore.v1.Odd.Nowhere: /nowhere/{name}: the path variable `name`",
        "method not served: nobody may call it",
    ] {
        assert!(log.contains(says), "{says}\n{log}");
    }
    assert_eq!(gateway.get("/odd").await.status, 501, "{log}");
    assert_eq!(gateway.get("/anything").await.status, 404);
    assert_eq!(gateway.json("POST", "/foreign.bookstore.v1.Odd/Any", "{}").await.status, 404);
    let index = gateway.get("/").await.ok();
    assert_eq!((&index["name"], &index["version"]), (&json!("foreign.bookstore.v1"), &json!("0")));
    let document = gateway.get("/openapi.json").await.ok();
    assert_eq!(document["info"]["title"], "foreign.bookstore.v1");
    assert!(document["paths"]["/shelves/{shelf}"]["get"].is_object() && document["paths"]["/docs"].is_null());
    assert!(!document.to_string().contains("OUT_OF_STOCK"), "souk's reasons are not this API's");
    let theme = &document["components"]["schemas"]["ShelfInput"]["properties"]["theme"];
    assert!(theme.is_object() && theme["pattern"].is_null(), "nor are its texts: {theme}");
    // A route for all paths of one segment is served, except for the gateway's own pages.
    let (gateway, _folder) = started(&[]).await;
    assert!(gateway.process.log().contains("page=\"/livez\""), "{}", gateway.process.log());
    assert_eq!(gateway.get("/livez").await.ok(), json!({"alive": true}));
}

#[tokio::test]
async fn supported_rules_are_checked() {
    let backend =
        backend::serve(|call| (!call.path.starts_with("/grpc.health.")).then(|| Reply::message(call.message))).await;
    let (_folder, program) = serving(&compile("everything"), &backend);
    let gateway = Gateway::start(program.arg("--public").env("SOUK_GATEWAY__CONTRACT__TITLE", "Everything")).await;
    let log = gateway.process.log();
    assert!(log.contains("foreign.everything.v1.Everything.checked: rule cel"), "{log}");
    let body = |field: &str, value: &str| json!({"uuid": "u", field: value}).to_string();
    gateway.json("POST", "/v1/body", &body("short", "too long")).await.problem(400, "FIELD_INVALID");
    gateway.json("POST", "/v1/body", &body("checked", "odd")).await.ok();
    // souk's rule for texts applies only to souk's contracts.
    let told = gateway.json("POST", "/v1/body", &body("stringValue", "a\nb\u{202e}")).await.ok();
    assert_eq!(told["stringValue"], "a\nb\u{202e}");
    assert_eq!(gateway.get("/openapi.json").await.ok()["info"]["title"], "Everything");
    let wrong = gateway
        .get("/v1/query/u?single_nested.name=a&repeated_enum_value=ONE&repeated_enum_value=1&wrapped=3")
        .await
        .ok();
    assert_eq!((&wrong["repeatedEnumValue"], &wrong["wrapped"]), (&json!(["ONE", "ONE"]), &json!("3")));
}

/// Servers without a health service are used, also those that respond without gRPC to unknown paths.
#[tokio::test]
async fn a_backend_that_does_not_know_health_checks_is_called() {
    let refusals: [fn() -> Option<Reply>; 3] = [
        || None,
        || Some(Reply::failed(Status::unimplemented("no such service"))),
        || Some(Reply::failed(Status::unauthenticated("everything needs a token"))),
    ];
    for refusal in refusals {
        let is_health = |call: &Call| call.path.starts_with("/grpc.health.");
        let backend = backend::serve(move |call| if is_health(&call) { refusal() } else { bookstore(call) }).await;
        let (_folder, program) = serving(&compile("bookstore"), &backend);
        Gateway::start(program.arg("--public")).await.get("/shelves").await.ok();
    }
}

/// A server with reflection, and the functions of the bookstore.
async fn with_reflection(descriptors: &[u8], v1: bool) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let builder = || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(descriptors);
    let incoming = TcpListenerStream::new(listener);
    let mut server = tonic::transport::Server::builder();
    if v1 {
        tokio::spawn(server.add_service(builder().build_v1().unwrap()).serve_with_incoming(incoming));
    } else {
        tokio::spawn(server.add_service(builder().build_v1alpha().unwrap()).serve_with_incoming(incoming));
    }
    address
}

#[tokio::test]
async fn the_contract_is_read_from_backends_by_reflection() {
    for v1 in [true, false] {
        let (one, other) =
            (with_reflection(&compile("bookstore"), v1).await, with_reflection(&compile("everything"), v1).await);
        let program = backend::program()
            .args(["--reflect", "--public", "--backend", &format!("foreign.bookstore={one}")])
            .args(["--backend", &format!("foreign.everything.v1.EverythingService={other}")]);
        let gateway = Gateway::start(program).await;
        let document = gateway.get("/openapi.json").await.ok();
        for path in ["/shelves", "/v1/follow"] {
            assert!(document["paths"][path].is_object(), "{path}");
        }
        // The routes exist, but the server has no such method.
        assert_eq!(gateway.get("/shelves").await.status, 501);
    }
}

#[tokio::test]
async fn a_gateway_waits_for_a_backend_that_is_starting() {
    let free = Listener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let program = backend::program().args(["--reflect", "--public", "--backend", &format!("foreign=http://{address}")]);
    let mut process = program.start().await;
    process.line_with("waiting for a backend to start", WAIT).await;
    assert!(process.interrupt(WAIT).await.success());
}

/// The response of a backend's reflection is compared with the question.
#[tokio::test]
async fn a_backend_with_wrong_reflection_responses_is_named() {
    use tonic_reflection::pb::v1::{
        FileDescriptorResponse, ListServiceResponse, ServerReflectionResponse, ServiceResponse,
        server_reflection_response::MessageResponse,
    };
    let answer = |response| {
        ServerReflectionResponse { message_response: Some(response), ..ServerReflectionResponse::default() }
            .encode_to_vec()
    };
    let list = |name: &str| {
        let service = vec![ServiceResponse { name: name.to_owned() }];
        answer(MessageResponse::ListServicesResponse(ListServiceResponse { service }))
    };
    let file = |file_descriptor_proto: Vec<Vec<u8>>| {
        answer(MessageResponse::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto }))
    };
    let other = prost_reflect::prost_types::FileDescriptorProto { name: Some("x".into()), ..Default::default() };
    let cases = [
        (list("other.Service"), Vec::new(), "it lists no service that matches its name"),
        (list("foreign.Things"), file(vec![other.encode_to_vec()]), "does not have that service"),
        (list("foreign.Things"), file(vec![b"\xff\xff".to_vec()]), "a file cannot be read"),
        (list("foreign.Things"), list("foreign.Things"), "it gives something else"),
        (list("foreign.Things"), b"\xff".to_vec(), "cannot be asked for its services"),
        (file(Vec::new()), Vec::new(), "asked for its services, it gives something else"),
    ];
    for (first, second, says) in cases {
        let backend = backend::serve(move |call| {
            // A request for a file begins with another field than one for the list, which is field 7.
            let lists = call.message.first() == Some(&((7 << 3) | 2));
            call.path.contains("Reflection").then(|| Reply::message(if lists { first.clone() } else { second.clone() }))
        })
        .await;
        let program = backend::program().args(["--reflect", "--public", "--backend", &format!("foreign={backend}")]);
        let (status, log) = program.run().await;
        assert!(!status.success() && log.contains(says) && log.contains("`foreign`"), "{says}: {log}");
    }
    let silent = backend::serve(|_| Some(Reply::failed(Status::unimplemented("")))).await;
    let program = backend::program().args(["--reflect", "--public", "--backend", &format!("foreign={silent}")]);
    let (_, log) = program.run().await;
    assert!(log.contains("has no server reflection: turn it on there"), "{log}");
}

#[tokio::test]
async fn the_gateway_does_not_start_with_invalid_settings() {
    let good = compile("bookstore");
    let mut without_imports = prost_reflect::prost_types::FileDescriptorSet::decode(good.as_slice()).unwrap();
    without_imports.file.retain(|file| file.name() == "bookstore.proto");
    let without_imports = without_imports.encode_to_vec();
    let public: &[&str] = &["--public"];
    type Case<'c> = (&'c [u8], &'c [&'c str], &'c [(&'c str, &'c str)], &'c str);
    let cases: [Case<'_>; 11] = [
        (b"\xff\xff", public, &[], "is no descriptor set"),
        (b"", public, &[], "has no file in it"),
        (&without_imports, public, &[], "lacks `google/api/annotations.proto`, which `bookstore.proto` imports"),
        (&good[..good.len() / 2], public, &[], "api.binpb"),
        (&good, &[], &[], "nobody may call it: say --public"),
        (&good, public, &[("METHODS__FOREIGN__NO__SUCH__ACCESS", "deny")], "gateway.contract.methods.foreign.no.such"),
        (&good, public, &[("METHODS__FOREIGN__BOOKSTORE__ACCESS", "signed-in")], "tokens are not checked"),
        (&good, public, &[("METHODS__FOREIGN__BOOKSTORE__ACCESS", "all")], "\"public\", \"signed-in\" or \"deny\""),
        (&good, public, &[("REQUEST_HEADERS", "authorization")], "pass_authorization"),
        (&good, public, &[("REFLECTION", "true")], "one of the two"),
        (&good, &["--listen", "127.0.0.1:99999"], &[], "--listen"),
    ];
    for (descriptors, args, settings, says) in cases {
        let (_folder, mut program) = serving(descriptors, "http://127.0.0.1:9");
        program = program.args(args);
        for (name, value) in settings {
            program = program.env(format!("SOUK_GATEWAY__CONTRACT__{name}"), value);
        }
        let (status, log) = program.run().await;
        assert!(!status.success() && log.contains(says) && !log.contains("panicked"), "{says}: {log}");
    }
    let (_, log) = backend::program().args(["--descriptors", "/no/such.binpb", "--public"]).run().await;
    assert!(log.contains("/no/such.binpb cannot be read"), "{log}");
    let (_folder, program) = serving(&good, "http://127.0.0.1:9");
    let (_, log) = program.args(["--public", "--backend", "foreign=ftp://x"]).run().await;
    assert!(log.contains("gateway.backends.foreign"), "{log}");
    let (folder, _) = serving(&good, "http://127.0.0.1:9");
    let program = backend::program().current_dir(folder.path());
    let (_, log) = program.env("SOUK_GATEWAY__CONTRACT__TITLE", "x").run().await;
    assert!(log.contains("gateway.contract.title") && log.contains("--descriptors"), "{log}");
}

/// Broken descriptors are refused, or served if the fault does not matter. They never cause a panic.
#[test]
fn no_descriptors_panic() {
    let good = compile("everything");
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        usize::try_from(dice % u64::try_from(below).unwrap()).unwrap()
    };
    for _ in 0..300 {
        let mut broken = good.clone();
        for _ in 0..=random(3) {
            let at = random(broken.len());
            broken[at] = u8::try_from(random(256)).unwrap();
        }
        let _ = souk_common::contract::Contract::load_leniently(&broken, |_| true);
    }
}

/// The longest name that has a setting wins: here one method has its own deadline.
#[tokio::test]
async fn a_method_can_have_its_own_deadline() {
    let (gateway, _folder) = started(&[
        ("METHODS__FOREIGN__BOOKSTORE__V1__BOOKSTORE__LISTSHELVES__DEADLINE", "30s"),
        ("METHODS__FOREIGN__DEADLINE", "1ms"),
        ("METHODS__FOREIGN__RATE_CLASS", "auth"),
    ])
    .await;
    let answer = gateway.get("/shelves").await;
    answer.ok();
    assert!(answer.header("ratelimit-policy").contains("auth"), "{answer:?}");
    let _: Value = gateway.get("/shelves/1").await.problem(504, "DEADLINE_EXCEEDED");
}
