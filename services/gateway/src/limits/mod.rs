//! Budgets of requests, by the contract's rate classes: one for each caller, one for each address.

pub mod gcra;
mod memory;

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use moka::sync::Cache;
use serde::Deserialize;
use souk_common::{
    contract::RateClass,
    error::{Problem, Reason},
    ids::UserId,
    telemetry,
};
use tonic::body::Body;

use self::{
    gcra::{Budget, Taken},
    memory::Memory,
};
use crate::{gateway::Gateway, layers::Next, pages::Page, request, shared::Shared, target::To};

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
struct Spent {
    key: Key,
    budget: Budget,
    taken: Taken,
}

/// How much the client of a request may still send, once that is known.
#[derive(Debug, Clone, Default)]
pub struct Standing(Arc<OnceLock<Spent>>);

impl Standing {
    /// Writes it into the response's headers (draft-ietf-httpapi-ratelimit-headers): of the client's budgets the one
    /// that has the least left.
    pub fn write(&self, headers: &mut HeaderMap) {
        let Some(Spent { key, budget, taken }) = self.0.get() else { return };
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

    /// Set once: one request asks once.
    fn set(&self, spent: Spent) {
        let _ = self.0.set(spent);
    }
}

/// Refuses a client whose address has used up its budget, before its token is checked. Only what was refused a moment
/// ago is known here; what is not, [`spend`] finds.
pub async fn refuse_exhausted(
    gateway: Arc<Gateway>,
    request: Request<Body>,
    next: Next,
) -> Result<Response<Body>, Problem> {
    if let Some(Asks { class, site, standing, .. }) = Asks::of(&request)? {
        gateway.limits.refuse_exhausted(class, site, &standing)?;
    }
    next.run(request).await
}

/// Takes a request from the budgets of its caller and its address.
pub async fn spend(gateway: Arc<Gateway>, request: Request<Body>, next: Next) -> Result<Response<Body>, Problem> {
    if let Some(Asks { class, site, standing, is_call }) = Asks::of(&request)? {
        let user = if is_call { request::user(request.extensions())? } else { None };
        gateway.limits.take(class, user, site, &standing).await?;
    }
    next.run(request).await
}

/// What a request asks of the budgets.
struct Asks {
    class: RateClass,
    site: IpAddr,
    standing: Standing,
    /// Of a method of the contract, which may have a caller.
    is_call: bool,
}

impl Asks {
    /// `None`: nothing, as probes do. They are answered however busy the gateway is.
    fn of(request: &Request<Body>) -> Result<Option<Self>, Problem> {
        let extensions = request.extensions();
        let target = request::target(extensions)?;
        let is_probe = matches!(target.to, To::Page(Page::Alive | Page::Ready))
            // With a token it is a check of the token, too.
            && !request.headers().contains_key(header::AUTHORIZATION);
        if is_probe {
            return Ok(None);
        }
        let class = match target.method().map(|method| method.rate_class) {
            // What has no class draws on the budget of writes, not on one like it.
            Some(RateClass::Unspecified) => RateClass::Write,
            Some(class) => class,
            // The gateway's own pages and services, and what is not there.
            None => RateClass::Read,
        };
        let standing = request::part::<Standing>(extensions)?.clone();
        Ok(Some(Self { class, site: request::site(extensions)?, standing, is_call: target.method().is_some() }))
    }
}

/// Rounded up: who comes back too early is refused again.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// For how long it is known without asking that an address has used up a budget.
const KNOWN: Duration = Duration::from_secs(1);
/// Addresses of which it is.
const EXHAUSTED: u64 = 100_000;

/// All budgets.
pub struct Limits {
    settings: Settings,
    memory: Memory,
    shared: Option<Arc<Shared>>,
    script: redis::Script,
    /// Budgets of addresses that were used up when they were last asked, and when that was.
    exhausted: Cache<Key, (Spent, Instant)>,
}

impl Limits {
    /// Budgets of these sizes, in the memory of this gateway or shared with others.
    pub fn new(settings: Settings, shared: Option<Arc<Shared>>) -> Self {
        let memory = Memory::new(settings.longest_refill());
        let exhausted = Cache::builder().max_capacity(EXHAUSTED).time_to_live(KNOWN).build();
        Self { settings, memory, shared, script: redis::Script::new(include_str!("take.lua")), exhausted }
    }

