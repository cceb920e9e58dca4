//! A TCP proxy on a free port that can be cut, stalled, delayed and restored: faults on demand.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

/// What the proxy does with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Each chunk is passed on after this time.
    Pass(Duration),
    /// Connections stay open and no byte moves, as when a network is down.
    Stall,
    /// Connections are closed, new ones at once, as when a server has died.
    Cut,
}

/// Texts that mark requests whose response the proxy drops. Each text counts once.
type Losing = Arc<Mutex<Vec<String>>>;

/// A proxy in front of one server. Dropping it closes its port and all its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    losing: Losing,
    _stop: DropGuard,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards all data to `upstream` (`host:port`). Each connection of a
    /// client gets a new connection to `upstream`.
    ///
    /// # Panics
    /// If no port can be bound.
    pub async fn start(upstream: impl Into<String>) -> Self {
        let bound = async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let address = listener.local_addr()?;
            std::io::Result::Ok((listener, address))
        };
        let (listener, address) = match bound.await {
            Ok(bound) => bound,
            Err(error) => panic!("no port for a proxy: {error}"),
        };
        let (mode, watched) = watch::channel(Mode::Pass(Duration::ZERO));
        let stop = CancellationToken::new();
        let upstream = upstream.into();
        let losing = Losing::default();
        let accepting = accept(listener, upstream, (watched, losing.clone()), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Self { address, mode, losing, _stop: stop.drop_guard() }
    }

    /// A proxy in front of the server that `url` names, which must have a host and a port.
    ///
    /// # Panics
    /// If the URL has no host or port, or no port can be bound.
    pub async fn before(url: &str) -> Self {
        let parsed = parse(url);
        let (Some(host), Some(port)) = (parsed.host_str(), parsed.port_or_known_default()) else {
            panic!("cannot stand in front of {url}: it has no host and port");
        };
        Self::start(format!("{host}:{port}")).await
    }

    /// The address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `url` with this proxy's host and port instead of its own.
    ///
    /// # Panics
    /// If `url` is not a URL or can have no host.
    pub fn url(&self, url: &str) -> String {
        let mut url = parse(url);
        let set = url.set_host(Some("127.0.0.1")).is_ok();
        if !set || url.set_port(Some(self.address.port())).is_err() {
            panic!("{url} cannot have a host and port");
        }
        url.into()
    }

    /// Closes all connections and, until [`restore`](Self::restore), each new one at once.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Keeps connections open but moves no byte until [`restore`](Self::restore).
    pub fn stall(&self) {
        self.mode.send_replace(Mode::Stall);
    }

    /// Holds each chunk, in both directions, for `delay`.
    pub fn delay(&self, delay: Duration) {
        self.mode.send_replace(Mode::Pass(delay));
    }

    /// Forwards the next request that contains `text` and drops its response: the proxy closes the connection instead,
    /// as if the connection broke after the server had acted. Each text counts once. Works for HTTP/1.1 and for
    /// requests that arrive in one piece.
    pub fn lose_answer(&self, text: impl Into<String>) {
        self.losing.lock().unwrap_or_else(PoisonError::into_inner).push(text.into());
    }

    /// How many of the texts have not been seen in a request yet.
    pub fn to_lose(&self) -> usize {
        self.losing.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Forwards everything without delay again, and drops no more responses. Closed connections stay closed; clients
    /// must connect again.
    pub fn restore(&self) {
        self.losing.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.mode.send_replace(Mode::Pass(Duration::ZERO));
    }
}

fn parse(url: &str) -> Url {
    match Url::parse(url) {
        Ok(url) => url,
        Err(error) => panic!("{url} is not a URL: {error}"),
    }
}

async fn accept(
    listener: TcpListener,
    upstream: String,
    (mode, losing): (watch::Receiver<Mode>, Losing),
    stop: CancellationToken,
) {
    while let Ok((client, _)) = listener.accept().await {
        if *mode.borrow() == Mode::Cut {
            continue;
        }
        let connection = connection(client, upstream.clone(), mode.clone(), losing.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(connection));
    }
}

/// Serves one connection until a side closes it or the proxy cuts it. After an error both sockets close, as on a real
/// network.
async fn connection(mut client: TcpStream, upstream: String, mode: watch::Receiver<Mode>, losing: Losing) {
    let Ok(mut server) = TcpStream::connect(&upstream).await else {
        return;
    };
    // Nagle's algorithm would add a delay that the test did not ask for.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut cut = mode.clone();
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let lost = AtomicBool::new(false);
    let request = |bytes: &[u8]| {
        let mut losing = losing.lock().unwrap_or_else(PoisonError::into_inner);
        let contained = |text: &String| bytes.windows(text.len().max(1)).any(|part| part == text.as_bytes());
        if let Some(at) = losing.iter().position(contained) {
            losing.remove(at);
            lost.store(true, Ordering::Relaxed);
        }
        true
    };
    let answer = |_: &[u8]| !lost.load(Ordering::Relaxed);
    let both = async {
        tokio::join!(
            pump(client_read, server_write, mode.clone(), request),
            pump(server_read, client_write, mode.clone(), answer),
        )
    };
    tokio::select! {
        _ = both => {}
        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

/// Forwards data in one direction as the mode says and while `passes` allows it. Forwards the end of the stream, too.
async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut mode: watch::Receiver<Mode>,
    passes: impl Fn(&[u8]) -> bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if !passes(&buffer[..read]) {
            break;
        }
        let delay = match mode.wait_for(|mode| matches!(mode, Mode::Pass(_))).await.as_deref() {
            Ok(Mode::Pass(delay)) => *delay,
            _ => return,
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
