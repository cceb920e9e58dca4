//! A batch of commands in memory: the rows that the store loaded and locked, the decisions, and the changes to write.

pub mod low;
mod reservations;
mod stock;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use souk_common::ids::{LocationId, OrderId, ProductId};

use self::stock::Cause;
use super::{
    command::{Action, Command, Refusal, Reply, RequestKey},
    product::{State as ProductState, Tracking},
    reservation::{Line, Reservation, State},
    stock::{Level, Movement, Place, StockLevel},
};

type Decision<T> = Result<T, Refusal>;

/// The facts about a product that decisions need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Whether the product can be sold.
    pub state: ProductState,
    /// Whether the product's stock is tracked.
    pub tracking: Tracking,
    /// The product is low when at most this many pieces are available.
    pub low_stock_threshold: Option<i64>,
}

impl Facts {
    /// True if the product is active and its stock is tracked.
    pub fn is_stocked(&self) -> bool {
        self.state == ProductState::Active && self.tracking == Tracking::Tracked
    }
}

/// The earlier use of an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spent {
    /// The response is stored.
    Answered(Answer),
    /// The request changed stock, but its response was deleted.
    Forgotten,
}

/// The answer to a request with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// SHA-256 of the request.
    pub hash: Vec<u8>,
    /// The response.
    pub reply: Reply,
}

/// Stock at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StockRow {
    /// The product and the location.
    pub place: Place,
    /// The pieces on hand and reserved.
    pub level: Level,
}

impl StockRow {
    /// The level as clients see it. Archived products have no available stock.
    pub fn shown(self, archived: bool, updated_at: DateTime<Utc>) -> StockLevel {
        let StockRow { place: (product, location), level } = self;
        StockLevel {
            product,
            location,
            on_hand: level.on_hand,
            reserved: level.reserved,
            available: if archived { 0 } else { level.available() },
            updated_at,
        }
    }
}

/// The rows that a batch touches, as of `now`.
#[derive(Debug, Clone)]
pub struct Known {
    /// The transaction's time.
    pub now: DateTime<Utc>,
    /// The time of ledger entries: now, but not before the last entry.
    pub posted_at: DateTime<Utc>,
    /// All locations in filling order.
    pub locations: Vec<LocationId>,
    /// The products that the commands name, and all others whose stock is locked.
    pub products: HashMap<ProductId, Facts>,
    /// Stock of every locked product, at every location that has or had it.
    pub stock: Vec<StockRow>,
    /// The reservations of the commands' orders, and those of the locked products that have expired.
    pub reservations: Vec<Reservation>,
    /// The commands' idempotency keys that were used before.
    pub spent: HashMap<Vec<u8>, Spent>,
}

/// The changes to write. Rows of one kind are in key order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Levels of new places.
    pub stock_added: Vec<StockRow>,
    /// New levels of existing places.
    pub stock_changed: Vec<StockRow>,
    /// New reservations, with their lines.
    pub created: Vec<Reservation>,
    /// Reservations that changed state.
    pub moved: Vec<Reservation>,
    /// Reservations whose lines no longer hold stock.
    pub freed: Vec<OrderId>,
    /// Reservations whose lines are all replaced.
    pub relined: Vec<Reservation>,
    /// Lines with more returned pieces.
    pub returned: Vec<(OrderId, Line)>,
    /// New ledger entries, in the order in which they happened.
    pub ledger: Vec<Entry>,
    /// Idempotency keys with their responses.
    pub answers: Vec<(Vec<u8>, Answer)>,
}

/// A new ledger entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The change of stock.
    pub movement: Movement,
    /// The idempotency key of the request that caused the entry, if it had one.
    pub request: Option<Numbered>,
}

/// The position of a ledger entry among those of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbered {
    /// The idempotency key of the request.
    pub key: Vec<u8>,
    /// The number of the entry, from 0.
    pub number: i32,
}

