//! Rate limits by the rate classes of the contract. Each caller and each address has a budget in every class.

pub mod gcra;
mod memory;

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, request::Parts};
use moka::sync::Cache;
use prost_reflect::DynamicMessage;
use serde::Deserialize;
use souk_common::{
    contract::{Method, RateClass},
    error::{Problem, Reason},
    ids::UserId,
    telemetry,
};

use self::{
    gcra::{Budget, Taken},
    memory::Memory,
};
use crate::{request, shared::Shared};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The settings of `[gateway.rate_limits]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// True if requests count against budgets at all.
    pub enabled: bool,
    /// Budgets for cheap reads.
    pub read: Budgets,
    /// Budgets for changes, and for methods without a rate class.
    pub write: Budgets,
    /// Budgets for log-in, registration and similar methods.
    pub auth: Budgets,
}

/// The budgets of a rate class.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    /// Budget of a signed-in user, across all their addresses.
    pub per_caller: Budget,
    /// Budget of an address (for IPv6, of a /64), shared by all clients behind it.
    pub per_address: Budget,
}

impl Settings {
    fn of(&self, class: RateClass) -> &Budgets {
        match class {
            RateClass::Read => &self.read,
            RateClass::Unspecified | RateClass::Write => &self.write,
            RateClass::Auth => &self.auth,
        }
    }

    fn longest_refill(&self) -> Duration {
        let classes = [&self.read, &self.write, &self.auth].into_iter();
        let budgets = classes.flat_map(|class| [class.per_caller, class.per_address]);
        budgets.map(Budget::refill).max().unwrap_or_default()
    }
}

/// The owner of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    Caller(UserId),
    Address(IpAddr),
}

/// Identifies a budget by its rate class and its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    class: RateClass,
    who: Who,
}

impl Key {
    const fn class(self) -> &'static str {
        match self.class {
            RateClass::Read => "read",
            RateClass::Unspecified | RateClass::Write => "write",
            RateClass::Auth => "auth",
        }
    }

    const fn whose(self) -> &'static str {
        match self.who {
            Who::Caller(_) => "caller",
            Who::Address(_) => "address",
        }
    }
}

/// Formats the key under which Redis stores the budget.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "souk:limit:{}:{}:", self.class(), self.whose())?;
        match self.who {
            Who::Caller(id) => write!(f, "{id}"),
            Who::Address(address) => write!(f, "{address}"),
        }
    }
}

/// The result of charging a request to one budget.
#[derive(Debug, Clone, Copy)]
struct Spent {
    key: Key,
    budget: Budget,
    taken: Taken,
}

/// What remains of the client's budgets. `None` until the request has been charged.
#[derive(Debug, Clone, Default)]
pub struct Standing(Arc<Mutex<Option<Spent>>>);

impl Standing {
    /// Sets the rate limit headers of the response (draft-ietf-httpapi-ratelimit-headers). They report the one of the
    /// client's budgets that has the least left.
    pub fn write(&self, headers: &mut HeaderMap) {
        let Some(Spent { key, budget, taken }) = *self.0.lock().unwrap_or_else(PoisonError::into_inner) else { return };
        let (class, whose) = (key.class(), key.whose());
        let (window, full_in) = (whole_seconds(budget.refill()), whole_seconds(taken.full_in));
        let policy = format!("\"{class}-{whose}\";q={};w={window}", budget.burst);
        let limit = format!("\"{class}-{whose}\";r={};t={full_in}", taken.remaining);
        for (name, text) in [(POLICY, policy), (LIMIT, limit)] {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        }
    }

    /// Replaces the stored value. A call may cost more once its message is known, so the last value counts.
    fn set(&self, spent: Spent) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(spent);
    }
}

/// The rate class, address and user that a request is charged to.
pub struct Asks {
    class: RateClass,
    site: IpAddr,
    /// The calling user, if known.
    pub user: Option<UserId>,
    standing: Standing,
}

impl Asks {
    /// Reads the values from the extensions of a request whose user is not known yet.
    ///
    /// # Errors
    /// Those of [`request::part`].
    pub fn of(extensions: &Extensions) -> Result<Self, Problem> {
        let class = match request::target(extensions)?.method().map(|method| method.rate_class) {
            // Methods without a class share the budget of writes.
            Some(RateClass::Unspecified) => RateClass::Write,
            Some(class) => class,
            // The gateway's own pages and services, and unknown paths.
            None => RateClass::Read,
        };
        let standing = request::part::<Standing>(extensions)?.clone();
        Ok(Self { class, site: request::site(extensions)?, user: None, standing })
    }
}

/// Converts a time to seconds, rounded up: an earlier retry would be refused again.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// How long the refusal of an address is cached.
const KNOWN: Duration = Duration::from_secs(1);
/// Maximum number of addresses with a cached refusal.
const EXHAUSTED: u64 = 100_000;

/// The rate limits of a gateway.
pub struct Limits {
    settings: Settings,
    memory: Memory,
    shared: Option<Arc<Shared>>,
    script: redis::Script,
    /// Budgets of addresses that were found exhausted, and the time when that was found.
    exhausted: Cache<Key, (Spent, Instant)>,
    /// Time of the last insertion into `exhausted`, in ms since `started`. Zero: none yet.
    last_exhausted: AtomicU64,
    started: Instant,
}

impl Limits {
    /// Creates limits with budgets of these sizes, in the memory of this gateway or shared with other gateways.
    pub fn new(settings: Settings, shared: Option<Arc<Shared>>) -> Self {
        let memory = Memory::new(settings.longest_refill());
        let exhausted = Cache::builder().max_capacity(EXHAUSTED).time_to_live(KNOWN).build();
        let script = redis::Script::new(include_str!("take.lua"));
        let (last_exhausted, started) = (AtomicU64::new(0), Instant::now());
        Self { settings, memory, shared, script, exhausted, last_exhausted, started }
    }

    /// True if any address has exhausted a budget recently. This is rare, so most requests need no lookup.
    pub fn any_exhausted(&self) -> bool {
        let last = self.last_exhausted.load(Ordering::Relaxed);
        last > 0 && Duration::from_millis(self.now().saturating_sub(last)) <= KNOWN
    }

    /// Time since `started` in ms, never zero.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Refuses an address whose budget was found exhausted a moment ago.
    ///
    /// # Errors
    /// `RATE_LIMITED` if the address is refused.
    pub fn refuse_exhausted(&self, asks: &Asks) -> Result<(), Problem> {
        let key = Key { class: asks.class, who: Who::Address(asks.site) };
        let Some((mut spent, asked)) = self.exhausted.get(&key) else { return Ok(()) };
        let since = asked.elapsed();
        let wait = spent.taken.denied.unwrap_or_default().saturating_sub(since);
        if wait.is_zero() {
            return Ok(());
        }
        spent.taken.full_in = spent.taken.full_in.saturating_sub(since);
        asks.standing.set(spent);
        Err(refused(spent, 1, wait))
    }

    /// Charges the surcharges of a call to the same budgets, once its message is known.
    ///
    /// # Errors
    /// `RATE_LIMITED` if a budget has not enough left.
    pub async fn surcharge(&self, method: &Method, message: &DynamicMessage, parts: &Parts) -> Result<(), Problem> {
        match method.cost.surcharge(message) {
            0 => Ok(()),
            units => {
                let user = request::user(&parts.extensions)?;
                self.draw(&Asks { user, ..Asks::of(&parts.extensions)? }, units).await
            }
        }
    }

    /// Like [`Self::surcharge`], for an encoded message. A message that cannot be decoded costs nothing here: the
    /// service refuses it.
    ///
    /// # Errors
    /// `RATE_LIMITED` if a budget has not enough left.
    pub async fn surcharge_encoded(&self, method: &Method, message: &[u8], parts: &Parts) -> Result<(), Problem> {
        if !method.cost.depends_on_the_message() {
            return Ok(());
        }
        match DynamicMessage::decode(method.descriptor.input(), message) {
            Ok(message) => self.surcharge(method, &message, parts).await,
            Err(_) => Ok(()),
        }
    }

    /// Charges a cost to the budgets of the caller and of their address. The caller's budget is charged first, so that
    /// a caller who sends too much uses up nothing that others behind the same address need.
    ///
    /// # Errors
    /// `RATE_LIMITED` if one of the budgets has not enough left.
    pub async fn draw(&self, asks: &Asks, cost: u32) -> Result<(), Problem> {
        if !self.settings.enabled {
            return Ok(());
        }
        let budgets = self.settings.of(asks.class);
        let key = |who| Key { class: asks.class, who };
        let address = (key(Who::Address(asks.site)), budgets.per_address);
        let caller = asks.user.map(|id| (key(Who::Caller(id)), budgets.per_caller));
        let asked: Vec<(Key, Budget)> = caller.into_iter().chain([address]).collect();
        let shared = match &self.shared {
            // Boxed, to keep this future small: most gateways have no shared state.
            Some(shared) => Box::pin(self.take_shared(shared, &asked, cost)).await,
            None => None,
        };
        let taken = shared.unwrap_or_else(|| self.take_own(&asked, cost));
        let spent = asked.into_iter().zip(taken).map(|((key, budget), taken)| Spent { key, budget, taken });
        let Some(least) = spent.min_by_key(|spent| (spent.taken.denied.is_none(), spent.taken.remaining)) else {
            return Ok(());
        };
        asks.standing.set(least);
        let Some(wait) = least.taken.denied else { return Ok(()) };
        // A budget that refuses a cost of one refuses every request. A budget that refuses a higher cost may have some
        // left.
        if cost == 1 && matches!(least.key.who, Who::Address(_)) {
            self.exhausted.insert(least.key, (least, Instant::now()));
            self.last_exhausted.fetch_max(self.now(), Ordering::Relaxed);
        }
        Err(refused(least, cost, wait))
    }

    async fn take_shared(&self, shared: &Arc<Shared>, asked: &[(Key, Budget)], cost: u32) -> Option<Vec<Taken>> {
        let mut call = self.script.prepare_invoke();
        for (key, budget) in asked {
            call.key(key.to_string()).arg(budget.price(budget.burst)).arg(budget.price(cost));
        }
        let owed: Vec<u64> = shared.ask(async |redis| call.invoke_async(redis).await).await?;
        Some(asked.iter().zip(owed).map(|((_, budget), mut owed)| budget.take(&mut owed, 0, cost)).collect())
    }

    fn take_own(&self, asked: &[(Key, Budget)], cost: u32) -> Vec<Taken> {
        let mut all = Vec::with_capacity(asked.len());
        for (key, budget) in asked {
            let taken = self.memory.take(*key, *budget, cost);
            all.push(taken);
            if taken.denied.is_some() {
                break;
            }
        }
        all
    }
}

fn refused(Spent { key, budget, .. }: Spent, cost: u32, wait: Duration) -> Problem {
    telemetry::metrics::rate_limited(key.class(), key.whose());
    let call = if cost > 1 { format!("; what this call asks for counts as {cost}") } else { String::new() };
    let message = format!(
        "this {} has used up its budget of {} requests ({} at once, then one every {:?}{call}): try again in {} s",
        key.whose(),
        key.class(),
        budget.burst,
        Duration::from_micros(budget.interval),
        whole_seconds(wait),
    );
    Problem::new(Reason::RateLimited, message).retry_after(wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address;

    fn limits() -> Limits {
        let budget = |burst| Budget { burst, interval: 1_500_000 };
        let budgets =
            |per_caller, per_address| Budgets { per_caller: budget(per_caller), per_address: budget(per_address) };
        let settings = Settings { enabled: true, read: budgets(2, 5), write: budgets(3, 3), auth: budgets(9, 1) };
        Limits::new(settings, None)
    }

    /// Charges one request. Returns whether it was admitted, and the two rate limit headers.
    async fn take(limits: &Limits, class: RateClass, caller: Option<UserId>, address: &str) -> (bool, String, String) {
        let (site, standing) = (address::site(address.parse().unwrap()), Standing::default());
        let asks = Asks { class, site, user: caller, standing: standing.clone() };
        let passed = limits.draw(&asks, 1).await;
        if let Err(problem) = &passed {
            assert_eq!(problem.reason(), Reason::RateLimited);
            assert!(problem.retry_delay().unwrap() > Duration::ZERO);
        }
        let mut headers = HeaderMap::new();
        standing.write(&mut headers);
        let header = |name| headers.get(name).map_or("", |value: &HeaderValue| value.to_str().unwrap()).to_owned();
        (passed.is_ok(), header(POLICY), header(LIMIT))
    }

    #[tokio::test]
    async fn the_headers_show_the_budget_with_the_least_left() {
        use RateClass::{Auth, Read, Write};
        let limits = limits();
        let (ann, bob) = (Some(UserId::new()), Some(UserId::new()));
        let table = [
            (Read, ann, true, r#""read-caller";q=2;w=3"#, r#""read-caller";r=1;t=2"#),
            (Read, ann, true, r#""read-caller";q=2;w=3"#, r#""read-caller";r=0;t=3"#),
            (Read, ann, false, r#""read-caller";q=2;w=3"#, r#""read-caller";r=0;t=3"#),
            // The refused requests of ann cost the address nothing.
            (Read, bob, true, r#""read-caller";q=2;w=3"#, r#""read-caller";r=1;t=2"#),
            (Read, None, true, r#""read-address";q=5;w=8"#, r#""read-address";r=1;t=6"#),
            (Read, None, true, r#""read-address";q=5;w=8"#, r#""read-address";r=0;t=8"#),
            (Read, None, false, r#""read-address";q=5;w=8"#, r#""read-address";r=0;t=8"#),
            // Each class has its own budgets.
            (Write, None, true, r#""write-address";q=3;w=5"#, r#""write-address";r=2;t=2"#),
            (Write, None, true, r#""write-address";q=3;w=5"#, r#""write-address";r=1;t=3"#),
            (Auth, bob, true, r#""auth-address";q=1;w=2"#, r#""auth-address";r=0;t=2"#),
            (Auth, ann, false, r#""auth-address";q=1;w=2"#, r#""auth-address";r=0;t=2"#),
        ];
        for (row, (class, caller, passes, policy, limit)) in table.into_iter().enumerate() {
            let (passed, told_policy, told_limit) = take(&limits, class, caller, "192.0.2.1").await;
            assert_eq!((passed, &*told_policy, &*told_limit), (passes, policy, limit), "row {row}");
        }
        // The caller's budget is the same at another address. The budget of an address is not.
        assert!(!take(&limits, Read, ann, "192.0.2.2").await.0);
        assert!(take(&limits, Read, None, "192.0.2.2").await.0);
    }

    #[tokio::test]
    async fn an_ipv6_site_has_one_budget() {
        let limits = limits();
        assert!(take(&limits, RateClass::Auth, None, "2001:db8:0:1::1").await.0);
        assert!(!take(&limits, RateClass::Auth, None, "2001:db8:0:1:ffff::2").await.0);
        assert!(take(&limits, RateClass::Auth, None, "2001:db8:0:2::1").await.0);
    }

    #[tokio::test]
    async fn nothing_is_counted_if_rate_limits_are_off() {
        let mut limits = limits();
        limits.settings.enabled = false;
        for _ in 0..20 {
            assert_eq!(take(&limits, RateClass::Auth, None, "192.0.2.1").await, (true, String::new(), String::new()));
        }
    }
}
