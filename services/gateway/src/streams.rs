//! Limits of streams in all protocols: their deadline, their number, and their end when the gateway stops.

use std::{
    collections::{HashMap, hash_map::Entry},
    error::Error,
    future::{Future, pending},
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Frame;
use serde::Deserialize;
use souk_common::{
    context::RequestContext,
    error::{Problem, Reason},
    ids::UserId,
    quota::{Held, Quota},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body};

/// The settings of `[gateway.stream]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Longest duration of a stream, from 1 s to 24 h.
    #[serde(with = "souk_common::config::duration")]
    pub timeout: Duration,
    /// Maximum number of open streams.
    pub max_open: usize,
    /// Maximum number of open streams of one address.
    pub max_open_per_address: usize,
    /// Maximum number of open streams of one account, across all addresses.
    pub max_open_per_caller: usize,
    /// How long the HTTP status is held back to wait for the first message.
    #[serde(with = "souk_common::config::duration")]
    pub hold: Duration,
    /// Longest silence of an event stream before a comment is sent as a heartbeat.
    #[serde(with = "souk_common::config::duration")]
    pub heartbeat: Duration,
    /// How long `EventSource` must wait before it reconnects.
    #[serde(with = "souk_common::config::duration")]
    pub retry: Duration,
}

impl Settings {
    /// Returns the name of an invalid setting and its valid values.
    pub fn fault(&self) -> Option<(&'static str, &'static str)> {
        let timeout = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
        if !timeout.contains(&self.timeout) {
            return Some(("gateway.stream.timeout", "must be from 1s to 24h"));
        }
        let counts = [
            ("gateway.stream.max_open", self.max_open),
            ("gateway.stream.max_open_per_address", self.max_open_per_address),
            ("gateway.stream.max_open_per_caller", self.max_open_per_caller),
        ];
        if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Some((name, "must be 1 or more"));
        }
        (self.heartbeat < Duration::from_millis(10)).then_some(("gateway.stream.heartbeat", "must be 10ms or more"))
    }
}

/// Completes when a stream must end. Its output is the reason.
pub type End = Pin<Box<dyn Future<Output = Problem> + Send>>;

/// The `Retry-After` for a client whose stream ends because the gateway stops. It reconnects to another replica, or to
/// this one after a restart.
const COME_BACK: Duration = Duration::from_secs(1);

/// All open streams.
pub struct Streams {
    /// Number of open streams, by address.
    open: Arc<Quota>,
    accounts: Arc<Accounts>,
    /// Cancelled at the start of the drain. Ends streams that a client can resume.
    draining: CancellationToken,
    /// Cancelled before the end of the drain. Ends all other streams.
    ending: CancellationToken,
}

/// Number of open streams by account, and the limit for one account.
struct Accounts {
    most: usize,
    open: Mutex<HashMap<UserId, usize>>,
}

/// The place of an open stream. Dropping it frees the place.
pub struct Place {
    _of_address: Held,
    _of_account: Option<OfAccount>,
}

struct OfAccount {
    accounts: Arc<Accounts>,
    user: UserId,
}

impl Streams {
    /// Creates the limits from the settings.
    pub fn new(settings: &Settings) -> Self {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Self {
            open: Quota::new(count(settings.max_open), count(settings.max_open_per_address)),
            accounts: Arc::new(Accounts { most: settings.max_open_per_caller, open: Mutex::default() }),
            draining: CancellationToken::new(),
            ending: CancellationToken::new(),
        }
    }

    /// Takes a place for a stream of this address and account.
    ///
    /// # Errors
    /// `OVERLOADED` if the account, the address or the gateway has reached its limit of open streams.
    pub fn place(&self, site: IpAddr, user: Option<UserId>) -> Result<Place, Problem> {
        let full = |whose: &str| {
            let message = format!("{whose} has as many streams open as it may: close one, or try again later");
            Problem::new(Reason::Overloaded, message)
        };
        let of_account = user.map(|user| Accounts::take(&self.accounts, user).ok_or_else(|| full("this account")));
        let of_address = self.open.take(site, 1).ok_or_else(|| full("this address, or the gateway,"))?;
        Ok(Place { _of_address: of_address, _of_account: of_account.transpose()? })
    }

