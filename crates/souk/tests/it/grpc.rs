//! gRPC as tools use it: reflection, then calls, to each service and through the gateway.

use std::collections::BTreeSet;

use souk_common::error::{Problem, Reason};
use souk_proto::{
    order::v1::{GetOrderRequest, ListOrdersRequest, order_service_client::OrderServiceClient},
    user::v1::{GetMeRequest, user_service_client::UserServiceClient},
};
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::{
    cluster::Up,
    rest::{Rest, order},
};

async fn connect(address: &str) -> Channel {
    Channel::from_shared(address.to_owned()).unwrap().connect().await.unwrap()
}

async fn ask(channel: &Channel, question: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut client = ServerReflectionClient::new(channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    answers.next().await.unwrap().unwrap().message_response.unwrap()
}

async fn services(channel: &Channel) -> BTreeSet<String> {
    match ask(channel, MessageRequest::ListServices(String::new())).await {
        MessageResponse::ListServicesResponse(list) => list.service.into_iter().map(|service| service.name).collect(),
        other => panic!("{other:?}"),
    }
}

/// The code and reason of a refusal, which must reveal no internals.
fn refused(status: Status) -> (Code, Reason) {
    (status.code(), Problem::from_status(&status).reason())
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_and_calls_work_at_each_service_and_at_the_gateway() {
    let up = Up::start().await;
    let log = up.process.log();
    let address = |name: &str| {
        let line = log.lines().find(|line| line.trim_start().starts_with(name) && line.ends_with("(gRPC)")).unwrap();
        format!("http://{}", line.split_whitespace().nth(1).unwrap())
    };
    for (at, expected) in [
        (address("user"), ["souk.user.v1.SessionService", "souk.user.v1.UserService"].as_slice()),
        (address("inventory"), &["souk.inventory.v1.ProductService", "souk.inventory.v1.ReservationService"]),
        (address("order"), &["souk.order.v1.OrderService"]),
        (up.gateway.clone(), &["souk.order.v1.OrderService", "souk.user.v1.UserService"]),
    ] {
        let channel = connect(&at).await;
        let found = services(&channel).await;
        assert!(expected.iter().all(|name| found.contains(*name)), "{at}: {found:?}");
        // What a tool needs for a call: the file with the service and its imports.
        let question = MessageRequest::FileContainingSymbol(expected[0].to_owned());
        assert!(matches!(ask(&channel, question).await, MessageResponse::FileDescriptorResponse(_)), "{at}");
    }

    let admin = up.admin().await;
    let product = admin.product("A", 5).await;
    let rest = Rest::anonymous(&up.gateway);
    let (ann, ben) = (rest.customer("ann").await, rest.customer("ben").await);
    let placed = ann.post("/v1/orders", order("1", &[(&product, 1)], "tok_approved")).await.ok();
    let name = placed["name"].as_str().unwrap().to_owned();
    for at in [address("order"), up.gateway.clone()] {
        let channel = connect(&at).await;
        let mut client = OrderServiceClient::new(channel.clone());
        let mut get = async |rest: &Rest, name: &str| {
            let mut request = Request::new(GetOrderRequest { name: name.to_owned() });
            rest.sign(request.metadata_mut());
            client.get_order(request).await
        };
        assert_eq!(get(&ann, &name).await.unwrap().into_inner().name, name, "{at}");
        assert_eq!(get(&admin, &name).await.unwrap().into_inner().name, name, "{at}");
        assert_eq!(
            refused(get(&ben, &name).await.unwrap_err()),
            (Code::PermissionDenied, Reason::AccessDenied),
            "{at}"
        );
        assert_eq!(
            refused(get(&rest, &name).await.unwrap_err()),
            (Code::Unauthenticated, Reason::TokenMissing),
            "{at}"
        );
        let status = get(&ann, "orders/7").await.unwrap_err();
        assert_eq!(Problem::from_status(&status).field_violations()[0].path, "name", "{at}");
        assert_eq!(refused(status), (Code::InvalidArgument, Reason::FieldInvalid), "{at}");
        let forged = rest.with_token("eyJhbGciOiJFZERTQSJ9.e30.c2ln");
        assert_eq!(
            refused(get(&forged, &name).await.unwrap_err()),
            (Code::Unauthenticated, Reason::TokenInvalid),
            "{at}"
        );
        let unknown = souk_common::ids::OrderId::new().name();
        assert_eq!(
            refused(get(&ben, &unknown).await.unwrap_err()),
            (Code::PermissionDenied, Reason::AccessDenied),
            "{at}"
        );
        assert_eq!(
            refused(get(&admin, &unknown).await.unwrap_err()),
            (Code::NotFound, Reason::ResourceNotFound),
            "{at}"
        );

        let mut request = Request::new(ListOrdersRequest { filter: "x".repeat(5 << 20), ..Default::default() });
        ann.sign(request.metadata_mut());
        let status = client.list_orders(request).await.unwrap_err();
        assert_eq!(refused(status), (Code::ResourceExhausted, Reason::BodyTooLarge), "{at}");
    }

    let mut users = UserServiceClient::new(connect(&up.gateway).await);
    let mut request = Request::new(GetMeRequest {});
    ann.sign(request.metadata_mut());
    assert_eq!(users.get_me(request).await.unwrap().into_inner().email, "ann@example.com");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_over_rest_get_their_status_reason_and_field() {
    let up = Up::start().await;
    let admin = up.admin().await;
    let product = admin.product("A", 5).await;
    let rest = Rest::anonymous(&up.gateway);
    let (ann, ben) = (rest.customer("ann").await, rest.customer("ben").await);
    let placed = ann.post("/v1/orders", order("1", &[(&product, 1)], "tok_approved")).await.ok();
    let name = placed["name"].as_str().unwrap();

    let mut unknown = order("2", &[(&product, 1)], "tok_approved");
    unknown["paymentTokn"] = "x".into();
    let mut wrong_type = order("2", &[(&product, 1)], "tok_approved");
    wrong_type["items"][0]["quantity"] = "three".into();
    let mut zero = order("2", &[(&product, 0)], "tok_approved");
    zero["shippingAddress"]["regionCode"] = "England".into();
    let huge = order("2", &[(&product, 1)], &"x".repeat(5 << 20));
    let bad_product = order("2", &[("products/7", 1)], "tok_approved");
    let no_product = order("2", &[(&souk_common::ids::ProductId::new().name(), 1)], "tok_approved");
    for (body, status, reason, pointer) in [
        (unknown, 400, "UNKNOWN_FIELD", Some("/paymentTokn")),
        (wrong_type, 400, "MALFORMED_REQUEST", Some("/items/0/quantity")),
        (zero, 400, "FIELD_INVALID", Some("/items/0/quantity")),
        (bad_product, 400, "FIELD_INVALID", Some("/items/0/product")),
        (no_product, 400, "FIELD_INVALID", Some("/items/0/product")),
        (huge, 413, "BODY_TOO_LARGE", None),
    ] {
        let answer = ann.post("/v1/orders", body).await;
        assert_eq!(answer.problem(status), reason, "{answer:?}");
        if let Some(pointer) = pointer {
            assert!(
                answer.body["errors"].as_array().unwrap().iter().any(|error| error["pointer"] == pointer),
                "{answer:?}"
            );
        }
    }
    assert_eq!(ben.get(&format!("/v1/{name}")).await.problem(403), "ACCESS_DENIED");
    assert_eq!(rest.get(&format!("/v1/{name}")).await.problem(401), "TOKEN_MISSING");
    assert_eq!(rest.with_token("no.such.token").get(&format!("/v1/{name}")).await.problem(401), "TOKEN_INVALID");
    assert_eq!(ann.get("/v1/orders/7").await.problem(400), "FIELD_INVALID");
    assert_eq!(ann.get("/v1/orders?pageSize=x").await.problem(400), "MALFORMED_REQUEST");
    assert_eq!(ann.get("/v1/orders?nope=1").await.problem(400), "UNKNOWN_FIELD");
    assert_eq!(
        admin.get(&format!("/v1/{}", souk_common::ids::OrderId::new().name())).await.problem(404),
        "RESOURCE_NOT_FOUND"
    );
}
