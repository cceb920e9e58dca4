//! Decisions on reservations: one function for each command.

use chrono::TimeDelta;
use souk_common::ids::{LocationId, OrderId, ProductId};

use super::{Book, Decision, Numbered};
use crate::domain::{
    command::{Refusal, RequestKey, Shortage},
    product::{State as ProductState, Tracking},
    reservation::{Items, Line, Reservation, State, fingerprint},
    stock::{Movement, Reason},
};

impl Book {
    pub(super) fn reservation(&self, order: OrderId) -> Decision<Reservation> {
        self.reservations.get(&order).cloned().ok_or(Refusal::NoReservation(order))
    }

    pub(super) fn reserve(&mut self, order: OrderId, items: &Items, ttl: TimeDelta) -> Decision<Reservation> {
        let items_hash = fingerprint(items);
        let earlier = self.reservations.get(&order);
        match earlier {
            None => {}
            Some(reservation) => match reservation.state {
                State::Open | State::Committed if reservation.items_hash == items_hash => {
                    return Ok(reservation.clone());
                }
                State::Open | State::Committed => return Err(Refusal::OtherItems(order)),
                State::Released => return Err(Refusal::WrongState { order, state: State::Released }),
                // The reservation expired: the order may try again.
                State::Expired => {}
            },
        }
        let created_at = earlier.map_or(self.now, |reservation| reservation.created_at);
        let lines = self.allocate(&self.sellable(items)?)?;
        for line in &lines {
            let mut level = self.level((line.product, line.location));
            level.reserved += line.quantity;
            self.set_level((line.product, line.location), level);
        }
        let reservation = Reservation {
            order,
            state: State::Open,
            items_hash,
            lines,
            expires_at: self.now + ttl,
            created_at,
            updated_at: self.now,
        };
        self.put(reservation.clone());
        Ok(reservation)
    }

    /// The items whose stock is tracked. Fails unless all products exist and are active.
    fn sellable(&self, items: &Items) -> Decision<Items> {
        let mut archived = Vec::new();
        let mut tracked = Items::new();
        for (product, quantity) in items {
            let facts = self.products.get(product).ok_or(Refusal::NoProduct(*product))?;
            if facts.state == ProductState::Archived {
                archived.push(*product);
            } else if facts.tracking == Tracking::Tracked {
                tracked.insert(*product, *quantity);
            }
        }
        if archived.is_empty() { Ok(tracked) } else { Err(Refusal::Archived(archived)) }
    }

    /// Finds available stock for all items, or returns those that are short. Changes nothing.
    fn allocate(&self, items: &Items) -> Decision<Vec<Line>> {
        let mut lines = Vec::new();
        let mut short = Vec::new();
        for (&product, &wanted) in items {
            let available = self.available(product);
            if available < wanted {
                short.push(Shortage { product, wanted, available });
                continue;
            }
            let mut parts = self.fill(product, wanted);
            // Lines are in key order, as they are stored.
            parts.sort_unstable();
            let line = |(location, quantity)| Line { product, location, quantity, returned: 0 };
            lines.extend(parts.into_iter().map(line));
        }
        if short.is_empty() { Ok(lines) } else { Err(Refusal::OutOfStock(short)) }
    }

    fn available(&self, product: ProductId) -> i64 {
        self.places(product).fold(0, |sum, (_, level)| sum.saturating_add(level.available()))
    }

    /// Takes the pieces from the first location that has all of them. If no location has, takes them from several, in
    /// order.
    fn fill(&self, product: ProductId, wanted: i64) -> Vec<(LocationId, i64)> {
        if let Some((location, _)) = self.places(product).find(|(_, level)| level.available() >= wanted) {
            return vec![(location, wanted)];
        }
        let mut missing = wanted;
        let mut parts = Vec::new();
        for (location, level) in self.places(product) {
            let part = level.available().min(missing);
            if part > 0 {
                parts.push((location, part));
                missing -= part;
            }
        }
        parts
    }

