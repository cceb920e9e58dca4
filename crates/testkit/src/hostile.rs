//! A hostile client: it holds connections, floods the server and sends malformed requests, all from one address, for a
//! limited time.
//!
//! An [`Attack`] is several scripts. Each script runs on several connections at a time. If the server closes a
//! connection, the client opens it again until the time is over.

mod malformed;
mod script;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::process::{Resource, Rlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use self::script::Script;

/// The pause before a connection that failed or was closed is opened again.
const PAUSE: Duration = Duration::from_millis(10);
/// The receive buffer of a client that does not read, in bytes: the smallest that the system allows.
const SMALL_BUFFER: u32 = 2048;

/// What a hostile client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// Requests whose bodies begin and never end, or come a byte at a time.
    HalfSent,
    /// Requests for large responses that the client does not read.
    Unread,
    /// More connections than a server accepts, without requests.
    Idle,
    /// As many streams of events as the client can open.
    Streams,
    /// Requests as fast as they can be sent: valid ones, invalid ones, and log-ins.
    Flood,
    /// Bytes that are not HTTP, and HTTP that is too large or abusive.
    Malformed,
}

impl Attack {
    /// All attacks.
    pub const ALL: [Self; 6] = [Self::HalfSent, Self::Unread, Self::Idle, Self::Streams, Self::Flood, Self::Malformed];

    /// The name of the attack in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HalfSent => "half-sent bodies",
            Self::Unread => "unread responses",
            Self::Idle => "idle connections",
            Self::Streams => "streams",
            Self::Flood => "floods",
            Self::Malformed => "malformed frames",
        }
    }
}

/// Where attacks come from and go to.
#[derive(Debug, Clone)]
pub struct Attacker {
    /// The address of the attacker. All of 127.0.0.0/8 is this machine.
    pub from: IpAddr,
    /// The address of the server.
    pub target: SocketAddr,
    /// The access token of an account that the attacker registered. Without it, requests are anonymous.
    pub token: Option<String>,
}

/// The counters of an attack.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections that were opened.
    pub opened: u64,
    /// Connections that could not be opened.
    pub failed: u64,
    /// Connections that the server closed.
    pub ended: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes read.
    pub read: u64,
}

#[derive(Debug, Default)]
struct Counters {
    opened: AtomicU64,
    failed: AtomicU64,
    ended: AtomicU64,
    sent: AtomicU64,
    read: AtomicU64,
}

impl Attacker {
    /// Runs all these attacks at once for `duration`, then closes all connections.
    ///
    /// # Panics
    /// If the attack cannot begin.
    pub async fn attack(&self, attacks: &[Attack], duration: Duration) -> Tally {
        let (attacker, attacks) = (self.clone(), attacks.to_vec());
        // The attack runs on a thread of its own, so that it does not delay other clients in this process, which are
        // measured.
        let attack = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            std::io::Result::Ok(runtime.block_on(attacker.run(&attacks, duration)))
        };
        match tokio::task::spawn_blocking(attack).await {
            Ok(Ok(tally)) => tally,
            Ok(Err(error)) => panic!("cannot attack: {error}"),
            Err(error) => panic!("the attack failed: {error}"),
        }
    }

    async fn run(&self, attacks: &[Attack], duration: Duration) -> Tally {
        let (end, counters) = (Instant::now() + duration, Arc::new(Counters::default()));
        let mut connections = JoinSet::new();
        for script in attacks.iter().flat_map(|attack| self.scripts(*attack)) {
            let script = Arc::new(script);
            for _ in 0..script.connections {
                let play = play(self.clone(), script.clone(), counters.clone());
                connections.spawn(async move {
                    let _ = timeout_at(end, play).await;
                });
            }
        }
        connections.join_all().await;
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        Tally {
            opened: of(&counters.opened),
            failed: of(&counters.failed),
            ended: of(&counters.ended),
            sent: of(&counters.sent),
            read: of(&counters.read),
        }
    }

    async fn connect(&self, reads: bool) -> std::io::Result<TcpStream> {
        let socket = if self.from.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if !reads {
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
        }
        socket.bind(SocketAddr::new(self.from, 0))?;
        socket.connect(self.target).await
    }
}

/// Runs a script on one connection after the other.
async fn play(attacker: Attacker, script: Arc<Script>, counters: Arc<Counters>) {
    loop {
        match attacker.connect(script.reads).await {
            Ok(stream) => {
                counters.opened.fetch_add(1, Relaxed);
                converse(stream, &script, &counters).await;
                counters.ended.fetch_add(1, Relaxed);
            }
            Err(_) => {
                counters.failed.fetch_add(1, Relaxed);
            }
        }
        sleep(PAUSE).await;
    }
}

/// Runs a script until the server closes the connection.
async fn converse(stream: TcpStream, script: &Script, counters: &Counters) {
    let (mut reader, mut writer) = stream.into_split();
    let read = async {
        if !script.reads {
            return std::future::pending().await;
        }
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            counters.read.fetch_add(count as u64, Relaxed);
        }
    };
    let write = async {
        let mut send = async |bytes: &[u8]| {
            let sent = writer.write_all(bytes).await.is_ok();
            counters.sent.fetch_add(if sent { bytes.len() as u64 } else { 0 }, Relaxed);
            sent
        };
        if !send(&script.opening).await {
            return;
        }
        let Some(more) = &script.more else { return std::future::pending().await };
        for number in 0.. {
            // Sleep even if the pause is zero, so that other tasks run.
            sleep(more.every).await;
            if !send(&(more.piece)(number)).await {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}

/// Lets this process and its children open as many files as the system allows. A connection is a file. Returns the
/// limit.
///
/// # Errors
/// If the limit cannot be changed.
pub fn allow_many_connections() -> std::io::Result<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}
