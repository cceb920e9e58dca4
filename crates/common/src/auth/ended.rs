//! Tracks ended sessions whose access tokens may still be valid, and refuses such tokens.
//!
//! The user service lists them. The gateway and the services poll the list at short intervals. While the user service
//! is unreachable, they use the last known list. They then learn late of a session that has just ended, but its tokens
//! still expire as usual.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, Weak},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status};

use crate::{
    error::{Problem, Reason, chain},
    ids::SessionId,
};

/// The interval of polls.
const EVERY: Duration = Duration::from_millis(500);
/// The timeout of a poll. A poll and the interval before it must take less than two seconds, the time within which the
/// end of a session must take effect.
const ANSWER: Duration = Duration::from_secs(1);
/// The interval of polls until the first response.
const RETRY: Duration = Duration::from_millis(100);
/// The interval at which the whole list is read again, so that an error in the local list does not last.
const ANEW: Duration = Duration::from_secs(300);
/// How long a request waits for the first response of the feed.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum number of tracked sessions, which takes about 20 MB. If more end within the life of an access token, the
/// list keeps the sessions whose tokens expire last.
const MOST: usize = 500_000;

/// A session that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedSession {
    /// The session.
    pub session: SessionId,
    /// When its last access token expires.
    pub token_expire_time: DateTime<Utc>,
}

/// One page of a feed.
#[derive(Debug, Clone, Default)]
pub struct EndedSessions {
    /// The sessions. One may be listed more than once.
    pub sessions: Vec<EndedSession>,
    /// The cursor of the next page.
    pub cursor: String,
    /// True if the next page is available now.
    pub more: bool,
}

/// A source of ended sessions.
#[tonic::async_trait]
pub trait EndedFeed: Send + Sync + 'static {
    /// The sessions that ended since the response with this cursor. With an empty cursor: all ended sessions whose
    /// tokens may still be valid.
    async fn ended(&self, cursor: String) -> Result<EndedSessions, Status>;
}

/// The known ended sessions.
pub(super) struct Ended {
    /// By session, the time when it can be removed, in seconds since 1970.
    sessions: RwLock<HashMap<SessionId, i64>>,
    /// Number of additions; 0 before the first response.
    version: watch::Sender<u64>,
}

impl Ended {
    /// Polls a feed until the returned value is dropped. Must be called in a tokio runtime.
    pub(super) fn follow(feed: Arc<dyn EndedFeed>) -> Arc<Self> {
        let ended = Arc::new(Self { sessions: RwLock::default(), version: watch::Sender::new(0) });
        tokio::spawn(follow(Arc::downgrade(&ended), feed));
        ended
    }

    /// Refuses a session that has ended.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if the session has ended; `UNAVAILABLE` if the feed has never responded.
    pub(super) async fn refuse(&self, session: SessionId) -> Result<(), Problem> {
        if *self.version.borrow() == 0 {
            let answered = timeout(TIMEOUT, self.version.subscribe().wait_for(|version| *version > 0)).await.is_ok();
            if !answered {
                return Err(Problem::unavailable("the service that tells which sessions have ended"));
            }
        }
        if self.has(session) { Err(has_ended()) } else { Ok(()) }
    }

    /// Waits until a session has ended. Never completes if the session does not end.
    pub(super) async fn until(self: Arc<Self>, session: SessionId) {
        let mut version = self.version.subscribe();
        while !self.has(session) {
            if version.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn has(&self, session: SessionId) -> bool {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).contains_key(&session)
    }

    /// Adds sessions. If `whole` is true, replaces the list with them.
    fn learn(&self, told: Vec<EndedSession>, whole: bool) {
        let now = Utc::now().timestamp();
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        let before = sessions.len();
        if whole {
            sessions.clear();
        }
        let mut added = false;
        for ended in told {
            added |= sessions.insert(ended.session, ended.token_expire_time.timestamp()).is_none();
        }
        if whole {
            sessions.retain(|_, until| *until > now);
        }
        if sessions.len() > MOST {
            let mut times: Vec<i64> = sessions.values().copied().collect();
            let surplus = times.len() - MOST;
            let (_, last, _) = times.select_nth_unstable(surplus - 1);
            let last = *last;
            sessions.retain(|_, until| *until > last);
            tracing::warn!(
                surplus,
                "too many ended sessions to track: access tokens of the oldest ones work until they expire"
            );
        }
        added |= before != sessions.len();
        drop(sessions);
        self.version.send_if_modified(|version| {
            let first = *version == 0;
            *version += u64::from(first || added);
            first || added
        });
    }
}

/// The error for a token whose session has ended.
pub fn has_ended() -> Problem {
    Problem::new(Reason::TokenInvalid, "the session of this token has ended: log in again")
}

async fn follow(ended: Weak<Ended>, feed: Arc<dyn EndedFeed>) {
    let mut cursor = String::new();
    let mut began = Instant::now();
    // The sessions of a complete read of the list, until it is finished.
    let mut whole = Some(Vec::new());
    let mut failing = false;
    let mut answered = false;
    loop {
        let asked = timeout(ANSWER, feed.ended(cursor.clone())).await;
        let Some(ended) = ended.upgrade() else { return };
        let asked = asked.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        let pause = match asked {
            Ok(told) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("ended sessions can be read from the user service again");
                }
                cursor = told.cursor;
                match &mut whole {
                    Some(all) => all.extend(told.sessions),
                    None => ended.learn(told.sessions, false),
                }
                if told.more {
                    continue;
                }
                if let Some(all) = whole.take() {
                    ended.learn(all, true);
                    answered = true;
                }
                if began.elapsed() >= ANEW {
                    (cursor, began, whole) = (String::new(), Instant::now(), Some(Vec::new()));
                }
                EVERY
            }
            Err(status) => {
                if status.code() == Code::Unimplemented {
                    // The user service has an older version, without this list.
                    ended.learn(Vec::new(), false);
                    answered = true;
                }
                if status.code() == Code::InvalidArgument {
                    // The cursor is invalid or no longer valid: read the whole list again.
                    (cursor, began, whole) = (String::new(), Instant::now(), Some(Vec::new()));
                }
                // No warning while the user service is still starting.
                let starting = !answered && matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
                if !starting && !std::mem::replace(&mut failing, true) {
                    tracing::warn!(
                        error = chain(&status),
                        "cannot read ended sessions from the user service: access tokens of those that end now \
                         work until it does, or until they expire"
                    );
                } else {
                    tracing::debug!(error = chain(&status), "cannot read ended sessions from the user service");
                }
                if answered { EVERY } else { RETRY }
            }
        };
        drop(ended);
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use chrono::TimeDelta;