    fn refuse_exhausted(&self, class: RateClass, site: IpAddr, standing: &Standing) -> Result<(), Problem> {
        let Some((mut spent, asked)) = self.exhausted.get(&Key { class, who: Who::Address(site) }) else {
            return Ok(());
        };
        let since = asked.elapsed();
        let wait = spent.taken.denied.unwrap_or_default().saturating_sub(since);
        if wait.is_zero() {
            return Ok(());
        }
        spent.taken.full_in = spent.taken.full_in.saturating_sub(since);
        standing.set(spent);
        Err(refused(spent, wait))
    }

    /// Takes a request from the budgets of the caller and of the address that it comes from. The caller's comes
    /// first: one who asks too much takes nothing from others behind the same address.
    ///
    /// # Errors
    /// `RATE_LIMITED` where one of them is used up.
    async fn take(
        &self,
        class: RateClass,
        caller: Option<UserId>,
        site: IpAddr,
        standing: &Standing,
    ) -> Result<(), Problem> {
        if !self.settings.enabled {
            return Ok(());
        }
        let budgets = self.settings.of(class);
        let address = (Key { class, who: Who::Address(site) }, budgets.per_address);
        let caller = caller.map(|id| (Key { class, who: Who::Caller(id) }, budgets.per_caller));
        let asked: Vec<(Key, Budget)> = caller.into_iter().chain([address]).collect();
        let taken = match self.take_shared(&asked).await {
            Some(taken) => taken,
            None => self.take_own(&asked),
        };
        let spent = asked.into_iter().zip(taken).map(|((key, budget), taken)| Spent { key, budget, taken });
        let Some(least) = spent.min_by_key(|spent| (spent.taken.denied.is_none(), spent.taken.remaining)) else {
            return Ok(());
        };
        standing.set(least);
        let Some(wait) = least.taken.denied else { return Ok(()) };
        if matches!(least.key.who, Who::Address(_)) {
            self.exhausted.insert(least.key, (least, Instant::now()));
        }
        Err(refused(least, wait))
    }

    async fn take_shared(&self, asked: &[(Key, Budget)]) -> Option<Vec<Taken>> {
        let mut call = self.script.prepare_invoke();
        for (key, budget) in asked {
            call.key(key.to_string()).arg(budget.interval).arg(budget.burst);
        }
        let owed: Vec<u64> = self.shared.as_ref()?.ask(async |redis| call.invoke_async(redis).await).await?;
        Some(asked.iter().zip(owed).map(|((_, budget), mut owed)| budget.take(&mut owed, 0)).collect())
    }

    fn take_own(&self, asked: &[(Key, Budget)]) -> Vec<Taken> {
        let mut all = Vec::with_capacity(asked.len());
        for (key, budget) in asked {
            let taken = self.memory.take(*key, *budget);
            all.push(taken);
            if taken.denied.is_some() {
                break;
            }
        }
        all
    }
}

fn refused(Spent { key, budget, .. }: Spent, wait: Duration) -> Problem {
    telemetry::metrics::rate_limited(key.class(), key.whose());
    let message = format!(
        "this {} has used up its budget of {} requests ({} at once, then one every {:?}): try again in {} s",
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

    /// Takes one, and tells what became of it and the two headers.
    async fn take(limits: &Limits, class: RateClass, caller: Option<UserId>, address: &str) -> (bool, String, String) {
        let (site, standing) = (address::site(address.parse().unwrap()), Standing::default());
        let passed = limits.take(class, caller, site, &standing).await;
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
    async fn the_headers_tell_of_the_budget_that_has_the_least_left() {
        use RateClass::{Auth, Read, Write};
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
            // A class has budgets of its own.
            (Write, None, true, r#""write-address";q=3;w=5"#, r#""write-address";r=2;t=2"#),
            (Write, None, true, r#""write-address";q=3;w=5"#, r#""write-address";r=1;t=3"#),
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
