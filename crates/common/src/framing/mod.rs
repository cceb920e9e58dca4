//! The framing of gRPC messages: a flag, a length, and the message, which may be compressed.
//!
//! Requests are decompressed once, at the point of entry: by the gateway for its clients, by a service's edge for
//! direct callers. Everything after that handles uncompressed messages. The size limit applies to the decompressed
//! message.

mod coding;
mod stream;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use tonic::body::Body;

pub use self::coding::{Coding, GRPC_ENCODING, NotInflated, inflate};
use crate::error::{Problem, Reason};

/// The size of a frame's header, in bytes: a flag and the length.
pub const FRAME: usize = 5;

const PLAIN: u8 = 0;
const COMPRESSED: u8 = 1;

/// Puts an uncompressed message into a frame.
pub fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME + message.len());
    frame.put_u8(PLAIN);
    // Requests are limited to far less than 4 GiB, so the length always fits.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// Returns the frame of a body that has a single message, decompressed. The message has at most `limit` bytes.
///
/// # Errors
/// `UNIMPLEMENTED` if there is no message or more than one, as gRPC specifies it for the wrong number of messages (some
/// servers return `INTERNAL`, but that would count as a bug). `MALFORMED_REQUEST` if a frame is incomplete, or is not
/// compressed in the way that it claims. `BODY_TOO_LARGE` if the message exceeds the limit.
pub fn single(body: Bytes, coding: Coding, limit: usize) -> Result<Bytes, Problem> {
    if body.is_empty() {
        return Err(wrong_number("no"));
    }
    let head = Head::of(&body).ok_or_else(cut_off)?;
    let behind = (body.len() - FRAME).checked_sub(head.length).ok_or_else(cut_off)?;
    if behind > 0 {
        // The rest is a second message, or bytes that are not a frame.
        let second = Head::of(&body[FRAME + head.length..]);
        return Err(if second.is_some() { wrong_number("more than one") } else { cut_off() });
    }
    head.inflated(body, coding, limit)
}

/// Returns a call whose messages are decompressed as they arrive. Each message has at most `limit` bytes.
///
/// # Errors
/// `UNIMPLEMENTED` if the coding of the messages is not accepted.
pub fn inflated(mut request: Request<Body>, limit: usize) -> Result<Request<Body>, Problem> {
    let coding = Coding::of_messages(request.headers())?;
    request.headers_mut().remove(GRPC_ENCODING);
    Ok(request.map(|body| stream::inflated(body, coding, limit)))
}

/// The header of a frame.
struct Head {
    flag: u8,
    length: usize,
}

impl Head {
    fn of(bytes: &[u8]) -> Option<Self> {
        let [flag, length @ ..] = *bytes.first_chunk::<FRAME>()?;
        Some(Self { flag, length: usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX) })
    }

    /// Decompresses the message of a frame. `frame` is the whole frame.
    fn inflated(&self, frame: Bytes, coding: Coding, limit: usize) -> Result<Bytes, Problem> {
        match (self.flag, coding) {
            (PLAIN, _) if self.length > limit => Err(too_large(limit)),
            (PLAIN, _) => Ok(frame),
            (COMPRESSED, Coding::Gzip) => match inflate(&frame[FRAME..], limit) {
                Ok(message) => Ok(self::frame(&message)),
                Err(NotInflated::TooLarge) => Err(too_large(limit)),
                Err(NotInflated::Malformed(cause)) => {
                    Err(malformed("a message is not compressed with gzip, as `grpc-encoding` says").caused_by(cause))
                }
            },
            (COMPRESSED, Coding::Identity) => {
                Err(malformed("a message is marked as compressed, and `grpc-encoding` does not say how"))
            }
            _ => Err(malformed("a message begins with a flag that is neither 0 (as it is) nor 1 (compressed)")),
        }
    }
}

fn malformed(message: impl Into<String>) -> Problem {
    Problem::new(Reason::MalformedRequest, message)
}

fn cut_off() -> Problem {
    malformed("the request is not one whole gRPC message: it is shorter or longer than it says")
}

fn wrong_number(number: &str) -> Problem {
    let message = format!("the request has {number} message, and the method takes exactly one");
    Problem::new(Reason::Unimplemented, message)
}

pub(crate) fn too_large(limit: usize) -> Problem {
    Problem::new(Reason::BodyTooLarge, format!("the request is larger than the limit of {limit} bytes"))
        .metadata("limitBytes", limit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{coding::tests::gzip, *};

    const LIMIT: usize = 1000;

    fn packed(message: &[u8]) -> Bytes {
        let mut frame = frame(&gzip(message)).to_vec();
        frame[0] = COMPRESSED;
        frame.into()
    }

    #[test]
    fn a_single_message_is_read_from_its_frame() {
        let single = |bytes: &[u8], coding| {
            single(Bytes::copy_from_slice(bytes), coding, LIMIT).map_err(|problem| problem.reason())
        };
        for coding in [Coding::Identity, Coding::Gzip] {
            assert_eq!(single(b"\0\0\0\0\x02hi", coding).unwrap(), &b"\0\0\0\0\x02hi"[..]);
            assert_eq!(single(b"\0\0\0\0\0", coding).unwrap(), &b"\0\0\0\0\0"[..]);
            let table: [(&[u8], Reason); 7] = [
                (b"", Reason::Unimplemented),
                (b"\0\0\0", Reason::MalformedRequest),
                (b"\0\0\0\0\x03hi", Reason::MalformedRequest),
                (b"\0\0\0\0\x01hi", Reason::MalformedRequest),
                (b"\0\0\0\0\x01h\0\0\0\0\x01i", Reason::Unimplemented),
                (b"\x02\0\0\0\x01h", Reason::MalformedRequest),
                (b"\x01\0\0\0\x02hi", Reason::MalformedRequest),
            ];
            for (bytes, reason) in table {
                assert_eq!(single(bytes, coding), Err(reason), "{coding:?}: {bytes:?}");
            }
        }
        assert_eq!(single(&packed(b"hi"), Coding::Gzip).unwrap(), &b"\0\0\0\0\x02hi"[..]);
        assert_eq!(single(&packed(&[b'x'; LIMIT]), Coding::Gzip).unwrap(), frame(&[b'x'; LIMIT]));
        assert_eq!(single(&packed(&[b'x'; LIMIT + 1]), Coding::Gzip), Err(Reason::BodyTooLarge));
        assert_eq!(single(&frame(&[b'x'; LIMIT + 1]), Coding::Gzip), Err(Reason::BodyTooLarge));
        let truncated = packed(b"hi");
        let truncated = Bytes::copy_from_slice(&[&[COMPRESSED, 0, 0, 0, 10], &truncated[FRAME..FRAME + 10]].concat());
        assert_eq!(single(&truncated, Coding::Gzip), Err(Reason::MalformedRequest));
    }

    proptest! {
        #[test]
        fn no_body_panics(bytes in prop::collection::vec(any::<u8>(), 0..40), gzip in any::<bool>()) {
            let coding = if gzip { Coding::Gzip } else { Coding::Identity };
            let _ = single(bytes.into(), coding, LIMIT);
        }
    }
}
