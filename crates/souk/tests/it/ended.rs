//! An administrator removes an account's roles, and a customer logs out. Within two seconds, every gateway and service
//! refuses their access tokens.

use std::time::{Duration, Instant};

use serde_json::json;
use souk_proto::{
    inventory::v1::{ListLowStockRequest, stock_service_client::StockServiceClient},
    order::v1::{
        ListOrdersRequest, ListSagasRequest, WatchOrdersRequest, order_service_client::OrderServiceClient,
        saga_service_client::SagaServiceClient,
    },
};
use souk_testkit::{db::Engine, wait};
use tonic::{Code, Request, transport::Channel};

use super::{
    cluster::{Cluster, Ground, Up},
    rest::{Answer, Rest, order},
};

/// The limit on a busy machine. The measured time is printed.
const LONG: Duration = Duration::from_secs(30);

/// A new member of staff, who has not sent any request yet.
async fn staff(admin: &Rest, gateway: &str, who: &str) -> (String, Rest) {
    let customer = Rest::anonymous(gateway).customer(who).await;
    let name = customer.get("/v1/users/me").await.ok()["name"].as_str().unwrap().to_owned();
    admin.post(&format!("/v1/{name}:setRoles"), json!({ "roles": ["ROLE_STAFF"] })).await.ok();
    (name, Rest::anonymous(gateway).log_in(&format!("{who}@example.com"), "correct horse").await)
}

fn request<T>(token: &Rest, message: T) -> Request<T> {
    let mut request = Request::new(message);
    token.sign(request.metadata_mut());
    request
}

fn ended(answer: &Answer) -> bool {
    answer.status == 401 && answer.body["reason"] == "TOKEN_INVALID"
}

/// Separate processes on PostgreSQL: two gateways and two replicas of inventory. The test calls each of them directly,
/// too.
#[tokio::test(flavor = "multi_thread")]
async fn every_gateway_and_service_refuses_a_demoted_user() {
    let cluster = Cluster::on(Ground::new(Engine::Postgres).await, true, |_, program| program).await;
    let (_second, other_gateway) = cluster.second_gateway().await;
    let admin = cluster.admin().await;
    let (name, token) = staff(&admin, &cluster.gateway, "mallory").await;
    let elsewhere = token.at(&other_gateway);
    wait::until(LONG, "the second gateway to be ready", async || {
        let answer = elsewhere.send(reqwest::Method::GET, "/v1/stock:low", None).await;
        matches!(answer, Ok(answer) if answer.status == 200)
    })
    .await;
    let channel = |port: usize| {
        Channel::from_shared(format!("http://127.0.0.1:{}", cluster.ports()[port])).unwrap().connect_lazy()
    };
    let low = async |port: usize| {
        let mut stock = StockServiceClient::new(channel(port));
        stock.list_low_stock(request(&token, ListLowStockRequest::default())).await.map(drop)
    };
    let sagas = async || {
        let mut sagas = SagaServiceClient::new(channel(2));
        sagas.list_sagas(request(&token, ListSagasRequest::default())).await.map(drop)
    };
    low(1).await.unwrap();
    low(4).await.unwrap();
    sagas().await.unwrap();
    // A stream through the gateway that was opened before.
    let gateway = Channel::from_shared(cluster.gateway.clone()).unwrap().connect_lazy();
    let mut orders = OrderServiceClient::new(gateway);
    let mut stream = orders.watch_orders(request(&token, WatchOrdersRequest::default())).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();

    admin.post(&format!("/v1/{name}:setRoles"), json!({ "roles": [] })).await.ok();
    let begin = Instant::now();
    // The user service itself refuses the token at once.
    assert!(ended(&token.get("/v1/users").await));
    wait::until(LONG, "gateways and services to refuse the token", async || {
        let direct = [low(1).await, low(4).await, sagas().await];
        let through = [token.get("/v1/stock:low").await, elsewhere.get("/v1/stock:low").await];
        direct.iter().all(|result| matches!(result, Err(status) if status.code() == Code::Unauthenticated))
            && through.iter().all(ended)
    })
    .await;
    println!("refused everywhere after {:?}", begin.elapsed());
    let cut = tokio::time::timeout(LONG, stream.message()).await.unwrap().unwrap_err();
    assert_eq!(cut.code(), Code::Unauthenticated, "{cut}");

    // A process that starts now refuses the token, too, and no other token is refused.
    let (_third, third_gateway) = cluster.second_gateway().await;
    let late = token.at(&third_gateway);
    let answer = wait::value(LONG, "the third gateway to answer", async || {
        late.send(reqwest::Method::GET, "/v1/stock:low", None).await.ok().filter(|answer| answer.status != 503)
    })
    .await;
    assert!(ended(&answer), "{answer:?}");
    admin.get("/v1/stock:low").await.ok();
    let again = Rest::anonymous(&cluster.gateway).log_in("mallory@example.com", "correct horse").await;
    assert_eq!(again.get("/v1/stock:low").await.problem(403), "ACCESS_DENIED");
    let own = OrderServiceClient::new(channel(2)).list_orders(request(&again, ListOrdersRequest::default())).await;
    own.unwrap();
}

