//! An administrator removes an account's roles, and a customer logs out. Within two seconds, every gateway and service
//! refuses their access tokens.

use std::time::{Duration, Instant};

use serde_json::json;
use souk_common::error::Problem;
use souk_proto::{
    inventory::v1::{ListLowStockRequest, stock_service_client::StockServiceClient},
    order::v1::{
        ListOrdersRequest, ListSagasRequest, WatchOrdersRequest, WatchOrdersResponse,
        order_service_client::OrderServiceClient, saga_service_client::SagaServiceClient,
    },
    user::v1::{ListUsersRequest, user_service_client::UserServiceClient},
};
use souk_testkit::{
    db::Engine,
    process::Program,
    proxy::Proxy,
    servers::{self, install},
    wait,
};
use souk_user::domain::user::State;
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

/// The time within which a session that ends is refused everywhere.
const PROMISED: Duration = Duration::from_secs(2);

/// A gateway and the services behind it, each of which is called itself, too.
struct Side {
    gateway: String,
    user: String,
    inventory: String,
    order: String,
}

impl Side {
    /// At these ports of users, inventory, orders and the gateway.
    fn at(ports: &[u16]) -> Self {
        let [user, inventory, order, gateway] = [0, 1, 2, 3].map(|at| format!("http://127.0.0.1:{}", ports[at]));
        Self { gateway, user, inventory, order }
    }

    async fn ready(&self) {
        let client = Rest::anonymous(&self.gateway);
        wait::until(LONG, "a side to be ready", async || {
            matches!(client.send(reqwest::Method::GET, "/readyz", None).await, Ok(answer) if answer.status == 200)
        })
        .await;
    }

    /// True if everything here accepts the token (or refuses it, if `open` is false).
    async fn is(&self, open: bool, token: &Rest) -> bool {
        let channel = |address: &str| Channel::from_shared(address.to_owned()).unwrap().connect_lazy();
        let mut users = UserServiceClient::new(channel(&self.user));
        let mut stock = StockServiceClient::new(channel(&self.inventory));
        let mut sagas = SagaServiceClient::new(channel(&self.order));
        let results = [
            users.list_users(request(token, ListUsersRequest::default())).await.map(drop),
            stock.list_low_stock(request(token, ListLowStockRequest::default())).await.map(drop),
            sagas.list_sagas(request(token, ListSagasRequest::default())).await.map(drop),
        ];
        let direct = results.iter().all(|result| match result {
            Ok(()) => open,
            Err(status) => !open && status.code() == Code::Unauthenticated,
        });
        let here = token.at(&self.gateway);
        let through = [here.get("/v1/users").await, here.get("/v1/stock:low").await, here.get("/v1/sagas").await];
        direct && through.iter().all(|answer| if open { answer.status == 200 } else { ended(answer) })
    }

    /// Streams that this token opens: Server-Sent Events of the gateway, and gRPC of the gateway and of the service.
    async fn streams(&self, token: &Rest) -> (reqwest::Response, Vec<tonic::Streaming<WatchOrdersResponse>>) {
        let events = token.at(&self.gateway).request(reqwest::Method::GET, "/v1/orders:watch");
        let events = events.header("accept", "text/event-stream").send().await.unwrap();
        assert_eq!(events.status(), 200);
        let mut streams = Vec::new();
        for address in [&self.gateway, &self.order] {
            let channel = Channel::from_shared(address.clone()).unwrap().connect_lazy();
            let mut orders = OrderServiceClient::new(channel);
            let mut stream =
                orders.watch_orders(request(token, WatchOrdersRequest::default())).await.unwrap().into_inner();
            // The cursor with which a stream begins.
            stream.message().await.unwrap().unwrap();
            streams.push(stream);
        }
        (events, streams)
    }
}

