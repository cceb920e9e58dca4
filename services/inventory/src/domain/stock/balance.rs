//! Compares a balance with its proof. The proof of on hand is the ledger's sum; the proof of reserved is the sum of
//! open reservations.

use souk_common::ids::ProductId;

use super::{Level, Place};

/// The recorded balance of a place, and its proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// The product and the location.
    pub place: Place,
    /// The recorded balance.
    pub book: Level,
    /// The ledger's sum, and the sum of open reservations.
    pub proof: Level,
}

/// The balances of a page of products, in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalancePage {
    /// The page's products, and one more if there is a next page.
    pub products: Vec<ProductId>,
    /// The balances of the page's products.
    pub balances: Vec<Balance>,
}

/// The correction of a balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mended {
    /// The corrected balance.
    pub level: Level,
    /// Quantity of the ledger entry that corrects the difference, above or below zero; 0 if no entry is needed.
    pub entry: i64,
}

impl Balance {
    /// True if the balance differs from its proof.
    pub fn drifts(&self) -> bool {
        let Level { on_hand, reserved } = self.book;
        self.book != self.proof || reserved < 0 || reserved > on_hand
    }

    /// The correction. `reserved` becomes the sum of the reservations. `on_hand` stays the same, so that availability
    /// does not change, and the ledger gets an entry with the difference. `on_hand` is raised only if reservations hold
    /// more.
    pub fn mended(&self) -> Mended {
        let reserved = self.proof.reserved;
        let on_hand = self.book.on_hand.max(reserved);
        Mended { level: Level { on_hand, reserved }, entry: on_hand.saturating_sub(self.proof.on_hand) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use souk_common::ids::LocationId;

    use super::*;

    fn balance(book: (i64, i64), proof: (i64, i64)) -> Balance {
        let level = |(on_hand, reserved)| Level { on_hand, reserved };
        Balance { place: (ProductId::new(), LocationId::new()), book: level(book), proof: level(proof) }
    }

    #[test]
    fn a_correction_keeps_the_stock_on_hand_and_recounts_the_reserved_stock() {
        for (book, proof, level, entry) in [
            ((11, 2), (10, 2), (11, 2), 1),
            ((10, 3), (10, 2), (10, 2), 0),
            ((3, 3), (10, 5), (5, 5), -5),
            ((-1, 0), (0, 0), (0, 0), 0),
        ] {
            let balance = balance(book, proof);
            assert!(balance.drifts());
            let mended = balance.mended();
            assert_eq!(((mended.level.on_hand, mended.level.reserved), mended.entry), (level, entry));
        }
        assert!(!balance((10, 2), (10, 2)).drifts());
        assert!(balance((1, 2), (1, 2)).drifts(), "more is reserved than there is");
    }

    proptest! {
        /// After the correction, the balance equals its proof, whatever the drift was.
        #[test]
        fn a_corrected_balance_has_no_drift(on_hand in -9..9_i64, reserved in -9..9_i64, sum in 0..9_i64, held in 0..9_i64) {
            let before = balance((on_hand, reserved), (sum, held));
            let Mended { level, entry } = before.mended();
            let proof = Level { on_hand: sum + entry, reserved: held };
            let after = Balance { book: level, proof, ..before };
            prop_assert!(!after.drifts(), "{after:?}");
        }
    }
}
