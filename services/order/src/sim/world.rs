//! The world of a seed: its clock, the states of the services, the replicas of the order service, and the faults.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use tokio::{sync::Notify, time::Instant};

use super::{bank::Bank, dice::Dice, journal::Journal, log::Log, service::Service, shelf::Shelf};

/// The number of replicas of the order service.
pub const REPLICAS: usize = 2;

/// A rule that is broken on purpose, to prove that the simulation finds the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A step is stored without a check of the lease and of the saga's current step.
    SaveByAnyone,
    /// The check whether a step was stored compares only the order's version.
    SavedByVersion,
    /// An order is recorded even if its request id was used before.
    KeyForgotten,
    /// Releasing the stock of an order without a reservation leaves no tombstone.
    ReleaseForgotten,
    /// A commit is acknowledged before it is durable.
    CommitNotDurable,
    /// The provider captures the payment when it should only authorise it.
    CaptureFirst,
    /// The provider refunds again under the same key.
    RefundAgain,
    /// Voiding an unknown payment leaves no tombstone.
    VoidForgotten,
    /// An operator can mark any step as done.
    FinishBlindly,
    /// A consumer moves its checkpoint before it processes the event.
    CheckpointFirst,
    /// Consumers read events by the number that an event gets when it is written, instead of by position.
    ReadByNumber,
    /// The relay publishes without the expected last message.
    PublishBlindly,
}

/// The parameters of a world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Percentage of calls that fail.
    pub faults: u64,
    /// The error of each replica's clock.
    pub skew: [TimeDelta; REPLICAS],
    /// How long stock is reserved for an order.
    pub ttl: Duration,
    /// How long an authorisation can be captured.
    pub hold: TimeDelta,
    /// Duration of the phase with faults.
    pub chaos: Duration,
    /// The number of customers.
    pub customers: u64,
    /// Percentage of mishaps that kill a replica.
    pub crashes: u64,
}

impl Plan {
    fn new(dice: &mut Dice) -> Self {
        let skews = [0, 0, 500, -500, 7_000, -12_000, 60_000];
        Self {
            faults: dice.pick(&[5, 15, 25, 40]),
            skew: [0; REPLICAS].map(|_| TimeDelta::milliseconds(dice.pick(&skews))),
            ttl: Duration::from_secs(dice.pick(&[3, 12, 900])),
            hold: TimeDelta::seconds(dice.pick(&[4, 20, 604_800])),
            chaos: dice.millis(10_000..40_000),
            customers: dice.from(1..6),
            crashes: dice.pick(&[0, 15, 40]),
        }
    }
}

/// A replica of the order service, running or dead.
pub struct Replica {
    /// Counts the starts of this replica.
    pub life: u32,
    pub service: Option<Service>,
    pub died: Arc<Notify>,
}

/// The whole state. The lock is held only briefly, never across an await.
pub struct State {
    pub dice: Dice,
    pub plan: Plan,
    pub journal: Journal,
    pub log: Log,
    pub shelf: Shelf,
    pub bank: Bank,
    pub replicas: [Replica; REPLICAS],
    /// True once no more faults are injected.
    pub quiet: bool,
    /// The number of messages that arrive later.
    pub under_way: usize,
    /// Until when each peer is unreachable.
    pub down: BTreeMap<&'static str, Instant>,
    /// The responses that were sent, by request id.
    pub answers: BTreeMap<String, Vec<u8>>,
    /// The number of faults, by kind and peer.
    pub seen: Seen,
    /// Promises that were found broken while the seed ran.
    pub broken: Vec<String>,
    pub trace: Option<Vec<String>>,
    pub planted: Option<Planted>,
    began: Instant,
}

/// The number of faults, by kind and place.
pub type Seen = BTreeMap<(&'static str, &'static str), u64>;

pub struct World(Mutex<State>);

impl World {
    pub fn new(seed: u64, planted: Option<Planted>, traced: bool) -> Arc<Self> {
        let mut dice = Dice::new(seed);
        let plan = Plan::new(&mut dice);
        let replica = || Replica { life: 0, service: None, died: Arc::default() };
        let mut state = State {
            shelf: Shelf::new(&mut dice),
            bank: Bank::default(),
            journal: Journal::default(),
            log: Log::default(),
            replicas: [(); REPLICAS].map(|()| replica()),
            dice,
            plan,
            quiet: false,
            under_way: 0,
            down: BTreeMap::new(),
            answers: BTreeMap::new(),
            seen: Seen::new(),
            broken: Vec::new(),
            trace: traced.then(Vec::new),
            planted,
            began: Instant::now(),
        };
        let plan = state.plan.clone();
        state.tell(|| format!("{plan:?}"));
        Arc::new(Self(Mutex::new(state)))
    }

    /// Locks the state. Hold the guard only briefly.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    /// The true time.
    pub fn now(&self) -> DateTime<Utc> {
        let began = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
        (began + TimeDelta::from_std(self.began.elapsed()).unwrap()).trunc_subsecs(6)
    }

    /// The time by a replica's clock.
    pub fn now_at(&self, replica: usize) -> DateTime<Utc> {
        self.now() + self.plan.skew[replica]
    }

    /// Kills a replica at once, wherever it is.
    pub fn kill(&mut self, replica: usize) {
        let replica = &mut self.replicas[replica];
        replica.service = None;
        replica.life += 1;
        replica.died.notify_one();
    }

    pub fn count(&mut self, what: &'static str, place: &'static str) {
        *self.seen.entry((what, place)).or_default() += 1;
    }

    /// True if all work has ended as far as the state shows. Then no job needs to look for more.
    pub fn has_ended(&self) -> bool {
        self.quiet && self.journal.is_final() && self.log.is_read()
    }

    /// Records a message in the history, if the history is traced.
    pub fn tell(&mut self, what: impl FnOnce() -> String) {
        let elapsed = self.began.elapsed().as_secs_f64();
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{elapsed:>9.3}s {}", what()));
        }
    }

    /// Records that a promise was broken.
    pub fn broke(&mut self, promise: impl Into<String>) {
        let promise = promise.into();
        self.tell(|| format!("BROKEN: {promise}"));
        self.broken.push(promise);
    }
}

/// The beginning of a value's debug output, without ids, which differ between runs.
pub fn short(it: &impl Debug) -> String {
    let mut text = format!("{it:?}");
    for prefix in ["evt_", "ret_", "shp_"] {
        while let Some(at) = text.find(&format!("{prefix}0")) {
            text.replace_range(at..(at + 30).min(text.len()), "…");
        }
    }
    if let Some((at, _)) = text.char_indices().nth(140) {
        text.truncate(at);
        text.push('…');
    }
    text
}
