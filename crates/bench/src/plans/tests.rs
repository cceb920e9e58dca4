//! No statement reads through a table that grows. These tests check the plans of the statements that the services send to
//! filled databases: the requests that shops send all day, every documented filter and order with common and rare
//! values, the jobs, and `souk verify`.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use souk_testkit::{process::souk_binary, servers, wait};

use super::*;
use crate::{
    buyers::Demand,
    filled::{Filled, Size},
    load::{self, Call, Target},
    shop::text,
    souk::Place,
    sqlite::{self, Step},
};

const SERVICES: [&str; 3] = ["user", "inventory", "order"];
const DEADLINE: Duration = Duration::from_secs(30);
/// Tables that have few rows in every installation, or whose lists have all rows: dead letters are of one source.
const SMALL: [&str; 9] = [
    "event_dead_letters",
    "event_epoch",
    "event_head",
    "event_readers",
    "jobs",
    "locations",
    "signing_keys",
    "sqlite_sequence",
    "webhook_endpoints",
];

/// Rows that the API makes slowly, or not at all: accounts, of which a few are disabled; deliveries of an endpoint, of
/// which few failed or wait; and dead letters. `:count` is their number.
const USERS: [&str; 2] = [
    "INSERT INTO users (id, email, display_name, is_staff, is_admin, state, revision, create_time, update_time)
     SELECT gen_random_uuid(), 'user' || g || '@example.com', 'User', false, false,
         CASE WHEN g % 500 = 1 THEN 'DISABLED' ELSE 'ACTIVE' END, 1, now() - g * interval '1 second', now()
     FROM generate_series(1, :count) AS g",
    "WITH RECURSIVE numbers (g) AS (SELECT 1 UNION ALL SELECT g + 1 FROM numbers WHERE g < :count)
     INSERT INTO users (id, email, display_name, is_staff, is_admin, state, revision, create_time, update_time)
     SELECT randomblob(16), 'user' || g || '@example.com', 'User', 0, 0,
         CASE WHEN g % 500 = 1 THEN 'DISABLED' ELSE 'ACTIVE' END, 1,
         strftime('%Y-%m-%d %H:%M:%f+00:00', 'now', '-' || g || ' seconds'),
         strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')
     FROM numbers",
];
const DELIVERIES: [&str; 2] = [
    "INSERT INTO webhook_deliveries (id, endpoint_id, event_id, kind, subject, position, body, state, attempt_count, tries,
         attempts, last_code, due_at, created_at, settled_at)
     SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - g), 12, '0') || '7' || substr(md5(g::text), 1, 3)
             || '8' || substr(md5(g::text), 4, 15))::uuid, e.id, gen_random_uuid(), 'order.placed', 'orders/' || g / 5, g, '{}',
         CASE WHEN g % 500 = 1 THEN 'FAILED' WHEN g % 500 = 2 THEN 'PENDING' ELSE 'DELIVERED' END, 1, 1, '[]', 200,
         CASE WHEN g % 500 = 2 THEN now() + interval '1 day' END, now() - g * interval '1 millisecond',
         CASE WHEN g % 500 <> 2 THEN now() END
     FROM webhook_endpoints e, generate_series(1, :count) AS g",
    "WITH RECURSIVE numbers (g) AS (SELECT 1 UNION ALL SELECT g + 1 FROM numbers WHERE g < :count)
     INSERT INTO webhook_deliveries (id, endpoint_id, event_id, kind, subject, position, body, state, attempt_count, tries,
         attempts, last_code, due_at, created_at, settled_at)
     SELECT unhex(printf('%012x', CAST(unixepoch('subsec') * 1000 AS INTEGER) - g) || '7' || substr(hex(randomblob(2)), 1, 3)
             || '8' || substr(hex(randomblob(8)), 1, 15)), e.id, randomblob(16), 'order.placed', 'orders/' || g / 5, g, '{}',
         CASE WHEN g % 500 = 1 THEN 'FAILED' WHEN g % 500 = 2 THEN 'PENDING' ELSE 'DELIVERED' END, 1, 1, '[]', 200,
         CASE WHEN g % 500 = 2 THEN strftime('%Y-%m-%d %H:%M:%f+00:00', 'now', '+1 day') END,
         strftime('%Y-%m-%d %H:%M:%f+00:00', 'now'),
         CASE WHEN g % 500 <> 2 THEN strftime('%Y-%m-%d %H:%M:%f+00:00', 'now') END
     FROM webhook_endpoints e, numbers",
];
const LETTERS: [&str; 2] = [
    "INSERT INTO event_dead_letters (reader, source, position, id, kind, subject, data_type, data, created_at, tries,
         set_aside_at)
     SELECT 'webhooks', 'order', g, gen_random_uuid(), 'order.placed', 'orders/' || g / 5, '', '', now(), 0, now()
     FROM generate_series(1, :count) AS g",
    "WITH RECURSIVE numbers (g) AS (SELECT 1 UNION ALL SELECT g + 1 FROM numbers WHERE g < :count)
     INSERT INTO event_dead_letters (reader, source, position, id, kind, subject, data_type, data, created_at, tries,
         set_aside_at)
     SELECT 'webhooks', 'order', g, randomblob(16), 'order.placed', 'orders/' || g / 5, '', x'',
         strftime('%Y-%m-%d %H:%M:%f+00:00', 'now'), 0, strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')
     FROM numbers",
];
/// A few products are not tracked, archived, or have a threshold.
const RARE_PRODUCTS: &str = "
    UPDATE products SET tracking = 'UNTRACKED' WHERE sku LIKE 'BENCH-1_00';
    UPDATE products SET state = 'ARCHIVED' WHERE sku LIKE 'BENCH-2_00';
    UPDATE products SET low_stock_threshold = 1 WHERE sku LIKE 'BENCH-%5'";

