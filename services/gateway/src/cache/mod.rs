//! Caches responses, so that many equal requests need only one call. It covers only methods whose contract allows
//! caching, and only responses that everyone may see.
//!
//! Responses are stored in this gateway's memory and, if configured, in a Redis that all gateways share. A response is
//! no longer served once a resource in it has changed. The cache learns of changes from requests through this gateway
//! (`Change`) and from the services' event logs (`follow`).

mod changes;
pub mod follow;
mod shared;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use moka::{Expiry, future};
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use souk_common::{
    contract::{Caching, Contract, Method},
    error::{Problem, Reason},
    telemetry::metrics,
};
use tonic::body::Body;
use tracing::Instrument;

use self::{changes::Changes, shared::Common};
use crate::{caching::Answer, routes::Route, shared::Shared};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// Approximate size of a cache entry without its body, in bytes.
const OVERHEAD: usize = 256;

/// The settings of `[gateway.cache]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// True if responses are cached at all.
    pub enabled: bool,
    /// Maximum size of all cached responses, in bytes.
    #[serde(with = "souk_common::config::byte_size")]
    pub max_bytes: usize,
}

/// The response cache of one gateway.
pub struct Cache {
    entries: future::Cache<Key, Arc<Entry>>,
    changes: Changes,
    /// The cache that gateways share.
    common: Option<Common>,
}

/// A request whose response may be cached.
#[derive(Debug, Clone)]
pub struct Question {
    method: Arc<Method>,
    caching: Caching,
    key: Key,
}

/// The cache key: the method and message of the request, not its URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    /// The number of known changes of the messages in the response. So entries from before a change are never found
    /// again, nor are late entries of calls that began before the change.
    changes: u64,
    asked: [u8; 32],
}

/// A cached response.
#[derive(Debug)]
pub struct Entry {
    /// The response.
    pub answer: Answer,
    made: Instant,
    caching: Caching,
    refreshing: AtomicBool,
}

/// The source of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A fresh entry of this gateway's cache.
    Hit,
    /// A stale entry of this gateway's cache. A new one is being fetched.
    Stale,
    /// A call of the service.
    Miss,
    /// A call of the service that another request had already begun.
    Collapsed,
    /// The shared cache, filled by another gateway.
    Shared,
}

/// The source of the response, if this request made the call; `None` if another request made it.
#[derive(Clone, Default)]
struct Origin(Arc<OnceLock<Source>>);

impl Origin {
    fn set(&self, source: Source) {
        // Each request makes at most one call, so the value is set once.
        let _ = self.0.set(source);
    }

    fn source(&self) -> Source {
        self.0.get().copied().unwrap_or(Source::Collapsed)
    }
}

impl Entry {
    fn new(answer: Answer, caching: Caching) -> Self {
        Self { answer, made: Instant::now(), caching, refreshing: AtomicBool::new(false) }
    }
}

struct Lifetime;

impl Lifetime {
    fn of(entry: &Entry) -> Option<Duration> {
        Some(entry.caching.max_age.saturating_add(entry.caching.stale_while_revalidate))
    }
}

impl Expiry<Key, Arc<Entry>> for Lifetime {
    fn expire_after_create(&self, _: &Key, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        Self::of(entry)
    }

    fn expire_after_update(&self, _: &Key, entry: &Arc<Entry>, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Self::of(entry)
    }
}

impl Cache {
    /// Creates the cache for a contract. `None` if no response may be cached.
    pub fn new(contract: &Contract, settings: &Settings, shared: Option<Arc<Shared>>) -> Option<Self> {
        let weigh = |_: &Key, entry: &Arc<Entry>| u32::try_from(entry.answer.size() + OVERHEAD).unwrap_or(u32::MAX);
        let entries =
            future::Cache::builder().max_capacity(settings.max_bytes as u64).weigher(weigh).expire_after(Lifetime);
        settings.enabled.then(|| Self {
            entries: entries.build(),
            changes: Changes::of(contract),
            common: shared.map(Common::new),
        })
    }

    /// The cache lookup for a request, if its response may be cached for everyone.
    pub fn question(&self, route: &Route, message: &DynamicMessage) -> Option<Question> {
        let method: &Arc<Method> = &route.method;
        let caching = caching(method)?;
        let mut asked = Sha256::new();
        // Routes of the same method may show different parts of its response.
        asked.update(method.path.as_bytes());
        asked.update([0]);
        asked.update(route.binding.response_field().map_or("", FieldDescriptor::name));
        asked.update([0]);
        asked.update(message.encode_to_vec());
        let key = Key { changes: self.changes.of_method(&method.path), asked: asked.finalize().into() };
        Some(Question { method: method.clone(), caching, key })
    }

