//! A method that is added to a contract is served, validated, limited and documented without any code.

use prost::Message;
use prost_reflect::{DynamicMessage, Value};
use serde_json::json;
use tonic::{Code, Status};

use crate::boot::{Answer, Booted, boot_contract, compile};

const METHOD: &str = r#"
service EchoService {
  // Greets someone by name.
  rpc Greet(GreetRequest) returns (Reply) {
    option (google.api.http) = {get: "/test/v1/{name=people/*}:greet"};
    option (souk.options.v1.access) = {roles: [ROLE_STAFF]};
    option (souk.options.v1.rate_class) = RATE_CLASS_AUTH;
    option (souk.options.v1.deprecation) = {since: "2026-01-31"};
    option idempotency_level = NO_SIDE_EFFECTS;
  }
"#;
const MESSAGE: &str = r#"
message GreetRequest {
  string name = 1 [(buf.validate.field).string.pattern = "^people/[a-z]+$"];
  int32 times = 2 [(buf.validate.field).int32.lte = 3];
}
"#;

/// Calls the gateway over each of its protocols.
struct Asked<'a> {
    souk: &'a Booted,
    token: &'a str,
}

impl Asked<'_> {
    async fn rest(&self, path: &str) -> Answer {
        let request = self.souk.request("GET", path);
        self.souk.send(if self.token.is_empty() { request } else { request.bearer_auth(self.token) }).await
    }

    async fn connect(&self) -> Answer {
        let request = self.souk.request("POST", "/souk.test.v1.EchoService/Greet");
        let request = request.header("content-type", "application/json").header("connect-protocol-version", "1");
        self.souk.send(request.bearer_auth(self.token).body(r#"{"name": "people/ann"}"#)).await
    }

    /// The code in the trailers of gRPC-Web.
    async fn web(&self, frame: Vec<u8>) -> Code {
        let request = self.souk.request("POST", "/souk.test.v1.EchoService/Greet").bearer_auth(self.token);
        let answer = request.header("content-type", "application/grpc-web+proto").body(frame).send().await.unwrap();
        let in_headers = answer.headers().get("grpc-status").cloned();
        let body = answer.bytes().await.unwrap();
        let text = String::from_utf8_lossy(&body);
        let code = text.split("grpc-status: ").nth(1).map(|rest| rest.lines().next().unwrap().trim().to_owned());
        let code = code.unwrap_or_else(|| in_headers.unwrap().to_str().unwrap().to_owned());
        Code::from_bytes(code.as_bytes())
    }
}

#[tokio::test]
async fn an_added_method_needs_no_code() {
    let echo = include_str!("../proto/souk/test/v1/echo.proto");
    assert!(!echo.contains("Greet"));
    let descriptors = compile(Some(&format!("{}{MESSAGE}", echo.replace("service EchoService {", METHOD))));
    let settings =
        [("gateway.rate_limits.auth.per_caller.burst", "6"), ("gateway.rate_limits.auth.per_caller.rate", "1/h")];
    let souk = boot_contract(&descriptors, &settings, |address| address).await;
    let (staff, customer) = (souk.keys.token(&["STAFF"], 60), souk.keys.token(&[], 60));
    let as_staff = Asked { souk: &souk, token: &staff };

    // It is served, with deprecation headers.
    let answer = as_staff.rest("/test/v1/people/ann:greet?times=2").await;
    assert_eq!(answer.ok()["method"], "Greet");
    assert_eq!(answer.header("deprecation"), "@1769817600");
    assert_eq!(as_staff.connect().await.json()["method"], "Greet");
    let pool = prost_reflect::DescriptorPool::decode(descriptors.as_slice()).unwrap();
    let mut message = DynamicMessage::new(pool.get_message_by_name("souk.test.v1.GreetRequest").unwrap());
    message.set_field_by_name("name", Value::String("people/ann".into()));
    let framed = |message: &DynamicMessage| {
        let bytes = message.encode_to_vec();
        [&[0][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), &bytes].concat()
    };
    assert_eq!(as_staff.web(framed(&message)).await, Code::Ok);
    let grpc = async |message: &DynamicMessage, token: &str| -> Result<(), Status> {
        let mut client = tonic::client::Grpc::new(souk.channel().await);
        client.ready().await.unwrap();
        let mut request = tonic::Request::new(message.encode_to_vec());
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let path = "/souk.test.v1.EchoService/Greet".parse().unwrap();
        client.unary(request, path, crate::grpc::Raw).await.map(drop)
    };
    grpc(&message, &staff).await.unwrap();

    // Access and request are checked.
    Asked { souk: &souk, token: "" }.rest("/test/v1/people/ann:greet").await.problem(401, "TOKEN_MISSING");
    Asked { souk: &souk, token: &customer }.rest("/test/v1/people/ann:greet").await.problem(403, "ACCESS_DENIED");
    assert_eq!(grpc(&message, &customer).await.unwrap_err().code(), Code::PermissionDenied);
    let wrong = as_staff.rest("/test/v1/people/ANN:greet?times=9").await.problem(400, "FIELD_INVALID");
    let fields: Vec<_> = wrong["errors"].as_array().unwrap().iter().map(|error| &error["field"]).collect();
    assert_eq!(fields, [&json!("name"), &json!("times")]);
    as_staff.rest("/test/v1/people/ann:greet?tmies=1").await.problem(400, "UNKNOWN_FIELD");

    // The rate limit applies: six calls were made over all protocols.
    let limited = as_staff.rest("/test/v1/people/ann:greet").await;
    limited.problem(429, "RATE_LIMITED");
    assert!(!limited.header("retry-after").is_empty());
    assert_eq!(grpc(&message, &staff).await.unwrap_err().code(), Code::ResourceExhausted);

    // It is documented.
    let document = souk.get("/openapi.json").await.ok();
    let operation =
        &document["paths"].as_object().unwrap().iter().find(|(path, _)| path.ends_with(":greet")).unwrap().1["get"];
    assert!(operation.to_string().contains("Greets someone by name."), "{operation}");
    assert_eq!(operation["deprecated"], true);
}