/// A shop with all of this.
struct Full<'s> {
    filled: Filled<'s>,
    /// Resource name of the webhook endpoint.
    endpoint: String,
}

impl<'s> Full<'s> {
    async fn new(place: Place<'s>, size: Size, settings: &[(&str, &str)]) -> Self {
        let filled = Filled::new(&souk_binary(), place, size, settings).await.unwrap();
        let hook = json!({"url": "https://example.com/hook", "disabled": true});
        let endpoint = text(&filled.souk.shop.post("/v1/webhookEndpoints", &hook).await.unwrap()["name"]);
        let engine = usize::from(matches!(place, Place::Sqlite));
        let count = |script: &str| script.replace(":count", &size.orders.to_string());
        filled.souk.run("user", &count(USERS[engine])).unwrap();
        filled.souk.run("order", &count(DELIVERIES[engine])).unwrap();
        filled.souk.run("order", &count(LETTERS[engine])).unwrap();
        filled.souk.run("inventory", RARE_PRODUCTS).unwrap();
        filled.souk.vacuum().unwrap();
        // Events are on their way to this one, but souk does not post to addresses of its own machine.
        let hook = json!({"url": "https://localhost:9/hook"});
        filled.souk.shop.post("/v1/webhookEndpoints", &hook).await.unwrap();
        Self { filled, endpoint }
    }

    async fn get(&self, token: &str, path: String) -> Value {
        let target = Target {
            address: self.filled.souk.gateway(),
            call: Call::Get(Arc::new(move || path.clone())),
            token: token.to_owned(),
            check: Arc::new(|_| true),
        };
        serde_json::from_slice(&load::once(&target).await.unwrap()).unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.filled.souk.shop.post(path, &body).await.unwrap()
    }

    fn staff(&self) -> &str {
        &self.filled.souk.shop.token
    }

