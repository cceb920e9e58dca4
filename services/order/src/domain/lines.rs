//! The lines of an order: how many of their pieces were shipped, cancelled or returned, and how many still can be.

use souk_common::ids::ProductId;

use super::{Fault, Order};

/// One product of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Number of the line, from 1.
    pub number: i32,
    /// The product.
    pub product: ProductId,
    /// The product's stock code when the order was placed.
    pub sku: String,
    /// The product's title when the order was placed.
    pub title: String,
    /// Pieces ordered.
    pub quantity: i64,
    /// Price of one piece, in minor units.
    pub unit_price: i64,
    /// Price of the line, in minor units.
    pub total: i64,
    /// Pieces that were returned, or whose return is in progress.
    pub returned: i64,
    /// The part of the returned pieces that had been shipped.
    pub returned_shipped: i64,
    /// Pieces that were cancelled, or are being cancelled, before they were shipped.
    pub cancelled: i64,
    /// Pieces in shipments.
    pub shipped: i64,
    /// True if the product's stock is tracked.
    pub tracked: bool,
}

/// Pieces of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// The number of the order's line, from 1.
    pub number: i32,
    /// Pieces, at least 1.
    pub quantity: i64,
}

/// A change of pieces of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The pieces are shipped.
    Ship,
    /// The pieces are cancelled.
    Cancel,
    /// The pieces are returned.
    Return,
}

/// How much of an order was shipped; see the contract's `Order.FulfillmentState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the contract says what each means")]
pub enum Fulfillment {
    Unfulfilled,
    PartiallyShipped,
    Shipped,
    NotNeeded,
}

impl Line {
    /// Pieces that still have to be shipped.
    #[must_use]
    pub fn open(&self) -> i64 {
        self.sold() - (self.shipped - self.returned_shipped)
    }

    /// Pieces that the customer has bought and not returned or cancelled.
    #[must_use]
    pub fn sold(&self) -> i64 {
        self.quantity - self.cancelled - self.returned
    }

    fn left(&self, what: Move) -> i64 {
        match what {
            Move::Ship | Move::Cancel => self.open(),
            Move::Return => self.sold(),
        }
    }

    fn book(&mut self, what: Move, quantity: i64) {
        match what {
            Move::Ship => self.shipped += quantity,
            Move::Cancel => self.cancelled += quantity,
            Move::Return => {
                // Shipped pieces count as returned first, because only these are known to be with the customer.
                self.returned_shipped += quantity.min(self.shipped - self.returned_shipped);
                self.returned += quantity;
            }
        }
    }
}

impl Order {
    /// Applies a change to pieces of the order's lines. Returns the changed pieces, each line once.
    ///
    /// # Errors
    /// A fault for each item with more pieces than the line has left, as a field under `field`. Other items may have
    /// been applied already.
    pub(super) fn book(&mut self, items: &[Pieces], field: &str, what: Move) -> Result<Vec<Pieces>, Vec<Fault>> {
        let (mut pieces, mut faults) = (Vec::<Pieces>::new(), Vec::new());
        let count = self.lines.len();
        for (index, item) in items.iter().enumerate() {
            let field = |name: &str| format!("{field}[{index}].{name}");
            let Some(line) = self.lines.iter_mut().find(|line| line.number == item.number) else {
                faults.push(Fault::new(field("line_number"), format!("must be a line of the order, 1 to {count}")));
                continue;
            };
            let left = line.left(what);
            if item.quantity > left {
                let which = match what {
                    Move::Ship => "the pieces that have still to be shipped",
                    Move::Cancel => "the pieces that were not shipped or cancelled, and have not come back",
                    Move::Return => "the pieces that were not cancelled and have not come back",
                };
                faults.push(Fault::new(field("quantity"), format!("must be at most {left}: {which}")));
                continue;
            }
            line.book(what, item.quantity);
            match pieces.iter_mut().find(|seen| seen.number == item.number) {
                Some(seen) => seen.quantity += item.quantity,
                None => pieces.push(*item),
            }
        }
        if faults.is_empty() { Ok(pieces) } else { Err(faults) }
    }

    /// The price of the pieces, in minor units.
    pub(super) fn price_of(&self, pieces: &[Pieces]) -> i64 {
        let price = |number| self.lines.iter().find(|line| line.number == number).map_or(0, |line| line.unit_price);
        // Cannot overflow: the sum is at most the sum of the lines' totals.
        pieces.iter().map(|piece| piece.quantity * price(piece.number)).sum()
    }

    /// The fulfillment state of the order.
    #[must_use]
    pub fn fulfillment(&self) -> Fulfillment {
        let counts = |line: &&Line| line.tracked || self.lines.iter().all(|line| !line.tracked);
        let shipped = self.lines.iter().filter(counts).any(|line| line.shipped > 0);
        let open = self.lines.iter().filter(counts).any(|line| line.open() > 0);
        match (shipped, open) {
            _ if self.state == super::State::Rejected => Fulfillment::NotNeeded,
            (false, true) => Fulfillment::Unfulfilled,
            (true, true) => Fulfillment::PartiallyShipped,
            (true, false) => Fulfillment::Shipped,
            (false, false) => Fulfillment::NotNeeded,
        }
    }
}