/// The state of a batch: commands are decided on it one after the other.
pub struct Book {
    now: DateTime<Utc>,
    posted_at: DateTime<Utc>,
    locations: Vec<LocationId>,
    products: HashMap<ProductId, Facts>,
    stock: BTreeMap<Place, Level>,
    stored_stock: BTreeMap<Place, Level>,
    reservations: BTreeMap<OrderId, Reservation>,
    stored_reservations: BTreeMap<OrderId, Reservation>,
    spent: HashMap<Vec<u8>, Spent>,
    ledger: Vec<Entry>,
    answers: BTreeMap<Vec<u8>, Answer>,
}

impl Book {
    /// Opens a book. Expired reservations are closed first, so that their stock is free.
    pub fn open(known: Known) -> Self {
        let stock: BTreeMap<_, _> = known.stock.iter().map(|row| (row.place, row.level)).collect();
        let reservations: BTreeMap<_, _> =
            known.reservations.into_iter().map(|reservation| (reservation.order, reservation)).collect();
        let mut book = Self {
            now: known.now,
            posted_at: known.posted_at,
            locations: known.locations,
            products: known.products,
            stored_stock: stock.clone(),
            stock,
            stored_reservations: reservations.clone(),
            reservations,
            spent: known.spent,
            ledger: Vec::new(),
            answers: BTreeMap::new(),
        };
        let lapsed: Vec<_> = book.reservations.values().filter(|r| r.has_lapsed(book.now)).cloned().collect();
        for reservation in lapsed {
            book.close(&reservation, State::Expired);
        }
        book
    }

    /// Decides the commands in order of arrival. Returns one result each.
    pub fn decide(&mut self, commands: &[Command]) -> Vec<Result<Reply, Refusal>> {
        commands.iter().map(|command| self.decide_one(command)).collect()
    }

    /// The changes since the book was opened.
    pub fn into_changes(self) -> Changes {
        let mut changes =
            Changes { ledger: self.ledger, answers: self.answers.into_iter().collect(), ..Changes::default() };
        for (place, level) in self.stock {
            let row = StockRow { place, level };
            match self.stored_stock.get(&place) {
                None => changes.stock_added.push(row),
                Some(stored) if *stored != level => changes.stock_changed.push(row),
                Some(_) => {}
            }
        }
        for (order, reservation) in self.reservations {
            match self.stored_reservations.get(&order) {
                None => changes.created.push(reservation),
                Some(stored) => compare(stored, reservation, &mut changes),
            }
        }
        changes
    }

    /// Decides one command. Either all of it takes effect, or nothing.
    fn decide_one(&mut self, command: &Command) -> Decision<Reply> {
        let actor = &command.actor;
        match &command.action {
            Action::Reserve { order, items, ttl } => self.reserve(*order, items, *ttl).map(Reply::Reservation),
            Action::Commit { order } => self.commit(actor, *order).map(Reply::Reservation),
            Action::Release { order } => self.release(*order).map(Reply::Reservation),
            // Expired reservations were closed when the book was opened.
            Action::Expire { order } => self.reservation(*order).map(Reply::Reservation),
            Action::Return { order, key, items } => {
                self.once(key, |book| book.take_back(actor, *order, key, items).map(Reply::Reservation))
            }
            Action::Adjust { key, items, reason, reference, note } => self.once(key, |book| {
                let cause = Cause { actor, key, reference, note };
                book.adjust(&cause, *reason, items).map(Reply::Levels)
            }),
            Action::Transfer { key, source, destination, items, reference, note } => self.once(key, |book| {
                let cause = Cause { actor, key, reference, note };
                book.transfer(&cause, *source, *destination, items).map(Reply::Levels)
            }),
            Action::Count { key, items, reference, note } => self.once(key, |book| {
                let cause = Cause { actor, key, reference, note };
                book.count(&cause, items).map(Reply::Levels)
            }),
        }
    }