    /// Sends the requests that shops send all day, but for lists.
    async fn day(&self) {
        let (staff, buyer) = (self.staff(), self.filled.buyers.token.as_str());
        let placed = load::once(&self.filled.buyers.rest(Demand::Uniform)).await.unwrap();
        let order = text(&serde_json::from_slice::<Value>(&placed).unwrap()["name"]);
        let product = &self.filled.products[0];
        for (token, path) in [
            ("", format!("/v1/{product}")),
            ("", format!("/v1/products:batchGet?names={product}&skus=BENCH-7")),
            ("", "/v1/products?pageSize=20&query=17000%20prod".to_owned()),
            ("", format!("/v1/{product}/availability")),
            (staff, format!("/v1/{product}/stock")),
            (staff, format!("/v1/{product}/stock?readTime=2025-01-01T00:00:00Z")),
            (staff, format!("/v1/{product}/ledgerEntries")),
            (buyer, "/v1/users/me".to_owned()),
            (buyer, format!("/v1/{order}")),
            (buyer, format!("/v1/{order}/timelineEntries")),
            (buyer, format!("/v1/{order}/shipments")),
            (buyer, format!("/v1/{order}/refunds")),
            (staff, format!("/v1/{}", self.filled.orders[0])),
            (staff, "/v1/locations".to_owned()),
            (staff, "/v1/services/order/deadLetters?pageSize=20".to_owned()),
        ] {
            self.get(token, path).await;
        }
        // Follow the page tokens: a late page must be found as fast as the first one.
        for (token, path) in [
            ("", "/v1/products?pageSize=100".to_owned()),
            ("", "/v1/products?orderBy=price&pageSize=100".to_owned()),
            (staff, "/v1/orders?pageSize=100".to_owned()),
            (staff, "/v1/users?pageSize=100".to_owned()),
            (staff, format!("/v1/{}/deliveries?pageSize=100", self.endpoint)),
        ] {
            let mut page = String::new();
            for _ in 0..25 {
                let answer = self.get(token, format!("{path}&pageToken={page}")).await;
                page = text(&answer["nextPageToken"]);
                assert!(!page.is_empty(), "{path} has ended");
            }
        }
        self.post(&format!("/v1/{order}:cancel"), json!({"requestId": "cancel-1"})).await;
        self.post("/v1/stock:reconcile", json!({"pageSize": 10})).await;
        let users = self.get(staff, "/v1/users?pageSize=1&filter=email%3Auser7".to_owned()).await;
        self.post(&format!("/v1/{}:setRoles", text(&users["users"][0]["name"])), json!({"roles": ["ROLE_STAFF"]}))
            .await;
        let ann = json!({"email": "ann@example.com", "password": "correct horse"});
        let session = self.post("/v1/sessions:logIn", ann).await;
        let refreshed = self.post("/v1/sessions:refresh", json!({"refreshToken": session["refreshToken"]})).await;
        self.post("/v1/sessions:logOut", json!({"refreshToken": refreshed["refreshToken"]})).await;
    }

