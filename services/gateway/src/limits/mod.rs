//! Budgets of requests, by the contract's rate classes: one for each caller, one for each address.

pub mod gcra;
mod memory;

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
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
use crate::{address, shared::Shared};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// `[gateway.rate_limits]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Whether requests are counted at all.
    pub enabled: bool,
    /// Cheap reads.
    pub read: Budgets,
    /// Changes, and what has no class.
    pub write: Budgets,
    /// Log-in, registration and the like.
    pub auth: Budgets,
}

/// The budgets of a class.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    /// Of a signed-in user, from wherever they come.
    pub per_caller: Budget,
    /// Of an address (IPv6: of a /64), whoever is behind it.
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

/// Whose budget it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    Caller(UserId),
    Address(IpAddr),
}

/// Names a budget.
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

/// The key in Redis.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "souk:limit:{}:{}:", self.class(), self.whose())?;
        match self.who {
            Who::Caller(id) => write!(f, "{id}"),
            Who::Address(address) => write!(f, "{address}"),
        }
    }
}

/// What a request took from one budget.
#[derive(Debug, Clone, Copy)]
struct Standing {
    key: Key,
    budget: Budget,
    taken: Taken,
}

/// Whoever sent the request that is being answered, and how much it may still send.
#[derive(Debug)]
pub struct Client {
    address: IpAddr,
    caller: OnceLock<UserId>,
    standing: Mutex<Option<Standing>>,
}

tokio::task_local! {
    static CLIENT: Arc<Client>;
}

impl Client {
    /// A client at an address.
    pub fn at(address: IpAddr) -> Arc<Self> {
        Arc::new(Self { address: address::site(address), caller: OnceLock::new(), standing: Mutex::default() })
    }

    /// Where it is; of an IPv6 site, the /64.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Answers a request as this client's: whatever protocol it speaks, [`Limits::take`] finds whose it is.
    pub async fn scope<F: Future>(self: Arc<Self>, work: F) -> F::Output {
        CLIENT.scope(self, work).await
    }

    /// What the request took last.
    fn standing(&self) -> MutexGuard<'_, Option<Standing>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how much the client may still send (draft-ietf-httpapi-ratelimit-headers): of its budgets the one that
    /// has the least left.
    pub fn tell(&self, headers: &mut HeaderMap) {
        let Some(Standing { key, budget, taken }) = *self.standing() else { return };
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
}

/// Rounded up: who comes back too early is refused again.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// All budgets.
pub struct Limits {
    settings: Settings,
    memory: Memory,
    shared: Option<Arc<Shared>>,
    script: redis::Script,
}

impl Limits {
    /// Budgets of these sizes, in the memory of this gateway or shared with others.
    pub fn new(settings: Settings, shared: Option<Arc<Shared>>) -> Self {
        let memory = Memory::new(settings.longest_refill());
        Self { settings, memory, shared, script: redis::Script::new(include_str!("take.lua")) }
    }

    /// Takes what every call of a method costs, before anything of the request is read: see [`Limits::draw`].
    ///
    /// # Errors
    /// `RATE_LIMITED` where a budget is used up.
    pub async fn take(&self, method: &Method, caller: Option<UserId>) -> Result<(), Problem> {
        if let (Ok(client), Some(caller)) = (CLIENT.try_with(Arc::clone), caller) {
            // The same for the whole request.
            let _ = client.caller.set(caller);
        }
        self.draw(method.rate_class, caller, method.cost.base).await
    }

    /// Takes what a call costs for what it asks for, once that is known, from the budgets that [`Limits::take`] took
    /// from.
    ///
    /// # Errors
    /// `RATE_LIMITED` where a budget has not enough left.
    pub async fn surcharge(&self, method: &Method, message: &DynamicMessage) -> Result<(), Problem> {
        match method.cost.surcharge(message) {
            0 => Ok(()),
            units => {
                let caller = CLIENT.try_with(|client| client.caller.get().copied()).ok().flatten();
                self.draw(method.rate_class, caller, units).await
            }
        }
    }

    /// The same of an encoded message. What cannot be read costs nothing here: the service refuses it.
    ///
    /// # Errors
    /// `RATE_LIMITED` where a budget has not enough left.
    pub async fn surcharge_encoded(&self, method: &Method, message: &[u8]) -> Result<(), Problem> {
        if !method.cost.depends_on_the_message() {
            return Ok(());
        }
        match DynamicMessage::decode(method.descriptor.input(), message) {
            Ok(message) => self.surcharge(method, &message).await,
            Err(_) => Ok(()),
        }
    }

