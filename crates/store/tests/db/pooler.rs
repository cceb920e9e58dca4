//! Tests with a real PgBouncer in transaction mode. It has fewer connections to PostgreSQL than souk has to PgBouncer,
//! so each transaction may get another one.

use std::time::{Duration, Instant};

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Text};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use souk_common::ids::UserId;
use souk_store::db::Keep as _;
use souk_store::db::{self, Config, Db, DbError, Pooler, Pools};
use souk_testkit::db::TestDatabase;
use souk_testkit::servers::{self, Server};
use tokio::task::JoinSet;

use super::store::{self, Error, postgres, sqlite};
use super::{account, connect};

/// A database and the pooler in front of it.
struct Ground {
    database: TestDatabase,
    pooler: Server,
}

impl Ground {
    async fn new() -> Self {
        servers::install::ensure("PgBouncer", "pgbouncer", "pgbouncer").unwrap();
        let database = souk_testkit::db::database(souk_testkit::db::Engine::Postgres, "common").await;
        let port = url::Url::parse(&database.url).unwrap().port().unwrap();
        let pooler = tokio::task::spawn_blocking(move || servers::pgbouncer(port)).await.unwrap().unwrap();
        Self { database, pooler }
    }

    /// The settings of a connection through the pooler.
    fn config(&self) -> Config {
        let mut url = url::Url::parse(self.pooler.url()).unwrap();
        url.set_path(url::Url::parse(&self.database.url).unwrap().path());
        Config { max_connections: 8, ..Config::at(url) }
    }

    async fn connect(&self, change: impl FnOnce(&mut Config)) -> Db {
        let mut config = self.config();
        change(&mut config);
        connect(&config, &self.database).await
    }