    /// Every documented filter and order, with common and rare values: the token, the path, and the index that serves
    /// the list on SQLite. On PostgreSQL, a plan with another one reads too many rows.
    fn lists(&self) -> Vec<(String, String, &'static str)> {
        let (staff, buyer) = (self.staff(), &self.filled.buyers.token);
        let mut lists = Vec::new();
        let list = |path: &str, filter: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric();
            let encoded = filter.bytes().map(|byte| match plain(byte) {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02X}"),
            });
            format!(
                "/v1/{path}{}pageSize=20&filter={}",
                if path.contains('?') { '&' } else { '?' },
                encoded.collect::<String>()
            )
        };
        for (filter, index) in [
            ("", "orders_by_creation"),
            ("state = STATE_CONFIRMED", "orders_by_creation"),
            ("state != STATE_REJECTED", "orders_by_creation"),
            ("state = STATE_REJECTED", "orders_not_confirmed"),
            ("state = STATE_CANCELLED", "orders_not_confirmed"),
            ("state = STATE_PENDING", "orders_not_confirmed"),
            ("state = STATE_CANCELLING", "orders_not_confirmed"),
            ("state != STATE_CONFIRMED", "orders_not_confirmed"),
            ("state = STATE_REJECTED AND place_time < 2020-01-01", "orders_not_confirmed"),
            ("state = STATE_REJECTED AND create_time > 2020-01-01", "orders_not_confirmed"),
            ("external_id = \"EXT-100\"", "orders_external_id_key"),
            ("external_id = \"nothing\" AND state = STATE_REJECTED", "orders_external_id_key"),
            ("external_id != \"EXT-100\"", "orders_by_creation"),
            ("external_id:\"ext-1\"", "orders_by_creation"),
            ("external_id:\"nothing\"", "orders_by_creation"),
            ("place_time > 2020-01-01", "orders_by_creation"),
            ("place_time < 2020-01-01", "orders_by_creation"),
            ("create_time > 2020-01-01", "orders_by_creation"),
            ("create_time < 2020-01-01", "orders_by_creation"),
            ("create_time != 2020-01-01", "orders_by_creation"),
        ] {
            lists.push((staff.to_owned(), list("orders", filter), index));
        }
        for filter in ["", "state = STATE_CONFIRMED", "state = STATE_REJECTED", "place_time < 2020-01-01"] {
            lists.push((buyer.clone(), list("orders", filter), "orders_by_customer"));
        }
        for filter in ["", "attempts >= 3", "attempts >= 100", "create_time > 2020-01-01", "update_time < 2020-01-01"] {
            for index in ["orders_not_confirmed", "returns_unfinished"] {
                lists.push((staff.to_owned(), list("sagas", filter), index));
            }
        }
        let deliveries = format!("{}/deliveries", self.endpoint);
        for (filter, index) in [
            ("", "webhook_deliveries_log"),
            ("state = STATE_DELIVERED", "webhook_deliveries_log"),
            ("state = STATE_FAILED", "webhook_deliveries_failed"),
            ("state != STATE_DELIVERED", "webhook_deliveries_failed"),
            ("state = STATE_PENDING", "webhook_deliveries_due"),
            ("state = STATE_FAILED AND event_type = none", "webhook_deliveries_failed"),
            ("event_type = order.placed", "webhook_deliveries_log"),
            ("event_type = none", "webhook_deliveries_log"),
            ("subject = \"orders/7\"", "webhook_deliveries_log"),
            ("event_id = evt_01k9zzzzzzzzzzzzzzzzzzzzzz", "sqlite_autoindex_webhook_deliveries_2"),
        ] {
            lists.push((staff.to_owned(), list(&deliveries, filter), index));
        }
        for (filter, index) in [
            ("", "users_newest"),
            ("state = STATE_ACTIVE", "users_newest"),
            ("state = STATE_DISABLED", "users_disabled"),
            ("state != STATE_ACTIVE", "users_disabled"),
            ("state = STATE_DISABLED AND email:nobody", "users_disabled"),
            ("email = \"ann@example.com\"", "sqlite_autoindex_users_2"),
            ("email != \"ann@example.com\"", "users_newest"),
            ("email:example", "users_newest"),
            ("email:nobody", "users_newest"),
            ("external_id = \"x\"", "users_external_id_key"),
            ("external_id = \"\"", "users_newest"),
            ("external_id != \"\"", "users_newest"),
            ("external_id:x", "users_newest"),
        ] {
            lists.push((staff.to_owned(), list("users", filter), index));
        }
        for (order, own) in [
            ("create_time", "products_by_creation"),
            ("create_time%20desc", "products_by_creation"),
            ("sku", "products_by_sku"),
            ("sku%20desc", "products_by_sku"),
            ("title", "products_by_title"),
            ("title%20desc", "products_by_title"),
            ("price", "products_by_price"),
            ("price%20desc", "products_by_price"),
        ] {
            for (filter, index) in [
                ("", own),
                ("state = ARCHIVED", own),
                ("price >= 5 AND price <= 15", own),
                ("price = 99999", "products_by_price"),
                ("price != 99999", own),
                ("create_time > 2020-01-01", own),
                ("create_time < 2020-01-01", "products_by_creation"),
                ("stock_tracking = TRACKED", own),
                ("stock_tracking = UNTRACKED", "products_untracked"),
                ("sku = BENCH-7", "sqlite_autoindex_products_2"),
                ("sku:7", own),
                ("sku:nothing", own),
                ("title = \"Product 7\"", "products_by_title"),
                ("title:product", own),
                ("title:nothing", own),
            ] {
                lists.push((String::new(), list(&format!("products?orderBy={order}"), filter), index));
            }
        }
        lists.push((staff.to_owned(), "/v1/stock:low?pageSize=20".to_owned(), "products_with_threshold"));
        lists
    }

    /// Runs each job once more, and waits until it has run.
    async fn jobs(&self) {
        for service in SERVICES {
            let path = format!("/v1/services/{service}/jobs");
            let before = self.get(self.staff(), path.clone()).await;
            for job in before["jobs"].as_array().unwrap() {
                self.post(&format!("/v1/{}:run", text(&job["name"])), json!({})).await;
            }
            let runs = |jobs: &Value| -> HashMap<String, String> {
                let jobs = jobs["jobs"].as_array().unwrap().iter();
                jobs.map(|job| (text(&job["name"]), text(&job["runCount"]))).collect()
            };
            let before = runs(&before);
            let ran = async || {
                let now = runs(&self.get(self.staff(), path.clone()).await);
                before.iter().all(|(name, runs)| now[name] != *runs)
            };
            wait::until(DEADLINE, &format!("the jobs of {service}"), ran).await;
        }
    }
}