    /// Takes a cost from the budgets of the caller and of the address that it comes from. The caller's comes first: one
    /// who asks too much takes nothing from others behind the same address.
    async fn draw(&self, class: RateClass, caller: Option<UserId>, cost: u32) -> Result<(), Problem> {
        let Some(client) = CLIENT.try_with(Arc::clone).ok().filter(|_| self.settings.enabled) else { return Ok(()) };
        // What has no class draws on the budget of writes, not on one like it.
        let class = if class == RateClass::Unspecified { RateClass::Write } else { class };
        let budgets = self.settings.of(class);
        let address = (Key { class, who: Who::Address(client.address) }, budgets.per_address);
        let caller = caller.map(|id| (Key { class, who: Who::Caller(id) }, budgets.per_caller));
        let asked: Vec<(Key, Budget)> = caller.into_iter().chain([address]).collect();
        let taken = match self.take_shared(&asked, cost).await {
            Some(taken) => taken,
            None => self.take_own(&asked, cost),
        };
        let standings = asked.into_iter().zip(taken).map(|((key, budget), taken)| Standing { key, budget, taken });
        let Some(least) = standings.min_by_key(|standing| (standing.taken.denied.is_none(), standing.taken.remaining))
        else {
            return Ok(());
        };
        *client.standing() = Some(least);
        least.taken.denied.map_or(Ok(()), |wait| Err(refused(least, cost, wait)))
    }

    async fn take_shared(&self, asked: &[(Key, Budget)], cost: u32) -> Option<Vec<Taken>> {
        let mut call = self.script.prepare_invoke();
        for (key, budget) in asked {
            call.key(key.to_string()).arg(budget.price(budget.burst)).arg(budget.price(cost));
        }
        let owed: Vec<u64> = self.shared.as_ref()?.ask(async |redis| call.invoke_async(redis).await).await?;
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

fn refused(Standing { key, budget, .. }: Standing, cost: u32, wait: Duration) -> Problem {
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

    fn limits() -> Limits {
        let budget = |burst| Budget { burst, interval: 1_500_000 };
        let budgets =
            |per_caller, per_address| Budgets { per_caller: budget(per_caller), per_address: budget(per_address) };
        let settings = Settings { enabled: true, read: budgets(2, 5), write: budgets(3, 3), auth: budgets(9, 1) };
        Limits::new(settings, None)
    }

    /// Takes one, and tells what became of it and the two headers.
    async fn take(limits: &Limits, class: RateClass, caller: Option<UserId>, address: &str) -> (bool, String, String) {
        let client = Client::at(address.parse().unwrap());
        let passed = client.clone().scope(limits.draw(class, caller, 1)).await;
        if let Err(problem) = &passed {
            assert_eq!(problem.reason(), Reason::RateLimited);
            assert!(problem.retry_delay().unwrap() > Duration::ZERO);
        }
        let mut headers = HeaderMap::new();
        client.tell(&mut headers);
        let header = |name| headers.get(name).map_or("", |value: &HeaderValue| value.to_str().unwrap()).to_owned();
        (passed.is_ok(), header(POLICY), header(LIMIT))
    }

    #[tokio::test]
    async fn the_headers_tell_of_the_budget_that_has_the_least_left() {
        use RateClass::{Auth, Read, Unspecified, Write};
        let limits = limits();
        let (ann, bob) = (Some(UserId::new()), Some(UserId::new()));
        let table = [
            (Read, ann, true, r#""read-caller";q=2;w=3"#, r#""read-caller";r=1;t=2"#),
            (Read, ann, true, r#""read-caller";q=2;w=3"#, r#""read-caller";r=0;t=3"#),
            (Read, ann, false, r#""read-caller";q=2;w=3"#, r#""read-caller";r=0;t=3"#),
            // What was refused to ann took nothing from the address.
            (Read, bob, true, r#""read-caller";q=2;w=3"#, r#""read-caller";r=1;t=2"#),
            (Read, None, true, r#""read-address";q=5;w=8"#, r#""read-address";r=1;t=6"#),
            (Read, None, true, r#""read-address";q=5;w=8"#, r#""read-address";r=0;t=8"#),
            (Read, None, false, r#""read-address";q=5;w=8"#, r#""read-address";r=0;t=8"#),
            // A class has budgets of its own; one that is not given is WRITE.
            (Write, None, true, r#""write-address";q=3;w=5"#, r#""write-address";r=2;t=2"#),
            (Unspecified, None, true, r#""write-address";q=3;w=5"#, r#""write-address";r=1;t=3"#),
            (Auth, bob, true, r#""auth-address";q=1;w=2"#, r#""auth-address";r=0;t=2"#),
            (Auth, ann, false, r#""auth-address";q=1;w=2"#, r#""auth-address";r=0;t=2"#),
        ];
        for (row, (class, caller, passes, policy, limit)) in table.into_iter().enumerate() {
            let (passed, told_policy, told_limit) = take(&limits, class, caller, "192.0.2.1").await;
            assert_eq!((passed, &*told_policy, &*told_limit), (passes, policy, limit), "row {row}");
        }
        // The caller's budget goes along to another address; an address's does not.
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
    async fn nothing_is_counted_where_it_is_turned_off() {
        let mut limits = limits();
        limits.settings.enabled = false;
        for _ in 0..20 {
            assert_eq!(take(&limits, RateClass::Auth, None, "192.0.2.1").await, (true, String::new(), String::new()));
        }
    }
}
