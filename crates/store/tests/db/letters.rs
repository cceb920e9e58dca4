//! Dead letters: an event that a consumer cannot process delays only later events of its subject, and is processed in
//! the end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use souk_common::ids::UserId;
use souk_store::db::{self, Db};
use souk_store::events::{Checkpoint, DeadLetter, DeadLetters, Events, Reader, Stuck};
use souk_testkit::wait;
use tokio_util::sync::CancellationToken;

use super::both;
use super::events::{DEADLINE, accounts, change, log, number, postgres, sqlite};
use super::store::{self, Error};

/// How long a failing event is retried.
const TIMEOUT: Duration = Duration::from_millis(300);
/// The number of the event that fails.
const POISON: i64 = 3;

/// Writes the events of each account in their order, and fails otherwise.
struct Scribe {
    db: Db,
    mirrors: HashMap<String, UserId>,
    sick: String,
    is_sick: Arc<AtomicBool>,
    tries: Arc<AtomicUsize>,
}

impl Reader for Scribe {
    fn name(&self) -> &'static str {
        "scribe"
    }

    fn give_up_after(&self) -> Duration {
        TIMEOUT
    }

    async fn act(&self, checkpoint: Checkpoint, events: &Events) -> Result<(), Stuck> {
        let poison = events.iter().find(|event| event.subject == self.sick && number(event) == POISON);
        if let Some(poison) = poison.filter(|_| self.is_sick.load(SeqCst)) {
            self.tries.fetch_add(1, SeqCst);
            return Err(Stuck::Event { position: poison.position, why: "it is poisoned".into() });
        }
        let written: Result<(), Error> = db::write!(self.db, |conn, q| {
            if !q::advance(conn, checkpoint, events).await? {
                return Ok(());
            }
            for event in events {
                let (mirror, number) = (self.mirrors[&event.subject], number(event) as i32);
                assert_eq!(q::last_number(conn, mirror).await?, number - 1, "{} is out of order", event.subject);
                q::add_entries(conn, mirror, vec![(number, event.position)]).await?;
            }
            Ok(())
        });
        written.map_err(|error| Stuck::Other(format!("{error:?}")))
    }
}

async fn letters(letters: &DeadLetters) -> Vec<DeadLetter> {
    letters.list(None, 100).await.unwrap()
}