/// On PostgreSQL.
mod postgres {
    use super::*;

    const SIZE: Size = Size { products: 20_000, orders: 20_000 };
    /// Tables that are filled in these tests.
    const FILLED: [&str; 8] =
        ["ledger", "order_lines", "orders", "products", "stock", "timeline_entries", "users", "webhook_deliveries"];
    /// The maximum number of rows that a node of a plan may return or filter out: more than a page with its lines has,
    /// far fewer than a table has.
    const ROWS: f64 = 2000.0;
    /// The same for `souk verify`, which reads everything, but not again and again.
    const ROWS_OF_VERIFY: f64 = 200_000.0;

    /// The faulty lines of a plan: sequential scans of large tables, and nodes that read too many rows.
    fn faults(plan: &Plan, large: fn(&str) -> bool, most: f64) -> Vec<&str> {
        let number = |line: &str, label: &str| -> Option<f64> {
            line.split_once(label)?.1.split([' ', ')']).next()?.parse().ok()
        };
        let faulty = |line: &&String| {
            let scanned = line.split_once("Seq Scan on ").and_then(|(_, rest)| rest.split(' ').next());
            let rows = line
                .split_once("(actual ")
                .and_then(|(_, actual)| Some(number(actual, "rows=")? * number(actual, "loops=")?));
            let removed = number(line, "Rows Removed by Filter: ");
            scanned.is_some_and(large) || rows.into_iter().chain(removed).any(|rows| rows > most)
        };
        plan.lines.iter().filter(faulty).map(|line| line.trim()).collect()
    }

    /// The plans with faults, as text.
    fn faulty(plans: &[Plan], large: fn(&str) -> bool, most: f64) -> Vec<String> {
        let plans = plans.iter().map(|plan| (plan, faults(plan, large, most)));
        let plans = plans.filter(|(_, faults)| !faults.is_empty());
        plans.map(|(plan, faults)| format!("{}\n  {}\n", plan.statement, faults.join("\n  "))).collect()
    }

