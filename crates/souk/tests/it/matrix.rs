//! Access: calls every method of the contract as every kind of caller, over gRPC at its service, and over gRPC and REST
//! at the gateway. The test derives the expected result from the options in the contract by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
};

use bytes::{Buf, BufMut};
use http::uri::PathAndQuery;
use prost_reflect::{DynamicMessage, prost::Message};
use reqwest::Method as HttpMethod;
use serde_json::{Value, json};
use souk_common::{
    auth::{AccessRule, Role, ServiceTokens},
    config::Secret,
    contract::{Contract, Method},
    error::Problem,
    ids::SessionId,
};
use souk_proto::google::api::{HttpRule, http_rule::Pattern};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use super::{
    cluster::Up,
    rest::{Rest, order},
};

/// A kind of caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Anonymous,
    /// The owner of the resources that the requests name.
    Owner,
    /// Another customer.
    Other,
    Staff,
    Admin,
    /// An administrator whose token is limited to the scope of the method.
    InScope,
    /// An administrator whose token is limited to another scope.
    OutOfScope,
    /// A service of souk, with its own name.
    Service(&'static str),
    /// A service that may call the method, if there is one, with a token for another service.
    WrongAudience,
}

impl Caller {
    const ALL: [Self; 12] = [
        Self::Anonymous,
        Self::Owner,
        Self::Other,
        Self::Staff,
        Self::Admin,
        Self::InScope,
        Self::OutOfScope,
        Self::Service("user"),
        Self::Service("inventory"),
        Self::Service("order"),
        Self::Service("gateway"),
        Self::WrongAudience,
    ];

    fn roles(self) -> &'static [Role] {
        match self {
            Self::Staff => &[Role::Staff],
            Self::Admin | Self::InScope | Self::OutOfScope => &[Role::Admin, Role::Staff],
            _ => &[],
        }
    }
}

