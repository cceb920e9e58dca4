//! The codes of states and reasons in the database.

use crate::{
    domain::{
        product::{State as ProductState, Tracking},
        reservation::State as ReservationState,
        stock::Reason,
    },
    error::Error,
};

/// A value that is stored as a code.
pub trait Code: Copy + PartialEq + 'static {
    /// All values with their codes.
    const WORDS: &'static [(Self, &'static str)];
}

impl Code for ProductState {
    const WORDS: &'static [(Self, &'static str)] = &[(Self::Active, "ACTIVE"), (Self::Archived, "ARCHIVED")];
}

impl Code for Tracking {
    const WORDS: &'static [(Self, &'static str)] = &[(Self::Tracked, "TRACKED"), (Self::Untracked, "UNTRACKED")];
}

impl Code for ReservationState {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Self::Open, "OPEN"),
        (Self::Committed, "COMMITTED"),
        (Self::Released, "RELEASED"),
        (Self::Expired, "EXPIRED"),
    ];
}

impl Code for Reason {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Self::Receipt, "RECEIPT"),
        (Self::Count, "COUNT"),
        (Self::Damage, "DAMAGE"),
        (Self::Correction, "CORRECTION"),
        (Self::Sale, "SALE"),
        (Self::Return, "RETURN"),
        (Self::TransferOut, "TRANSFER_OUT"),
        (Self::TransferIn, "TRANSFER_IN"),
    ];
}

/// The code of a value.
pub fn word<T: Code>(value: T) -> &'static str {
    T::WORDS.iter().find(|(known, _)| *known == value).map_or("", |(_, word)| word)
}

/// The value of a code.
pub fn value<T: Code>(word: &str) -> Result<T, Error> {
    let found = T::WORDS.iter().find(|(_, known)| *known == word);
    found.map(|(value, _)| *value).ok_or_else(|| Error::Corrupt(format!("the unknown word {word:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn come_back<T: Code + std::fmt::Debug>() {
        for (known, word_of) in T::WORDS {
            assert_eq!(word(*known), *word_of);
            assert_eq!(value::<T>(word_of).unwrap(), *known);
        }
        assert!(matches!(value::<T>("open"), Err(Error::Corrupt(_))));
    }

    #[test]
    fn every_value_survives_its_code() {
        come_back::<ProductState>();
        come_back::<Tracking>();
        come_back::<ReservationState>();
        come_back::<Reason>();
    }
}