/// Checks that each way to end sessions is effective on all sides within the promised time: requests are refused, and
/// streams end. `disable` disables the account with this email.
async fn revoked_everywhere(sides: &[Side], admin: &Rest, disable: impl AsyncFn(&str)) {
    for way in ["ended from another device", "ended by an administrator", "demoted", "disabled"] {
        let who = way.replace(' ', "-");
        let (name, token) = staff(admin, &sides[0].gateway, &who).await;
        let email = format!("{who}@example.com");
        let other = Rest::anonymous(&sides[sides.len() - 1].gateway).log_in(&email, "correct horse").await;
        let mut open = Vec::new();
        for side in sides {
            wait::until(LONG, "the token to be accepted", async || side.is(true, &token).await).await;
            open.push(side.streams(&token).await);
        }
        let sessions = other.get(&format!("/v1/{name}/sessions")).await.ok();
        let listed = sessions["sessions"].as_array().unwrap();
        assert_eq!((listed.len(), &listed[0]["current"]), (2, &json!(true)), "{sessions}");
        assert_eq!(listed[1]["clientAddress"], "127.0.0.1", "{sessions}");

        let begin = Instant::now();
        match way {
            "ended from another device" => {
                other.post(&format!("/v1/{}:end", listed[1]["name"].as_str().unwrap()), json!({})).await.ok();
            }
            "ended by an administrator" => {
                let ended = admin.post(&format!("/v1/{name}/sessions:end"), json!({})).await.ok();
                assert_eq!(ended["endedCount"], "2");
            }
            "demoted" => drop(admin.post(&format!("/v1/{name}:setRoles"), json!({ "roles": [] })).await.ok()),
            _ => disable(&email).await,
        }
        let left = || PROMISED.saturating_sub(begin.elapsed());
        for side in sides {
            wait::until(left(), "the token to be refused", async || side.is(false, &token).await).await;
        }
        println!("{way}: refused everywhere after {:?}", begin.elapsed());
        for (mut events, streams) in open {
            tokio::time::timeout(left(), read_to(&mut events, "TOKEN_INVALID")).await.expect("the events to end");
            for mut stream in streams {
                let cut = tokio::time::timeout(left(), stream.message()).await.expect("the stream to end");
                assert_eq!(cut.unwrap_err().code(), Code::Unauthenticated);
            }
        }
        println!("{way}: streams ended after {:?}", begin.elapsed());
        if way == "ended from another device" {
            assert!(sides[0].is(true, &other).await, "the session that ended the other one goes on");
        }
    }
}