    use super::*;

    /// A feed that returns prepared responses and records the requests.
    #[derive(Default)]
    struct Feed {
        answers: Mutex<Vec<Result<EndedSessions, Status>>>,
        asked: Mutex<Vec<String>>,
    }

    #[tonic::async_trait]
    impl EndedFeed for Feed {
        async fn ended(&self, cursor: String) -> Result<EndedSessions, Status> {
            self.asked.lock().unwrap().push(cursor);
            let mut answers = self.answers.lock().unwrap();
            if answers.is_empty() { Err(Status::unavailable("away")) } else { answers.remove(0) }
        }
    }

    fn told(sessions: &[SessionId], cursor: &str, more: bool) -> Result<EndedSessions, Status> {
        let token_expire_time = Utc::now() + TimeDelta::minutes(15);
        let ended = |&session: &SessionId| EndedSession { session, token_expire_time };
        Ok(EndedSessions { sessions: sessions.iter().map(ended).collect(), cursor: cursor.into(), more })
    }

    fn following(answers: Vec<Result<EndedSessions, Status>>) -> (Arc<Feed>, Arc<Ended>) {
        let feed = Arc::new(Feed { answers: Mutex::new(answers), asked: Mutex::default() });
        (feed.clone(), Ended::follow(feed))
    }

    fn reason(result: Result<(), Problem>) -> Option<Reason> {
        result.err().map(|problem| problem.reason())
    }

    #[tokio::test(start_paused = true)]
    async fn no_token_is_accepted_before_every_page_was_read() {
        let ids: Vec<_> = (0..3).map(|_| SessionId::new()).collect();
        let (feed, ended) =
            following(vec![told(&ids[..1], "a", true), Err(Status::unavailable("")), told(&ids[1..2], "b", false)]);
        assert_eq!(reason(ended.refuse(ids[1]).await), Some(Reason::TokenInvalid));
        assert_eq!(reason(ended.refuse(ids[0]).await), Some(Reason::TokenInvalid));
        assert_eq!(reason(ended.refuse(ids[2]).await), None);
        // A session that ends later is known within two seconds, even if a poll fails in between.
        feed.answers.lock().unwrap().extend([Err(Status::unavailable("")), told(&ids[2..], "c", false)]);
        tokio::time::timeout(Duration::from_secs(2), ended.clone().until(ids[2])).await.unwrap();
        assert_eq!(reason(ended.refuse(ids[2]).await), Some(Reason::TokenInvalid));
        assert_eq!(feed.asked.lock().unwrap()[..4], ["", "a", "a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_accepted_after_the_first_response_even_if_no_other_follows() {
        let (feed, ended) = following(Vec::new());
        assert_eq!(reason(ended.refuse(SessionId::new()).await), Some(Reason::ServiceUnavailable));
        feed.answers.lock().unwrap().push(told(&[], "a", false));
        assert_eq!(reason(ended.refuse(SessionId::new()).await), None);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(reason(ended.refuse(SessionId::new()).await), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_service_without_the_list_counts_as_having_no_ended_sessions() {
        let (_feed, ended) = following(vec![Err(Status::unimplemented(""))]);
        assert_eq!(reason(ended.refuse(SessionId::new()).await), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_list_is_read_again_regularly_and_drops_old_entries() {
        let (old, new) = (SessionId::new(), SessionId::new());
        let mut answers = vec![told(&[old], "a", false)];
        answers.extend((0..600).map(|_| told(&[], "b", false)));
        answers.push(told(&[new], "c", false));
        let (feed, ended) = following(answers);
        ended.clone().until(new).await;
        assert_eq!(reason(ended.refuse(old).await), None);
        assert_eq!(feed.asked.lock().unwrap().iter().filter(|cursor| cursor.is_empty()).count(), 2);
        // Dropping `ended` stops the polling.
        drop(ended);
        sleep(Duration::from_secs(2)).await;
        let asked = feed.asked.lock().unwrap().len();
        sleep(Duration::from_secs(2)).await;
        assert_eq!(feed.asked.lock().unwrap().len(), asked);
    }

    #[tokio::test]
    async fn memory_is_bounded_and_keeps_the_newest_sessions() {
        let (_feed, ended) = following(Vec::new());
        let at = |second: i64| EndedSession {
            session: SessionId::new(),
            token_expire_time: Utc::now() + TimeDelta::seconds(second + 60),
        };
        let all: Vec<_> = (0..).map(at).take(MOST + 10).collect();
        let (first, last) = (all[0].session, all[MOST + 9].session);
        ended.learn(all, false);
        assert!(!ended.has(first) && ended.has(last));
        assert_eq!(ended.sessions.read().unwrap().len(), MOST);
    }
}