    /// Records a change of a service through this gateway: none of the service's cached responses is served again.
    pub fn invalidate(&self, service: &str) {
        for method in self.changes.at_service(service) {
            if let Some(common) = &self.common {
                common.changed_here(method);
            }
        }
    }

    /// Records a change of a message at this position of the package's event log: no cached response that contains such
    /// a message is served again.
    pub fn changed(&self, package: &str, message: &str, position: i64) {
        for method in self.changes.of_message(package, message) {
            if let Some(common) = &self.common {
                common.changed_at(method, position);
            }
        }
    }

    /// Drops all responses of a package. Used if anything in the package may have changed.
    pub fn forget(&self, package: &str) {
        self.changes.of_package(package);
    }

    /// Full names of the messages in cached responses of a package.
    pub fn shown(&self, package: &str) -> Vec<String> {
        self.changes.shown(package)
    }

    /// Returns the response to a request, from the cache or else from `fetch`. Concurrent equal requests share one run
    /// of `fetch`, which completes even if all of them leave. `wait` is the longest time that this request waits.
    ///
    /// # Errors
    /// Errors of `fetch`, which are not cached, and `DEADLINE_EXCEEDED`.
    pub async fn get<F>(
        self: &Arc<Self>,
        question: Question,
        wait: Duration,
        fetch: F,
    ) -> Result<(Arc<Entry>, Source), Problem>
    where
        F: Future<Output = Result<Answer, Problem>> + Send + 'static,
    {
        let Question { key, caching, .. } = question;
        let origin = Origin::default();
        let make = self.clone().make(question, origin.clone(), fetch);
        if let Some(entry) = self.entries.get(&key).await {
            if entry.made.elapsed() < caching.max_age {
                return Ok((entry, Source::Hit));
            }
            if !entry.refreshing.swap(true, Ordering::Relaxed) {
                let (entries, stale) = (self.entries.clone(), entry.clone());
                let refresh = async move {
                    match make.await {
                        Ok::<_, Problem>(entry) => entries.insert(key, entry).await,
                        Err(_) => stale.refreshing.store(false, Ordering::Relaxed),
                    }
                };
                tokio::spawn(refresh.in_current_span());
            }
            return Ok((entry, Source::Stale));
        }
        let entries = self.entries.clone();
        // Spawned detached: a client that leaves must not cancel the call that others wait for.
        let flight = tokio::spawn(async move { entries.try_get_with(key, make).await }.in_current_span());
        let landed = tokio::time::timeout(wait, flight)
            .await
            .map_err(|_| Problem::new(Reason::DeadlineExceeded, "the request took longer than its deadline"))?;
        let entry = landed.map_err(|ended| Problem::internal().caused_by(ended))?;
        let entry = entry.map_err(|problem: Arc<Problem>| (*problem).clone())?;
        Ok((entry, origin.source()))
    }

    /// Fetches a response from the shared cache, or else from the service.
    async fn make<F>(self: Arc<Self>, question: Question, origin: Origin, fetch: F) -> Result<Arc<Entry>, Problem>
    where
        F: Future<Output = Result<Answer, Problem>>,
    {
        let Some(common) = &self.common else {
            origin.set(Source::Miss);
            return Ok(Arc::new(Entry::new(fetch.await?, question.caching)));
        };
        // These are the changes known before the call. A change during the call makes the response stale.
        let look = common.look(&question).await;
        if let Some(entry) = look.entry {
            origin.set(Source::Shared);
            return Ok(Arc::new(entry));
        }
        origin.set(Source::Miss);
        let entry = Arc::new(Entry::new(fetch.await?, question.caching));
        if let Some(changes) = look.changes {
            common.keep(&question, &entry.answer, changes);
        }
        Ok(entry)
    }
}

/// How long responses of a method may be cached for everyone. `None`: not at all.
fn caching(method: &Method) -> Option<Caching> {
    let public = method.access.as_ref().is_some_and(|rule| rule.public);
    method.caching.filter(|caching| public && !caching.max_age.is_zero())
}

