//! Decompresses the messages of a stream, one after the other.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tonic::{Status, body::Body};

use super::{Coding, FRAME, Head, cut_off, too_large};

/// A body with uncompressed messages. A body that is not compressed is returned unchanged.
pub(super) fn inflated(body: Body, coding: Coding, limit: usize) -> Body {
    match coding {
        Coding::Identity => body,
        Coding::Gzip => Body::new(Inflated { inner: body, coding, limit, buffer: BytesMut::new(), over: false }),
    }
}

struct Inflated {
    inner: Body,
    coding: Coding,
    limit: usize,
    /// The beginning of a frame that has not arrived completely.
    buffer: BytesMut,
    over: bool,
}

impl Inflated {
    /// Takes the next frame, if all of it has arrived.
    fn next(&mut self) -> Option<Result<Bytes, Status>> {
        let head = Head::of(&self.buffer)?;
        if head.length > self.limit {
            return Some(Err(too_large(self.limit).into()));
        }
        let whole = FRAME + head.length;
        if self.buffer.len() < whole {
            return None;
        }
        let frame = self.buffer.split_to(whole).freeze();
        Some(head.inflated(frame, self.coding, self.limit).map_err(Status::from))
    }
}

impl http_body::Body for Inflated {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            if let Some(next) = self.next() {
                self.over = next.is_err();
                return Poll::Ready(Some(next.map(Frame::data)));
            }
            let last = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.buffer.extend_from_slice(&data);
                        continue;
                    }
                    Err(trailers) => Some(Ok(trailers)),
                },
                ended => ended,
            };
            self.over = true;
            return Poll::Ready(match last {
                Some(Err(status)) => Some(Err(status)),
                _ if !self.buffer.is_empty() => Some(Err(cut_off().into())),
                last => last,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use proptest::prelude::*;

    use super::{
        super::{COMPRESSED, coding::tests::gzip, frame},
        *,
    };
    use crate::error::{Problem, Reason};

    const LIMIT: usize = 300;

    fn read(chunks: Vec<Vec<u8>>) -> Result<Bytes, Reason> {
        let frames = chunks.into_iter().map(|chunk| Ok::<_, Status>(Frame::data(Bytes::from(chunk))));
        let body = Body::new(StreamBody::new(futures::stream::iter(frames.collect::<Vec<_>>())));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = runtime.block_on(inflated(body, Coding::Gzip, LIMIT).collect());
        read.map(|collected| collected.to_bytes()).map_err(|status| Problem::from_status(&status).reason())
    }

    fn packed(message: &[u8]) -> Vec<u8> {
        let mut frame = frame(&gzip(message)).to_vec();
        frame[0] = COMPRESSED;
        frame
    }

    proptest! {
        #[test]
        fn messages_are_complete_however_the_network_splits_them(
            messages in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..200)), 0..5),
            size in 1usize..50,
        ) {
            let wire: Vec<u8> = messages
                .iter()
                .flat_map(|(pack, message)| if *pack { packed(message) } else { frame(message).to_vec() })
                .collect();
            let expected: Vec<u8> = messages.iter().flat_map(|(_, message)| frame(message)).collect();
            prop_assert_eq!(&read(wire.chunks(size).map(<[u8]>::to_vec).collect()).unwrap()[..], &expected[..]);
        }
    }

    #[test]
    fn each_invalid_frame_has_its_reason() {
        let cut = packed(b"hello");
        let table = [
            (packed(&[0; LIMIT + 1]), Reason::BodyTooLarge),
            (frame(&[0; LIMIT + 1]).to_vec(), Reason::BodyTooLarge),
            // The frame announces this length, which exceeds the limit. It must not be buffered.
            (vec![COMPRESSED, 0xff, 0xff, 0xff, 0xff], Reason::BodyTooLarge),
            (cut[..cut.len() - 1].to_vec(), Reason::MalformedRequest),
            (vec![0, 0], Reason::MalformedRequest),
            (vec![7, 0, 0, 0, 0], Reason::MalformedRequest),
        ];
        for (wire, reason) in table {
            assert_eq!(read(vec![wire.clone()]), Err(reason), "{wire:?}");
        }
    }
}
