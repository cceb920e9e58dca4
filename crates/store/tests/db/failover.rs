//! Unusable connections: the server is no longer the primary, its schema changed under prepared statements, or it
//! vanished.

use std::time::{Duration, Instant};

use souk_store::db::{self, Config, Db, DbError, Pools, Trouble};
use souk_testkit::db::TestDatabase;
use souk_testkit::proxy::Proxy;
use souk_testkit::servers::Pair;
use souk_testkit::wait;

use super::store::{self, Error, postgres, sqlite};
use super::{Fixture, account, connect, postgres};

const DEADLINE: Duration = Duration::from_secs(60);

fn trouble<T: std::fmt::Debug>(result: Result<T, Error>) -> Option<Trouble> {
    match result {
        Err(Error::Db(error)) => error.trouble(),
        other => panic!("{other:?}"),
    }
}

/// Takes every connection of the pool at once.
async fn all(db: &Db) -> Vec<impl std::ops::DerefMut<Target = souk_store::db::postgres::Conn> + use<>> {
    let Pools::Postgres(pool) = db.pools() else { panic!("not PostgreSQL") };
    let mut all = Vec::new();
    for _ in 0..db.pool_status()[0].max {
        all.push(pool.get().await.unwrap());
    }
    all
}

async fn execute<C: diesel_async::SimpleAsyncConnection>(conn: &mut C, sql: &str) -> Result<(), Error> {
    conn.batch_execute(sql).await.map_err(Error::from)
}

async fn run(db: &Db, sql: &str) -> Result<(), Error> {
    db::read!(db, |conn, _q| execute(conn, sql).await)
}

/// Each connection of the pool in turn is connected to a server that no longer accepts writes.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_became_read_only_are_replaced() {
    let fixture = postgres(|config| config.max_connections = 3).await;
    let db = &fixture.db;
    for round in 0..4 {
        for conn in &mut all(db).await {
            execute(&mut **conn, "SET default_transaction_read_only = on").await.unwrap();
        }
        let ann = account(&format!("{round}@example.com"), 1);
        match round {
            0 => drop(store::create(db, &ann).await.unwrap()),
            // A single statement failed without effect, so it is retried, too.
            1 => {
                let created: Result<_, Error> = db::single!(db, |conn, q| Ok(q::create(conn, &ann).await?));
                created.unwrap();
            }
            // The readiness check finds it without a write.
            2 => {
                db.ready().await.unwrap();
                for conn in &mut all(db).await {
                    execute(&mut **conn, "CREATE TEMPORARY TABLE x ()").await.unwrap();
                }
            }
            _ => {
                let (a, b) = (account("a@example.com", 1), account("b@example.com", 1));
                let (a, b) = tokio::join!(store::create(db, &a), store::create(db, &b));
                a.and(b).unwrap();
            }
        }
        db.ready().await.unwrap();
    }
}

/// If no other server accepts writes, the error says so, also in the readiness check.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_writes_is_not_ready() {
    let fixture = postgres(|_| {}).await;
    let read_only = "options=-c%20default_transaction_read_only%3Don";
    let separator = if fixture.database.url.contains('?') { '&' } else { '?' };
    let db = connect(&Config::at(format!("{}{separator}{read_only}", fixture.database.url)), &fixture.database).await;
    let ann = account("ann@example.com", 1);
    assert_eq!(trouble(store::create(&db, &ann).await), Some(Trouble::ReadOnly));
    assert_eq!(db.ready().await.unwrap_err().trouble(), Some(Trouble::ReadOnly));
    assert!(!db.is_ready().await);
    // Reads still succeed.
    assert_eq!(store::account(&db, ann.id).await.unwrap(), None);
}

/// A migration of a newer version changes a column's type while the older one runs.
#[tokio::test(flavor = "multi_thread")]
async fn statements_prepared_before_a_migration_are_prepared_again() {
    let fixture = postgres(|config| config.max_connections = 3).await;
    let db = &fixture.db;
    let other = connect(&Config::at(&fixture.database.url), &fixture.database).await;
    let ann = account("ann@example.com", 1);
    store::create(db, &ann).await.unwrap();
    let (wide, narrow) = ("varchar(300)", "text");
    for (round, to) in [wide, narrow, wide, narrow].into_iter().enumerate() {
        // On every connection, and with the statements of the macros themselves.
        for conn in &mut all(db).await {
            postgres::queries::account(conn, ann.id).await.unwrap();
        }
        run(&other, &format!("ALTER TABLE accounts ALTER COLUMN email TYPE {to}")).await.unwrap();
        match round {
            0 | 1 => assert_eq!(store::account(db, ann.id).await.unwrap().as_ref(), Some(&ann)),
            2 => {
                let read: Result<_, Error> = db::snapshot!(db, |conn, q| Ok(q::account(conn, ann.id).await?));
                assert_eq!(read.unwrap().as_ref(), Some(&ann));
            }
            _ => {
                let mut runs = 0;
                let written: Result<(), Error> = db::write!(db, |conn, q| {
                    runs += 1;
                    q::set_balance(conn, ann.id, 7).await?;
                    q::account(conn, ann.id).await?;
                    Ok(())
                });
                written.unwrap();
                assert_eq!(runs, 2);
            }
        }
    }
    assert_eq!(store::account(db, ann.id).await.unwrap().unwrap().balance, 7);
}

