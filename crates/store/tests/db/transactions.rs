//! The promises of a transaction: all or nothing, no lost update, nothing left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use diesel::RunQueryDsl as _;
use diesel_async::AsyncConnection as _;
use souk_common::ids::UserId;
use souk_store::db::{self, Attempts, Db, DbError, Engine, Pools, Trouble};
use souk_testkit::wait;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::store::{self, Error, postgres, sqlite};
use super::{Fixture, account, both, postgres, serializable};

const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn values_are_read_as_they_were_written() {
    for fixture in both().await {
        let ann = account("ann@example.com", 100);
        assert_eq!(store::create(&fixture.db, &ann).await.unwrap(), ann);
        assert_eq!(store::account(&fixture.db, ann.id).await.unwrap(), Some(ann));
        assert_eq!(store::account(&fixture.db, UserId::new()).await.unwrap(), None);
        let among = ["bob@example.com".into(), "ann@example.com".into()];
        assert_eq!(store::emails(&fixture.db, &among).await.unwrap(), ["ann@example.com"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_rolls_the_transaction_back() {
    for fixture in both().await {
        let ann = account("ann@example.com", 100);
        let refused: Result<(), Error> = db::write!(fixture.db, |conn, q| {
            q::create(conn, &ann).await?;
            Err(Error::TooLittle(7))
        });
        assert!(matches!(refused, Err(Error::TooLittle(7))));
        assert_eq!(store::account(&fixture.db, ann.id).await.unwrap(), None);
        // The connection stays usable.
        store::create(&fixture.db, &ann).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn violations_are_distinguished() {
    for fixture in both().await {
        let engine = fixture.db.engine();
        let ann = account("ann@example.com", 100);
        store::create(&fixture.db, &ann).await.unwrap();
        let twin = store::create(&fixture.db, &account("ann@example.com", 0)).await;
        assert!(matches!(twin, Err(Error::EmailTaken)), "{engine}: {twin:?}");
        let same_id = store::create(&fixture.db, &store::Account { email: "b".into(), ..ann.clone() }).await;
        let Err(Error::Db(error)) = same_id else { panic!("{engine}: {same_id:?}") };
        assert!(matches!(error.unique_violation(), Some("accounts_pkey" | "accounts.id")), "{engine}: {error:?}");

        let overdrawn: Result<(), DbError> =
            db::write!(fixture.db, |conn, q| Ok(q::set_balance(conn, ann.id, -1).await?));
        assert_eq!(overdrawn.unwrap_err().check_violation(), Some("accounts_balance_sane"), "{engine}");
        let orphan: Result<usize, DbError> =
            db::write!(fixture.db, |conn, q| Ok(q::add_entries(conn, UserId::new(), vec![(1, 1)]).await?));
        assert!(orphan.unwrap_err().is_foreign_key_violation(), "{engine}");
        let nobody: Result<(), DbError> =
            db::write!(fixture.db, |conn, q| Ok(q::set_balance(conn, UserId::new(), 1).await?));
        assert!(nobody.unwrap_err().is_not_found(), "{engine}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_transaction_cannot_write() {
    for fixture in both().await {
        let ann = account("ann@example.com", 100);
        let written: Result<_, DbError> = db::snapshot!(fixture.db, |conn, q| Ok(q::create(conn, &ann).await?));
        assert_eq!(written.unwrap_err().trouble(), Some(Trouble::ReadOnly));
        if fixture.db.engine() == Engine::Sqlite {
            let written: Result<_, DbError> = db::read!(fixture.db, |conn, q| Ok(q::create(conn, &ann).await?));
            assert_eq!(written.unwrap_err().trouble(), Some(Trouble::ReadOnly));
        }
        fixture.db.ready().await.unwrap();
        assert_eq!(store::account(&fixture.db, ann.id).await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_sees_one_moment() {
    for fixture in both().await {
        let db = &fixture.db;
        let seen = db::snapshot!(db, |conn, q| -> Result<(i64, i64), Error> {
            let before = q::count(conn).await?;
            store::create(db, &account("ann@example.com", 100)).await?;
            Ok((before, q::count(conn).await?))
        });
        assert_eq!(seen.unwrap(), (0, 0), "{}", db.engine());
        let count: Result<i64, Error> = db::read!(db, |conn, q| Ok(q::count(conn).await?));
        assert_eq!(count.unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_savepoint_can_fail_alone() {
    for fixture in both().await {
        let (ann, bob) = (account("ann@example.com", 1), account("bob@example.com", 1));
        let written: Result<(), Error> = db::write!(fixture.db, |conn, q| {
            q::create(conn, &ann).await?;
            let inner: Result<(), Error> = conn
                .transaction(async |conn| {
                    q::create(conn, &bob).await?;
                    Err(Error::NotFound)
                })
                .await;
            assert!(matches!(inner, Err(Error::NotFound)));
            Ok(())
        });
        written.unwrap();
        assert!(store::account(&fixture.db, ann.id).await.unwrap().is_some());
        assert!(store::account(&fixture.db, bob.id).await.unwrap().is_none());
    }
}

/// PostgreSQL answers the COMMIT of a failed transaction with a rollback and no error. The caller must get an error.
#[tokio::test(flavor = "multi_thread")]
async fn an_ignored_error_makes_the_transaction_fail() {
    for fixture in both().await {
        let (ann, bob) = (account("ann@example.com", 1), account("bob@example.com", 1));
        store::create(&fixture.db, &ann).await.unwrap();
        let twin = store::Account { id: UserId::new(), ..ann.clone() };
        let written: Result<(), Error> = db::write!(fixture.db, |conn, q| {
            q::create(conn, &bob).await?;
            assert!(q::create(conn, &twin).await.is_err());
            Ok(())
        });
        let bob_is_there = store::account(&fixture.db, bob.id).await.unwrap().is_some();
        assert_eq!(written.is_ok(), bob_is_there, "{}: {written:?}", fixture.db.engine());
        store::create(&fixture.db, &account("eve@example.com", 1)).await.unwrap();
    }
}

/// Many tasks read, decide and write one row at SERIALIZABLE. Each acknowledged withdrawal is stored once. There were
/// conflicts, so the retries worked.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn conflicting_transactions_lose_no_update() {
    const TASKS: i64 = 8;
    const EACH: i64 = 12;
    for fixture in both().await {
        let db = serializable(&fixture).await;
        let ann = account("ann@example.com", TASKS * EACH * 2);
        store::create(&db, &ann).await.unwrap();
        let runs = Arc::new(AtomicU32::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            let (db, runs, id) = (db.clone(), runs.clone(), ann.id);
            tasks.spawn(async move {
                let mut done = 0;
                while done < EACH {
                    let result: Result<i64, Error> = db::write!(db, |conn, q| {
                        runs.fetch_add(1, SeqCst);
                        let account = q::account(conn, id).await?.ok_or(Error::NotFound)?;
                        let number = q::last_number(conn, id).await? + 1;
                        q::set_balance(conn, id, account.balance - 1).await?;
                        q::add_entries(conn, id, vec![(number, -1)]).await?;
                        Ok(account.balance - 1)
                    });
                    match result {
                        Ok(_) => done += 1,
                        // The caller got a conflict and may retry. Nothing was written.
                        Err(Error::Db(error)) if error.is_conflict() => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        let account = store::account(&db, ann.id).await.unwrap().unwrap();
        assert_eq!(account.balance, TASKS * EACH);
        let entries = store::entries(&db, ann.id).await.unwrap();
        let numbers: Vec<i64> = entries.iter().map(|(number, _)| i64::from(*number)).collect();
        assert_eq!(numbers, (1..=TASKS * EACH).collect::<Vec<_>>());
        let runs = i64::from(runs.load(SeqCst));
        match db.engine() {
            Engine::Postgres => assert!(runs > TASKS * EACH, "nothing collided: the test proves nothing"),
            // SQLite has one writer, so there are no conflicts.
            Engine::Sqlite => assert_eq!(runs, TASKS * EACH),
        }
    }
}

/// Two transactions lock the same rows in opposite order. The server ends one, which is retried.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_is_retried() {
    let fixture = postgres(|_| {}).await;
    let (ann, bob) = (account("ann@example.com", 10), account("bob@example.com", 10));
    for account in [&ann, &bob] {
        store::create(&fixture.db, account).await.unwrap();
    }
    let runs = Arc::new(AtomicU32::new(0));
    // Only the first runs wait for each other. A second run passes at once.
    let both_hold_one = Arc::new(Barrier::new(2));
    let mut tasks = JoinSet::new();
    for (first, second) in [(ann.id, bob.id), (bob.id, ann.id)] {
        let (db, runs, both_hold_one) = (fixture.db.clone(), runs.clone(), both_hold_one.clone());
        tasks.spawn(async move {
            let mut fresh = true;
            let result: Result<(), Error> = db::write!(db, |conn, q| {
                runs.fetch_add(1, SeqCst);
                q::set_balance(conn, first, 5).await?;
                if std::mem::take(&mut fresh) {
                    both_hold_one.wait().await;
                }
                q::set_balance(conn, second, 6).await?;
                Ok(())
            });
            result.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert!(runs.load(SeqCst) >= 3, "no deadlock came about");
}

/// Each transaction reads both rows and writes its own, so only COMMIT finds the conflict.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_at_commit_is_retried() {
    let fixture = postgres(|_| {}).await;
    let db = serializable(&fixture).await;
    let (ann, bob) = (account("ann@example.com", 10), account("bob@example.com", 10));
    for account in [&ann, &bob] {
        store::create(&db, account).await.unwrap();
    }
    let runs = Arc::new(AtomicU32::new(0));
    let both_have_written = Arc::new(Barrier::new(2));
    let mut tasks = JoinSet::new();
    for id in [ann.id, bob.id] {
        let (db, runs, both_have_written) = (db.clone(), runs.clone(), both_have_written.clone());
        tasks.spawn(async move {
            let mut fresh = true;
            // The rule is that both accounts together hold at least 10. Each withdrawal alone is allowed.
            let result: Result<(), Error> = db::write!(db, |conn, q| {
                runs.fetch_add(1, SeqCst);
                let total = q::total(conn).await?;
                if total < 20 {
                    return Err(Error::TooLittle(total));
                }
                q::set_balance(conn, id, 0).await?;
                if std::mem::take(&mut fresh) {
                    both_have_written.wait().await;
                }
                Ok(())
            });
            result
        });
    }
    let mut refused = 0;
    while let Some(done) = tasks.join_next().await {
        match done.unwrap() {
            Ok(()) => {}
            Err(Error::TooLittle(10)) => refused += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(refused, 1);
    assert!(runs.load(SeqCst) >= 3, "nothing collided: the test proves nothing");
    let total: Result<i64, Error> = db::read!(db, |conn, q| Ok(q::total(conn).await?));
    assert_eq!(total.unwrap(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_are_limited() {
    let fixture = postgres(|_| {}).await;
    for sqlstate in ["40001", "40P01"] {
        let mut runs = 0;
        let result: Result<(), DbError> = db::write!(fixture.db, |conn, _q| {
            runs += 1;
            let message = if sqlstate == "40P01" { "deadlock detected" } else { "no luck" };
            fail(conn, sqlstate, message).await?;
            Ok(())
        });
        let error = result.unwrap_err();
        assert!(error.is_conflict(), "{error:?}");
        assert_eq!(runs, Attempts::MAX);
    }
    // A permanent error is not retried.
    let mut runs = 0;
    let result: Result<(), DbError> = db::write!(fixture.db, |conn, _q| {
        runs += 1;
        fail(conn, "22012", "division by zero").await?;
        Ok(())
    });
    assert!(matches!(result, Err(DbError::Query(_))));
    assert_eq!(runs, 1);
}

/// Generic, because the body of a macro is compiled for both engines.
async fn fail<C>(conn: &mut C, sqlstate: &str, message: &str) -> diesel::QueryResult<()>
where
    C: diesel_async::SimpleAsyncConnection,
{
    conn.batch_execute(&format!("DO $$ BEGIN RAISE EXCEPTION '{message}' USING ERRCODE = '{sqlstate}'; END $$")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_leaves_nothing_behind() {
    for fixture in both().await {
        let ann = account("ann@example.com", 100);
        let (written, wrote) = tokio::sync::oneshot::channel();
        let (db, hers) = (fixture.db.clone(), ann.clone());
        let mut written = Some(written);
        let task = tokio::spawn(async move {
            let _: Result<(), Error> = db::write!(db, |conn, q| {
                q::create(conn, &hers).await?;
                written.take().unwrap().send(()).unwrap();
                std::future::pending().await
            });
        });
        wrote.await.unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        // The unique email and the writer are free again.
        let created = tokio::time::timeout(DEADLINE, store::create(&fixture.db, &ann)).await.unwrap();
        created.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_leaves_nothing_behind() {
    for fixture in both().await {
        let ann = account("ann@example.com", 100);
        let (db, hers) = (fixture.db.clone(), ann.clone());
        let task = tokio::spawn(async move {
            let _: Result<(), Error> = db::write!(db, |conn, q| {
                q::create(conn, &hers).await?;
                panic!("a fault of ours")
            });
        });
        assert!(task.await.unwrap_err().is_panic());
        store::create(&fixture.db, &ann).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_written_whole() {
    for fixture in both().await {
        let ann = account("ann@example.com", 100);
        store::create(&fixture.db, &ann).await.unwrap();
        let many: Vec<(i32, i64)> = (1..=2000).map(|number| (number, i64::from(number))).collect();
        let written: Result<usize, Error> =
            db::write!(fixture.db, |conn, q| Ok(q::add_entries(conn, ann.id, many.clone()).await?));
        assert_eq!(written.unwrap(), 2000);
        assert_eq!(store::entries(&fixture.db, ann.id).await.unwrap(), many);

        // The last number exists already.
        let clash: Vec<(i32, i64)> = (2001..=2010).chain([7]).map(|number| (number, 0)).collect();
        let written: Result<usize, DbError> =
            db::write!(fixture.db, |conn, q| Ok(q::add_entries(conn, ann.id, clash.clone()).await?));
        assert!(written.unwrap_err().unique_violation().is_some());
        assert_eq!(store::entries(&fixture.db, ann.id).await.unwrap().len(), 2000);
    }
}

/// A whole transaction in one hop to a blocking thread.
#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_batch_is_a_transaction() {
    let [fixture, _] = both().await;
    let Pools::Sqlite(pool) = fixture.db.pools() else { panic!("not SQLite") };
    let ann = account("ann@example.com", 100);
    store::create(&fixture.db, &ann).await.unwrap();

    let insert = move |numbers: std::ops::Range<i32>, refuse: bool| {
        move |conn: &mut diesel::SqliteConnection| {
            let rows = sqlite::queries::rows(ann.id, numbers.map(|number| (number, 1)).collect());
            let written = diesel::insert_into(sqlite::schema::entries::table).values(rows).execute(conn)?;
            if refuse { Err(Error::NotFound) } else { Ok(written) }
        }
    };
    assert_eq!(pool.batch(insert(1..11, false)).await.unwrap(), 10);
    assert!(matches!(pool.batch(insert(11..21, true)).await, Err(Error::NotFound)));
    let panicked: Result<(), Error> = pool
        .batch(|conn| {
            diesel::sql_query("DELETE FROM entries").execute(conn)?;
            panic!("a fault of ours")
        })
        .await;
    assert!(matches!(panicked, Err(Error::Db(_))));
    assert_eq!(store::entries(&fixture.db, ann.id).await.unwrap().len(), 10);
    // The writer stays usable.
    store::withdraw(&fixture.db, ann.id, 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_do_not_wait_for_the_writer() {
    for fixture in both().await {
        let ann = account("ann@example.com", 100);
        let db = &fixture.db;
        store::create(db, &ann).await.unwrap();
        let seen: Result<i64, Error> = db::write!(db, |conn, q| {
            q::set_balance(conn, ann.id, 1).await?;
            // Another connection still sees the data before the transaction.
            let read = tokio::time::timeout(DEADLINE, store::account(db, ann.id)).await;
            Ok(read.unwrap()?.ok_or(Error::NotFound)?.balance)
        });
        assert_eq!(seen.unwrap(), 100, "{}", db.engine());
        assert_eq!(store::account(db, ann.id).await.unwrap().unwrap().balance, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_writers_are_served_in_turn() {
    for database in souk_testkit::db::both("common").await {
        // The last request waits for all others, however slow the disk is.
        let fixture = Fixture::on(database, |config| config.acquire_timeout = DEADLINE).await;
        let ann = account("ann@example.com", 1000);
        store::create(&fixture.db, &ann).await.unwrap();
        let mut tasks = JoinSet::new();
        for _ in 0..100 {
            let (db, id) = (fixture.db.clone(), ann.id);
            tasks.spawn(async move {
                loop {
                    match store::withdraw(&db, id, 10).await {
                        Err(Error::Db(error)) if error.is_conflict() || error.unique_violation().is_some() => {}
                        other => return other.unwrap(),
                    }
                }
            });
        }
        let mut left = Vec::new();
        while let Some(done) = tasks.join_next().await {
            left.push(done.unwrap());
        }
        if fixture.db.engine() == Engine::Sqlite {
            left.sort_unstable();
            assert_eq!(left, (0..100).map(|n| n * 10).collect::<Vec<_>>());
            let refused = store::withdraw(&fixture.db, ann.id, 1).await;
            assert!(matches!(refused, Err(Error::TooLittle(0))));
        }
        wait::until(DEADLINE, "all connections to come back", async || idle(&fixture.db)).await;
    }
}

fn idle(db: &Db) -> bool {
    db.pool_status().iter().all(|pool| pool.idle == pool.size && pool.waiting == 0)
}

/// RPC handlers are tasks, so the futures they await must be `Send`.
#[test]
fn futures_are_send() {
    fn send<T: Send>(_: impl FnOnce(&'static Db) -> T) {}
    send(|db| store::withdraw(db, UserId::new(), 1));
    send(|db| store::account(db, UserId::new()));
    send(|db| async move {
        let _: Result<i64, Error> = db::snapshot!(db, |conn, q| Ok(q::count(conn).await?));
    });
}