    async fn end(self) {
        tokio::task::spawn_blocking(move || drop(self.pooler)).await.unwrap();
    }
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

#[derive(QueryableByName)]
struct Value {
    #[diesel(sql_type = Text)]
    value: String,
}

async fn setting(conn: &mut souk_store::db::postgres::Conn, name: &str) -> String {
    let query = diesel::sql_query("SELECT current_setting($1) AS value").bind::<Text, _>(name);
    query.get_result::<Value>(conn).await.unwrap().value
}

/// Withdraws an amount, as a caller does that repeats a request after a conflict. Serializable transactions on the same
/// pages of a small table conflict, and on a busy machine one may lose all of its tries.
async fn withdraw(db: &Db, id: UserId, amount: i64) -> i64 {
    loop {
        match store::withdraw(db, id, amount).await {
            Err(Error::Db(error)) if error.is_conflict() => {}
            withdrawn => break withdrawn.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_behind_a_pooler_migrate_once_and_prepare_statements_as_usual() {
    let ground = Ground::new().await;
    // There are more replicas than connections of the pooler. Waiting replicas must not block the one that migrates.
    let mut replicas = JoinSet::new();
    for _ in 0..8 {
        let (config, data_dir) = (ground.config(), ground.database.data_dir().to_owned());
        replicas.spawn(async move {
            let db = Db::connect(&config, &data_dir, "accounts", store::migrations()).await.unwrap();
            let ran = db.migrate().await.unwrap();
            (db, ran)
        });
    }
    let (replicas, ran): (Vec<_>, Vec<_>) = replicas.join_all().await.into_iter().unzip();
    let own: Vec<_> = ran.into_iter().flatten().filter(|name| !name.starts_with("common-")).collect();
    assert_eq!(own, ["accounts-0001_baseline"]);

    // Each statement runs many times on many connections: cached and not cached, in transactions and alone.
    let mut work = JoinSet::new();
    for (number, db) in replicas.iter().cloned().cycle().take(40).enumerate() {
        work.spawn(async move {
            let ann = store::create(&db, &account(&format!("{number}@example.com"), 100)).await.unwrap();
            for taken in 1..=5 {
                assert_eq!(withdraw(&db, ann.id, 10).await, 100 - taken * 10);
                assert_eq!(store::account(&db, ann.id).await.unwrap().unwrap().balance, 100 - taken * 10);
                let Pools::Postgres(pool) = db.pools() else { panic!("not PostgreSQL") };
                let conn = &mut *pool.get().await.unwrap();
                let kept = diesel::sql_query("SELECT $1 + 10 AS number").bind::<BigInt, _>(taken).kept();
                let other = diesel::sql_query("SELECT $1 + 20 AS number").bind::<BigInt, _>(taken);
                let kept = kept.get_result::<Number>(conn).await.unwrap().number;
                assert_eq!(kept + other.get_result::<Number>(conn).await.unwrap().number, 2 * taken + 30);
            }
            // The connection stays usable after a failure.
            let again = store::create(&db, &account(&format!("{number}@example.com"), 1)).await;
            assert!(matches!(again, Err(Error::EmailTaken)), "{again:?}");
            assert_eq!(store::entries(&db, ann.id).await.unwrap().len(), 5);
        });
    }
    work.join_all().await;
    let Pools::Postgres(pool) = replicas[0].pools() else { panic!("not PostgreSQL") };
    let conn = &mut *pool.get().await.unwrap();
    let count = diesel::sql_query("SELECT count(*) AS number FROM pg_stat_activity WHERE datname = current_database()");
    let connections = count.get_result::<Number>(conn).await.unwrap().number;
    assert!(connections <= 4, "{connections} connections are not shared");
    let count = diesel::sql_query("SELECT count(*) AS number FROM pg_prepared_statements WHERE name <> ''");
    assert_eq!(count.get_result::<Number>(conn).await.unwrap().number, 0);
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_limits_apply_behind_a_pooler_and_to_no_other_client() {
    let ground = Ground::new().await;
    let limited = ground
        .connect(|config| {
            config.statement_timeout = Duration::from_millis(300);
            config.lock_timeout = Duration::from_millis(200);
            config.idle_in_transaction_timeout = Duration::from_millis(400);
            config.url += "&options=-c%20search_path%3Dpublic%2Cpg_temp%20-c%20work_mem=3MB";
        })
        .await;
    let ran = limited.migrate().await.unwrap();
    assert!(!ran.is_empty());
    let free = ground.connect(|config| config.statement_timeout = Duration::ZERO).await;
    let (Pools::Postgres(ours), Pools::Postgres(theirs)) = (limited.pools(), free.pools()) else {
        panic!("not PostgreSQL")
    };
    let conn = &mut *ours.get().await.unwrap();
    let other = &mut *theirs.get().await.unwrap();
    // Single statements, in turn with those of another client on the same connections.
    for _ in 0..10 {
        assert_eq!(setting(conn, "statement_timeout").await, "300ms");
        assert_eq!(setting(other, "statement_timeout").await, "0");
        assert_eq!(setting(conn, "search_path").await, "public,pg_temp");
        assert_eq!(setting(conn, "work_mem").await, "3MB");
        assert_eq!(setting(other, "TimeZone").await, "UTC");
    }
    let slow = || diesel::sql_query("SELECT 1::bigint AS number FROM pg_sleep(20)");
    let began = Instant::now();
    let alone: DbError = slow().get_result::<Number>(conn).await.map(drop).unwrap_err().into();
    let within: Result<(), Error> = db::write!(limited, |conn, q| {
        q::count(conn).await?;
        diesel::sql_query("SELECT pg_sleep(20)").execute(conn).await?;
        Ok(())
    });
    assert!(alone.is_unavailable() && alone.to_string().contains("statement timeout"), "{alone}");
    let Err(Error::Db(within)) = within else { panic!("{within:?}") };
    assert!(within.to_string().contains("statement timeout"), "{within}");
    assert!(began.elapsed() < Duration::from_secs(10));

    // Another transaction holds the lock.
    let ann = store::create(&free, &account("ann@example.com", 5)).await.unwrap();
    other.batch_execute("BEGIN").await.unwrap();
    let hold = diesel::sql_query("SELECT balance AS number FROM accounts FOR UPDATE");
    hold.get_result::<Number>(other).await.unwrap();
    let waited = store::withdraw(&limited, ann.id, 1).await;
    assert!(waited.unwrap_err().to_string().contains("lock timeout"));
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(store::withdraw(&limited, ann.id, 1).await.unwrap(), 4);
    // Statements that cannot run in a transaction run without one.
    conn.batch_execute("VACUUM accounts").await.unwrap();
    diesel::sql_query("VACUUM accounts").execute(conn).await.unwrap();
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_pooler_closes_are_replaced() {
    let ground = Ground::new().await;
    let db = ground.connect(|_| {}).await;
    db.migrate().await.unwrap();
    let ann = store::create(&db, &account("ann@example.com", 100)).await.unwrap();
    let server = Config::at(souk_testkit::db::postgres_url().await);
    let name = url::Url::parse(&ground.config().url).unwrap().path().trim_start_matches('/').to_owned();
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    for left in (1..=5).rev() {
        souk_store::db::postgres::execute(&server, std::slice::from_ref(&end)).await.unwrap();
        // PgBouncer may still hand over a closed connection.
        souk_testkit::wait::until(Duration::from_secs(20), "an answer", async || {
            store::account(&db, ann.id).await.is_ok_and(|found| found.is_some())
        })
        .await;
        store::withdraw(&db, ann.id, 10).await.unwrap_or_else(|error| panic!("{left} left: {error}"));
    }
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unconfigured_pooler_is_reported() {
    let ground = Ground::new().await;
    let mut config = ground.config();
    config.startup_timeout = Duration::from_secs(1);
    config.url = config.url.replace("?pooler=transaction", "");
    let error = Db::connect(&config, ground.database.data_dir(), "accounts", store::migrations()).await.unwrap_err();
    let told = souk_common::error::chain(&error);
    assert!(told.contains("unsupported startup parameter: options") && told.contains("pooler=transaction"), "{told}");
    // The setting has the same meaning as the URL.
    config.pooler = Pooler::Transaction;
    connect(&config, &ground.database).await.ping().await.unwrap();
    ground.end().await;
}