/// A connection that fails with an unknown error must not fail forever.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_with_an_unknown_failure_is_not_used_again() {
    let fixture = postgres(|config| config.max_connections = 1).await;
    let db = &fixture.db;
    run(db, "SET souk.mark = 'here'").await.unwrap();
    run(db, "SELECT current_setting('souk.mark')").await.unwrap();
    let failed =
        run(db, "DO $$ BEGIN RAISE EXCEPTION 'cache lookup failed for type 1' USING ERRCODE = 'XX000'; END $$");
    assert!(matches!(failed.await, Err(Error::Db(DbError::Query(_)))));
    let gone: Result<(), Error> = run(db, "SELECT current_setting('souk.mark')").await;
    assert!(matches!(gone, Err(Error::Db(DbError::Query(_)))), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_idle_connections_are_replaced() {
    let pids = async |db: &Db| -> Vec<i32> {
        let mut pids = Vec::new();
        for conn in &mut all(db).await {
            let pid = diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>("pg_backend_pid()"));
            pids.push(diesel_async::RunQueryDsl::get_result(pid, &mut **conn).await.unwrap());
        }
        pids
    };
    let age = Duration::from_secs(2);
    let fixture = postgres(|config| (config.max_connections, config.max_connection_age) = (2, age)).await;
    let young = Instant::now();
    let before = pids(&fixture.db).await;
    wait::until(DEADLINE, "others to take their place", async || {
        pids(&fixture.db).await.iter().all(|pid| !before.contains(pid))
    })
    .await;
    assert!(young.elapsed() >= age.mul_f64(0.7));

    let fixture = postgres(|config| {
        (config.max_connections, config.max_idle_time) = (3, Duration::from_secs(1));
    })
    .await;
    assert_eq!(pids(&fixture.db).await.len(), 3);
    // The readiness check keeps one connection in use.
    wait::until(DEADLINE, "the idle ones to be closed", async || {
        fixture.db.ready().await.unwrap();
        fixture.db.pool_status()[0].size == 1
    })
    .await;
}

/// The first of two hosts accepts connections but does not respond, neither on new nor on existing connections.
#[tokio::test(flavor = "multi_thread")]
async fn another_host_is_used_if_one_hangs() {
    let fixture = postgres(|_| {}).await;
    let hanging = Proxy::before(&fixture.database.url).await;
    let (_, host) = fixture.database.url.split_once('@').unwrap();
    let (host, _) = host.split_once('/').unwrap();
    let both = fixture.database.url.replace(host, &format!("{},{host}", hanging.address()));
    let config = Config { acquire_timeout: Duration::from_secs(3), ..Config::at(both) };
    let db = connect(&config, &fixture.database).await;
    store::create(&db, &account("ann@example.com", 1)).await.unwrap();
    hanging.stall();
    let asked = Instant::now();
    store::create(&db, &account("bob@example.com", 1)).await.unwrap();
    println!("after {:?}", asked.elapsed());
    // From now on the other host is tried first.
    drop(all(&db).await);
    db.ready().await.unwrap();
}

/// A failover: the primary dies or becomes read-only, and the standby is promoted.
#[tokio::test(flavor = "multi_thread")]
async fn fault_a_promoted_standby_is_found() {
    for killed in [true, false] {
        let pair = Pair::start().await.unwrap();
        let fixture = Fixture::on(TestDatabase::on(pair.url("postgres")), |_| {}).await;
        let db = &fixture.db;
        let ann = account("ann@example.com", 1);
        store::create(db, &ann).await.unwrap();
        drop(all(db).await);
        if killed {
            pair.kill_primary().unwrap();
        } else {
            pair.make_primary_read_only().await.unwrap();
        }
        wait::until(DEADLINE, "the database not to be ready", async || !db.is_ready().await).await;
        let bob = account("bob@example.com", 1);
        let found = trouble(store::create(db, &bob).await);
        assert_eq!(found, Some(Trouble::Unreachable), "neither takes writes");
        pair.promote().await.unwrap();
        let promoted = Instant::now();
        store::create(db, &bob).await.unwrap();
        println!("killed: {killed}; the first write {:?} after the promotion", promoted.elapsed());
        db.ready().await.unwrap();
        for conn in &mut all(db).await {
            assert_eq!(postgres::queries::count(conn).await.unwrap(), 2, "a connection to the old primary is left");
        }
    }
}
