//! Tests retries and the choice of addresses against raw HTTP/2 servers with a prescribed behaviour.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use futures::future::join_all;
use h2::Reason;
use souk_testkit::wait;
use tokio::net::{TcpListener, TcpStream};

use super::*;

const UPDATE: &str = "/souk.inventory.v1.ProductService/UpdateProduct";
const ARCHIVE: &str = "/souk.inventory.v1.ProductService/ArchiveProduct";
const GET: &str = "/souk.inventory.v1.ProductService/GetProduct";
const LONG: Duration = Duration::from_secs(10);

/// The behaviour of a server for each call.
#[derive(Debug, Clone, Copy)]
enum Does {
    Answer(Code),
    Reset(Reason),
    Nothing,
}

/// A server that counts its calls.
#[derive(Clone)]
struct Server {
    does: Arc<Mutex<Does>>,
    calls: Arc<AtomicUsize>,
}

impl Server {
    async fn start(does: Does) -> (Self, SocketAddr) {
        let server = Self { does: Arc::new(Mutex::new(does)), calls: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        (server, address)
    }

    async fn serve(self, stream: TcpStream) -> Result<(), h2::Error> {
        let mut connection = h2::server::handshake(stream).await?;
        let mut unanswered = Vec::new();
        while let Some(call) = connection.accept().await {
            let (request, mut respond) = call?;
            let answer = |code: Code| {
                let response = Response::builder().header("content-type", "application/grpc");
                response.header("grpc-status", code as i32).body(()).unwrap()
            };
            if request.uri().path().starts_with("/grpc.health.") {
                // The answer to health checks. A server that does not implement them counts as healthy.
                respond.send_response(answer(Code::Unimplemented), true)?;
                continue;
            }
            self.calls.fetch_add(1, Ordering::SeqCst);
            let does = *self.does.lock().unwrap();
            match does {
                Does::Answer(code) => drop(respond.send_response(answer(code), true)?),
                Does::Reset(reason) => respond.send_reset(reason),
                Does::Nothing => unanswered.push(respond),
            }
        }
        Ok(())
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn now(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }
}

/// Starts two servers, and a client that has connected to both.
async fn two(first: Does, second: Does) -> (Client, Server, Server) {
    let ((first, a), (second, b)) = (Server::start(first).await, Server::start(second).await);
    let address = format!("http://{a},http://{b}");
    let config = Config {
        address,
        timeout: LONG,
        connect_timeout: Duration::from_secs(5),
        tls: ClientTls::default(),
        local: Local::default(),
    };
    let client = Client::new(&config, Contract::souk().unwrap(), None).unwrap();
    wait::until(LONG, "both servers to be up", async || {
        let states = client.check(LONG).await;
        states.len() == 2 && states.iter().all(|(_, state)| *state == AddressState::Up)
    })
    .await;
    (client, first, second)
}

async fn call(client: &Client, method: &str) -> Code {
    let request = Request::builder().method("POST").uri(method).header("te", "trailers");
    let request = request.header("content-type", "application/grpc").body(Body::empty()).unwrap();
    let Ok(response) = client.clone().call(request).await;
    call::code_of(response.headers()).unwrap()
}

const CALLS: usize = 30;

#[tokio::test]
async fn a_retryable_call_is_retried_on_the_other_address() {
    let table = [
        (UPDATE, Does::Reset(Reason::REFUSED_STREAM)),
        (ARCHIVE, Does::Reset(Reason::INTERNAL_ERROR)),
        (ARCHIVE, Does::Answer(Code::Unavailable)),
        (GET, Does::Answer(Code::Unavailable)),
    ];
    for (method, does) in table {
        let (client, bad, good) = two(does, Does::Answer(Code::Ok)).await;
        for _ in 0..CALLS {
            assert_eq!(call(&client, method).await, Code::Ok, "{method}: {does:?}");
        }
        assert_eq!(good.calls(), CALLS, "{method}: {does:?}");
        assert!((1..CALLS / 2).contains(&bad.calls()), "{method}: {does:?}: it is left out: {}", bad.calls());
    }
}

#[tokio::test]
async fn a_call_that_is_not_retryable_is_sent_once() {
    for does in [Does::Reset(Reason::INTERNAL_ERROR), Does::Answer(Code::Unavailable)] {
        let (client, bad, good) = two(does, Does::Answer(Code::Ok)).await;
        let mut failed = 0;
        for _ in 0..CALLS {
            let code = call(&client, UPDATE).await;
            assert!(matches!(code, Code::Ok | Code::Unavailable), "{code:?}");
            failed += usize::from(code == Code::Unavailable);
        }
        assert_eq!((failed, good.calls()), (bad.calls(), CALLS - bad.calls()), "{does:?}");
        assert!((1..CALLS / 2).contains(&failed), "{does:?}: it is left out: {failed}");
    }
}

#[tokio::test]
async fn a_read_is_sent_to_a_second_address_if_the_first_is_silent() {
    let (client, silent, good) = two(Does::Nothing, Does::Answer(Code::Ok)).await;
    let started = Instant::now();
    let codes = join_all((0..CALLS).map(|_| call(&client, GET))).await;
    assert!(codes.iter().all(|code| *code == Code::Ok), "{codes:?}");
    assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
    assert!(silent.calls() > 0 && good.calls() == CALLS);
}

#[tokio::test]
async fn addresses_that_all_fail_are_still_called_within_the_retry_budget() {
    const MANY: usize = 200;
    let unavailable = Does::Answer(Code::Unavailable);
    let (client, first, second) = two(unavailable, unavailable).await;
    let codes = join_all((0..MANY).map(|_| call(&client, ARCHIVE))).await;
    assert!(codes.iter().all(|code| *code == Code::Unavailable), "{codes:?}");
    let sent = first.calls() + second.calls();
    // The budget allows a fifth of the calls, and 10 a second for 10 s.
    assert!((MANY..=MANY + MANY / 5 + 100).contains(&sent), "{sent}");
    let states = client.check(LONG).await;
    assert!(states.iter().any(|(_, state)| *state == AddressState::Up), "{states:?}");
    first.now(Does::Answer(Code::Ok));
    second.now(Does::Answer(Code::Ok));
    assert_eq!(call(&client, ARCHIVE).await, Code::Ok, "it answers again, so it is called");
}