    pub(super) fn commit(&mut self, actor: &str, order: OrderId) -> Decision<Reservation> {
        let mut reservation = self.reservation(order)?;
        match reservation.state {
            State::Committed => return Ok(reservation),
            State::Released => return Err(Refusal::WrongState { order, state: State::Released }),
            State::Open => self.close(&reservation, State::Committed),
            // The reservation expired, but it can still be committed while there is stock.
            State::Expired => reservation.lines = self.allocate(&reservation.totals())?,
        }
        for line in &reservation.lines {
            let movement = Movement {
                product: line.product,
                location: line.location,
                quantity: -line.quantity,
                on_hand_after: 0,
                reason: Reason::Sale,
                reference: order.name(),
                note: String::new(),
                actor: actor.to_owned(),
            };
            self.post(movement, None);
        }
        reservation.state = State::Committed;
        reservation.updated_at = self.now;
        self.put(reservation.clone());
        Ok(reservation)
    }

    pub(super) fn release(&mut self, order: OrderId) -> Decision<Reservation> {
        match self.reservations.get(&order).cloned() {
            // A tombstone: a late Reserve can no longer reserve stock.
            None => self.put(Reservation {
                order,
                state: State::Released,
                items_hash: Vec::new(),
                lines: Vec::new(),
                expires_at: self.now,
                created_at: self.now,
                updated_at: self.now,
            }),
            Some(reservation) => match reservation.state {
                State::Released => {}
                State::Committed => return Err(Refusal::WrongState { order, state: State::Committed }),
                State::Open => self.close(&reservation, State::Released),
                State::Expired => {
                    self.put(Reservation { state: State::Released, updated_at: self.now, ..reservation });
                }
            },
        }
        self.reservation(order)
    }

    pub(super) fn take_back(
        &mut self,
        actor: &str,
        order: OrderId,
        key: &RequestKey,
        items: &Items,
    ) -> Decision<Reservation> {
        let mut reservation = self.reservation(order)?;
        if reservation.state != State::Committed {
            return Err(Refusal::WrongState { order, state: reservation.state });
        }
        let tracked = self.returnable(&reservation, items)?;
        let mut movements = Vec::new();
        for (&product, &quantity) in &tracked {
            let mut missing = quantity;
            for location in &self.locations {
                let line =
                    reservation.lines.iter_mut().find(|line| line.product == product && line.location == *location);
                let Some(line) = line else { continue };
                let part = missing.min(line.quantity - line.returned);
                if part == 0 {
                    continue;
                }
                line.returned += part;
                missing -= part;
                if self.level((product, *location)).on_hand.checked_add(part).is_none() {
                    return Err(Refusal::TooMuch(product));
                }
                movements.push(Movement {
                    product,
                    location: *location,
                    quantity: part,
                    on_hand_after: 0,
                    reason: Reason::Return,
                    reference: order.name(),
                    note: String::new(),
                    actor: actor.to_owned(),
                });
            }
        }
        for (number, movement) in (0..).zip(movements) {
            self.post(movement, Some(Numbered { key: key.id.clone(), number }));
        }
        self.put(reservation.clone());
        Ok(reservation)
    }

    /// The items whose stock is tracked. Fails if more pieces are returned than were sold.
    fn returnable(&self, reservation: &Reservation, items: &Items) -> Decision<Items> {
        let mut excess = Vec::new();
        let mut tracked = Items::new();
        for (&product, &wanted) in items {
            let facts = self.products.get(&product).ok_or(Refusal::NoProduct(product))?;
            if facts.tracking == Tracking::Untracked {
                continue;
            }
            let lines = reservation.lines.iter().filter(|line| line.product == product);
            let available = lines.map(|line| line.quantity - line.returned).sum();
            if available < wanted {
                excess.push(Shortage { product, wanted, available });
            }
            tracked.insert(product, wanted);
        }
        if excess.is_empty() { Ok(tracked) } else { Err(Refusal::NotSold(excess)) }
    }
}
