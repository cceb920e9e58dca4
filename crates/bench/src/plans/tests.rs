//! No frequent statement scans a whole table. These tests check the plans of the statements that the services send to
//! filled databases.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use souk_testkit::{process::souk_binary, servers, wait};

use super::*;
use crate::{
    buyers::Demand,
    filled::{Filled, Size},
    load::{self, Call, Target},
    shop::text,
};

const SIZE: Size = Size { products: 20_000, orders: 20_000 };
const USERS: &str = "INSERT INTO users
    (id, email, display_name, is_staff, is_admin, state, revision, create_time, update_time)
    SELECT gen_random_uuid(), 'user' || g || '@example.com', 'User', false, false, 'ACTIVE', 1, now() - g * interval '1 second', now()
    FROM generate_series(1, 20000) AS g";
/// Tables that are filled in these tests.
const FILLED: [&str; 7] = ["products", "stock", "ledger", "orders", "order_lines", "timeline_entries", "users"];
/// Tables that have few rows in every installation.
const SMALL: [&str; 6] = ["event_head", "event_readers", "jobs", "locations", "signing_keys", "webhook_endpoints"];
/// The maximum number of rows that a node of a plan may return or filter out: more than a page with its lines has, far
/// fewer than a table has.
const ROWS: f64 = 2000.0;
const DEADLINE: Duration = Duration::from_secs(30);

/// The faulty lines of a plan: sequential scans of large tables, and nodes that read too many rows.
fn faults(plan: &Plan, large: fn(&str) -> bool) -> Vec<&str> {
    let number =
        |line: &str, label: &str| -> Option<f64> { line.split_once(label)?.1.split([' ', ')']).next()?.parse().ok() };
    let faulty = |line: &&String| {
        let scanned = line.split_once("Seq Scan on ").and_then(|(_, rest)| rest.split(' ').next());
        let rows = line
            .split_once("(actual ")
            .and_then(|(_, actual)| Some(number(actual, "rows=")? * number(actual, "loops=")?));
        let removed = number(line, "Rows Removed by Filter: ");
        scanned.is_some_and(large) || rows.into_iter().chain(removed).any(|rows| rows > ROWS)
    };
    plan.lines.iter().filter(faulty).map(|line| line.trim()).collect()
}

async fn no_table_is_read_through(seqscan: &str, large: fn(&str) -> bool) {
    let server = servers::postgres().unwrap();
    query(&server, "postgres", &format!("ALTER ROLE postgres SET enable_seqscan = {seqscan}")).unwrap();
    Plans::prepare(&server).unwrap();
    let filled = Filled::new(&souk_binary(), (&server, "souk"), SIZE).await.unwrap();
    query(&server, "souk_user", USERS).unwrap();
    query(&server, "souk_user", "ANALYZE users").unwrap();

    let plans = Plans::watch(&server).unwrap();
    hot(&filled).await;
    let read = "SELECT count(*) FROM event_readers JOIN event_head ON position = last WHERE reader = 'webhooks'";
    let followed = async || query(&server, "souk_order", read).is_ok_and(|readers| readers == "1");
    wait::until(DEADLINE, "the events to be read", followed).await;
    let plans = plans.end().unwrap();

    for table in ["products", "stock", "reservations", "orders", "order_lines", "idempotency_keys", "users", "sessions"]
    {
        let seen = |plan: &Plan| plan.statement.contains(table);
        assert!(plans.0.iter().any(seen), "no statement of {table} was seen");
    }
    let found: Vec<String> = plans
        .0
        .iter()
        // Only this test and a job that reads everything from time to time send this statement.
        .filter(|plan| plan.statement != read)
        .map(|plan| (plan, faults(plan, large)))
        .filter(|(_, faults)| !faults.is_empty())
        .map(|(plan, faults)| format!("{}\n  {}\n", plan.statement, faults.join("\n  ")))
        .collect();
    assert!(found.is_empty(), "{} plans of {}:\n{}", found.len(), plans.0.len(), found.join("\n"));
}

