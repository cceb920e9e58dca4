//! Load generators. This module has the closed loop: each connection has one request at a time. Every response is
//! checked.

pub mod open;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinSet};

/// A request that is sent repeatedly.
#[derive(Clone)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// The request and its protocol.
    pub call: Call,
    /// The access token. If it is empty, requests are anonymous.
    pub token: String,
    /// Checks a response.
    pub check: Check,
}

/// Returns true if a response is correct.
pub type Check = Arc<dyn Fn(&Bytes) -> bool + Send + Sync>;

/// Makes the path of the next request.
pub type Path = Arc<dyn Fn() -> String + Send + Sync>;
/// Makes the body of the next request.
pub type Body = Arc<dyn Fn() -> Bytes + Send + Sync>;

/// A request and its protocol.
#[derive(Clone)]
pub enum Call {
    /// GET of these paths over HTTP/1.1.
    Get(Path),
    /// POST of these JSON bodies to a path over HTTP/1.1.
    Post(&'static str, Body),
    /// Unary gRPC calls of a path with these messages, over HTTP/2.
    Grpc(&'static str, Body),
}

/// The result of a turn.
#[derive(Debug)]
pub struct Turn {
    /// The number of responses.
    pub count: u64,
    /// The time to the last response.
    pub elapsed: Duration,
    /// Response times in microseconds.
    pub latency: Histogram<u64>,
}

impl Target {
    fn checked(&self, body: Bytes) -> Answer {
        if (self.check)(&body) {
            return Answer::Good(body);
        }
        Answer::Bad(format!("not the answer that was asked for: {}", String::from_utf8_lossy(&body)))
    }

    fn request(&self) -> Result<Request<Full<Bytes>>> {
        let (request, body) = match &self.call {
            Call::Get(path) => (Request::get(path()).header("host", &self.address), Bytes::new()),
            Call::Post(path, body) => {
                let request = Request::post(*path).header("host", &self.address);
                (request.header("content-type", "application/json"), body())
            }
            Call::Grpc(path, message) => {
                let request = Request::post(format!("http://{}{path}", self.address));
                let request = request.header("content-type", "application/grpc").header("te", "trailers");
                (request, framed(&message()))
            }
        };
        let request = match self.token.as_str() {
            "" => request,
            token => request.header("authorization", format!("Bearer {token}")),
        };
        request.body(Full::new(body)).context("the request cannot be built")
    }
}

/// A message in gRPC framing: uncompressed, with its length as prefix.
fn framed(message: &Bytes) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], length.to_be_bytes().as_slice(), message].concat().into()
}

/// A connection to the server.
enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    async fn open(target: &Target) -> Result<Self> {
        let stream =
            TcpStream::connect(&target.address).await.with_context(|| format!("connecting to {}", target.address))?;
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(stream);
        Ok(match target.call {
            Call::Get(_) | Call::Post(..) => {
                let (sender, connection) = http1::handshake(stream).await?;
                tokio::spawn(connection);
                Self::Http1(sender)
            }
            Call::Grpc(..) => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(connection);
                Self::Http2(sender)
            }
        })
    }

    /// True if the server has closed the connection.
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends the next request and reads the whole response.
    ///
    /// # Errors
    /// If there is no response.
    async fn ask(&mut self, target: &Target) -> Result<Answer> {
        let request = target.request()?;
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned();
        let body = collected.to_bytes();
        Ok(match (self, head.status.as_u16()) {
            (Self::Http1(_), 200) => target.checked(body),
            (Self::Http1(_), 429 | 503) if refuses(&head.headers, &body) => Answer::Refused,
            (Self::Http2(_), 200) => {
                let headers = trailers.unwrap_or(head.headers);
                match headers.get("grpc-status").map(HeaderValue::as_bytes) {
                    Some(b"0") => target.checked(body),
                    // Status 8 is RESOURCE_EXHAUSTED.
                    Some(b"8") => Answer::Refused,
                    _ => Answer::Bad(format!("the call failed: {headers:?}")),
                }
            }
            (_, status) => Answer::Bad(format!("answered {status}: {}", String::from_utf8_lossy(&body))),
        })
    }
}

/// True if a REST response is a refusal because of overload or a rate limit, with a `Retry-After` header.
fn refuses(headers: &HeaderMap, body: &[u8]) -> bool {
    let reason = |reason: &str| body.windows(reason.len()).any(|text| text == reason.as_bytes());
    headers.contains_key("retry-after") && (reason("\"OVERLOADED\"") || reason("\"RATE_LIMITED\""))
}

/// The response to a request.
#[derive(Debug)]
pub enum Answer {
    /// The expected response.
    Good(Bytes),
    /// A refusal because of overload or a rate limit, which says when to retry.
    Refused,
    /// Any other response, with a description.
    Bad(String),
}

impl Answer {
    fn good(self) -> Result<Bytes> {
        match self {
            Self::Good(body) => Ok(body),
            Self::Refused => bail!("refused, for there was too much to do"),
            Self::Bad(failure) => bail!(failure),
        }
    }
}

/// Sends one request and returns the response.
///
/// # Errors
/// If the response is not good.
pub async fn once(target: &Target) -> Result<Bytes> {
    Connection::open(target).await?.ask(target).await?.good()
}

/// Sends requests to a target over a number of connections for `duration`, and checks every response.
///
/// # Errors
/// The first response that is not good.
pub async fn run(target: &Target, connections: usize, duration: Duration) -> Result<Turn> {
    let target = Arc::new(target.clone());
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        open.push(Connection::open(&target).await?);
    }
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for mut connection in open {
        let target = target.clone();
        workers.spawn(async move {
            let mut latency = Histogram::<u64>::new(3)?;
            while started.elapsed() < duration {
                let sent = Instant::now();
                connection.ask(&target).await?.good()?;
                latency.record(u64::try_from(sent.elapsed().as_micros())?)?;
            }
            Ok::<_, anyhow::Error>(latency)
        });
    }
    let mut latency = Histogram::<u64>::new(3)?;
    while let Some(worker) = workers.join_next().await {
        latency.add(worker??)?;
    }
    Ok(Turn { count: latency.len(), elapsed: started.elapsed(), latency })
}
