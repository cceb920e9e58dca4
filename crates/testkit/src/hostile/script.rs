//! What each attack sends.

use std::time::Duration;

use super::{Attack, Attacker, malformed};
use crate::http2::{DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, WINDOW_UPDATE, frame, literal};

/// No pause: the next piece is sent when the one before it is sent.
pub const AT_ONCE: Duration = Duration::ZERO;
/// The number of requests that are sent in one piece.
const BURST: u32 = 16;
/// The largest flow-control window of HTTP/2, in bytes.
const WIDE: u32 = (1 << 31) - 1;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// The bytes that are sent on a connection.
pub struct Script {
    /// How many connections run this script at a time.
    pub connections: usize,
    /// The first bytes that are sent.
    pub opening: Vec<u8>,
    /// What is sent afterwards, until the server closes the connection or the time is over.
    pub more: Option<More>,
    /// True if the client reads what the server sends.
    pub reads: bool,
}

/// Pieces that are sent repeatedly.
pub struct More {
    /// The pause before each piece.
    pub every: Duration,
    /// Makes the piece with a given number, from 0.
    pub piece: Piece,
}

/// Makes the piece with a given number.
pub type Piece = Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>;

impl Script {
    /// A client that sends `opening` and reads everything.
    pub fn new(connections: usize, opening: Vec<u8>) -> Self {
        Self { connections, opening, more: None, reads: true }
    }

    /// Adds pieces that are sent after the opening, with a pause before each.
    pub fn then(self, every: Duration, piece: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self { more: Some(More { every, piece: Box::new(piece) }), ..self }
    }

    /// The same script, for a client that reads nothing.
    pub fn unread(self) -> Self {
        Self { reads: false, ..self }
    }
}