/// Sends the requests that shops send all day.
async fn hot(filled: &Filled<'_>) {
    let (staff, buyer) = (filled.souk.shop.token.as_str(), filled.buyers.token.as_str());
    let placed = load::once(&filled.buyers.rest(Demand::Uniform)).await.unwrap();
    let placed: Value = serde_json::from_slice(&placed).unwrap();
    let (order, product) = (text(&placed["name"]), &filled.products[0]);
    let mine = text(&placed["customer"]);
    for (token, path) in [
        ("", format!("/v1/{product}")),
        ("", format!("/v1/products:batchGet?names={product}&skus=BENCH-7")),
        ("", "/v1/products?pageSize=20".to_owned()),
        ("", "/v1/products?pageSize=20&filter=price%20%3E%3D%205.00%20AND%20price%20%3C%3D%2015.00".to_owned()),
        ("", "/v1/products?pageSize=20&filter=sku%20%3D%20%22BENCH-7%22".to_owned()),
        ("", "/v1/products?pageSize=20&orderBy=price".to_owned()),
        ("", "/v1/products?pageSize=20&orderBy=title%20desc".to_owned()),
        ("", "/v1/products?pageSize=20&orderBy=sku".to_owned()),
        ("", "/v1/products?pageSize=20&query=17000%20prod".to_owned()),
        ("", format!("/v1/{product}/availability")),
        (staff, format!("/v1/{product}/stock")),
        (staff, format!("/v1/{product}/ledgerEntries")),
        (buyer, "/v1/users/me".to_owned()),
        (buyer, "/v1/orders?pageSize=20".to_owned()),
        (buyer, format!("/v1/{order}")),
        (buyer, format!("/v1/{order}/timelineEntries")),
        (buyer, format!("/v1/{order}/shipments")),
        (buyer, format!("/v1/{order}/refunds")),
        (staff, format!("/v1/{}", filled.orders[0])),
        (staff, "/v1/orders?pageSize=20".to_owned()),
        (staff, format!("/v1/orders?pageSize=20&customer={mine}")),
        (staff, "/v1/orders?filter=external_id%20%3D%20%22none%22".to_owned()),
        (staff, "/v1/users?pageSize=20".to_owned()),
    ] {
        get(filled, token, path).await;
    }
    // Follow the page tokens: a late page must be found as fast as the first one.
    for (token, path) in [
        ("", "/v1/products?pageSize=100"),
        ("", "/v1/products?orderBy=price&pageSize=100"),
        (staff, "/v1/orders?pageSize=100"),
        (staff, "/v1/users?pageSize=100"),
    ] {
        let mut page = String::new();
        for _ in 0..25 {
            let answer = get(filled, token, format!("{path}&pageToken={page}")).await;
            page = text(&answer["nextPageToken"]);
            assert!(!page.is_empty(), "{path} has ended");
        }
    }
    let post = async |path: &str, body: Value| filled.souk.shop.post(path, &body).await.unwrap();
    post(&format!("/v1/{order}:cancel"), json!({"requestId": "cancel-1"})).await;
    let ann = json!({"email": "ann@example.com", "password": "correct horse"});
    let session = post("/v1/sessions:logIn", ann).await;
    post("/v1/sessions:refresh", json!({"refreshToken": session["refreshToken"]})).await;
}

async fn get(filled: &Filled<'_>, token: &str, path: String) -> Value {
    let target = Target {
        address: filled.souk.gateway(),
        call: Call::Get(Arc::new(move || path.clone())),
        token: token.to_owned(),
        check: Arc::new(|_| true),
    };
    serde_json::from_slice(&load::once(&target).await.unwrap()).unwrap()
}

/// Checks the plans that PostgreSQL chooses by default.
#[tokio::test]
async fn no_frequent_statement_scans_a_filled_table() {
    no_table_is_read_through("on", |table| FILLED.contains(&table)).await;
}

/// Without sequential scans (`enable_seqscan = off`), PostgreSQL uses them only where no index fits. This also checks
/// tables that are empty here.
#[tokio::test]
async fn every_frequent_statement_can_use_an_index() {
    no_table_is_read_through("off", |table| !SMALL.contains(&table)).await;
}

#[test]
fn bad_plans_are_found() {
    let log = "7 souk_order LOG:  duration: 0.2 ms  plan:\n\tQuery Text: SELECT *\n\t  FROM orders\n\
        \tSeq Scan on orders  (cost=0.00..1.02 rows=2 width=36) (actual time=0.007..0.008 rows=2 loops=1)\n\
        \t  Filter: (state = 'X'::text)\n\t  Rows Removed by Filter: 3\n\
        7 souk_order LOG:  duration: 0.2 ms  plan:\n\tQuery Text: SELECT 1\n\
        \tIndex Scan using a on jobs  (cost=0.00..1.02 rows=2 width=36) (actual time=0.007..0.008 rows=3000 loops=2)\n\
        7 postgres LOG:  duration: 0.2 ms  plan:\n\tQuery Text: SELECT 2\n\tResult  (cost=0.00..0.01 rows=1 width=4)\n";
    let plans = Plans::of(log).0;
    assert_eq!(
        plans.iter().map(|plan| plan.statement.as_str()).collect::<Vec<_>>(),
        ["SELECT * FROM orders", "SELECT 1"]
    );
    assert_eq!(faults(&plans[0], |table| table == "orders").len(), 1);
    assert!(faults(&plans[0], |table| table == "jobs").is_empty());
    assert_eq!(faults(&plans[1], |_| false).len(), 1);
}
