//! Bytes that are not HTTP, and abusive HTTP: the known attacks on HTTP/2 and on HTTP/1.1.

use std::time::Duration;

use super::script::{AT_ONCE, Ask, Script, http2, stream};
use crate::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    frame,
};

/// The number of frames that are sent in one piece.
const BURST: u32 = 64;
/// The largest frame that a server must accept, in bytes.
const FRAME: usize = 16_384;
/// The beginning of a request of HTTP/1.1.
const START: &str = "POST /v1/orders HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
/// A flow-control window that is never exhausted here, in bytes.
const WINDOW: u32 = 1 << 24;

pub fn scripts() -> Vec<Script> {
    over_http2().into_iter().chain(over_http1()).collect()
}

fn over_http2() -> Vec<Script> {
    let after = |frames: Vec<u8>| Script::new(2, [http2(WINDOW), frames].concat());
    let flood = |frames: Vec<u8>| {
        let frames = frames.repeat(BURST as usize);
        Script::new(2, http2(WINDOW)).then(AT_ONCE, move |_| frames.clone())
    };
    let page = Ask::get("/v1/products?pageSize=500");
    let head = page.fields();
    let (mut open_head, mut bomb) = (head.clone(), head.clone());
    // A header of 4,000 bytes that goes to the dynamic table, and thousands of references to it (HPACK bomb).
    bomb.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend([b'y'; 4000]);
    bomb.resize(FRAME, 0xbe);
    // A header block that never ends.
    open_head.extend([0, 1, b'x', 0x7f, 0xff, 0xff, 0xff, 0x7f]);
    let open = frame(HEADERS, 0, 1, &open_head);
    let goes_on = frame(CONTINUATION, 0, 1, &[b'y'; FRAME]);
    let small = frame(CONTINUATION, 0, 1, &[]).repeat(BURST as usize);
    let spoiled = |spoil: fn(u32) -> Vec<u8>| {
        let page = page.clone();
        Script::new(2, http2(WINDOW)).then(AT_ONCE, move |piece| {
            let streams = (piece * BURST..(piece + 1) * BURST).map(stream);
            streams.flat_map(|stream| [page.http2(stream), spoil(stream)].concat()).collect()
        })
    };
    vec![
        // Streams that the client resets at once (rapid reset), and streams with a fault that makes the server reset
        // them (made you reset).
        spoiled(|stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])),
        spoiled(|stream| frame(WINDOW_UPDATE, 0, stream, &[0; 4])),
        after(open.clone()).then(AT_ONCE, move |_| goes_on.clone()),
        after(open).then(AT_ONCE, move |_| small.clone()),
        Script::new(2, http2(WINDOW))
            .then(AT_ONCE, move |n| frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &bomb)),
        flood(frame(PING, 0, 0, &[7; 8])),
        // Frames that the server must answer, while the client does not read the answers.
        flood(frame(PING, 0, 0, &[7; 8])).unread(),
        flood(frame(SETTINGS, 0, 0, &[])),
        flood(frame(SETTINGS, 0, 0, &[])).unread(),
        flood(frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
        // Empty frames on an open stream.
        after(frame(HEADERS, END_HEADERS, 1, &Ask::post("/v1/orders", "{}").fields()))
            .then(AT_ONCE, |_| frame(DATA, 0, 1, &[]).repeat(BURST as usize)),
        flood(frame(0x42, 0xff, 1, b"of no kind")),
        // Frames that are too long, have a wrong length, or are on a stream of the server or on one that is not open.
        after(vec![0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1]),
        after(frame(PING, 0, 0, &[7; 3])),
        after(frame(HEADERS, END_HEADERS | END_STREAM, 2, &head)),
        after(frame(DATA, END_STREAM, 1, b"{}")),
        // Invalid HPACK, an incomplete preface, and a preface with random bytes after it.
        after(frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 64])),
        Script::new(2, PREFACE[..PREFACE.len() - 1].to_vec()),
        Script::new(2, [PREFACE, &[0xa5; 4096]].concat()),
    ]
}

fn over_http1() -> Vec<Script> {
    let slow = Duration::from_millis(100);
    let repeat = |opening: &str, piece: &str| {
        let piece = piece.repeat(BURST as usize).into_bytes();
        Script::new(2, opening.into()).then(AT_ONCE, move |_| piece.clone())
    };
    let chunked = |rest: &str| format!("{START}transfer-encoding: chunked\r\n\r\n{rest}");
    vec![
        // The first bytes of a TLS client, and random bytes.
        Script::new(2, [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], &[0x5a; 500][..]].concat()),
        Script::new(2, vec![0xa5; 4096]),
        // A request head that never ends, sent quickly and slowly.
        repeat("GET /", "x"),
        repeat(START, "x-more: x\r\n"),
        Script::new(100, START.into()).then(slow, |_| b"x: y\r\n".to_vec()),
        // Chunks of one byte, endless chunk extensions and trailers, and a chunk larger than the memory.
        repeat(&chunked(""), "1\r\n \r\n"),
        repeat(&chunked("1;"), "extension=x;"),
        repeat(&chunked("0\r\n"), "x-trailer: x\r\n"),
        repeat(&chunked("fffffffffffffff\r\n"), "          "),
        // Two contradictory lengths, which servers may interpret differently (request smuggling).
        Script::new(2, format!("{START}content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").into()),
        Script::new(2, format!("{START}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}x").into()),
        Script::new(2, format!("{START}content-length: -1\r\n\r\n").into()),
        Script::new(2, format!("{START}content-length: 99999999999999999999\r\n\r\n").into()),
    ]
}