/// A possible change of a service by a request. Its drop invalidates the cached responses of the service, unless the
/// request is known to have been refused.
pub struct Change {
    cache: Arc<Cache>,
    service: Arc<str>,
    refused: bool,
}

impl Change {
    /// The change that a call of a method may make. `None` if nothing is cached or the method is safe.
    pub fn of(cache: Option<&Arc<Cache>>, method: Option<&Arc<Method>>) -> Option<Self> {
        let method = method.filter(|method| !method.safe)?;
        Some(Self { cache: cache?.clone(), service: method.service.clone(), refused: false })
    }

    /// Records the result of the call. Must run before the client gets the response.
    pub fn settle(change: Option<Self>, status: StatusCode) {
        // The effect of a request is unknown if its caller left or the connection failed.
        const CANCELLED: u16 = 499;
        if let Some(mut change) = change {
            change.refused = status.is_client_error() && status.as_u16() != CANCELLED;
        }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if !self.refused {
            self.cache.invalidate(&self.service);
        }
    }
}

impl Source {
    /// The value of the `Cache-Status` header (RFC 9211). `ttl` is the remaining freshness in seconds.
    fn status(self, ttl: i64) -> String {
        match self {
            Self::Hit | Self::Stale => format!("souk; hit; ttl={ttl}"),
            Self::Miss => "souk; fwd=uri-miss; stored".to_owned(),
            Self::Collapsed => "souk; fwd=uri-miss; collapsed".to_owned(),
            Self::Shared => format!("souk; hit; ttl={ttl}; detail=shared"),
        }
    }

    const fn outcome(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Miss => "miss",
            Self::Collapsed => "collapsed",
            Self::Shared => "shared",
        }
    }
}

