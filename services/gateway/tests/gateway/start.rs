//! Errors that prevent a gateway from starting. They are reported before anything is served.

use std::sync::Arc;

use souk_common::{auth::Verifier, contract::Contract};
use souk_gateway::{Gateway, routes::Routes};

use crate::boot::{self, compile, config};

/// A contract of one service with these methods.
fn contract_of(methods: &str) -> (Arc<Contract>, Vec<u8>) {
    let text = format!(
        r#"syntax = "proto3";
        package other.v1;
        import "google/api/annotations.proto";
        import "souk/options/v1/options.proto";
        import "buf/validate/validate.proto";
        message Thing {{ string name = 1; repeated string tags = 2; }}
        message Batch {{
          repeated string ids = 1 [(buf.validate.field).repeated = {{
            max_items: 1000 items: {{string: {{pattern: "^[a-z0-9/]{{30}}$"}}}}
          }}];
        }}
        service Things {{ {methods} }}"#
    );
    let descriptors = compile(Some(&text));
    (Arc::new(Contract::load(&descriptors).unwrap()), descriptors)
}

fn start(methods: &str, backend: Option<&str>) -> Result<Gateway, String> {
    let (contract, descriptors) = contract_of(methods);
    let mut config = config(&[]);
    if let Some(address) = backend {
        config.settings.backends.set("other", address);
    }
    let verifier = Arc::new(Verifier::new(&config.common.auth, Arc::new(boot::NoKeys)));
    Gateway::new(config, contract, &descriptors, verifier).map_err(|error| souk_common::error::chain(&error))
}

fn method(name: &str, http: &str) -> String {
    format!(
        "rpc {name}(Thing) returns (Thing) {{ option (google.api.http) = {{{http}}}; option (souk.options.v1.access) = {{public: true}}; }}"
    )
}

#[tokio::test]
async fn a_method_without_an_access_rule_is_refused() {
    let error = start(
        r#"rpc Get(Thing) returns (Thing) { option (google.api.http) = {get: "/v1/x"}; }"#,
        Some("http://127.0.0.1:1"),
    );
    let error = error.err().unwrap();
    assert!(error.contains("access") && error.contains("other.v1.Things.Get"), "{error}");
}

#[tokio::test]
async fn two_methods_with_the_same_route_are_refused() {
    let methods = method("Get", r#"get: "/v1/{name=things/*}""#) + &method("Fetch", r#"get: "/v1/things/{name}""#);
    let error = start(&methods, Some("http://127.0.0.1:1")).err().unwrap();
    assert!(error.contains("other.v1.Things.Get") && error.contains("other.v1.Things.Fetch"), "{error}");
    assert!(error.contains("GET /v1/things/{name}") && error.contains("GET /v1/{name=things/*}"), "{error}");
}

#[tokio::test]
async fn routes_that_do_not_fit_the_contract_are_refused() {
    let table = [
        (r#"get: "/v1/{nmae}""#, "no field `nmae`"),
        (r#"get: "/v1/{tags}""#, "neither repeated nor a message"),
        (r#"post: "/v1/x" body: "nope""#, "`body: \"nope\"` names no field"),
        (r#"get: "/v1/x" response_body: "nope""#, "`response_body: \"nope\"` names no field"),
        (r#"get: "v1/x""#, "is not a path template"),
        (r#"get: "/v1/**/x""#, "is not a path template"),
        (r#"body: "*""#, "names no HTTP method and path"),
        (r#"custom: {kind: "B D" path: "/v1/x"}"#, "names no HTTP method and path"),
        (
            r#"get: "/v1/x" additional_bindings {get: "/v1/y" additional_bindings {get: "/v1/z"}}"#,
            "additional_bindings of their own",
        ),
    ];
    for (http, expected) in table {
        let error = start(&method("Get", http), Some("http://127.0.0.1:1")).err().unwrap();
        assert!(error.starts_with("method other.v1.Things.Get") && error.contains(expected), "{http}: {error}");
    }
}

#[tokio::test]
async fn a_missing_or_invalid_backend_address_is_refused() {
    let get = method("Get", r#"get: "/v1/x""#);
    let error = start(&get, None).err().unwrap();
    assert!(error.contains("other.v1.Things") && error.contains("gateway.backends"), "{error}");
    let error = start(&get, Some("not an address")).err().unwrap();
    assert!(error.contains("gateway.backends.other") && error.contains("http://host:port"), "{error}");
    start(&get, Some("http://127.0.0.1:1")).unwrap();
}

/// The longest URL of a method must fit into a request; otherwise the method needs a binding with a body.
#[test]
fn methods_whose_requests_do_not_fit_into_a_url_are_refused() {
    let post = r#"additional_bindings {post: "/v1/batch" body: "*"}"#;
    let batch = |http: &str| method("Get", http).replace("Get(Thing)", "Get(Batch)");
    let table = [
        (
            batch(r#"get: "/v1/batch""#),
            32,
            Some("`GET /v1/batch` accepts addresses of 95009 bytes, and 24576 fit into"),
        ),
        (batch(r#"get: "/v1/batch""#), 128, Some("and 65534 fit into")),
        (batch(&format!(r#"get: "/v1/batch" {post}"#)), 32, None),
        (batch(r#"get: "/v1/batch" additional_bindings {get: "/v1/other"}"#), 32, Some("`GET /v1/other` accepts")),
        (
            method("Get", r#"get: "/v1/{name=things/*}""#),
            32,
            Some("takes `name` in the address, and no rule says how long"),
        ),
        (method("Get", r#"post: "/v1/things" body: "*""#), 9, None),
    ];
    for (methods, kib, expected) in table {
        let (contract, _) = contract_of(&methods);
        let fault = Routes::of(&contract).unwrap().fit(kib * 1024).err().map(|error| error.to_string());
        match expected {
            Some(expected) => {
                let fault = fault.unwrap_or_else(|| panic!("{methods} starts"));
                assert!(fault.starts_with("method other.v1.Things.Get: ") && fault.contains(expected), "{fault}");
            }
            None => assert_eq!(fault, None, "{methods}"),
        }
    }
}
