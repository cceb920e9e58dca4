//! Manual changes of stock: adjustments, transfers and counts. Either all items take effect, or none.

use std::collections::HashMap;

use souk_common::ids::{LocationId, ProductId};

use super::{Book, Decision, Numbered, StockRow};
use crate::domain::{
    command::{Adjustment, Changed, Counted, Moved, Refusal, RequestKey, Undercount},
    product::{State, Tracking},
    stock::{Level, Movement, Place, Reason, StockLevel},
};

/// The fields that all ledger entries of one change share.
pub(super) struct Cause<'a> {
    pub(super) actor: &'a str,
    pub(super) key: &'a RequestKey,
    pub(super) reference: &'a str,
    pub(super) note: &'a str,
}

/// A change at one place that is checked but not applied yet.
struct Step {
    place: Place,
    quantity: i64,
    reason: Reason,
}

/// The levels after the change. They are applied only if all items are valid.
#[derive(Default)]
struct Trial {
    levels: HashMap<Place, Level>,
    steps: Vec<Step>,
}

impl Book {
    /// Adds each item's quantity to its stock.
    pub(super) fn adjust(
        &mut self,
        cause: &Cause<'_>,
        reason: Reason,
        items: &[Adjustment],
    ) -> Decision<Vec<StockLevel>> {
        let mut trial = Trial::default();
        for (item, adjustment) in items.iter().enumerate() {
            let place = self.place_of(item, adjustment.product, adjustment.location)?;
            self.try_step(&mut trial, item, Step { place, quantity: adjustment.quantity, reason })?;
        }
        let places: Vec<_> = trial.steps.iter().map(|step| step.place).collect();
        self.make(cause, trial);
        Ok(self.levels(places))
    }

    /// Moves every item from one location to another.
    pub(super) fn transfer(
        &mut self,
        cause: &Cause<'_>,
        source: LocationId,
        destination: LocationId,
        items: &[Moved],
    ) -> Decision<Vec<StockLevel>> {
        for (field, location) in [("source", source), ("destination", destination)] {
            if !self.locations.contains(&location) {
                return Err(Refusal::NoTransferLocation { field, location });
            }
        }
        if source == destination {
            return Err(Refusal::SameLocation(source));
        }
        let mut trial = Trial::default();
        for (item, moved) in items.iter().enumerate() {
            let from = self.place_of(item, moved.product, Some(source))?;
            let to = (moved.product, destination);
            let (taken, put) = (-moved.quantity, moved.quantity);
            self.try_step(&mut trial, item, Step { place: from, quantity: taken, reason: Reason::TransferOut })?;
            self.try_step(&mut trial, item, Step { place: to, quantity: put, reason: Reason::TransferIn })?;
        }
        let places: Vec<_> = trial.steps.iter().map(|step| step.place).collect();
        self.make(cause, trial);
        Ok(self.levels(places))
    }

    /// Sets every item's stock to the counted quantity, unless the stock has changed meanwhile. An item without a
    /// difference gets no ledger entry.
    pub(super) fn count(&mut self, cause: &Cause<'_>, items: &[Counted]) -> Decision<Vec<StockLevel>> {
        let mut trial = Trial::default();
        let mut places = Vec::with_capacity(items.len());
        let mut seen = HashMap::new();
        let (mut changed, mut below) = (Vec::new(), Vec::new());
        for (item, &Counted { product, location, quantity, expected_on_hand }) in items.iter().enumerate() {
            let place = self.place_of(item, product, location)?;
            if let Some(first) = seen.insert(place, item) {
                return Err(Refusal::CountedTwice { item, first });
            }
            let level = self.level(place);
            let on_hand = level.on_hand;
            if let Some(expected) = expected_on_hand.filter(|expected| *expected != on_hand) {
                changed.push(Changed { item, product, expected, on_hand });
            }
            if quantity < level.reserved {
                below.push(Undercount { item, product, counted: quantity, reserved: level.reserved });
            } else if quantity != level.on_hand {
                trial.steps.push(Step { place, quantity: quantity - level.on_hand, reason: Reason::Count });
            }
            places.push(place);
        }
        // Reported first, because a new count may find more than is reserved.
        if !changed.is_empty() {
            return Err(Refusal::ChangedWhileCounted(changed));
        }
        if !below.is_empty() {
            return Err(Refusal::CountedBelowReserved(below));
        }
        self.make(cause, trial);
        Ok(self.levels(places))
    }

    /// The place of an item's stock, if it may be changed manually.
    fn place_of(&self, item: usize, product: ProductId, location: Option<LocationId>) -> Decision<Place> {
        let facts = self.products.get(&product).ok_or(Refusal::NoItemProduct { item, product })?;
        if facts.tracking == Tracking::Untracked {
            return Err(Refusal::Untracked { item, product });
        }
        let location = match location {
            Some(location) if self.locations.contains(&location) => location,
            Some(location) => return Err(Refusal::NoItemLocation { item, location }),
            None => *self.locations.first().ok_or(Refusal::NoLocation)?,
        };
        Ok((product, location))
    }

    fn try_step(&self, trial: &mut Trial, item: usize, step: Step) -> Decision<()> {
        let Step { place, quantity, .. } = step;
        let (product, _) = place;
        let level = trial.levels.entry(place).or_insert_with(|| self.level(place));
        let (on_hand, reserved) = (level.on_hand, level.reserved);
        let left = on_hand.checked_add(quantity).ok_or(Refusal::TooMuch(product))?;
        if left < reserved {
            return Err(Refusal::BelowReserved { item, product, quantity, on_hand, left, reserved });
        }
        level.on_hand = left;
        trial.steps.push(step);
        Ok(())
    }

    /// Applies the trial. Its entries are numbered from 0 without gaps. The first one keeps the idempotency key
    /// permanently.
    fn make(&mut self, cause: &Cause<'_>, trial: Trial) {
        for (number, Step { place: (product, location), quantity, reason }) in (0..).zip(trial.steps) {
            let movement = Movement {
                product,
                location,
                quantity,
                on_hand_after: 0,
                reason,
                reference: cause.reference.to_owned(),
                note: cause.note.to_owned(),
                actor: cause.actor.to_owned(),
            };
            self.post(movement, Some(Numbered { key: cause.key.id.clone(), number }));
        }
    }

    /// The levels at these places, as clients see them.
    fn levels(&self, places: Vec<Place>) -> Vec<StockLevel> {
        let archived =
            |product: &ProductId| self.products.get(product).is_some_and(|facts| facts.state == State::Archived);
        let shown =
            |place: Place| StockRow { place, level: self.level(place) }.shown(archived(&place.0), self.posted_at);
        places.into_iter().map(shown).collect()
    }
}