/// The result of the access check. `Admitted` says nothing about later errors.
#[derive(Clone, PartialEq, Eq)]
struct Verdict(&'static str);

const ADMITTED: Verdict = Verdict("admitted");
const REFUSALS: [&str; 4] = ["TOKEN_MISSING", "TOKEN_INVALID", "ACCESS_DENIED", "SCOPE_MISSING"];

impl Verdict {
    fn of(reason: &str) -> Self {
        assert!(!matches!(reason, "INTERNAL" | "SERVICE_UNAVAILABLE"), "a fault, not an answer: {reason}");
        Self(REFUSALS.into_iter().find(|refusal| *refusal == reason).unwrap_or(ADMITTED.0))
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What the rule says about this caller, computed independently.
fn expected(rule: &AccessRule, caller: Caller, at_gateway: bool) -> Verdict {
    let clients =
        rule.public || rule.signed_in || rule.owner.is_some() || Role::ALL.iter().any(|role| rule.roles.has(*role));
    if at_gateway && !clients {
        return Verdict("ACCESS_DENIED");
    }
    if caller == Caller::WrongAudience || (at_gateway && matches!(caller, Caller::Service(_))) {
        return Verdict("TOKEN_INVALID");
    }
    if rule.public {
        return ADMITTED;
    }
    let in_role = caller.roles().iter().any(|role| rule.roles.has(*role));
    match caller {
        Caller::OutOfScope => Verdict("SCOPE_MISSING"),
        Caller::InScope if rule.scope.is_none() => Verdict("SCOPE_MISSING"),
        Caller::Anonymous if clients => Verdict("TOKEN_MISSING"),
        Caller::Service(name) if rule.internal_callers.iter().any(|caller| caller == name) => ADMITTED,
        Caller::Anonymous | Caller::Service(_) => Verdict("ACCESS_DENIED"),
        _ if in_role || rule.signed_in => ADMITTED,
        Caller::Owner if rule.owner.is_some() => ADMITTED,
        _ => Verdict("ACCESS_DENIED"),
    }
}

/// The request that names the owner's resource, for each method with an owner.
fn owned(method: &Method, shop: &Shop, number: usize) -> Value {
    let (user, order_name, product) = (&shop.owner, &shop.order, &shop.product);
    match &*method.name {
        "PlaceOrder" => {
            let mut body = order(&format!("matrix-{number}"), &[(product, 1)], "tok_approved");
            body["customer"] = json!(user);
            body
        }
        "GetOrder" | "CancelOrder" => json!({"name": order_name}),
        "ReturnOrderItems" => {
            json!({"name": order_name, "requestId": format!("matrix-{number}"), "items": [{"product": product, "quantity": "1"}]})
        }
        "GetShipment" => json!({"name": shop.shipment}),
        "ListTimelineEntries" | "ListShipments" | "ListRefunds" => json!({"parent": order_name}),
        "ListOrders" | "WatchOrders" => json!({"customer": user}),
        "GetUser" => json!({"name": user}),
        "UpdateUser" => json!({"user": {"name": user, "displayName": "Ann"}}),
        "ListSessions" => json!({"parent": user}),
        // Not a session of the owner: the call is admitted and then fails.
        "EndSession" => json!({"name": format!("{user}/sessions/{}", SessionId::new())}),
        "EndSessions" => json!({"parent": user, "keepCurrent": true}),
        // The wrong password: the call is admitted and then fails.
        "ChangePassword" => json!({"name": user, "currentPassword": "not this one", "newPassword": "correct horse 2"}),
        other => panic!("{other} has an owner: say here what a request for an owner's resource looks like"),
    }
}

/// The resources that the requests name.
struct Shop {
    owner: String,
    order: String,
    /// A shipment of another order of the owner.
    shipment: String,
    product: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_admits_exactly_the_callers_of_its_access_rule() {
    let up = Up::start_with(|program| program.env("SOUK_GATEWAY__RATE_LIMITS__ENABLED", "false")).await;
    let contract = Contract::souk().unwrap();
    let admin = up.admin().await;
    let anyone = Rest::anonymous(&up.gateway);
    let (mut owner, other, staff) =
        (anyone.customer("ann").await, anyone.customer("bob").await, anyone.customer("sue").await);
    let name = async |rest: &Rest| rest.get("/v1/users/me").await.ok()["name"].as_str().unwrap().to_owned();
    let staff_name = name(&staff).await;
    admin.post(&format!("/v1/{staff_name}:setRoles"), json!({"roles": ["ROLE_STAFF"]})).await.ok();
    let staff = anyone.log_in("sue@example.com", "correct horse").await;
    let product = admin.product("CUP", 1000).await;
    let placed = owner.post("/v1/orders", order("1", &[(&product, 2)], "tok_approved")).await.ok();
    let sent = owner.post("/v1/orders", order("2", &[(&product, 1)], "tok_approved")).await.ok();
    let parcel = json!({"lines": [{"lineNumber": 1, "quantity": "1"}]});
    let shipments = format!("/v1/{}/shipments?requestId=matrix", sent["name"].as_str().unwrap());
    let shipment = admin.post(&shipments, parcel).await.ok();
    let text = |resource: &Value| resource["name"].as_str().unwrap().to_owned();
    let shop = Shop { owner: name(&owner).await, order: text(&placed), shipment: text(&shipment), product };

    let credentials: Value = serde_json::from_slice(&fs::read(up.folder.path().join("admin.json")).unwrap()).unwrap();
    let scopes = contract.methods().filter_map(|method| method.access.as_ref()?.scope.clone());
    let mut limited = BTreeMap::new();
    for scope in scopes.chain(["no.such".into()]).collect::<BTreeSet<_>>() {
        let log_in = json!({"email": credentials["email"], "password": credentials["password"], "scopes": [scope]});
        let session = anyone.post("/v1/sessions:logIn", log_in).await.ok();
        limited.insert(scope, anyone.with_token(session["accessToken"].as_str().unwrap()));
    }
    let secret = Secret::new(fs::read_to_string(up.folder.path().join("internal.secret")).unwrap().trim());
    let in_the_name_of = |service: &str, audience: &str| {
        let bearer = ServiceTokens::new(&secret, service).bearer(audience).unwrap();
        anyone.with_token(bearer.to_str().unwrap().strip_prefix("Bearer ").unwrap())
    };

    let connect = async |address: String| Channel::from_shared(address).unwrap().connect().await.unwrap();
    let gateway = connect(up.gateway.clone()).await;
    let mut services = BTreeMap::new();
    for service in ["user", "inventory", "order"] {
        services.insert(service, connect(up.service(service)).await);
    }

    // A misspelt name in a rule would admit nobody, and no other test would find it.
    let named = contract.methods().filter_map(|method| Some(&method.access.as_ref()?.internal_callers)).flatten();
    let named: BTreeSet<_> = named.map(String::as_str).collect();
    assert_eq!(named, BTreeSet::from(["gateway", "inventory", "order"]));

    let (mut calls, mut wrong) = (0, Vec::new());
    for method in contract.methods().filter(|method| method.service.starts_with("souk.")) {
        let rule = method.access.as_ref().unwrap();
        let direct = &services[method.service.split('.').nth(1).unwrap()];
        for caller in Caller::ALL {
            let rest = match caller {
                Caller::Anonymous => &anyone,
                Caller::Owner => &owner,
                Caller::Other => &other,
                Caller::Staff => &staff,
                Caller::Admin => &admin,
                Caller::InScope => &limited[rule.scope.as_deref().unwrap_or("no.such")],
                Caller::OutOfScope => &limited["no.such"],
                Caller::Service(name) => &in_the_name_of(name, &method.service),
                Caller::WrongAudience => {
                    let name = rule.internal_callers.first().map_or("order", String::as_str);
                    let elsewhere = contract.methods().find(|other| other.service != method.service).unwrap();
                    &in_the_name_of(name, &elsewhere.service)
                }
            };
            let mut body = async || {
                calls += 1;
                if rule.owner.is_some() { owned(method, &shop, calls) } else { json!({}) }
            };
            let mut found = vec![
                ("the service", expected(rule, caller, false), grpc(direct, method, rest, body().await).await),
                ("gRPC", expected(rule, caller, true), grpc(&gateway, method, rest, body().await).await),
            ];
            for route in method.http.iter().flat_map(|rule| std::iter::once(rule).chain(&rule.additional_bindings)) {
                let expected = match expected(rule, caller, true) {
                    // A method that no client may call has no route.
                    _ if rule.only_internal() => ADMITTED,
                    expected => expected,
                };
                found.push(("REST", expected, over_rest(route, rest, body().await).await));
            }
            let wrong_ones = found.into_iter().filter(|(_, expected, verdict)| expected != verdict);
            wrong.extend(wrong_ones.map(|(at, expected, verdict)| {
                format!("{} by {caller:?} at {at}: {verdict:?}, where the contract says {expected:?}", method.path)
            }));
        }
        if &*method.name == "EndSessions" {
            // Administrators have ended all of the owner's sessions.
            owner = anyone.log_in("ann@example.com", "correct horse").await;
        }
    }
    assert!(wrong.is_empty(), "{} of {calls} calls:\n{}", wrong.len(), wrong.join("\n"));
    assert!(calls > 500, "only {calls} calls");
}

async fn grpc(channel: &Channel, method: &Method, caller: &Rest, body: Value) -> Verdict {
    let message = DynamicMessage::deserialize(method.descriptor.input(), body).unwrap();
    let mut request = Request::new(message.encode_to_vec());
    caller.sign(request.metadata_mut());
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let path = PathAndQuery::try_from(&method.path).unwrap();
    // The first message of a stream shows that the caller was admitted.
    let answered = match method.descriptor.is_server_streaming() {
        true => match client.server_streaming(request, path, Raw).await {
            Ok(stream) => stream.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        },
        false => client.unary(request, path, Raw).await.map(drop),
    };
    match answered {
        Ok(()) => ADMITTED,
        Err(status) => Verdict::of(Problem::from_status(&status).reason_name()),
    }
}

async fn over_rest(rule: &HttpRule, caller: &Rest, mut body: Value) -> Verdict {
    let (http_method, template) = match rule.pattern.as_ref().unwrap() {
        Pattern::Get(path) => (HttpMethod::GET, path),
        Pattern::Put(path) => (HttpMethod::PUT, path),
        Pattern::Post(path) => (HttpMethod::POST, path),
        Pattern::Delete(path) => (HttpMethod::DELETE, path),
        Pattern::Patch(path) => (HttpMethod::PATCH, path),
        Pattern::Custom(custom) => (HttpMethod::from_bytes(custom.kind.as_bytes()).unwrap(), &custom.path),
    };
    let mut path = String::new();
    let mut rest = template.as_str();
    while let Some((literal, variable)) = rest.split_once('{') {
        let (variable, after) = variable.split_once('}').unwrap();
        let (field, pattern) = variable.split_once('=').unwrap_or((variable, "*"));
        let pointer = format!("/{}", field.replace('.', "/"));
        path += literal;
        path += body.pointer(&pointer).and_then(Value::as_str).unwrap_or(&pattern.replace('*', "x"));
        if let Some(members) = body.as_object_mut() {
            members.remove(field);
        }
        rest = after;
    }
    path += rest;
    let body = match rule.body.as_str() {
        "" => {
            let query: Vec<_> = body
                .as_object()
                .unwrap()
                .iter()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap()))
                .collect();
            path += &format!("?{}", query.join("&"));
            None
        }
        "*" => Some(body),
        field => Some(body.get_mut(field).map(Value::take).unwrap_or_else(|| json!({}))),
    };
    let mut request = caller.request(http_method, &path);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    // A successful stream is not read to its end.
    if answer.status().is_success() {
        return ADMITTED;
    }
    let problem: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    Verdict::of(problem["reason"].as_str().unwrap())
}

/// Sends encoded messages, and does not decode the response.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        buffer.advance(buffer.remaining());
        Ok(Some(()))
    }
}
