//! base64 that arrives in pieces. Each piece may have its own padding, and the network may split it anywhere.

use base64::{DecodeError, Engine, prelude::BASE64_STANDARD};

/// Number of characters that encode three bytes.
const GROUP: usize = 4;

/// Decodes consecutive pieces of base64.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The start of an incomplete group.
    rest: Vec<u8>,
}

/// Errors of base64 input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotBase64 {
    /// A character is invalid, or is in an invalid place.
    #[error(transparent)]
    Wrong(#[from] DecodeError),
    /// The last group is incomplete.
    #[error("the last group of four characters is not whole")]
    Cut,
}

impl Decoder {
    /// Adds a piece. Returns the bytes of all groups that are complete now.
    ///
    /// # Errors
    /// A character is not in the alphabet, or a group has padding inside.
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<u8>, NotBase64> {
        self.rest.extend_from_slice(piece);
        let whole = self.rest.len() / GROUP * GROUP;
        let mut bytes = Vec::with_capacity(whole / GROUP * 3);
        let mut start = 0;
        while start < whole {
            let run = &self.rest[start..whole];
            // Padding ends one encoded part. Another part may follow.
            let padding = run.iter().position(|character| *character == b'=');
            let end = padding.map_or(run.len(), |at| (at / GROUP + 1) * GROUP);
            BASE64_STANDARD.decode_vec(&run[..end], &mut bytes)?;
            start += end;
        }
        self.rest.drain(..whole);
        Ok(bytes)
    }

    /// Checks that all input has been decoded.
    ///
    /// # Errors
    /// The last group is incomplete.
    pub fn finish(&self) -> Result<(), NotBase64> {
        if self.rest.is_empty() { Ok(()) } else { Err(NotBase64::Cut) }
    }
}

/// Encodes bytes as one padded part.
pub fn encode(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_accepted_between_any_groups() {
        let mut decoder = Decoder::default();
        let mut bytes = Vec::new();
        for piece in ["YQ=", "=YmM=ZG", "Vm", "Z2g="] {
            bytes.extend(decoder.push(piece.as_bytes()).unwrap());
        }
        decoder.finish().unwrap();
        assert_eq!(bytes, b"abcdefgh");
    }

    #[test]
    fn invalid_base64_is_refused() {
        for wrong in ["Y=Q=", "====", "YQ==\n", "Y Q=", "YWJj-_8=", "YR=="] {
            let mut decoder = Decoder::default();
            assert!(decoder.push(wrong.as_bytes()).is_err() || decoder.finish().is_err(), "{wrong}");
        }
        let mut decoder = Decoder::default();
        assert_eq!(decoder.push(b"YWJjYW").unwrap(), b"abc");
        assert_eq!(decoder.finish(), Err(NotBase64::Cut));
    }
}
