//! The world of a seed: its clock, the services' state, the replicas of the order service, and the faults.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use tokio::{sync::Notify, time::Instant};

use super::{bank::Bank, dice::Dice, journal::Journal, log::Log, service::Service, shelf::Shelf};

/// How many replicas of the order service there are.
pub const REPLICAS: usize = 2;

/// A rule that is broken on purpose, to see that the simulation finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A step is stored whoever holds the lease, and wherever the saga is by now.
    SaveByAnyone,
    /// The order's version alone decides whether a step was stored.
    SavedByVersion,
    /// An order is recorded whether or not its request id is known.
    KeyForgotten,
    /// Releasing an order without a reservation leaves no mark.
    ReleaseForgotten,
    /// A commit is acknowledged before it is durable.
    CommitNotDurable,
    /// The provider captures the payment when it should only authorise it.
    CaptureFirst,
    /// The provider refunds again under the same key.
    RefundAgain,
    /// Voiding an unknown payment leaves no mark.
    VoidForgotten,
    /// An operator can finish any step.
    FinishBlindly,
    /// A reader moves its checkpoint before it acts.
    CheckpointFirst,
    /// Readers go by the numbers that events get when they are written, and not by positions.
    ReadByNumber,
    /// The relay publishes without saying what it expects to come last.
    PublishBlindly,
}

/// How a world is made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of a hundred calls, how many go wrong.
    pub faults: u64,
    /// How wrong each replica's clock is.
    pub skew: [TimeDelta; REPLICAS],
    /// How long stock is held for an order.
    pub ttl: Duration,
    /// How long money is held.
    pub hold: TimeDelta,
    /// For how long things go wrong.
    pub chaos: Duration,
    /// How many customers come.
    pub customers: u64,
    /// Of a hundred mishaps, how many are the end of a replica.
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

/// A replica of the order service, dead or alive.
pub struct Replica {
    /// Counts its lives.
    pub life: u32,
    pub service: Option<Service>,
    pub died: Arc<Notify>,
}

/// The whole state. Locked for a moment at a time, never over an await.
pub struct State {
    pub dice: Dice,
    pub plan: Plan,
    pub journal: Journal,
    pub log: Log,
    pub shelf: Shelf,
    pub bank: Bank,
    pub replicas: [Replica; REPLICAS],
    /// Nothing goes wrong any more.
    pub quiet: bool,
    /// Messages that arrive later.
    pub under_way: usize,
    /// Until when each peer is down.
    pub down: BTreeMap<&'static str, Instant>,
    /// What was answered to requests, by their ids.
    pub answers: BTreeMap<String, Vec<u8>>,
    /// How often each happened, by what went wrong and where.
    pub seen: Seen,
    /// Promises that were broken on the way.
    pub broken: Vec<String>,
    pub trace: Option<Vec<String>>,
    pub planted: Option<Planted>,
    began: Instant,
}

/// How often what happened where.
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

    /// The state, for a moment.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    /// The right time.
    pub fn now(&self) -> DateTime<Utc> {
        let began = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
        (began + TimeDelta::from_std(self.began.elapsed()).unwrap()).trunc_subsecs(6)
    }

    /// The time as a replica has it.
    pub fn now_at(&self, replica: usize) -> DateTime<Utc> {
        self.now() + self.plan.skew[replica]
    }

    /// Ends a replica at once, wherever it is.
    pub fn kill(&mut self, replica: usize) {
        let replica = &mut self.replicas[replica];
        replica.service = None;
        replica.life += 1;
        replica.died.notify_one();
    }

    pub fn count(&mut self, what: &'static str, place: &'static str) {
        *self.seen.entry((what, place)).or_default() += 1;
    }

    /// Whether all has ended, as far as is known: then nobody need look for more to do.
    pub fn has_ended(&self) -> bool {
        self.quiet && self.journal.is_final() && self.log.is_read()
    }

    /// Writes down what happens, where somebody will read it.
    pub fn tell(&mut self, what: impl FnOnce() -> String) {
        let elapsed = self.began.elapsed().as_secs_f64();
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{elapsed:>9.3}s {}", what()));
        }
    }

    /// A promise is broken.
    pub fn broke(&mut self, promise: impl Into<String>) {
        let promise = promise.into();
        self.tell(|| format!("BROKEN: {promise}"));
        self.broken.push(promise);
    }
}

/// The beginning of what something looks like, without ids that are new in each life.
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