/// A request that can be encoded as HTTP/1.1 and as HTTP/2.
#[derive(Clone)]
pub struct Ask {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Ask {
    pub fn get(path: &str) -> Self {
        Self { method: "GET", path: path.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    pub fn post(path: &str, body: &str) -> Self {
        let ask = Self { method: "POST", body: body.into(), ..Self::get(path) };
        ask.header("content-type", "application/json").header("content-length", &body.len().to_string())
    }

    /// A gRPC call with an empty message.
    fn grpc(path: &str) -> Self {
        let ask = Self { method: "POST", body: vec![0; 5], ..Self::get(path) };
        ask.header("content-type", "application/grpc").header("te", "trailers")
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn signed(self, token: Option<&str>) -> Self {
        match token {
            Some(token) => self.header("authorization", &format!("Bearer {token}")),
            None => self,
        }
    }

    /// The whole request as HTTP/1.1.
    pub fn http1(&self) -> Vec<u8> {
        [self.http1_head(), self.body.clone()].concat()
    }

    fn http1_head(&self) -> Vec<u8> {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{} {} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n", self.method, self.path).into_bytes()
    }

    /// The whole request as HTTP/2 on this stream.
    pub fn http2(&self, stream: u32) -> Vec<u8> {
        if self.body.is_empty() {
            return frame(HEADERS, END_HEADERS | END_STREAM, stream, &self.fields());
        }
        [self.http2_head(stream), frame(DATA, END_STREAM, stream, &self.body)].concat()
    }

    fn http2_head(&self, stream: u32) -> Vec<u8> {
        frame(HEADERS, END_HEADERS, stream, &self.fields())
    }

    /// The headers, encoded with HPACK.
    pub fn fields(&self) -> Vec<u8> {
        let own = [(":method", self.method), (":scheme", "http"), (":path", &self.path), (":authority", "localhost")];
        let headers: Vec<_> =
            own.into_iter().chain(self.headers.iter().map(|(name, value)| (*name, &**value))).collect();
        literal(&headers)
    }
}

/// The beginning of an HTTP/2 connection whose streams have this initial flow-control window, in bytes.
pub fn http2(window: u32) -> Vec<u8> {
    let setting = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &window.to_be_bytes()].concat();
    let wide = (WIDE - 0xffff).to_be_bytes();
    [PREFACE, &frame(SETTINGS, 0, 0, &setting), &frame(WINDOW_UPDATE, 0, 0, &wide)].concat()
}

/// The stream of the client's request with this number, from 0.
pub fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// The requests with these numbers as HTTP/2.
fn requests(ask: &Ask, numbers: std::ops::Range<u32>) -> Vec<u8> {
    numbers.flat_map(|number| ask.http2(stream(number))).collect()
}

impl Attacker {
    /// The scripts of an attack.
    pub(super) fn scripts(&self, attack: Attack) -> Vec<Script> {
        match attack {
            Attack::HalfSent => self.half_sent(),
            Attack::Unread => unread(),
            Attack::Idle => idle(),
            Attack::Streams => self.streams(),
            Attack::Flood => self.flood(),
            Attack::Malformed => malformed::scripts(),
        }
    }

    fn half_sent(&self) -> Vec<Script> {
        const STREAMS: u32 = 200;
        let body = " ".repeat(1000);
        let read = Ask::post("/v1/products:batchGet", &body);
        let order = Ask::post("/v1/orders", &body).signed(self.token.as_deref());
        let call = Ask::grpc("/souk.order.v1.OrderService/PlaceOrder").signed(self.token.as_deref());
        let begun = |ask: &Ask, streams: std::ops::Range<u32>| -> Vec<u8> {
            streams
                .flat_map(|number| [ask.http2_head(stream(number)), frame(DATA, 0, stream(number), b"  ")].concat())
                .collect()
        };
        let opening = |ask: &Ask| [http2(WIDE), begun(ask, 0..STREAMS)].concat();
        // Streams that the server ends are opened again.
        let held = |ask: Ask| {
            let first = opening(&ask);
            Script::new(6, first).then(Duration::from_millis(20), move |n| begun(&ask, STREAMS + n..STREAMS + n + 1))
        };
        let dripping = Script::new(200, order.http1_head()).then(Duration::from_millis(200), |_| b" ".to_vec());
        // A body without its last byte: the server must buffer the rest.
        const LARGE: usize = 1 << 20;
        let nearly = Ask::post("/v1/products:batchGet", &" ".repeat(LARGE)).http1();
        let nearly = nearly[..nearly.len() - 1].to_vec();
        vec![held(read), held(order), held(call), dripping, Script::new(200, nearly)]
    }

    fn streams(&self) -> Vec<Script> {
        const STREAMS: u32 = 100;
        let events = |path| Ask::get(path).header("accept", "text/event-stream").signed(self.token.as_deref());
        let call = |path| Ask::grpc(path).signed(self.token.as_deref());
        let asks = [
            events("/v1/orders:watch"),
            events("/v1/orders:watch?cursor=0"),
            call("/souk.order.v1.OrderService/WatchOrders"),
            call("/grpc.health.v1.Health/Watch"),
            Ask::get("/v1/stock:watch").header("accept", "text/event-stream"),
        ];
        let held = |ask: Ask| {
            let opening = [http2(WIDE), requests(&ask, 0..STREAMS)].concat();
            Script::new(12, opening)
                .then(Duration::from_millis(20), move |n| requests(&ask, STREAMS + n..STREAMS + n + 1))
        };
        asks.into_iter().map(held).collect()
    }

    fn flood(&self) -> Vec<Script> {
        let token = self.token.as_deref();
        let reads = [
            Ask::get("/v1/products?pageSize=20"),
            // A search that reads every product.
            Ask::get("/v1/products?pageSize=1&filter=title:%22nothing%22"),
            Ask::get("/v1/orders").signed(token),
            Ask::get("/v1/orders").signed(Some("not.a.token")),
            Ask::get("/v1/nothing"),
            Ask::post("/v1/orders", "{\"items\": [").signed(token),
            Ask::post("/v1/sessions:logIn", r#"{"email": "ann@example.com", "password": "not the password"}"#),
            Ask::grpc("/souk.inventory.v1.ProductService/ListProducts"),
            Ask::grpc("/souk.order.v1.OrderService/ListOrders").signed(token),
        ];
        let over_http2 = |ask: &Ask| {
            let ask = ask.clone();
            Script::new(2, http2(WIDE)).then(AT_ONCE, move |n| requests(&ask, n * BURST..(n + 1) * BURST))
        };
        let over_http1 = |ask: &Ask| {
            let burst = ask.http1().repeat(BURST as usize);
            Script::new(2, Vec::new()).then(AT_ONCE, move |_| burst.clone())
        };
        // A connection for each request.
        let closing = Script::new(4, Ask::get("/v1/products?pageSize=1").header("connection", "close").http1());
        reads.iter().map(over_http2).chain(reads.iter().map(over_http1)).chain([closing]).collect()
    }
}

fn unread() -> Vec<Script> {
    // Each request has another page size, so that no two responses share a cache entry.
    let page = |number: u32| Ask::get(&format!("/v1/products?pageSize={}", 500 - number % 100));
    // The message of a page of 500.
    let call = |_| Ask {
        body: vec![0, 0, 0, 0, 3, 8, 0xf4, 3],
        ..Ask::grpc("/souk.inventory.v1.ProductService/ListProducts")
    };
    // Streams with a flow-control window of zero, and streams with the largest window on a connection that nobody
    // reads.
    let over_http2 = |window: u32, ask: fn(u32) -> Ask| {
        let more = move |n| ask(n).http2(stream(n));
        Script::new(6, http2(window)).then(Duration::from_millis(5), more).unread()
    };
    let over_http1 = Script::new(200, page(0).http1());
    vec![
        over_http2(0, page),
        over_http2(0, call),
        over_http2(WIDE, page),
        over_http1.then(Duration::from_millis(500), move |n| page(n).http1()).unread(),
    ]
}

fn idle() -> Vec<Script> {
    // Together these are more than the 10,000 connections that a gateway accepts by default.
    vec![Script::new(3500, Vec::new()), Script::new(3500, Ask::get("/livez").http1()), Script::new(3500, http2(WIDE))]
}
