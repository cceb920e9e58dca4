//! Opening a database and bringing its schema up to date.

use std::time::{Duration, Instant};

use diesel::deserialize::QueryableByName;
use diesel::{ExpressionMethods, QueryDsl};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use souk_store::db::{Config, Db, DbError, Engine, Pools};
use souk_testkit::proxy::Proxy;
use tokio::task::JoinSet;

use super::{connect, store};

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_together_migrate_once() {
    let [sqlite, postgres] = souk_testkit::db::both("common").await;
    for database in [sqlite, postgres] {
        let mut replicas = JoinSet::new();
        for _ in 0..6 {
            let mut config = Config::at(&database.url);
            config.max_connections = 2;
            let data_dir = database.data_dir().to_owned();
            replicas.spawn(async move {
                let db = Db::connect(&config, &data_dir, "accounts", store::migrations()).await.unwrap();
                db.migrate().await.unwrap()
            });
        }
        let mut ran = Vec::new();
        while let Some(replica) = replicas.join_next().await {
            ran.extend(replica.unwrap());
        }
        let (common, own): (Vec<_>, Vec<_>) = ran.iter().partition(|name| name.starts_with("common-"));
        assert_eq!(own, ["accounts-0001_baseline"]);
        assert_eq!(common, ["common-0001_baseline", "common-0002_indexes"]);
        let db = connect(&Config::at(&database.url), &database).await;
        assert_eq!(db.migrate().await.unwrap(), Vec::<String>::new());
        db.ping().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_an_older_build_or_another_service_is_refused_and_left_unchanged() {
    /// Migrations of the first build and of another service.
    const OTHERS: [&str; 2] = ["20261121000001", "order0001"];
    for super::Fixture { db, database: _database } in super::both().await {
        for other in OTHERS {
            let made =
                format!("UPDATE __diesel_schema_migrations SET version = '{other}' WHERE version LIKE '%accounts%'");
            execute(&db, &made).await;
            let error = db.migrate().await.unwrap_err();
            assert!(matches!(&error, DbError::NotOurs { baseline, .. } if baseline == "accounts-0001_baseline"));
            let text = error.to_string();
            let says = ["older, unreleased build of souk", "but not accounts-0001_baseline", "Use an empty database"];
            assert!(says.iter().all(|part| text.contains(part)), "{text}");
            execute(
                &db,
                "UPDATE __diesel_schema_migrations SET version = 'accounts0001' WHERE version NOT LIKE 'common%'",
            )
            .await;
            // The database is unchanged.
            assert_eq!(db.migrate().await.unwrap(), Vec::<String>::new());
        }
    }
}

async fn execute(db: &Db, sql: &str) {
    match db.pools() {
        Pools::Postgres(pool) => pool.get().await.unwrap().batch_execute(sql).await.unwrap(),
        Pools::Sqlite(pool) => pool.writer().await.unwrap().batch_execute(sql).await.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_a_server_that_is_not_up_yet() {
    let database = souk_testkit::db::database(souk_testkit::db::Engine::Postgres, "common").await;
    let proxy = Proxy::before(&database.url).await;
    proxy.cut();
    let config = Config::at(proxy.url(&database.url));
    let connecting = tokio::spawn({
        let data_dir = database.data_dir().to_owned();
        async move { Db::connect(&config, &data_dir, "accounts", store::migrations()).await }
    });
    // At least one connection was refused, because nothing else connects here.
    let direct = Config { startup_timeout: Duration::from_millis(200), ..Config::at(proxy.url(&database.url)) };
    let asked = Instant::now();
    let gave_up = Db::connect(&direct, database.data_dir(), "accounts", store::migrations()).await;
    assert!(gave_up.unwrap_err().is_unavailable());
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert!(!connecting.is_finished());
    proxy.restore();
    connecting.await.unwrap().unwrap().ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn permanent_errors_fail_at_once() {
    let database = souk_testkit::db::database(souk_testkit::db::Engine::Postgres, "common").await;
    let mut url: String = database.url.clone();
    let end = url.rfind('/').unwrap();
    let query = url[end..].find('?').map(|at| url[end + at..].to_owned()).unwrap_or_default();
    url.truncate(end);
    let config = Config::at(format!("{url}/no_such_database{query}"));
    let asked = Instant::now();
    let error = Db::connect(&config, database.data_dir(), "accounts", store::migrations()).await.unwrap_err();
    assert!(asked.elapsed() < config.startup_timeout / 2);
    assert!(matches!(error, DbError::Config(_)));
    assert!(error.to_string().contains("\"no_such_database\" does not exist"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let config = Config::at(format!("sqlite:{}/file/x.db", folder.path().display()));
    let error = Db::connect(&config, folder.path(), "accounts", store::migrations()).await.unwrap_err();
    assert!(error.to_string().contains("cannot be opened"), "{error}");

    let path = folder.path().join("not.db");
    std::fs::write(&path, "this is no database, but a text that is long enough to be looked at").unwrap();
    let config = Config::at(format!("sqlite:{}", path.display()));
    let error = Db::connect(&config, folder.path(), "accounts", store::migrations()).await.unwrap_err();
    assert!(!error.is_unavailable(), "{error:?}");
}

#[derive(QueryableByName)]
struct Pragma {
    #[diesel(sql_type = diesel::sql_types::Text)]
    value: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_is_durable_and_private() {
    let database = souk_testkit::db::database(souk_testkit::db::Engine::Sqlite, "common").await;
    // Without a URL, the database is a file in the data folder, which is created.
    let data_dir = database.data_dir().join("new/folder");
    let db = Db::connect(&Config::default(), &data_dir, "order", store::migrations()).await.unwrap();
    assert_eq!(db.engine(), Engine::Sqlite);
    let path = data_dir.join("order.db");
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    let Pools::Sqlite(pool) = db.pools() else { panic!("not SQLite") };
    for (mut conn, query_only) in [(pool.writer().await.unwrap(), "0"), (pool.reader().await.unwrap(), "1")] {
        for (pragma, expected) in
            [("journal_mode", "wal"), ("synchronous", "2"), ("foreign_keys", "1"), ("query_only", query_only)]
        {
            let sql = format!("SELECT CAST({pragma} AS TEXT) AS value FROM pragma_{pragma}");
            let found: Pragma = diesel::sql_query(sql).get_result(&mut conn).await.unwrap();
            assert_eq!(found.value, expected, "{pragma}");
        }
    }
}

/// A cached statement is prepared once on each connection. Another statement is dropped after each use.
#[tokio::test(flavor = "multi_thread")]
async fn cached_statements_are_prepared_once() {
    use diesel::sql_types::BigInt;
    use souk_store::db::Keep as _;

    #[derive(diesel::QueryableByName)]
    struct Number {
        #[diesel(sql_type = BigInt)]
        number: i64,
    }
    diesel::table! {
        numbers (id) { id -> BigInt, number -> Nullable<BigInt> }
    }
    let fixture = super::postgres(|_| {}).await;
    let Pools::Postgres(pool) = fixture.db.pools() else { panic!("not PostgreSQL") };
    let conn = &mut *pool.get().await.unwrap();
    let table = "CREATE TEMPORARY TABLE numbers (id bigint, number bigint); INSERT INTO numbers VALUES (1), (2)";
    conn.batch_execute(table).await.unwrap();
    for number in [1, 2, 3] {
        let kept = diesel::sql_query("SELECT $1 + 10 AS number").bind::<BigInt, _>(number).kept();
        let kept: Number = kept.get_result(conn).await.unwrap();
        let other: Number =
            diesel::sql_query("SELECT $1 + 20 AS number").bind::<BigInt, _>(number).get_result(conn).await.unwrap();
        assert_eq!((kept.number, other.number), (number + 10, number + 20));
        let change = |id: i64| diesel::update(numbers::table.find(id)).set(numbers::number.eq(Some(number)));
        assert_eq!(change(number).kept().execute(conn).await.unwrap(), usize::from(number < 3));
    }
    let written: Vec<Option<i64>> = numbers::table.order(numbers::id).select(numbers::number).load(conn).await.unwrap();
    assert_eq!(written, [Some(1), Some(2)]);
    let prepared: Number = diesel::sql_query(
        "SELECT count(*) AS number FROM pg_prepared_statements
         WHERE statement LIKE 'SELECT $1 + %' OR statement LIKE 'UPDATE %'",
    )
    .get_result(conn)
    .await
    .unwrap();
    assert_eq!(prepared.number, 2);
}