/// Two gateways, each before its own replica of every service.
async fn revoked_in_a_cluster(nats: Option<&str>) {
    let more = |service: &str, program: Program| match nats {
        Some(url) if matches!(service, "inventory" | "order") => program.env("SOUK_EVENTS__NATS_URL", url),
        _ => program,
    };
    let cluster = Cluster::on(Ground::new(Engine::Postgres).await, false, more).await;
    let (_processes, ports) = cluster.twin(more).await;
    let sides = [Side::at(cluster.ports()), Side::at(&ports)];
    for side in &sides {
        side.ready().await;
    }
    let settings = souk_testkit::service::settings("user", souk_user::DEFAULTS, cluster.users(), &[]);
    let config = souk_user::Config::from_settings(&settings).unwrap();
    let disable = async |email: &str| {
        souk_user::admin::set_state(&config, email, State::Disabled).await.unwrap().unwrap();
    };
    revoked_everywhere(&sides, &cluster.admin().await, disable).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_two_gateways_and_two_replicas_refuse_an_ended_session_within_two_seconds() {
    revoked_in_a_cluster(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_with_nats_an_ended_session_is_refused_within_two_seconds() {
    install::ensure("NATS", "nats-server", "nats-server").unwrap();
    let server = tokio::task::spawn_blocking(servers::nats).await.unwrap().unwrap();
    revoked_in_a_cluster(Some(server.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_one_machine_refuses_an_ended_session_within_two_seconds() {
    let up = Up::start_with(|program| program.env("SOUK_GATEWAY__RATE_LIMITS__ENABLED", "false")).await;
    let [user, inventory, order] = ["user", "inventory", "order"].map(|name| up.service(name));
    let side = Side { gateway: up.gateway.clone(), user, inventory, order };
    let loader = souk_common::config::Loader::new().defaults("user", souk_user::DEFAULTS);
    let secret = std::fs::read_to_string(up.folder.path().join("internal.secret")).unwrap();
    let variables = [
        ("SOUK_DATA_DIR".to_owned(), up.folder.path().display().to_string()),
        ("SOUK_AUTH__INTERNAL_SECRET".to_owned(), secret.trim().to_owned()),
    ];
    let config = souk_user::Config::from_settings(&loader.variables(variables).load().unwrap()).unwrap();
    let disable = async |email: &str| {
        souk_user::admin::set_state(&config, email, State::Disabled).await.unwrap().unwrap();
    };
    revoked_everywhere(&[side], &up.admin().await, disable).await;
}

/// A service that cannot ask which sessions have ended accepts their tokens, but no longer than until they expire.
#[tokio::test(flavor = "multi_thread")]
async fn fault_without_the_list_an_ended_session_lasts_as_long_as_its_token() {
    let ground = Ground::new(Engine::Sqlite).await;
    let cut = Proxy::start(format!("127.0.0.1:{}", ground.ports[0])).await;
    let cluster = Cluster::on(ground, false, |service, program| {
        let program = program.env("SOUK_AUTH__LEEWAY", "0s").env("SOUK_USER__ACCESS_TOKEN_TTL", "15s");
        match service {
            "order" => program.env("SOUK_ORDER__CLIENTS__USER__ADDRESS", format!("http://{}", cut.address())),
            _ => program,
        }
    })
    .await;
    let anyone = Rest::anonymous(&cluster.gateway);
    let credentials = json!({ "email": "ann@example.com", "password": "correct horse" });
    anyone.post("/v1/users:register", credentials.clone()).await.ok();
    let address = format!("http://127.0.0.1:{}", cluster.ports()[2]);
    let mut orders = OrderServiceClient::new(Channel::from_shared(address).unwrap().connect_lazy());
    let mut ask = async |token: &Rest| {
        let asked = orders.list_orders(request(token, ListOrdersRequest::default())).await;
        asked.map(drop).map_err(|status| Problem::from_status(&status).reason_name())
    };
    let mut refused = async |token: &Rest, reason: &str| {
        wait::until(LONG, "the service to refuse the token", async || match ask(token).await {
            Ok(()) => false,
            Err(said) => {
                assert_eq!(said, reason);
                true
            }
        })
        .await;
    };
    for (link, reason) in [("cut", "TOKEN_EXPIRED"), ("there", "TOKEN_INVALID")] {
        let session = anyone.post("/v1/sessions:logIn", credentials.clone()).await.ok();
        let begin = Instant::now();
        let ann = anyone.with_token(session["accessToken"].as_str().unwrap());
        ann.get("/v1/orders").await.ok();
        match link {
            "cut" => cut.cut(),
            _ => cut.restore(),
        }
        anyone.post("/v1/sessions:logOut", json!({ "refreshToken": session["refreshToken"] })).await.ok();
        // The gateway has the list.
        wait::until(LONG, "the gateway to refuse the token", async || ended(&ann.get("/v1/orders").await)).await;
        refused(&ann, reason).await;
        println!("{link}: refused {:?} after the log-in", begin.elapsed());
        assert!(link != "cut" || begin.elapsed() > Duration::from_secs(14), "{:?}", begin.elapsed());
    }
}

/// A client that must log in again gets that said, and a log-in is enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_log_in_is_old_ends_no_other_one() {
    let up =
        Up::start_with(|program| program.env("SOUK_AUTH__RECENT_LOG_IN", "2s").env("SOUK_AUTH__LEEWAY", "0s")).await;
    let ann = Rest::anonymous(&up.gateway).customer("ann").await;
    let name = ann.get("/v1/users/me").await.ok()["name"].as_str().unwrap().to_owned();
    let path = format!("/v1/{name}/sessions:end");
    let others = json!({ "keepCurrent": true });
    let answer = wait::value(LONG, "the log-in to be too old", async || {
        let answer = ann.post(&path, others.clone()).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(answer.problem(401), "REAUTHENTICATION_REQUIRED");
    ann.get("/v1/orders").await.ok();
    let again = Rest::anonymous(&up.gateway).log_in("ann@example.com", "correct horse").await;
    assert_eq!(again.post(&path, others).await.ok()["endedCount"], "1");
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