/// One process on SQLite. A customer logs out, and at once logs in and orders again.
#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_is_refused_after_log_out() {
    let up = Up::start().await;
    let anyone = Rest::anonymous(&up.gateway);
    let credentials = json!({ "email": "ann@example.com", "password": "correct horse" });
    anyone.post("/v1/users:register", credentials.clone()).await.ok();
    for _ in 0..2 {
        let session = anyone.post("/v1/sessions:logIn", credentials.clone()).await.ok();
        let ann = anyone.with_token(session["accessToken"].as_str().unwrap());
        ann.get("/v1/orders").await.ok();
        anyone.post("/v1/sessions:logOut", json!({ "refreshToken": session["refreshToken"] })).await.ok();
        let begin = Instant::now();
        wait::until(LONG, "the token to be refused", async || ended(&ann.get("/v1/orders").await)).await;
        println!("refused after {:?}", begin.elapsed());
    }
}

/// Reads an event stream until it contains this text.
async fn read_to(stream: &mut reqwest::Response, text: &str) -> String {
    let mut read = String::new();
    while !read.contains(text) {
        let chunk = tokio::time::timeout(LONG, stream.chunk()).await.expect(text).unwrap();
        read.push_str(std::str::from_utf8(&chunk.expect(&read)).unwrap());
    }
    read
}

/// A stream ends when its token expires, with an error in the stream, and a new token resumes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token_and_resumes_with_a_new_one() {
    let up =
        Up::start_with(|program| program.env("SOUK_USER__ACCESS_TOKEN_TTL", "4s").env("SOUK_AUTH__LEEWAY", "0s")).await;
    let lamp = up.admin().await.product("LAMP", 10).await;
    let ann = Rest::anonymous(&up.gateway).customer("ann").await;
    let follow = async |token: &Rest, last: &str| {
        let request = token.request(reqwest::Method::GET, "/v1/orders:watch").header("accept", "text/event-stream");
        request.header("last-event-id", last).send().await.unwrap()
    };
    let begin = Instant::now();
    let mut stream = follow(&ann, "").await;
    let first = read_to(&mut stream, "\n\n").await + &read_to(&mut stream, "event: error").await;
    println!("ended after {:?}", begin.elapsed());
    assert!(
        first.contains("TOKEN_EXPIRED") || read_to(&mut stream, "TOKEN_EXPIRED").await.contains("data: "),
        "{first}"
    );
    assert!(stream.chunk().await.unwrap().is_none_or(|rest| rest.iter().all(|byte| *byte == b'\n')));
    assert!((3..10).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    let cursor = first.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();

    let ann = Rest::anonymous(&up.gateway).log_in("ann@example.com", "correct horse").await;
    ann.post("/v1/orders", order("1", &[(&lamp, 1)], "tok_approved")).await.ok();
    let mut stream = follow(&ann, cursor).await;
    read_to(&mut stream, "order.placed").await;
    read_to(&mut stream, "order.confirmed").await;
}
