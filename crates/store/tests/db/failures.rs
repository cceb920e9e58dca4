//! A database that goes away, is full, or takes too long.

use std::time::{Duration, Instant};

use diesel_async::RunQueryDsl;
use souk_common::error::{Problem, Reason};
use souk_store::db::{self, Config, Db, DbError, Engine, PoolStatus, Trouble};
use souk_testkit::{proxy::Proxy, wait};

use super::store::{self, Error, postgres, sqlite};
use super::{Fixture, account, connect, postgres};

const DEADLINE: Duration = Duration::from_secs(20);

fn unavailable<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Db(error)) if error.is_unavailable() => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_is_unavailable_and_shown_by_its_status() {
    let [sqlite, postgres] = souk_testkit::db::both("common").await;
    for database in [sqlite, postgres] {
        let fixture = Fixture::on(database, |config| {
            config.max_connections = 1;
            config.acquire_timeout = Duration::from_millis(300);
        })
        .await;
        let db = &fixture.db;
        let asked = Instant::now();
        let inner: Result<(), Error> = db::write!(db, |_conn, _q| {
            let ann = account("ann@example.com", 1);
            let waiting = store::create(db, &ann);
            let full = async {
                wait::until(DEADLINE, "one to wait", async || {
                    db.pool_status().iter().any(|pool| pool.waiting == 1 && pool.idle == 0 && pool.size == 1)
                })
                .await;
            };
            let (refused, ()) = tokio::join!(waiting, full);
            assert!(unavailable(refused).contains("no connection came free in time"));
            Ok(())
        });
        inner.unwrap();
        assert!(asked.elapsed() >= Duration::from_millis(300));
        store::create(db, &account("ann@example.com", 1)).await.unwrap();
        let names: Vec<_> = db.pool_status().iter().map(|pool| (pool.pool, pool.max, pool.waiting)).collect();
        match db.engine() {
            Engine::Postgres => assert_eq!(names, [("postgres", 1, 0)]),
            Engine::Sqlite => assert_eq!(names, [("writer", 1, 0), ("readers", 1, 0)]),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_database_reports_that_it_shuts_down() {
    let [sqlite, postgres] = souk_testkit::db::both("common").await;
    for database in [sqlite, postgres] {
        let fixture = Fixture::on(database, |_| {}).await;
        fixture.db.ping().await.unwrap();
        fixture.db.close();
        assert!(fixture.db.ping().await.unwrap_err().is_unavailable());
        assert!(unavailable(store::emails(&fixture.db, &[]).await).contains("shutting down"));
    }
}

/// The server closes every connection, as after a restart. The next request succeeds on a new one.
#[tokio::test(flavor = "multi_thread")]
async fn connections_ended_by_the_server_are_replaced() {
    let fixture = postgres(|config| config.max_connections = 4).await;
    let other = connect(&Config::at(&fixture.database.url), &fixture.database).await;
    for round in 0..3 {
        // Fills the pool, so that every connection in it is closed.
        let (mut held, souk_store::db::Pools::Postgres(pool)) = (Vec::new(), fixture.db.pools()) else {
            panic!("not PostgreSQL");
        };
        for _ in 0..4 {
            held.push(pool.get().await.unwrap());
        }
        drop(held);
        let ended: Result<(), Error> = db::write!(other, |conn, _q| {
            execute(
                conn,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .await?;
            Ok(())
        });
        ended.unwrap();
        let email = format!("{round}@example.com");
        if round % 2 == 0 {
            store::create(&fixture.db, &account(&email, 1)).await.unwrap();
        } else {
            store::emails(&fixture.db, &[]).await.unwrap();
        }
    }
}

/// Generic, because the body of a macro is compiled for both engines.
async fn execute<C: diesel_async::SimpleAsyncConnection>(conn: &mut C, sql: &str) -> diesel::QueryResult<()> {
    conn.batch_execute(sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_is_used_again() {
    let fixture = postgres(|_| {}).await;
    let proxy = Proxy::before(&fixture.database.url).await;
    let db = connect(&Config::at(proxy.url(&fixture.database.url)), &fixture.database).await;
    store::create(&db, &account("ann@example.com", 1)).await.unwrap();
    proxy.cut();
    wait::until(DEADLINE, "the cut to be noticed", async || db.ping().await.is_err()).await;
    unavailable(store::create(&db, &account("bob@example.com", 1)).await);
    assert!(db.ping().await.unwrap_err().is_unavailable());
    proxy.restore();
    store::create(&db, &account("bob@example.com", 1)).await.unwrap();
}

/// Uncommitted changes are lost with the connection, so a retry is safe.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_retried_if_its_connection_is_lost_before_commit() {
    let fixture = postgres(|_| {}).await;
    let ann = account("ann@example.com", 1);
    let mut runs = 0;
    let written: Result<(), Error> = db::write!(fixture.db, |conn, q| {
        runs += 1;
        q::create(conn, &ann).await?;
        if runs == 1 {
            execute(conn, "SELECT pg_terminate_backend(pg_backend_pid())").await?;
        }
        Ok(())
    });
    written.unwrap();
    assert_eq!(runs, 2);
    assert_eq!(store::account(&fixture.db, ann.id).await.unwrap(), Some(ann));
}

/// The statement may have taken effect, as it does here, so the caller gets the error.
#[tokio::test(flavor = "multi_thread")]
async fn a_single_statement_is_not_retried_if_its_connection_is_lost() {
    let fixture = postgres(|_| {}).await;
    let ann = account("ann@example.com", 1);
    let mut runs = 0;
    let lost: Result<(), Error> = db::single!(fixture.db, |conn, q| {
        runs += 1;
        q::create(conn, &ann).await?;
        execute(conn, "SELECT pg_terminate_backend(pg_backend_pid())").await?;
        Ok(())
    });
    unavailable(lost);
    assert_eq!(runs, 1);
    assert_eq!(store::account(&fixture.db, ann.id).await.unwrap(), Some(ann));
}

/// The connection is lost between the statement and COMMIT. Nobody knows the result, so the caller gets the error.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_not_retried_if_its_connection_is_lost_at_commit() {
    let fixture = postgres(|_| {}).await;
    let proxy = Proxy::before(&fixture.database.url).await;
    let db = connect(&Config::at(proxy.url(&fixture.database.url)), &fixture.database).await;
    let ann = account("ann@example.com", 1);
    let mut runs = 0;
    let lost: Result<(), Error> = db::write!(db, |conn, q| {
        runs += 1;
        q::create(conn, &ann).await?;
        proxy.cut();
        Ok(())
    });
    unavailable(lost);
    assert_eq!(runs, 1);
    assert_eq!(store::account(&fixture.db, ann.id).await.unwrap(), None);
    proxy.restore();
    store::create(&db, &ann).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_transactions_and_lock_waits_have_a_time_limit() {
    let fixture = postgres(|_| {}).await;
    // Each limit is tested alone: the other limits are far longer.
    let limited = async |limit: fn(&mut Config)| {
        let mut config = Config::at(&fixture.database.url);
        limit(&mut config);
        connect(&config, &fixture.database).await
    };
    let db = &limited(|config| config.statement_timeout = Duration::from_millis(200)).await;
    let slept: Result<(), Error> = db::read!(db, |conn, _q| Ok(execute(conn, "SELECT pg_sleep(60)").await?));
    assert!(unavailable(slept).contains("statement timeout"));

    let db = &limited(|config| config.lock_timeout = Duration::from_millis(100)).await;
    let ann = account("ann@example.com", 1);
    store::create(db, &ann).await.unwrap();
    let locked: Result<(), Error> = db::write!(db, |conn, q| {
        q::set_balance(conn, ann.id, 2).await?;
        let second: Result<(), Error> = db::write!(db, |conn, q| Ok(q::set_balance(conn, ann.id, 3).await?));
        assert!(unavailable(second).contains("lock timeout"));
        Ok(())
    });
    locked.unwrap();

    let db = &limited(|config| {
        config.lock_timeout = Duration::from_millis(100);
        config.idle_in_transaction_timeout = Duration::from_secs(2);
    })
    .await;
    // The transaction waits until the server has ended it. Then another transaction can lock the row.
    let (free, mut is_free) = tokio::sync::watch::channel(false);
    let mut runs = 0;
    let idle = async {
        let idled: Result<(), Error> = db::write!(db, |conn, q| {
            runs += 1;
            q::set_balance(conn, ann.id, 4).await?;
            is_free.wait_for(|free| *free).await.unwrap();
            q::set_balance(conn, ann.id, 5).await?;
            Ok(())
        });
        idled.unwrap();
    };
    let other = async {
        let mut was_held = false;
        wait::until(DEADLINE, "the row to be held, and then written", async || {
            let taken: Result<(), Error> = db::write!(db, |conn, q| Ok(q::set_balance(conn, ann.id, 6).await?));
            // While the idle transaction holds the row, this fails with a lock timeout.
            was_held |= taken.is_err();
            was_held && taken.is_ok()
        })
        .await;
        free.send(true).unwrap();
    };
    tokio::join!(idle, other);
    // Its first write was rolled back, and another write came in between. Its last run was complete.
    assert!(runs >= 2, "the transaction was not ended");
    assert_eq!(store::account(db, ann.id).await.unwrap().unwrap().balance, 5);
}

/// Another process locks the file. Waiting for it is limited.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_held_by_another_process_is_waited_for() {
    let [sqlite, _] = souk_testkit::db::both("common").await;
    let fixture = Fixture::on(sqlite, |_| {}).await;
    // A second pool stands for the other process: SQLite's locks treat both alike.
    let other: Db = connect(&Config::at(&fixture.database.url), &fixture.database).await;
    let ann = account("ann@example.com", 1);
    let (held, holds) = tokio::sync::oneshot::channel();
    let mut held = Some(held);
    let db = fixture.db.clone();
    let bob = account("bob@example.com", 1);
    let waiting = {
        let ann = ann.clone();
        tokio::spawn(async move {
            holds.await.unwrap();
            store::create(&other, &ann).await
        })
    };
    let written: Result<(), Error> = db::write!(db, |conn, q| {
        q::create(conn, &bob).await?;
        if let Some(held) = held.take() {
            held.send(()).unwrap();
        }
        // The other write now waits inside SQLite. It must get its turn after this one.
        tokio::task::yield_now().await;
        Ok(())
    });
    written.unwrap();
    waiting.await.unwrap().unwrap();
    let among = ["ann@example.com".into(), "bob@example.com".into()];
    assert_eq!(store::emails(&fixture.db, &among).await.unwrap(), among);
}

/// The number of running sleep statements in this database.
async fn sleeping(db: &Db) -> i64 {
    let count: Result<i64, Error> = db::read!(db, |conn, _q| {
        Ok(diesel::select(diesel::dsl::sql::<diesel::sql_types::BigInt>(
            "(SELECT count(*) FROM pg_stat_activity
              WHERE datname = current_database() AND state = 'active' AND query LIKE '%pg_sleep%'
                AND pid <> pg_backend_pid())",
        ))
        .get_result(conn)
        .await?)
    });
    count.unwrap()
}

/// Callers leave while their statements run. Otherwise the statements would run for half a minute.
pub(super) async fn statements_end_with_their_callers(db: &Db, watching: &Db) {
    for transaction in [false, true] {
        let slow = async {
            let _: Result<(), Error> = match transaction {
                true => db::write!(db, |conn, _q| Ok(execute(conn, "SELECT pg_sleep(30)").await?)),
                false => db::read!(db, |conn, _q| Ok(execute(conn, "SELECT pg_sleep(30)").await?)),
            };
        };
        let seen = wait::until(DEADLINE, "the statement to run", async || sleeping(watching).await == 1);
        tokio::select! {
            () = slow => panic!("nothing is that fast"),
            _ = seen => {}
        }
        let left = Instant::now();
        wait::until(DEADLINE, "the statement to end", async || sleeping(watching).await == 0).await;
        assert!(left.elapsed() < Duration::from_secs(10), "{:?}", left.elapsed());
        store::emails(db, &[]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_ends_when_its_caller_has_left() {
    let fixture = postgres(|config| config.max_connections = 1).await;
    let watching = connect(&Config::at(&fixture.database.url), &fixture.database).await;
    statements_end_with_their_callers(&fixture.db, &watching).await;
}

/// A statement reaches its time limit: the caller gets an error, and the connection stays usable.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_at_its_limit_is_cut_off_and_its_connection_stays() {
    let fixture = postgres(|config| {
        config.max_connections = 1;
        config.statement_timeout = Duration::from_millis(200);
    })
    .await;
    let db = &fixture.db;
    let backend = async || -> i32 {
        let pid: Result<i32, Error> = db::read!(db, |conn, _q| {
            let pid = diesel::dsl::sql::<diesel::sql_types::Integer>("(SELECT 1 * pg_backend_pid())");
            Ok(diesel::select(pid).get_result(conn).await?)
        });
        pid.unwrap()
    };
    let before = backend().await;
    for transaction in [false, true] {
        let slow: Result<(), Error> = match transaction {
            true => db::write!(db, |conn, _q| Ok(execute(conn, "SELECT pg_sleep(30)").await?)),
            false => db::read!(db, |conn, _q| Ok(execute(conn, "SELECT pg_sleep(30)").await?)),
        };
        let Err(Error::Db(error)) = slow else { panic!("{slow:?}") };
        assert_eq!(error.trouble(), Some(Trouble::CutOff), "{error:?}");
        let problem = Problem::from(error);
        assert_eq!((problem.reason(), problem.http_status()), (Reason::DeadlineExceeded, 504));
        assert_eq!(backend().await, before, "the connection was replaced");
    }
}

#[test]
fn error_messages_contain_no_secret() {
    let status = PoolStatus { pool: "postgres", max: 1, size: 1, idle: 0, waiting: 0 };
    assert!(!format!("{status:?}").contains("password"));
    let error = Config::at("postgres://ann:s3cret@host:none/x").engine().unwrap_err();
    assert!(matches!(error, DbError::Config(_)));
    assert!(!format!("{error} {error:?}").contains("s3cret"));
}
