//! The shared cache in Redis. Each response is stored with the changes that were known before the call, and is valid
//! only until further changes are known.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message;
use redis::Script;
use souk_common::contract::{Caching, Method};

use super::{Entry, Question};
use crate::{caching::Answer, shared::Shared};

/// How long Redis keeps the record of a method's changes after its last use. Longer than any cached response.
const REMEMBER: Duration = Duration::from_secs(24 * 3600);
/// Raises the position of a method's last change and never lowers it: every gateway reports every event.
const CHANGED_AT: &str = "
    local key, position = KEYS[1], tonumber(ARGV[1])
    if position > tonumber(redis.call('HGET', key, 'at') or '-1') then
        redis.call('HSET', key, 'at', ARGV[1])
    end
    redis.call('PEXPIRE', key, ARGV[2])";
/// Counts a change made through a gateway, whose event has not arrived yet.
const CHANGED_HERE: &str = "
    redis.call('HINCRBY', KEYS[1], 'here', 1)
    redis.call('PEXPIRE', KEYS[1], ARGV[1])";

/// The shared cache.
pub(super) struct Common {
    redis: Arc<Shared>,
    changed_at: Script,
    changed_here: Script,
}

/// The result of a cache lookup in Redis.
#[derive(Default)]
pub(super) struct Look {
    /// A valid cached response, if there is one.
    pub entry: Option<Entry>,
    /// The known changes. `None` if Redis is unreachable.
    pub changes: Option<String>,
}

/// A cached response as Redis stores it. Its age follows from the remaining lifetime that Redis reports. So all
/// gateways use the same clock, and clock changes do not matter. (Tag 3 was the time of the fetch.)
#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(bytes = "bytes", tag = "1")]
    json: bytes::Bytes,
    #[prost(string, optional, tag = "2")]
    tag: Option<String>,
    /// The changes that were known when the response was fetched.
    #[prost(string, tag = "4")]
    changes: String,
}

impl Common {
    pub(super) fn new(redis: Arc<Shared>) -> Self {
        Self { redis, changed_at: Script::new(CHANGED_AT), changed_here: Script::new(CHANGED_HERE) }
    }

    /// Looks up a response and the known changes.
    pub(super) async fn look(&self, question: &Question) -> Look {
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET").arg(changes_key(&question.method)).arg("at").arg("here");
        pipe.cmd("GET").arg(answer_key(question));
        pipe.cmd("PTTL").arg(answer_key(question));
        // The remaining lifetime is negative if there is no entry.
        type Found = ((Option<String>, Option<String>), Option<Vec<u8>>, i64);
        let Some(((at, here), stored, left)) =
            self.redis.ask::<Found>(async |redis| pipe.query_async(redis).await).await
        else {
            return Look::default();
        };
        let changes = format!("{}.{}", at.unwrap_or_default(), here.unwrap_or_default());
        let entry = stored
            .and_then(|stored| Stored::decode(stored.as_slice()).ok())
            .filter(|stored| stored.changes == changes)
            .and_then(|stored| revived(stored, Duration::from_millis(u64::try_from(left).ok()?), question));
        Look { entry, changes: Some(changes) }
    }

    /// Stores a response for other gateways, in the background.
    pub(super) fn keep(&self, question: &Question, answer: &Answer, changes: String) {
        let caching = question.caching;
        let stored = Stored { json: answer.json().clone(), tag: answer.tag().map(str::to_owned), changes };
        let lifetime = lifetime(caching);
        let mut set = redis::cmd("SET");
        set.arg(answer_key(question)).arg(stored.encode_to_vec()).arg("PX").arg(millis(lifetime));
        let redis = self.redis.clone();
        tokio::spawn(async move { redis.ask::<()>(async |redis| set.query_async(redis).await).await });
    }

    /// Records a change of a method's resources by the position of its event.
    pub(super) fn changed_at(&self, method: &Method, position: i64) {
        self.note(&self.changed_at, method, Some(position));
    }

    /// Records a change of a method's resources by a request to this gateway.
    pub(super) fn changed_here(&self, method: &Method) {
        self.note(&self.changed_here, method, None);
    }

    fn note(&self, script: &Script, method: &Method, position: Option<i64>) {
        let (redis, script, key) = (self.redis.clone(), script.clone(), changes_key(method));
        tokio::spawn(async move {
            let mut call = script.key(key);
            if let Some(position) = position {
                call.arg(position);
            }
            call.arg(millis(REMEMBER));
            redis.ask::<()>(async |redis| call.invoke_async(redis).await).await
        });
    }
}

/// How long Redis keeps a response.
fn lifetime(caching: Caching) -> Duration {
    caching.max_age.saturating_add(caching.stale_while_revalidate)
}

/// Restores a response that another gateway cached, with its age and remaining time.
fn revived(stored: Stored, left: Duration, question: &Question) -> Option<Entry> {
    let age = lifetime(question.caching).saturating_sub(left);
    // A stale entry is not returned: the caller fetches a new one.
    if age >= question.caching.max_age {
        return None;
    }
    let mut entry = Entry::new(Answer::kept(stored.json, stored.tag), question.caching);
    entry.made = Instant::now().checked_sub(age)?;
    Some(entry)
}

fn answer_key(question: &Question) -> Vec<u8> {
    [b"souk:answer:".as_slice(), &question.key.asked].concat()
}

fn changes_key(method: &Method) -> String {
    format!("souk:changes:{}", method.path)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