    async fn no_table_is_read_through(seqscan: &str, large: fn(&str) -> bool) {
        let server = servers::postgres().unwrap();
        query(&server, "postgres", &format!("ALTER ROLE postgres SET enable_seqscan = {seqscan}")).unwrap();
        Plans::prepare(&server).unwrap();
        let full = Full::new(Place::Postgres(&server, "souk"), SIZE, &[]).await;

        let plans = Plans::watch(&server).unwrap();
        full.day().await;
        for (token, path, _) in full.lists() {
            full.get(&token, path).await;
        }
        full.jobs().await;
        let read = "SELECT count(*) FROM event_readers JOIN event_head ON position = last WHERE reader = 'webhooks'";
        let followed = async || query(&server, "souk_order", read).is_ok_and(|readers| readers == "1");
        wait::until(DEADLINE, "the events to be read", followed).await;
        let mut plans = plans.end().unwrap().0;
        // Only this test sends this statement.
        plans.retain(|plan| plan.statement != read);
        for table in
            ["products", "stock", "reservations", "orders", "order_lines", "idempotency_keys", "users", "sessions"]
        {
            let seen = |plan: &Plan| plan.statement.contains(table);
            assert!(plans.iter().any(seen), "no statement of {table} was seen");
        }
        let found = faulty(&plans, large, ROWS);
        assert!(found.is_empty(), "{} plans of {}:\n{}", found.len(), plans.len(), found.join("\n"));

        // Without sequential scans, small tables are joined in odd ways.
        if seqscan == "on" {
            let verify = Plans::watch(&server).unwrap();
            full.filled.souk.verify().await.unwrap();
            let verify = verify.end().unwrap().0;
            assert!(!verify.is_empty(), "no statement of verify was seen");
            let found = faulty(&verify, |_| false, ROWS_OF_VERIFY);
            assert!(found.is_empty(), "{} plans of verify:\n{}", found.len(), found.join("\n"));
        }
    }

    /// Checks the plans that PostgreSQL chooses by default.
    #[tokio::test]
    async fn no_statement_reads_a_filled_table_through() {
        no_table_is_read_through("on", |table| FILLED.contains(&table)).await;
    }

    /// Without sequential scans (`enable_seqscan = off`), PostgreSQL uses them only where no index fits. This also
    /// checks tables that are empty here.
    #[tokio::test]
    async fn every_statement_has_its_index() {
        no_table_is_read_through("off", |table| !SMALL.contains(&table)).await;
    }

    #[test]
    fn faults_are_seen() {
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
        assert_eq!(faults(&plans[0], |table| table == "orders", ROWS).len(), 1);
        assert!(faults(&plans[0], |table| table == "jobs", ROWS).is_empty());
        assert_eq!(faults(&plans[1], |_| false, ROWS).len(), 1);
        assert_eq!(faults(&plans[1], |_| false, ROWS_OF_VERIFY).len(), 0);
    }
}

/// On SQLite, which plans by the schema alone: souk makes no statistics.
mod on_sqlite {
    use super::*;

    const SIZE: Size = Size { products: 5_000, orders: 5_000 };
    /// Souk logs the statements that it sends to SQLite.
    const LOGGED: [(&str, &str); 2] =
        [("SOUK_TELEMETRY__LOG_FILTER", "info,souk_store::sql=trace"), ("SOUK_TELEMETRY__LOG_FORMAT", "json")];
    /// Indexes that none of the statements here uses, and why they are there.
    const UNSEEN: [(&str, &str); 3] = [
        ("events_of_owner", "streams of a customer's own events"),
        ("payment_notices_by_age", "a job that runs only if the payment provider is Stripe"),
        ("refresh_tokens_session", "the tokens of a deleted session are deleted with it"),
    ];

    /// A statement and its plan.
    #[derive(Debug, Clone)]
    struct Planned {
        sql: String,
        steps: Vec<Step>,
    }

    /// The plans of statements, each made once.
    #[derive(Default)]
    struct Planner(HashMap<(PathBuf, String), Planned>);