/// The numbers of the dead letters of this account.
async fn lying(of: &DeadLetters) -> Vec<i64> {
    letters(of).await.iter().map(|letter| number(&letter.event)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_acted_on_holds_up_only_its_subject_until_it_is_requeued() {
    for fixture in both().await {
        let (engine, db, stop) = (fixture.db.engine(), fixture.db.clone(), CancellationToken::new());
        let ids = accounts(&db, 6).await;
        let (told, mirrors) = ids.split_at(3);
        let is_sick = Arc::new(AtomicBool::new(true));
        let tries = Arc::new(AtomicUsize::new(0));
        let scribe = || {
            Arc::new(Scribe {
                db: db.clone(),
                mirrors: told.iter().map(|id| id.name()).zip(mirrors.iter().copied()).collect(),
                sick: told[1].name(),
                is_sick: is_sick.clone(),
                tries: tries.clone(),
            })
        };
        let first = log(&db, &stop).await;
        first.checkpoint("scribe", false).await.unwrap();
        // Two replicas at a time.
        for log in [first.clone(), log(&db, &stop).await] {
            tokio::spawn(log.serve(scribe()));
        }
        let dead = DeadLetters::of(&first);
        let happen = async |times: usize| {
            for number in 0..times * 3 {
                while change(&db, told[number % 3], false).await.is_err() {}
            }
        };
        let written = async |account: usize| store::entries(&db, mirrors[account]).await.unwrap().len();
        happen(5).await;

        // The other accounts continue. Later events of this account wait behind the failing one.
        wait::until(DEADLINE, "the others to be written", async || {
            written(0).await == 5 && written(2).await == 5 && lying(&dead).await == [3, 4, 5]
        })
        .await;
        assert_eq!(written(1).await, 2, "{engine}");
        let found = letters(&dead).await;
        assert!(found.iter().all(|letter| letter.reader == "scribe" && letter.event.subject == told[1].name()));
        assert_eq!(found[0].last_error.as_deref(), Some("it is poisoned"));
        let tried = (found[0].last_tried.unwrap() - found[0].first_tried.unwrap()).to_std().unwrap();
        assert!(found[0].tries > 1 && tried + Duration::from_millis(50) > TIMEOUT, "{engine}: {:?}", found[0]);
        assert_eq!((found[1].tries, &found[1].last_error, found[1].first_tried), (0, &None, None));
        // The list in pages.
        let page = dead.list(None, 2).await.unwrap();
        let last = &page[1];
        assert_eq!(page[..], found[..2]);
        assert_eq!(dead.list(Some((last.reader.clone(), last.event.position)), 2).await.unwrap(), found[2..]);

        // Requeued too early: it is tried once and fails again, so it stays with the later ones.
        let before = tries.load(SeqCst);
        let requeued = dead.requeue("scribe", found[0].event.position).await.unwrap().unwrap();
        assert!(requeued.requeued.is_some());
        let again = wait::value(DEADLINE, "it to be tried again", async || {
            let letter = letters(&dead).await.remove(0);
            (letter.tries > found[0].tries && letter.requeued.is_none()).then_some(letter)
        })
        .await;
        assert_eq!(again.last_error.as_deref(), Some("it is poisoned"));
        assert!((1..=2).contains(&(tries.load(SeqCst) - before)), "{engine}: both replicas at most");
        assert_eq!((lying(&dead).await, written(1).await), (vec![3, 4, 5], 2));

        // The cause is fixed. All events are processed in their order, while new ones arrive.
        is_sick.store(false, SeqCst);
        dead.requeue("scribe", found[2].event.position).await.unwrap().unwrap();
        happen(15).await;
        wait::until(DEADLINE, "all to be written", async || written(1).await == 20 && written(2).await == 20).await;
        assert_eq!(lying(&dead).await, [0; 0], "{engine}");
        assert_eq!(dead.requeue("scribe", found[0].event.position).await.unwrap(), None);
        assert!(!dead.discard("scribe", found[0].event.position).await.unwrap());
        stop.cancel();
    }
}

/// Fails for all events of one account.
struct Picky {
    account: String,
    waits: Arc<AtomicUsize>,
}

impl Reader for Picky {
    fn name(&self) -> &'static str {
        "picky"
    }

    fn give_up_after(&self) -> Duration {
        Duration::ZERO
    }

    async fn act(&self, _: Checkpoint, events: &Events) -> Result<(), Stuck> {
        match events.iter().find(|event| event.subject == self.account) {
            Some(event) => Err(Stuck::Event { position: event.position, why: "never".into() }),
            None => {
                self.waits.fetch_add(1, SeqCst);
                Err(Stuck::Other("the bus is away".into()))
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_nats_makes_no_dead_letters_and_a_deleted_letter_stays_deleted() {
    for fixture in both().await {
        let (db, stop) = (fixture.db.clone(), CancellationToken::new());
        let ids = accounts(&db, 2).await;
        let log = log(&db, &stop).await;
        log.checkpoint("picky", false).await.unwrap();
        let waits = Arc::new(AtomicUsize::new(0));
        let picky = Picky { account: ids[0].name(), waits: waits.clone() };
        tokio::spawn(log.clone().serve(Arc::new(picky)));
        let dead = DeadLetters::of(&log);
        for id in [ids[0], ids[0], ids[1], ids[0]] {
            while change(&db, id, false).await.is_err() {}
        }
        wait::until(DEADLINE, "the first two to be set aside", async || lying(&dead).await == [1, 2]).await;
        // It comes before the third event, which only waits. The fourth event comes after that in any case.
        wait::until(DEADLINE, "the reader to have waited", async || waits.load(SeqCst) >= 3).await;
        assert_eq!(lying(&dead).await, [1, 2]);

        let first = letters(&dead).await.remove(0);
        assert!(dead.discard("picky", first.event.position).await.unwrap());
        assert_eq!(lying(&dead).await, [2]);
        assert!(!dead.discard("picky", first.event.position).await.unwrap());
        stop.cancel();
    }
}