    /// The future that completes when a stream must end. A resumable stream ends at the start of the drain, because its
    /// client can continue on another replica.
    pub fn end(&self, request: &RequestContext, resumable: bool) -> End {
        let deadline = request.deadline;
        let stop = if resumable { &self.draining } else { &self.ending }.clone().cancelled_owned();
        Box::pin(async move {
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = stop => Problem::new(Reason::ServiceUnavailable, "this replica of the gateway stops: call again")
                    .retry_after(COME_BACK),
                () = late => Problem::new(Reason::DeadlineExceeded, "the stream lasted as long as it may: call again"),
            }
        })
    }

    /// Ends the streams of a gateway that stops within `drain`. Never completes: the caller drops it when all
    /// connections have ended.
    pub async fn close(&self, drain: Duration) {
        self.draining.cancel();
        // The remaining tenth of the drain is for sending the final status to clients.
        tokio::time::sleep(drain.mul_f32(0.9)).await;
        self.ending.cancel();
        pending().await
    }
}

impl Accounts {
    fn take(accounts: &Arc<Self>, user: UserId) -> Option<OfAccount> {
        let mut open = accounts.lock();
        let of_user = open.entry(user).or_default();
        let fits = *of_user < accounts.most;
        *of_user += usize::from(fits);
        fits.then(|| OfAccount { accounts: accounts.clone(), user })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OfAccount {
    fn drop(&mut self) {
        if let Entry::Occupied(mut of_user) = self.accounts.lock().entry(self.user) {
            *of_user.get_mut() -= 1;
            if *of_user.get() == 0 {
                of_user.remove();
            }
        }
    }
}

/// Ends a gRPC response with a status when `end` completes, and frees its place then. The response has an [`Ended`] in
/// its extensions.
pub fn bound(response: Response<Body>, end: End, place: Option<Place>) -> Response<Body> {
    let ended = Ended::default();
    let told = ended.clone();
    let mut response = response.map(|inner| Body::new(Bounded { inner, end: Some(end), ended: told, _place: place }));
    response.extensions_mut().insert(ended);
    response
}

/// Whether the gateway itself ended a stream, because of its time limit or because the gateway stops. That is no
/// failure: the client was served and continues with another call.
#[derive(Debug, Clone, Default)]
pub struct Ended(Arc<AtomicBool>);

impl Ended {
    /// True if the gateway has ended the stream.
    pub fn here(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The problem of a stream whose service failed. If the connection broke, there is no status of the service, and the
/// next call may use another connection.
pub fn failure(status: &Status) -> Problem {
    let problem = Problem::from_status(status);
    let cut = status.source().is_some() && matches!(problem.reason(), Reason::Internal | Reason::Cancelled);
    if cut { Problem::unavailable("a service").caused_by(status.clone()) } else { problem }
}

struct Bounded {
    inner: Body,
    /// `None` after the end of the stream.
    end: Option<End>,
    ended: Ended,
    _place: Option<Place>,
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(end) = &mut self.end else { return Poll::Ready(None) };
        let problem = match end.as_mut().poll(context) {
            Poll::Ready(problem) => {
                self.ended.0.store(true, Ordering::Relaxed);
                problem
            }
            Poll::Pending => match Pin::new(&mut self.inner).poll_frame(context) {
                Poll::Ready(Some(Err(status))) => failure(&status),
                polled => return polled,
            },
        };
        self.end = None;
        // Dropping the body cancels the call of the service.
        self.inner = Body::empty();
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(Status::from(problem).add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        // The body may end early, so its size is unknown.
        http_body::SizeHint::default()
    }
}