    impl Planner {
        /// The plans of the statements in a log.
        fn of(&mut self, log: &str) -> Vec<Planned> {
            let mut found = Vec::new();
            for line in log.lines().filter(|line| line.contains("souk_store::sql")) {
                let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
                let (path, sql) = (PathBuf::from(text(&line["path"])), text(&line["sql"]));
                let is_planned =
                    ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"].iter().any(|verb| sql.starts_with(verb));
                if !is_planned || sql.contains("__diesel_schema_migrations") {
                    continue;
                }
                let planned = self.0.entry((path, sql)).or_insert_with_key(|(path, sql)| Planned {
                    sql: sql.clone(),
                    steps: sqlite::plan(path, sql).unwrap(),
                });
                found.push(planned.clone());
            }
            found
        }
    }

    /// The name of the index that a step uses.
    fn index(step: &Step) -> Option<&str> {
        step.detail.split_once(" INDEX ")?.1.split(' ').next()
    }

    impl Planned {
        fn uses(&self, name: &str) -> bool {
            self.steps.iter().any(|step| index(step) == Some(name))
        }

        /// The steps that read through a large table, or sort it. `partial` are the indexes of some rows of a table.
        fn faults(&self, partial: &HashSet<String>) -> Vec<&str> {
            let (limited, whole) = (self.sql.contains(" LIMIT "), !self.sql.contains(" WHERE "));
            // Such a statement names the rows, or a search has found them, or they are the locations of a product.
            let few = self.sql.contains(" IN (") || self.sql.contains("JOIN `locations`");
            let is_small = |step: &Step| {
                let table = step.detail.split(' ').nth(1).unwrap_or_default();
                let fine = table == "CONSTANT" || table.starts_with('(') || SMALL.contains(&table);
                // The index of rare rows, or that of a text search.
                let is_part = index(step).is_some_and(|index| partial.contains(index));
                fine || is_part || step.detail.contains(" VIRTUAL TABLE ")
            };
            let faulty = |step: &&Step| {
                let detail = step.detail.as_str();
                if detail == "USE TEMP B-TREE FOR ORDER BY" {
                    let reads = |step: &&Step| step.detail.starts_with("SCAN") || step.detail.starts_with("SEARCH");
                    return !few && !self.steps.iter().filter(reads).all(is_small);
                }
                // A condition that all rows of a list meet, with others that the index does not serve.
                let is_list = detail.ends_with("(state=?)") && self.sql.contains(" AND ");
                (is_list || detail.starts_with("SCAN ") && !(limited && whole)) && !is_small(step)
            };
            // Nothing is read for an empty list of values.
            if self.sql.contains("(1=0)") {
                return Vec::new();
            }
            self.steps.iter().filter(faulty).map(|step| step.detail.as_str()).collect()
        }
    }