/// Counts the source of a response in the metrics, and adds its source and age to the headers.
pub fn tell(response: &mut Response<Body>, entry: &Entry, source: Source) {
    metrics::response_cache(source.outcome());
    let age = entry.made.elapsed().as_secs();
    let fresh = entry.caching.max_age.as_secs();
    let ttl = i64::try_from(fresh).unwrap_or(i64::MAX).saturating_sub_unsigned(age);
    let headers = response.headers_mut();
    if matches!(source, Source::Hit | Source::Stale | Source::Shared) {
        headers.insert(header::AGE, age.into());
    }
    if let Ok(status) = HeaderValue::try_from(source.status(ttl)) {
        headers.insert(CACHE_STATUS, status);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Semaphore;

    use super::*;

    const SERVICE: &str = "souk.inventory.v1.ProductService";
    const METHOD: &str = "/souk.inventory.v1.ProductService/GetProduct";

    fn cache() -> Arc<Cache> {
        let settings = Settings { enabled: true, max_bytes: 1 << 20 };
        Arc::new(Cache::new(Contract::souk().unwrap(), &settings, None).unwrap())
    }

    fn question(cache: &Cache, asked: u8, caching: Caching) -> Question {
        let method = Contract::souk().unwrap().method(METHOD).unwrap().clone();
        let key = Key { changes: cache.changes.of_method(&method.path), asked: [asked; 32] };
        Question { method, caching, key }
    }

    fn caching(max_age: u64, stale: u64) -> Caching {
        let millis = Duration::from_millis;
        Caching { max_age: millis(max_age), stale_while_revalidate: millis(stale) }
    }

    const LONG: Duration = Duration::from_secs(30);

    /// A service that counts its calls and responds when the test allows it.
    #[derive(Clone)]
    struct Service {
        calls: Arc<AtomicUsize>,
        gate: Arc<Semaphore>,
    }

    impl Service {
        fn new() -> Self {
            Self { calls: Arc::default(), gate: Arc::new(Semaphore::new(0)) }
        }

        fn call(&self) -> impl Future<Output = Result<Answer, Problem>> + Send + use<> {
            let this = self.clone();
            async move {
                let number = this.calls.fetch_add(1, Ordering::SeqCst) + 1;
                this.gate.acquire().await.unwrap().forget();
                Ok(Answer::plain(format!("answer {number}")))
            }
        }

        fn calls(&self) -> usize {
            self.calls.load(Ordering::SeqCst)
        }
    }

    async fn body(
        cache: &Arc<Cache>,
        question: Question,
        fetch: impl Future<Output = Result<Answer, Problem>> + Send + 'static,
    ) -> (String, Source) {
        let (entry, source) = cache.get(question, LONG, fetch).await.unwrap();
        (String::from_utf8(entry.answer.json().to_vec()).unwrap(), source)
    }

    #[tokio::test]
    async fn a_response_of_a_call_before_a_change_is_not_found_after_it() {
        let (cache, service) = (cache(), Service::new());
        let late = cache.get(question(&cache, 1, caching(60_000, 0)), LONG, service.call());
        let late = async { late.await.unwrap().0.answer.json().clone() };
        let change = async {
            souk_testkit::wait::until(LONG, "the call to begin", async || service.calls() == 1).await;
            cache.invalidate(SERVICE);
            service.gate.add_permits(2);
        };
        let (late, ()) = tokio::join!(late, change);
        assert_eq!(late, "answer 1");
        let asked_again = body(&cache, question(&cache, 1, caching(60_000, 0)), service.call()).await;
        assert_eq!(asked_again, ("answer 2".to_owned(), Source::Miss));
        let hit = body(&cache, question(&cache, 1, caching(60_000, 0)), service.call()).await;
        assert_eq!(hit, ("answer 2".to_owned(), Source::Hit));
    }

    #[tokio::test]
    async fn a_stale_response_is_served_while_one_call_fetches_a_new_one() {
        let (cache, service) = (cache(), Service::new());
        let question = question(&cache, 1, caching(1, 60_000));
        service.gate.add_permits(1);
        assert_eq!(body(&cache, question.clone(), service.call()).await.0, "answer 1");
        souk_testkit::wait::until(LONG, "it to be stale", async || {
            body(&cache, question.clone(), service.call()).await == ("answer 1".to_owned(), Source::Stale)
        })
        .await;
        for _ in 0..10 {
            assert_eq!(body(&cache, question.clone(), service.call()).await.0, "answer 1");
        }
        souk_testkit::wait::until(LONG, "the second call", async || service.calls() == 2).await;
        service.gate.add_permits(1);
        souk_testkit::wait::until(LONG, "the new answer", async || {
            body(&cache, question.clone(), service.call()).await.0 == "answer 2"
        })
        .await;
    }

    #[tokio::test]
    async fn errors_are_sent_to_all_waiting_callers_and_not_cached() {
        let cache = cache();
        let question = question(&cache, 1, caching(60_000, 0));
        let refused = async { Err(Problem::not_found("products/prd_1")) };
        let problem = cache.get(question.clone(), LONG, refused).await.unwrap_err();
        assert_eq!(problem.reason(), Reason::ResourceNotFound);
        let found = body(&cache, question, async { Ok(Answer::plain("here")) }).await;
        assert_eq!(found, ("here".to_owned(), Source::Miss));
    }

    #[tokio::test]
    async fn a_caller_that_leaves_or_times_out_does_not_affect_others() {
        let (cache, service) = (cache(), Service::new());
        let question = question(&cache, 1, caching(60_000, 0));
        let short = Duration::from_millis(20);
        let problem = cache.get(question.clone(), short, service.call()).await.unwrap_err();
        assert_eq!(problem.reason(), Reason::DeadlineExceeded);
        service.gate.add_permits(1);
        let (found, _) = body(&cache, question, service.call()).await;
        assert_eq!((found.as_str(), service.calls()), ("answer 1", 1));
    }

    #[tokio::test]
    async fn the_cache_has_a_limit_in_bytes() {
        let cache = cache();
        for asked in 0..100 {
            let large = async { Ok(Answer::plain("x".repeat(100_000))) };
            body(&cache, question(&cache, asked, caching(60_000, 0)), large).await;
        }
        cache.entries.run_pending_tasks().await;
        assert!(cache.entries.weighted_size() <= 1 << 20, "{}", cache.entries.weighted_size());
    }

    #[test]
    fn cache_statuses_follow_rfc_9211() {
        for (source, ttl, expected) in [
            (Source::Hit, 4, "souk; hit; ttl=4"),
            (Source::Stale, -2, "souk; hit; ttl=-2"),
            (Source::Miss, 5, "souk; fwd=uri-miss; stored"),
            (Source::Collapsed, 5, "souk; fwd=uri-miss; collapsed"),
            (Source::Shared, 3, "souk; hit; ttl=3; detail=shared"),
        ] {
            assert_eq!(source.status(ttl), expected);
        }
    }
}
