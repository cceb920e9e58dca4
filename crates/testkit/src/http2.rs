//! HTTP/2 frame by frame. Client libraries do not show frames.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The type of a frame with a piece of a body.
pub const DATA: u8 = 0;
/// The type of a frame with headers or trailers.
pub const HEADERS: u8 = 1;
/// The type of the frame that aborts a stream.
pub const RST_STREAM: u8 = 3;
/// The type of the frame that announces the end of a connection.
pub const GOAWAY: u8 = 7;

/// The type of the frame that sets the priority of a stream.
pub const PRIORITY: u8 = 2;
/// The type of the frame that the peer must send back.
pub const PING: u8 = 6;
/// The type of the frame that enlarges a flow-control window.
pub const WINDOW_UPDATE: u8 = 8;
/// The type of the frame with more headers.
pub const CONTINUATION: u8 = 9;
/// The type of the frame with the settings of a peer.
pub const SETTINGS: u8 = 4;
/// The connection preface: the first bytes that a client sends.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The flag of a frame that is the last one of its stream.
pub const END_STREAM: u8 = 1;
/// The flag of a frame that ends a block of headers.
pub const END_HEADERS: u8 = 4;
const LONGEST: Duration = Duration::from_secs(20);

/// A frame that a server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The frame type: [`DATA`] or another of these constants.
    pub kind: u8,
    /// The flags of the frame.
    pub flags: u8,
    /// The payload of the frame.
    pub payload: Vec<u8>,
}

impl Frame {
    /// True if this is the last frame of its stream.
    pub fn ends_stream(&self) -> bool {
        self.kind == RST_STREAM || (matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0)
    }
}

/// Sends one request over a new connection, and returns the frames of the response. `headers` begin with `:method`,
/// `:scheme` and `:path`. Without a body, the headers end the request.
///
/// # Panics
/// If the server cannot be reached, or closes the connection or sends nothing before the end of the response.
pub async fn exchange(address: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Vec<Frame> {
    let sent = [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frame(HEADERS, END_HEADERS | if body.is_none() { END_STREAM } else { 0 }, 1, &literal(headers)),
        body.map(|body| frame(DATA, END_STREAM, 1, body)).unwrap_or_default(),
    ]
    .concat();
    match tokio::time::timeout(LONGEST, talk(address, &sent)).await {
        Ok(Ok(frames)) => frames,
        Ok(Err(error)) => panic!("no whole response from {address}: {error}"),
        Err(_) => panic!("no whole response from {address} within {LONGEST:?}"),
    }
}

async fn talk(address: &str, sent: &[u8]) -> std::io::Result<Vec<Frame>> {
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).await?;
    stream.write_all(sent).await?;
    let mut frames = Vec::new();
    loop {
        let (number, frame) = read(&mut stream).await?;
        if number == 1 {
            frames.push(frame);
            if frames.last().is_some_and(Frame::ends_stream) {
                return Ok(frames);
            }
        }
    }
}

/// Connects, sends no request, and waits for the server's GOAWAY frame.
///
/// # Panics
/// If the server cannot be reached, closes without GOAWAY, or does not send it in time.
pub async fn goodbye(address: &str) -> Frame {
    let wait = async {
        let mut stream = TcpStream::connect(address.trim_start_matches("http://")).await?;
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await?;
        loop {
            let (_, frame) = read(&mut stream).await?;
            if frame.kind == GOAWAY {
                return Ok::<_, std::io::Error>(frame);
            }
        }
    };
    match tokio::time::timeout(LONGEST, wait).await {
        Ok(Ok(frame)) => frame,
        Ok(Err(error)) => panic!("no goodbye from {address}: {error}"),
        Err(_) => panic!("no goodbye from {address} within {LONGEST:?}"),
    }
}

/// Reads the next frame; returns it with the number of its stream.
async fn read(stream: &mut TcpStream) -> std::io::Result<(u32, Frame)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let [a, b, c, kind, flags, number @ ..] = head;
    let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or_default()];
    stream.read_exact(&mut payload).await?;
    Ok((u32::from_be_bytes(number), Frame { kind, flags, payload }))
}

/// A frame without padding.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Headers in HPACK (RFC 7541), neither indexed nor compressed.
pub fn literal(headers: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [length(text.len()), text.as_bytes().to_vec()].concat();
    headers.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// A length with a prefix of seven bits (RFC 7541, 5.1).
fn length(length: usize) -> Vec<u8> {
    const PREFIX: usize = 0x7f;
    let byte = |part: usize| u8::try_from(part).unwrap_or(u8::MAX);
    let Some(mut rest) = length.checked_sub(PREFIX) else { return vec![byte(length)] };
    let mut bytes = vec![byte(PREFIX)];
    while rest >= 0x80 {
        bytes.push(byte(rest % 0x80 + 0x80));
        rest /= 0x80;
    }
    bytes.push(byte(rest));
    bytes
}

#[cfg(test)]
mod tests {
    /// The examples of RFC 7541, C.1, with a prefix of seven bits.
    #[test]
    fn lengths_are_encoded_as_in_rfc_7541() {
        for (length, bytes) in [(10, vec![10]), (126, vec![126]), (127, vec![127, 0]), (1337, vec![127, 0xba, 0x09])] {
            assert_eq!(super::length(length), bytes, "{length}");
        }
    }
}
