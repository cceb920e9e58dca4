//! The pieces of earlier orders that can still be returned, and the choice of the pieces that a cancellation takes
//! back.
//!
//! A cancellation names customer, product, pieces and price, but no invoice. It takes back pieces of the customer's
//! latest orders that have the product at that price. The choice depends only on the export and souk's responses, so
//! that a second run makes the same requests.

use std::collections::{BTreeMap, HashMap};

/// Pieces of an order's line that were not returned yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Open {
    order: String,
    line: i64,
    price: i64,
    pieces: i64,
}

/// What can be taken back, for the products that a cancellation in the export names.
#[derive(Default)]
pub struct Takeback {
    open: HashMap<(String, String), Vec<Open>>,
    /// The pieces of all lines, for each order that was ever in `open`.
    orders: HashMap<String, Remaining>,
}

struct Remaining {
    pieces: i64,
    touched: bool,
}

/// Pieces by line number, for each order.
pub type Taken = BTreeMap<String, BTreeMap<i64, i64>>;

impl Takeback {
    /// Adds a confirmed order. `lines` are those that a cancellation may take back, as (customer and code, line number,
    /// price, pieces). `pieces` is the number of pieces on all its lines.
    pub fn ordered(
        &mut self,
        order: &str,
        pieces: i64,
        lines: impl IntoIterator<Item = ((String, String), i64, i64, i64)>,
    ) {
        for (key, line, price, pieces_of_line) in lines {
            let open = Open { order: order.to_owned(), line, price, pieces: pieces_of_line };
            self.open.entry(key).or_default().push(open);
            self.orders.entry(order.to_owned()).or_insert(Remaining { pieces, touched: false });
        }
    }

    /// Takes pieces back, from the latest order first. Takes all of them, or none and returns `false` if there are not
    /// enough.
    pub fn take(&mut self, key: &(String, String), price: i64, pieces: i64, taken: &mut Taken) -> bool {
        let Some(open) = self.open.get_mut(key) else { return false };
        let there: i64 = open.iter().filter(|open| open.price == price).map(|open| open.pieces).sum();
        if there < pieces {
            return false;
        }
        let mut left = pieces;
        for entry in open.iter_mut().rev().filter(|open| open.price == price) {
            let now = left.min(entry.pieces);
            if now > 0 {
                entry.pieces -= now;
                left -= now;
                *taken.entry(entry.order.clone()).or_default().entry(entry.line).or_default() += now;
            }
        }
        open.retain(|open| open.pieces > 0);
        true
    }

    /// True if this takes back the whole order, and nothing was taken back before. Then the order is cancelled.
    pub fn is_whole(&mut self, order: &str, lines: &BTreeMap<i64, i64>) -> bool {
        let Some(remaining) = self.orders.get_mut(order) else { return false };
        let whole = !remaining.touched && remaining.pieces == lines.values().sum::<i64>();
        remaining.touched = true;
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(customer: &str) -> (String, String) {
        (customer.into(), "A".into())
    }

    #[test]
    fn goods_are_returned_from_the_latest_order_at_their_price() {
        let mut back = Takeback::default();
        back.ordered("o1", 5, [(key("7"), 1, 200, 5)]);
        back.ordered("o2", 3, [(key("7"), 1, 200, 3)]);
        back.ordered("o3", 9, [(key("7"), 1, 150, 9)]);
        let mut taken = Taken::new();
        assert!(back.take(&key("7"), 200, 4, &mut taken));
        assert_eq!(taken, Taken::from([("o1".into(), [(1, 1)].into()), ("o2".into(), [(1, 3)].into())]));
        let mut none = Taken::new();
        assert!(!back.take(&key("7"), 200, 5, &mut none) && none.is_empty());
        assert!(!back.take(&key("8"), 200, 1, &mut none));
        assert!(back.take(&key("7"), 200, 4, &mut none));
    }

    #[test]
    fn an_order_is_cancelled_only_if_all_of_it_is_returned_at_once() {
        let mut back = Takeback::default();
        back.ordered("o1", 5, [(key("7"), 1, 200, 3), (key("7"), 2, 200, 2)]);
        back.ordered("o2", 5, [(key("8"), 1, 200, 5)]);
        let mut taken = Taken::new();
        assert!(back.take(&key("7"), 200, 5, &mut taken));
        assert!(back.is_whole("o1", &taken["o1"]));
        for _ in 0..2 {
            let mut taken = Taken::new();
            assert!(back.take(&key("8"), 200, 2, &mut taken));
            assert!(!back.is_whole("o2", &taken["o2"]));
        }
    }
}
