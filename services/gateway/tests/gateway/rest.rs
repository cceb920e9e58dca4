//! REST: each feature of google.api.http over the wire, and the status of every error.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use reqwest::StatusCode;
use serde_json::{Value, json};
use souk_testkit::wait;

use crate::boot::{boot, boot_with};

/// What the echo server received, without empty values.
fn got(answer: &Value) -> Value {
    fn strip(value: &Value) -> Value {
        match value {
            Value::Object(map) => map
                .iter()
                .map(|(name, value)| (name.clone(), strip(value)))
                .filter(|(_, value)| !matches!(value, Value::Null) && *value != json!({}) && *value != json!([]))
                .filter(|(_, value)| *value != json!("") && *value != json!(0) && *value != json!("0"))
                .collect(),
            other => other.clone(),
        }
    }
    json!([answer["method"], strip(&answer["request"])])
}

#[tokio::test]
async fn every_kind_of_route_reaches_its_method() {
    let souk = boot().await;
    let table = [
        ("GET", "/test/v1/things/1", "", json!(["Get", {"name": "things/1"}])),
        ("GET", "/test/v1/boxes/7/things/a%2Fb", "", json!(["Get", {"name": "boxes/7/things/a%2Fb"}])),
        ("POST", "/test/v1/things/1:touch", r#"{"tags": ["a"]}"#, json!(["Get", {"name": "things/1", "tags": ["a"]}])),
        ("GET", "/test/v1/things/special", "", json!(["GetSpecial", {}])),
        ("GET", "/test/v1/things?page_size=5&tags=a&tags=b", "", json!(["List", {"pageSize": 5, "tags": ["a", "b"]}])),
        ("GET", "/test/v1/files/a/b%20c/d", "", json!(["GetFile", {"name": "a/b c/d"}])),
        ("GET", "/test/v1/files", "", json!(["GetFile", {}])),
        ("REPORT", "/test/v1/reports?name=x", "", json!(["Report", {"name": "x"}])),
        ("BREW", "/test/v1/anyhow", "", json!(["Anyhow", {}])),
        ("GET", "/test/v1/anyhow", "", json!(["Anyhow", {}])),
    ];
    for (method, path, body, expected) in table {
        let answer = if body.is_empty() {
            souk.send(souk.request(method, path)).await
        } else {
            souk.json(method, path, body).await
        };
        assert_eq!(got(&answer.ok()), expected, "{method} {path}");
    }
    let numbers = souk.get("/test/v1/numbers/-5/COLOR_GREEN?kinds.bool=true").await.ok();
    assert_eq!(numbers["request"]["kinds"]["int64"], "-5");
    assert_eq!(numbers["request"]["kinds"]["color"], "COLOR_GREEN");
    assert_eq!(numbers["request"]["kinds"]["bool"], true);
}

#[tokio::test]
async fn a_response_body_is_one_field_of_the_answer() {
    let souk = boot().await;
    let thing = souk.json("PATCH", "/test/v1/things/1?page_size=3", r#"{"title": "t", "counts": {"a": 1}}"#).await.ok();
    assert_eq!(thing, json!({"name": "things/1", "title": "t", "counts": {"a": 1}}));
    let tags = souk.json("PUT", "/test/v1/things/1/tags", r#"["a", "b"]"#).await.ok();
    assert_eq!(tags, json!(["a", "b"]));
}

#[tokio::test]
async fn every_kind_of_field_is_accepted_and_returned() {
    let souk = boot().await;
    let kinds = json!({
        "double": 1.5, "float": "NaN", "int32": -1, "int64": "-9007199254740993", "uint32": 1, "uint64": "18446744073709551615",
        "sint32": -2, "sint64": "-2", "fixed32": 3, "fixed64": "3", "sfixed32": -4, "sfixed64": "-4", "bool": true,
        "string": "€\"\\/😀", "bytes": "/+8=", "color": "COLOR_RED", "colors": ["COLOR_GREEN", 99], "numbers": ["1", "-2"],
        "time": "2026-01-31T12:00:00.123456789Z", "duration": "-1.500s", "mask": "displayName,price.units",
        "struct": {"a": [null, {"b": 1.0}]}, "value": null, "list": [1.0, "x"],
        "any": {"@type": "type.googleapis.com/souk.test.v1.Thing", "name": "", "title": "boxed", "counts": {}},
        "empty": {}, "int64Value": "0", "stringValue": "", "boolValue": false, "doubleValue": 0.0, "bytesValue": "",
        "middle": {"name": "", "title": "oneof", "counts": {}}, "maybe": 0,
        "things": {"k/1": {"name": "n", "title": "", "counts": {}}}, "byNumber": {"-7": "x"}, "byBool": {"false": "COLOR_RED"},
        "nothing": null, "times": ["1970-01-01T00:00:00Z"], "listOfThings": [], "uint32Value": 4294967295u32,
    });
    let body = json!({"kinds": kinds}).to_string();
    let answer = souk.json("POST", "/test/v1/everything", &body).await.ok();
    assert_eq!(answer["request"]["kinds"], kinds);
}

#[tokio::test]
async fn head_and_options_work_on_every_route() {
    let souk = boot().await;
    let head = souk.send(souk.request("HEAD", "/test/v1/things/1")).await;
    assert_eq!(head.status, StatusCode::OK);
    assert!(head.text.is_empty());
    assert!(head.header("content-length").parse::<usize>().unwrap() > 20, "{head:?}");
    let options = souk.send(souk.request("OPTIONS", "/test/v1/things")).await;
    assert_eq!((options.status, options.header("allow")), (StatusCode::NO_CONTENT, "GET, HEAD, OPTIONS"));
    let delete = souk.send(souk.request("DELETE", "/test/v1/things/1:touch")).await;
    delete.problem(405, "METHOD_NOT_ALLOWED");
    assert_eq!(delete.header("allow"), "POST, OPTIONS");
    let post = souk.send(souk.request("POST", "/livez")).await;
    post.problem(405, "METHOD_NOT_ALLOWED");
}

#[tokio::test]
async fn errors_of_a_request_are_reported() {
    let souk = boot().await;
    for path in ["/test/v1/nothing", "/test/v1/things/", "/test/v1/things/1/2", "/", "/v1/users/me"] {
        if path != "/" {
            souk.get(path).await.problem(404, "ROUTE_NOT_FOUND");
        }
    }
    souk.get("/test/v1/things/%ff").await.problem(400, "MALFORMED_REQUEST");

    let unknown =
        souk.json("POST", "/test/v1/everything", r#"{"kinds": {"int46": 1}}"#).await.problem(400, "UNKNOWN_FIELD");
    assert_eq!(
        unknown["errors"],
        json!([{"field": "kinds.int46", "pointer": "/kinds/int46", "in": "body", "detail": "is not a field of Kinds; did you mean `int64`?"}])
    );
    let parameter = souk.get("/test/v1/things?pageSise=1").await.problem(400, "UNKNOWN_FIELD");
    assert_eq!(
        parameter["errors"][0],
        json!({"field": "pageSise", "in": "query", "detail": "is not a field of Request; did you mean `pageSize`?"})
    );
    let wrong =
        souk.json("PATCH", "/test/v1/things/1", r#"{"inside": {"title": 5}}"#).await.problem(400, "MALFORMED_REQUEST");
    // The body is the field `thing`, so the pointer starts inside it.
    assert_eq!(wrong["errors"][0]["pointer"], "/inside/title");
    assert_eq!(wrong["errors"][0]["field"], "thing.inside.title");
    let number = souk.get("/test/v1/numbers/x/COLOR_RED").await.problem(400, "MALFORMED_REQUEST");
    assert_eq!((&number["errors"][0]["in"], &number["errors"][0]["field"]), (&json!("path"), &json!("kinds.int64")));

    // Violations of the contract's rules have the same names and pointers.
    let checked = souk
        .json("POST", "/test/v1/checked/id_x?page_size=-1", r#"{"lineItems": [{"quantity": 1}, {"quantity": 0}]}"#)
        .await;
    let checked = checked.problem(400, "FIELD_INVALID");
    let mut errors: Vec<_> = checked["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| json!([error["field"], error["in"], error["pointer"]]))
        .collect();
    errors.sort_by_key(ToString::to_string);
    assert_eq!(
        errors,
        [
            json!(["id", "path", null]),
            json!(["inner.line_items[1].quantity", "body", "/lineItems/1/quantity"]),
            json!(["page_size", "query", null]),
        ]
    );
    let missing = souk.send(souk.request("POST", "/test/v1/checked/id_1")).await.problem(400, "FIELD_INVALID");
    assert_eq!((&missing["errors"][0]["field"], &missing["errors"][0]["pointer"]), (&json!("inner"), &json!("")));

    souk.json("POST", "/test/v1/everything", "{").await.problem(400, "MALFORMED_REQUEST");
    let get_with_body = souk.json("GET", "/test/v1/things/1", "{}").await;
    get_with_body.problem(400, "MALFORMED_REQUEST");
}

#[tokio::test]
async fn the_type_and_the_size_of_a_body_are_checked() {
    let souk = boot_with(&[("server.max_request_bytes", "4KiB")], |address| address).await;
    let post = |content_type: Option<&str>, body: String| {
        let mut request = souk.request("POST", "/test/v1/everything").body(body);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        souk.send(request)
    };
    for good in ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""] {
        post(Some(good), "{}".into()).await.ok();
    }
    post(None, "{}".into()).await.ok();
    post(None, String::new()).await.ok();
    for bad in
        ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "application/json; charset=latin1", ""]
    {
        post(Some(bad), "{}".into()).await.problem(415, "MEDIA_TYPE_UNSUPPORTED");
    }
    let packed = souk.request("POST", "/test/v1/everything").header("content-encoding", "br").body("{}");
    let packed = souk.send(packed).await;
    packed.problem(415, "MEDIA_TYPE_UNSUPPORTED");
    assert_eq!(packed.header("accept-encoding"), "gzip");

    let large = json!({"name": "x".repeat(5000)}).to_string();
    let told = post(Some("application/json"), large.clone()).await.problem(413, "BODY_TOO_LARGE");
    assert_eq!(told["metadata"]["limitBytes"], "4096");
    // Without a content length.
    let chunks: Vec<_> = large
        .into_bytes()
        .chunks(512)
        .map(|chunk| Ok::<_, std::io::Error>(Frame::data(chunk.to_vec().into())))
        .collect();
    let chunked: StreamBody<_> = StreamBody::new(futures::stream::iter::<Vec<Result<Frame<Bytes>, _>>>(chunks));
    let request = souk.request("POST", "/test/v1/everything").body(reqwest::Body::wrap(chunked));
    souk.send(request).await.problem(413, "BODY_TOO_LARGE");
    let fits = json!({"name": "x".repeat(4000)}).to_string();
    post(Some("application/json"), fits).await.ok();
}

#[tokio::test]
async fn access_is_checked_before_anything_else() {
    let souk = boot().await;
    let (customer, staff, admin) =
        (souk.keys.token(&[], 60), souk.keys.token(&["STAFF"], 60), souk.keys.token(&["ADMIN"], 60));

    let missing = souk.get("/test/v1/signedIn").await;
    missing.problem(401, "TOKEN_MISSING");
    assert_eq!(missing.header("www-authenticate"), "Bearer");
    souk.get_as("/test/v1/signedIn", &customer).await.ok();

    let denied = souk.get_as("/test/v1/staffOnly", &customer).await;
    denied.problem(403, "ACCESS_DENIED");
    souk.get_as("/test/v1/staffOnly", &staff).await.ok();
    souk.get_as("/test/v1/staffOnly", &admin).await.ok();

    // Also for methods that need no token.
    let other_key = crate::boot::Keys::new().token(&["ADMIN"], 60);
    for path in ["/test/v1/signedIn", "/test/v1/things/1"] {
        let forged = souk.get_as(path, &other_key).await;
        forged.problem(401, "TOKEN_INVALID");
        assert_eq!(forged.header("www-authenticate"), r#"Bearer error="invalid_token""#);
        souk.get_as(path, "nonsense").await.problem(401, "TOKEN_INVALID");
        souk.get_as(path, &souk.keys.token(&[], -60)).await.problem(401, "TOKEN_EXPIRED");
        let basic = souk.request("GET", path).basic_auth("a", Some("b"));
        souk.send(basic).await.problem(401, "TOKEN_INVALID");
        let twice = souk.request("GET", path).bearer_auth(&customer).bearer_auth(&staff);
        souk.send(twice).await.problem(401, "TOKEN_INVALID");
    }
    // A token of a service is not valid for clients.
    let secret = souk_common::config::Secret::new(crate::boot::SECRET);
    let service =
        souk_common::auth::ServiceTokens::new(&secret, "order").bearer("souk.inventory.v1.ReservationService").unwrap();
    let request = souk.request("GET", "/test/v1/things/1").header("authorization", service);
    souk.send(request).await.problem(401, "TOKEN_INVALID");

    // Internal methods do not exist for clients. Access is checked before the body.
    souk.get_as("/test/v1/internal", &admin).await.problem(404, "ROUTE_NOT_FOUND");
    souk.json("GET", "/test/v1/staffOnly?what=1", "{").await.problem(401, "TOKEN_MISSING");
}

#[tokio::test]
async fn only_allowed_headers_are_passed_on() {
    let souk = boot().await;
    let token = souk.keys.token(&[], 60);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = souk
        .request("GET", "/test/v1/things/1")
        .bearer_auth(&token)
        .header("x-request-id", "req-42")
        .header("traceparent", trace)
        .header("grpc-timeout", "3S")
        .header("x-souk-user", "users/usr_admin")
        .header("x-forwarded-user", "admin")
        .header("cookie", "a=b")
        .header("user-agent", "curious/1.0");
    let answer = souk.send(request).await;
    assert_eq!(answer.header("x-request-id"), "req-42");
    assert_eq!(answer.header("x-secret-of-the-service"), "");
    let headers = answer.ok()["headers"].clone();
    assert_eq!(headers["authorization"], format!("Bearer {token}"));
    assert_eq!(headers["x-request-id"], "req-42");
    // The same trace, whether or not there are spans of the gateway in between.
    assert_eq!(headers["traceparent"].as_str().unwrap()[..35], trace[..35]);
    let left: u64 = headers["grpc-timeout"].as_str().unwrap().trim_end_matches('m').parse().unwrap();
    assert!((2000..=3000).contains(&left), "{left}");
    for name in headers.as_object().unwrap().keys() {
        let known = [
            "authorization",
            "x-request-id",
            "traceparent",
            "grpc-timeout",
            "user-agent",
            "te",
            "content-type",
            "content-length",
        ];
        assert!(known.contains(&name.as_str()), "{name} passed");
    }
    assert!(!headers["user-agent"].as_str().unwrap_or_default().contains("curious"));

    let odd = souk.request("GET", "/test/v1/things/1").header("x-request-id", "a b\"c");
    let odd = souk.send(odd).await;
    assert_eq!(odd.header("x-request-id").len(), 36, "a new one: {odd:?}");
}

/// Only a method that asks for them gets the client's address and program, as the gateway sees them.
#[tokio::test]
async fn a_service_gets_details_of_the_client_where_its_method_asks() {
    let settings = [("gateway.trusted_proxies", "127.0.0.1")];
    let souk = boot_with(&settings, |address| address).await;
    let sent = |path: &str| {
        let request = souk.request("POST", path).header("x-forwarded-for", "198.51.100.7").body("{}");
        let request = request.header("x-souk-client-address", "203.0.113.1").header("x-souk-client-agent", "forged");
        souk.send(request.header("content-type", "application/json").header("user-agent", "Käse/1.0"))
    };
    for path in ["/test/v1/meet", "/souk.test.v1.EchoService/Meet"] {
        let headers = sent(path).await.ok()["headers"].clone();
        assert_eq!(headers["x-souk-client-address"], "198.51.100.7", "{path}");
        assert_eq!(headers["x-souk-client-agent"], "K?se/1.0", "{path}");
    }
    for path in ["/test/v1/everything", "/souk.test.v1.EchoService/Create"] {
        let headers = sent(path).await.ok()["headers"].clone();
        let told = headers.as_object().unwrap().keys().filter(|name| name.starts_with("x-souk")).count();
        assert_eq!(told, 0, "{headers}");
    }
}

#[tokio::test]
async fn a_method_may_need_a_recent_log_in() {
    let souk = boot_with(&[("auth.recent_log_in", "10m"), ("auth.leeway", "0s")], |address| address).await;
    let ask = async |token: &str| {
        let mut answers = Vec::new();
        for path in ["/test/v1/dare", "/souk.test.v1.EchoService/Dare"] {
            let request = souk.request("POST", path).header("content-type", "application/json").body("{}");
            answers.push(souk.send(request.bearer_auth(token)).await);
        }
        answers
    };
    for recent in [0, 590, -20] {
        for answer in ask(&souk.keys.token_of(&[], 60, Some(recent))).await {
            assert_eq!(answer.ok()["method"], "Dare");
        }
    }
    for old in [Some(610), Some(86_400), None] {
        let token = souk.keys.token_of(&["ADMIN"], 60, old);
        let [rest, connect] = ask(&token).await.try_into().unwrap();
        rest.problem(401, "REAUTHENTICATION_REQUIRED");
        assert_eq!(rest.header("www-authenticate"), "Bearer error=\"insufficient_user_authentication\"");
        assert_eq!(connect.json()["code"], "unauthenticated");
        // For everything else the token is good.
        souk.get_as("/test/v1/staffOnly", &token).await.ok();
    }
    let document = souk.get("/openapi.json").await.ok();
    let operation = document["paths"]["/test/v1/dare"]["post"]["description"].as_str().unwrap();
    assert!(operation.contains("REAUTHENTICATION_REQUIRED"), "{operation}");

    let any = boot_with(&[("auth.recent_log_in", "0s")], |address| address).await;
    let request = any.request("POST", "/test/v1/dare").bearer_auth(any.keys.token_of(&[], 60, None));
    any.send(request).await.ok();
}

#[tokio::test]
async fn an_idempotency_key_may_be_a_header() {
    let souk = boot().await;
    let post = |key: &str, body: &str| {
        let request = souk.request("POST", "/test/v1/everything").header("idempotency-key", key).body(body.to_owned());
        souk.send(request)
    };
    let first = post("k-1", "{}").await;
    assert_eq!(first.ok()["request"]["requestId"], "k-1");
    assert_eq!(first.header("idempotent-replayed"), "");
    let again = post("k-1", r#"{"requestId": "k-1"}"#).await;
    again.ok();
    assert_eq!(again.header("idempotent-replayed"), "true");
    let differs = post("k-1", r#"{"requestId": "k-2"}"#).await.problem(400, "MALFORMED_REQUEST");
    assert_eq!(differs["errors"][0]["field"], "request_id");
    // The form of the IETF draft.
    let quoted = post(r#""k-1""#, "{}").await;
    assert_eq!(quoted.ok()["request"]["requestId"], "k-1");
    assert_eq!(quoted.header("idempotent-replayed"), "true");
    for wrong in ["", r#""k-1"#, r#""k-1", "k-2""#] {
        let refused = post(wrong, "{}").await.problem(400, "MALFORMED_REQUEST");
        assert!(refused["detail"].as_str().unwrap().contains("Idempotency-Key"), "{refused}");
        assert_eq!(refused["errors"][0]["field"], "request_id");
    }
}

#[tokio::test]
async fn errors_of_a_service_keep_their_reason_but_no_internals() {
    let souk = boot_with(&[("server.deadline", "1s")], |address| address).await;
    let fail = async |how: &str| souk.get(&format!("/test/v1/fail/{how}")).await;
    let stock = fail("out-of-stock").await.problem(400, "OUT_OF_STOCK");
    assert_eq!(stock["detail"], "only 3 left");
    assert_eq!(stock["violations"][0]["subject"], "things/1");
    assert_eq!(stock["metadata"]["available"], "3");
    let field = fail("field").await.problem(400, "FIELD_INVALID");
    assert_eq!(field["errors"], json!([{"field": "name", "in": "path", "detail": "must be nicer"}]));
    fail("key-reused").await.problem(422, "IDEMPOTENCY_KEY_REUSED");
    let busy = fail("busy").await;
    busy.problem(503, "OVERLOADED");
    assert_eq!(busy.header("retry-after"), "3");
    fail("internal").await.problem(500, "INTERNAL");
    // tonic's server does not catch panics: the stream breaks.
    assert!(fail("panic").await.status.is_server_error());
    fail("wait").await.problem(504, "DEADLINE_EXCEEDED");
    // If an error has no reason of souk, its code is used as tonic uses it: 8 means overload, 11 means too large.
    let table = [
        (1, 499),
        (2, 500),
        (3, 400),
        (4, 504),
        (5, 404),
        (6, 409),
        (7, 403),
        (8, 503),
        (9, 400),
        (10, 409),
        (11, 413),
        (12, 501),
        (13, 500),
        (14, 503),
        (15, 500),
        (16, 401),
    ];
    for (code, status) in table {
        let answer = fail(&code.to_string()).await;
        assert_eq!(answer.status.as_u16(), status, "gRPC code {code}: {answer:?}");
        // Messages about the request may be passed on, messages about the service itself may not.
        if ![3, 5, 6, 9, 10].contains(&code) {
            assert!(!answer.text.contains("secret inside"), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_backend_that_is_down_gives_503_until_it_is_back() {
    let souk = boot().await;
    drop(souk);
    let (sender, proxied) = tokio::sync::oneshot::channel();
    let souk = {
        let contract = crate::boot::contract();
        let (address, health) = crate::echo::serve(contract).await;
        let proxy = souk_testkit::proxy::Proxy::start(address.trim_start_matches("http://").to_owned()).await;
        let front = format!("http://{}", proxy.address());
        sender.send((proxy, health)).ok().unwrap();
        boot_with(&[], move |_| front).await
    };
    let (proxy, _health) = proxied.await.unwrap();
    souk.get("/test/v1/things/1").await.ok();
    souk.json("PATCH", "/test/v1/things/1", "{}").await.ok();
    proxy.cut();
    for (method, path) in
        [("GET", "/test/v1/things/1"), ("POST", "/test/v1/everything"), ("PATCH", "/test/v1/things/1")]
    {
        let down = souk.send(souk.request(method, path)).await;
        down.problem(503, "SERVICE_UNAVAILABLE");
        assert_eq!(down.header("retry-after"), "1");
    }
    let ready = souk.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready.json()["backends"], json!([{"name": "souk.test.v1", "ready": false, "state": "UNREACHABLE"}]));
    souk.get("/livez").await.ok();
    proxy.restore();
    wait::until(std::time::Duration::from_secs(10), "the backend to be back", async || {
        souk.get("/test/v1/things/1").await.status == StatusCode::OK
            && souk.get("/readyz").await.status == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_not_json_is_passed_on_unchanged() {
    let souk = boot().await;
    let bytes = [&b"\xff\x00 not { JSON \r\n"[..], &[b'x'; 20_000]].concat();
    let asked = |path: &str, kind: &str| {
        let request = souk.request("POST", path).header("content-type", kind);
        request.header("x-signature", "t=1,v1=ab").body(bytes.clone())
    };
    let data = json!({"contentType": "image/png; a=b", "data": BASE64_STANDARD.encode(&bytes), "extensions": []});
    let answer = souk.send(asked("/test/v1/received/stripe:take", "image/png; a=b")).await.ok();
    assert_eq!(answer["received"], json!({"name": "stripe", "body": data, "signature": "t=1,v1=ab"}));
    // The header fills a field and is not passed on as a header.
    assert_eq!(answer["headers"]["x-signature"], Value::Null);
    let answer = souk.send(asked("/test/v1/received", "image/png; a=b")).await.ok();
    assert_eq!(answer["received"]["body"], data);
    // JSON is passed on unchanged, too, so that signatures stay valid.
    let spaced = "{ \"a\":  1 }";
    let answer = souk.json("POST", "/test/v1/received", spaced).await.ok();
    assert_eq!(answer["received"]["body"]["data"], BASE64_STANDARD.encode(spaced));

    let problem = souk.send(souk.request("POST", "/test/v1/received/stripe:take")).await.problem(400, "FIELD_INVALID");
    let wrong: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|e| (&e["field"], &e["in"])).collect();
    assert_eq!(wrong, [(&json!("body"), &json!("body")), (&json!("signature"), &json!("header"))]);
    let packed = asked("/test/v1/received/stripe:take", "text/plain").header("content-encoding", "br");
    souk.send(packed).await.problem(415, "MEDIA_TYPE_UNSUPPORTED");
    let in_query = asked("/test/v1/received/stripe:take?signature=t", "text/plain");
    souk.send(in_query).await.problem(400, "UNKNOWN_FIELD");
}
