//! A client's cursor: an encrypted position in the log.
//!
//! A client can neither read a position from a cursor, which would reveal how much a shop sells, nor forge a cursor.
//! All cursors have the same length, and no two are equal; otherwise a client that repeats a request could count the
//! events in between.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use souk_common::{error::Problem, ids::EventId};

use super::WatchError;

/// The cursor of a stream that begins with the oldest stored event.
pub(super) const START: &str = "start";

/// A place in a log: right after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The event's position; 0 if the place is before the first event.
    pub(super) position: i64,
    /// The mark of the event.
    pub(super) mark: Mark,
}

/// Distinguishes an event from another one with the same position: a log that was restored from a backup assigns
/// positions again. All zeros if no event is stored at the position.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark([u8; 4]);

impl Mark {
    /// The last bytes of the event's id, which are random.
    pub(super) fn of(event: EventId) -> Self {
        let [.., a, b, c, d] = *event.uuid().as_bytes();
        Self([a, b, c, d])
    }
}

/// Encrypts and decrypts the cursors of one log.
pub(super) struct Cursors {
    key: [u8; 32],
    /// A prefix of each cursor that distinguishes a cursor of another log from a damaged one.
    epoch: [u8; 4],
}

impl Cursors {
    /// Derives the keys of a service's log from the log's epoch.
    pub(super) fn new(source: &str, epoch: &[u8]) -> Self {
        let derive = |purpose: &str| {
            let parts = [purpose.as_bytes(), source.as_bytes(), epoch];
            parts
                .iter()
                .fold(Sha256::new(), |hash, part| hash.chain_update(part.len().to_be_bytes()).chain_update(part))
        };
        let [a, b, c, d, ..]: [u8; 32] = derive("epoch of souk's cursors").finalize().into();
        Self { key: derive("key of souk's cursors").finalize().into(), epoch: [a, b, c, d] }
    }

    fn key(&self) -> Result<RandomizedNonceKey, Problem> {
        RandomizedNonceKey::new(&AES_256_GCM_SIV, &self.key)
            .map_err(|_| Problem::internal().caused_by("no key of cursors"))
    }

    /// Encrypts a place to a cursor.
    pub(super) fn write(&self, place: Place) -> Result<String, Problem> {
        let mut sealed = [&place.position.to_be_bytes()[..], &place.mark.0].concat();
        let nonce = self
            .key()?
            .seal_in_place_append_tag(Aad::from(self.epoch), &mut sealed)
            .map_err(|_| Problem::internal().caused_by("a cursor could not be encrypted"))?;
        Ok(BASE64_URL_SAFE_NO_PAD.encode([&self.epoch[..], &nonce.as_ref()[..], &sealed].concat()))
    }

    /// Decrypts a cursor to its place.
    pub(super) fn read(&self, cursor: &str) -> Result<Place, WatchError> {
        let mut bytes = [0; EPOCH + NONCE_LEN + PLACE + TAG];
        let length = BASE64_URL_SAFE_NO_PAD.decode_slice(cursor, &mut bytes);
        if length != Ok(bytes.len()) {
            return Err(WatchError::Malformed);
        }
        let (epoch, sealed) = bytes.split_at_mut(EPOCH);
        if epoch != self.epoch {
            return Err(WatchError::OtherLog);
        }
        let (nonce, sealed) = sealed.split_at_mut(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| WatchError::Malformed)?;
        let key = self.key().map_err(|_| WatchError::Malformed)?;
        let opened = key.open_in_place(nonce, Aad::from(self.epoch), sealed).map_err(|_| WatchError::Malformed)?;
        let (position, mark) = opened.split_first_chunk().ok_or(WatchError::Malformed)?;
        let mark = mark.try_into().map_err(|_| WatchError::Malformed)?;
        Ok(Place { position: i64::from_be_bytes(*position), mark: Mark(mark) })
    }
}

const EPOCH: usize = 4;
const PLACE: usize = 12;
const TAG: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(position: i64) -> Place {
        Place { position, mark: Mark::of(EventId::new()) }
    }

    #[test]
    fn a_cursor_reveals_nothing_and_cannot_be_forged() {
        let cursors = Cursors::new("order", &[7; 32]);
        let (first, millionth) = (cursors.write(place(1)).unwrap(), cursors.write(place(1_000_000)).unwrap());
        assert_eq!((first.len(), millionth.len()), (59, 59));
        // Two cursors of the same place share only the epoch: 32 of 352 bits, 5 of 59 characters.
        let here = place(2);
        let [one, other] = [cursors.write(here).unwrap(), cursors.write(here).unwrap()];
        let common = one.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count();
        assert!((5..9).contains(&common), "{one} {other}");
        for text in
            ["", "0", "12", "start", "later", &first[1..], &format!("{first}A"), &first.replace(&first[56..], "===")]
        {
            assert!(matches!(cursors.read(text), Err(WatchError::Malformed)), "{text}");
        }
        for nth in 6..first.len() {
            let mut changed = first.clone().into_bytes();
            changed[nth] = if changed[nth] == b'A' { b'Q' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(matches!(cursors.read(&changed), Err(WatchError::Malformed)), "{changed}");
        }
    }

    #[test]
    fn a_cursor_belongs_to_one_log() {
        let cursor = Cursors::new("order", &[7; 32]).write(place(9)).unwrap();
        for other in [Cursors::new("order", &[8; 32]), Cursors::new("inventory", &[7; 32])] {
            assert!(matches!(other.read(&cursor), Err(WatchError::OtherLog)));
        }
    }

    proptest! {
        #[test]
        fn every_position_survives_a_cursor(position: i64, mark: [u8; 4]) {
            let cursors = Cursors::new("order", b"some epoch");
            let place = Place { position, mark: Mark(mark) };
            prop_assert_eq!(cursors.read(&cursors.write(place).unwrap()).unwrap(), place);
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            prop_assert!(Cursors::new("order", b"some epoch").read(&text).is_err());
        }
    }
}