    /// Applies a request with an idempotency key once. Refusals are not recorded, because they changed nothing.
    fn once(&mut self, key: &RequestKey, act: impl FnOnce(&mut Self) -> Decision<Reply>) -> Decision<Reply> {
        match self.spent.get(&key.id) {
            Some(Spent::Answered(answer)) if answer.hash == key.hash => return Ok(answer.reply.clone()),
            Some(_) => return Err(Refusal::KeyReused),
            None => {}
        }
        let reply = act(self)?;
        let answer = Answer { hash: key.hash.clone(), reply: reply.clone() };
        self.spent.insert(key.id.clone(), Spent::Answered(answer.clone()));
        self.answers.insert(key.id.clone(), answer);
        Ok(reply)
    }

    fn level(&self, place: Place) -> Level {
        self.stock.get(&place).copied().unwrap_or_default()
    }

    fn set_level(&mut self, place: Place, level: Level) {
        self.stock.insert(place, level);
    }

    /// The places of a product, in filling order.
    fn places(&self, product: ProductId) -> impl Iterator<Item = (LocationId, Level)> + '_ {
        let place = move |location: &LocationId| Some((*location, *self.stock.get(&(product, *location))?));
        self.locations.iter().filter_map(place)
    }

    /// Closes an open reservation: releases its stock and sets a final state.
    fn close(&mut self, reservation: &Reservation, state: State) {
        for line in &reservation.lines {
            let place = (line.product, line.location);
            let mut level = self.level(place);
            level.reserved -= line.quantity;
            self.set_level(place, level);
        }
        self.put(Reservation { state, updated_at: self.now, ..reservation.clone() });
    }

    fn put(&mut self, reservation: Reservation) {
        self.reservations.insert(reservation.order, reservation);
    }

    /// Changes the stock of a place, and writes the ledger entry. The caller must have checked the sum.
    fn post(&mut self, mut movement: Movement, request: Option<Numbered>) {
        let place = (movement.product, movement.location);
        let mut level = self.level(place);
        level.on_hand = level.on_hand.saturating_add(movement.quantity);
        movement.on_hand_after = level.on_hand;
        self.set_level(place, level);
        self.ledger.push(Entry { movement, request });
    }
}

fn compare(stored: &Reservation, now: Reservation, changes: &mut Changes) {
    let wishes = |reservation: &Reservation| -> Vec<_> {
        reservation.lines.iter().map(|line| (line.product, line.location, line.quantity)).collect()
    };
    let held = (stored.held_until(), now.held_until());
    let relined = wishes(stored) != wishes(&now) || (held.1.is_some() && held.0 != held.1);
    if !relined {
        if held.0.is_some() && held.1.is_none() {
            changes.freed.push(now.order);
        }
        for (before, after) in stored.lines.iter().zip(&now.lines) {
            if before.returned != after.returned {
                changes.returned.push((now.order, *after));
            }
        }
    }
    if stored.state != now.state || stored.items_hash != now.items_hash || stored.expires_at != now.expires_at {
        changes.moved.push(now.clone());
    }
    if relined {
        changes.relined.push(now);
    }
}

impl Known {
    /// Products of the loaded reservations that are not locked. If there are any, the data changed between the first
    /// read and the locking, and the batch must begin again and lock these products, too.
    pub fn unlocked(&self, locked: &BTreeSet<ProductId>) -> BTreeSet<ProductId> {
        let lines = self.reservations.iter().flat_map(|reservation| &reservation.lines);
        lines.map(|line| line.product).filter(|product| !locked.contains(product)).collect()
    }

    /// True if the stock of every line of the loaded reservations was loaded. If not, the stock was added while the
    /// batch waited for locks. The batch must then begin again, because reserved stock must not count as zero.
    pub fn is_whole(&self) -> bool {
        let places: BTreeSet<Place> = self.stock.iter().map(|row| row.place).collect();
        let mut lines = self.reservations.iter().flat_map(|reservation| &reservation.lines);
        lines.all(|line| places.contains(&(line.product, line.location)))
    }
}
