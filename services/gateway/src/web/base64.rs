//! base64 that comes in pieces: each may be padded for itself, and the network cuts them anywhere.

use base64::{DecodeError, Engine, prelude::BASE64_STANDARD};

/// Characters that stand for three bytes.
const GROUP: usize = 4;

/// Decodes pieces of base64 in their order.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The begin of a group whose end is still to come.
    rest: Vec<u8>,
}

/// What is not base64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotBase64 {
    /// A character or its place.
    #[error(transparent)]
    Wrong(#[from] DecodeError),
    /// The last group is not whole.
    #[error("the last group of four characters is not whole")]
    Cut,
}

impl Decoder {
    /// The bytes of all groups that are whole now.
    ///
    /// # Errors
    /// A character that is none of the alphabet's, or padding inside a group.
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<u8>, NotBase64> {
        self.rest.extend_from_slice(piece);
        let whole = self.rest.len() / GROUP * GROUP;
        let mut bytes = Vec::with_capacity(whole / GROUP * 3);
        let mut start = 0;
        while start < whole {
            let run = &self.rest[start..whole];
            // Padding ends what was encoded at a time; another such may follow.
            let padding = run.iter().position(|character| *character == b'=');
            let end = padding.map_or(run.len(), |at| (at / GROUP + 1) * GROUP);
            BASE64_STANDARD.decode_vec(&run[..end], &mut bytes)?;
            start += end;
        }
        self.rest.drain(..whole);
        Ok(bytes)
    }

    /// Whether all that came is decoded.
    ///
    /// # Errors
    /// The last group is not whole.
    pub fn finish(&self) -> Result<(), NotBase64> {
        if self.rest.is_empty() { Ok(()) } else { Err(NotBase64::Cut) }
    }
}

/// Encodes bytes for themselves, padded.
pub fn encode(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_may_stand_anywhere_between_groups() {
        let mut decoder = Decoder::default();
        let mut bytes = Vec::new();
        for piece in ["YQ=", "=YmM=ZG", "Vm", "Z2g="] {
            bytes.extend(decoder.push(piece.as_bytes()).unwrap());
        }
        decoder.finish().unwrap();
        assert_eq!(bytes, b"abcdefgh");
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for wrong in ["Y=Q=", "====", "YQ==\n", "Y Q=", "YWJj-_8=", "YR=="] {
            let mut decoder = Decoder::default();
            assert!(decoder.push(wrong.as_bytes()).is_err() || decoder.finish().is_err(), "{wrong}");
        }
        let mut decoder = Decoder::default();
        assert_eq!(decoder.push(b"YWJjYW").unwrap(), b"abc");
        assert_eq!(decoder.finish(), Err(NotBase64::Cut));
    }
}