    /// All statements and their plans as text, those with these faults only.
    fn listed<'p>(plans: impl Iterator<Item = (&'p Planned, Vec<&'p str>)>) -> Vec<String> {
        let mut seen = HashSet::new();
        let faulty = plans.filter(|(_, faults)| !faults.is_empty()).filter(|(plan, _)| seen.insert(plan.sql.clone()));
        faulty.map(|(plan, faults)| format!("{}\n  {}\n", plan.sql, faults.join("\n  "))).collect()
    }

    #[tokio::test]
    async fn no_statement_reads_a_table_through_and_each_index_is_used() {
        let full = Full::new(Place::Sqlite, SIZE, &LOGGED).await;
        let souk = &full.filled.souk;
        let mut planner = Planner::default();
        let mut wrong = Vec::new();
        for (token, path, index) in full.lists() {
            let from = souk.log().len();
            full.get(&token, path.clone()).await;
            // The log comes a little later than the answer.
            let what = format!("the statements of {path}");
            let seen = wait::value(DEADLINE, &what, async || {
                let plans = planner.of(&souk.log()[from..]);
                plans.iter().any(|plan| plan.sql.contains(" LIMIT ")).then_some(plans)
            });
            let plans = seen.await;
            if !plans.iter().any(|plan| plan.uses(index)) {
                wrong.push(format!("{path} does not use {index}:\n{plans:#?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        full.day().await;
        full.jobs().await;
        let claimed = async || planner.of(&souk.log()).iter().any(|plan| plan.uses("webhook_deliveries_in_order"));
        wait::until(DEADLINE, "the deliveries of events", claimed).await;

        let (mut names, mut partial) = (HashSet::new(), HashSet::new());
        for service in SERVICES {
            let indexes = "SELECT name AS text FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL";
            names.extend(souk.texts(service, indexes).unwrap());
            partial.extend(souk.texts(service, &format!("{indexes} AND sql LIKE '% WHERE %'")).unwrap());
        }
        let plans = planner.of(&souk.log());
        let found = listed(plans.iter().map(|plan| (plan, plan.faults(&partial))));
        assert!(found.is_empty(), "{} plans:\n{}", found.len(), found.join("\n"));

        souk.verify().await.unwrap();

        // A statement with an empty list of values reads nothing, whatever its plan says.
        let real = plans.iter().filter(|plan| !plan.sql.contains("(1=0)"));
        let used: HashSet<&str> = real.flat_map(|plan| &plan.steps).filter_map(index).collect();
        let unseen: HashSet<&str> = UNSEEN.iter().map(|(name, _)| *name).collect();
        let mut unused: Vec<&String> =
            names.iter().filter(|name| !used.contains(name.as_str()) && !unseen.contains(name.as_str())).collect();
        unused.sort();
        assert!(unused.is_empty(), "no statement uses {unused:?}");
        for name in unseen {
            assert!(names.contains(name) && !used.contains(name), "{name} is used, or gone: take it from the list");
        }
    }

    #[test]
    fn faults_are_seen() {
        let planned = |sql: &str, details: &[&str]| Planned {
            sql: sql.to_owned(),
            steps: details.iter().map(|detail| Step { detail: (*detail).to_owned() }).collect(),
        };
        let partial = HashSet::from(["some".to_owned()]);
        for (sql, detail, faults) in [
            ("SELECT a FROM t WHERE b = ? LIMIT ?", "SCAN t", 1),
            ("SELECT a FROM t WHERE b = ? LIMIT ?", "SCAN t USING INDEX every", 1),
            ("SELECT a FROM t WHERE b = ? LIMIT ?", "SCAN t USING INDEX some", 0),
            ("SELECT a FROM t WHERE b = ?", "SCAN t USING INDEX some", 0),
            ("SELECT a FROM t LIMIT ?", "SCAN t USING INDEX every", 0),
            ("SELECT a FROM jobs WHERE b = ?", "SCAN jobs", 0),
            ("SELECT a FROM t WHERE b = ?", "SEARCH t USING INDEX every (b=?)", 0),
            ("SELECT a FROM t WHERE state = ?", "SEARCH t USING INDEX every (state=?)", 0),
            ("SELECT a FROM t WHERE state = ? AND b = ?", "SEARCH t USING INDEX every (state=?)", 1),
        ] {
            assert_eq!(planned(sql, &[detail]).faults(&partial).len(), faults, "{sql}: {detail}");
        }
        let sorted = ["SEARCH t USING INDEX every (b=?)", "USE TEMP B-TREE FOR ORDER BY"];
        assert_eq!(planned("SELECT a FROM t WHERE b = ? ORDER BY c", &sorted).faults(&partial).len(), 1);
        let sorted = ["SEARCH t USING INDEX some (b=?)", "USE TEMP B-TREE FOR ORDER BY"];
        assert_eq!(planned("SELECT a FROM t WHERE b = ? ORDER BY c", &sorted).faults(&partial).len(), 0);
    }
}
