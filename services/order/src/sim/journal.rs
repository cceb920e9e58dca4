//! The order service's database in memory: the store's rules in little code. `model` compares the two.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use souk_common::ids::{OrderId, ReturnId};

use super::log::Log;
use crate::{
    domain::{
        Adjustment, Answer, CancelRefusal, Cancelling, Entry, Kind, Order, Pieces, Refusal, Saga, Shipment, State,
        Step, Tracking, What, Wish,
    },
    rpc::convert,
    saga::answer::{self, response},
    store::{IdempotencyRecord, Key, Lease, TimelineRow},
};

/// A saga and its lease.
#[derive(Clone, Debug)]
pub struct Row<T> {
    pub it: T,
    pub lease: Option<i64>,
    pub due: Option<DateTime<Utc>>,
}

impl<T> Row<T> {
    fn new(it: T, lease: Option<Lease>) -> Self {
        Self { it, lease: lease.map(|lease| lease.id), due: lease.map(|lease| lease.until) }
    }

    fn is_leased(&self, now: DateTime<Utc>) -> bool {
        self.lease.is_some() && self.due.is_some_and(|due| due > now)
    }

    fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.due.is_some_and(|due| due <= now)
    }
}

/// The result of a requested change.
#[derive(Clone, Debug)]
pub enum Wished<T> {
    NotFound,
    Known(IdempotencyRecord),
    /// A saga is running: try again.
    Busy,
    /// The change is refused permanently.
    Refused,
    /// The change was made before.
    Already,
    Begun(T),
}

/// The idempotency record of a key.
#[derive(Clone, Debug)]
pub struct Kept {
    pub hash: Vec<u8>,
    pub order: OrderId,
    pub back: Option<ReturnId>,
    pub response: Option<Vec<u8>>,
}

#[derive(Default)]
pub struct Journal {
    pub orders: BTreeMap<OrderId, Row<Order>>,
    pub adjustments: BTreeMap<ReturnId, Row<Adjustment>>,
    pub timelines: BTreeMap<OrderId, Vec<TimelineRow>>,
    pub keys: BTreeMap<(String, &'static str, String), Kept>,
}

fn name(key: &Key) -> (String, &'static str, String) {
    (key.caller.clone(), key.method, key.key.clone())
}

impl Journal {
    pub fn find_record(&self, key: &Key) -> Option<IdempotencyRecord> {
        self.keys.get(&name(key)).map(|kept| IdempotencyRecord {
            same_request: kept.hash == key.request_hash,
            order: kept.order,
            back: kept.back,
            response: kept.response.clone(),
        })
    }

    fn insert_record(&mut self, key: &Key, order: OrderId, back: Option<ReturnId>, response: Option<Vec<u8>>) {
        self.keys.insert(name(key), Kept { hash: key.request_hash.clone(), order, back, response });
    }

    /// Writes an order and its new timeline entries.
    fn put(&mut self, order: Order, entries: &[Entry], lease: Option<Lease>, log: &mut Log) {
        self.record(&order, entries, log);
        let lease = lease.filter(|_| order.step.is_some());
        self.orders.insert(order.id, Row::new(Order { attempts: 0, ..order }, lease));
    }

    /// Writes changes that do not affect an order's saga.
    fn put_effects(&mut self, order: Order, entries: &[Entry], log: &mut Log) {
        self.record(&order, entries, log);
        if let Some(row) = self.orders.get_mut(&order.id) {
            row.it = order;
        }
    }

    fn record(&mut self, order: &Order, entries: &[Entry], log: &mut Log) {
        let first = order.entries - entries.len() as i32 + 1;
        let rows = entries.iter().zip(first..).map(|(entry, number)| TimelineRow {
            number,
            entry: entry.clone(),
            time: order.update_time,
        });
        self.timelines.entry(order.id).or_default().extend(rows);
        log.append(order, entries);
    }

    pub fn place(
        &mut self,
        key: &Key,
        order: &Order,
        entries: &[Entry],
        lease: Lease,
        log: &mut Log,
    ) -> Option<IdempotencyRecord> {
        if let Some(record) = self.find_record(key) {
            return Some(record);
        }
        self.insert_record(key, order.id, None, None);
        self.put(order.clone(), entries, Some(lease), log);
        None
    }

    pub fn save(
        &mut self,
        (before, after): (&Saga, &Saga),
        entries: &[Entry],
        response: Option<&[u8]>,
        (held, lease, now): (i64, Lease, DateTime<Utc>),
        (anyone, log): (bool, &mut Log),
    ) -> bool {
        match (before, after) {
            (Saga::Order(before), Saga::Order(after)) => {
                let row = self.orders.get(&after.id);
                let ours = row.is_some_and(|row| row.lease == Some(held) && row.it.version == before.version);
                if !ours && !anyone {
                    return false;
                }
                self.put((**after).clone(), entries, Some(lease), log);
                for (key, kept) in &mut self.keys {
                    if let (true, "PlaceOrder", Some(response)) = (kept.order == after.id, key.1, response) {
                        kept.response = Some(response.to_vec());
                    }
                }
                true
            }
            (Saga::Adjustment(before), Saga::Adjustment(after)) => {
                let Some(row) = self.adjustments.get_mut(&after.id) else { return false };
                if (row.lease != Some(held) || row.it.step != before.step) && !anyone {
                    return false;
                }
                let lease = after.step.is_some().then_some(lease);
                *row = Row::new(Adjustment { attempts: 0, ..(**after).clone() }, lease);
                let Some(order) = self.orders.get(&after.order) else { return false };
                let mut order = order.it.clone();
                order.take_adjustment(after, entries.len(), now);
                self.put_effects(order, entries, log);
                let kept = self.keys.values_mut().find(|kept| kept.back == Some(after.id));
                if let (Some(kept), Some(response)) = (kept, response) {
                    kept.response = Some(response.to_vec());
                }
                true
            }
            _ => false,
        }
    }

    pub fn is_saved(&self, saga: &Saga, by_version: bool) -> bool {
        match saga {
            Saga::Order(order) => self.orders.get(&order.id).is_some_and(|row| {
                let stored = &row.it;
                let same = (stored.state, stored.step, stored.update_time);
                stored.version == order.version && (by_version || same == (order.state, order.step, order.update_time))
            }),
            Saga::Adjustment(adjustment) => {
                let is = (adjustment.step, adjustment.settled_manually);
                self.adjustments.get(&adjustment.id).is_some_and(|row| (row.it.step, row.it.settled_manually) == is)
            }
        }
    }

    pub fn release(&mut self, saga: &Saga, held: i64, due: DateTime<Utc>, attempts: i32) {
        match saga {
            Saga::Order(order) => {
                if let Some(row) = self.orders.get_mut(&order.id).filter(|row| row.lease == Some(held)) {
                    (row.lease, row.due, row.it.attempts) = (None, Some(due), attempts);
                }
            }
            Saga::Adjustment(adjustment) => {
                if let Some(row) = self.adjustments.get_mut(&adjustment.id).filter(|row| row.lease == Some(held)) {
                    (row.lease, row.due, row.it.attempts) = (None, Some(due), attempts);
                }
            }
        }
    }

    pub fn claim(&mut self, lease: Lease, limit: i64, now: DateTime<Utc>) -> Vec<Saga> {
        fn due<T, I: Ord>(rows: &mut BTreeMap<I, Row<T>>, limit: usize, now: DateTime<Utc>) -> Vec<&mut Row<T>> {
            let mut due: Vec<_> = rows.values_mut().filter(|row| row.is_due(now)).collect();
            due.sort_by_key(|row| row.due);
            due.truncate(limit);
            due
        }
        let limit = usize::try_from(limit).unwrap_or_default();
        let mut sagas = Vec::new();
        for row in due(&mut self.orders, limit, now) {
            (row.lease, row.due) = (Some(lease.id), Some(lease.until));
            sagas.push(Saga::Order(Box::new(row.it.clone())));
        }
        for row in due(&mut self.adjustments, limit - sagas.len(), now) {
            (row.lease, row.due) = (Some(lease.id), Some(lease.until));
            sagas.push(Saga::Adjustment(Box::new(row.it.clone())));
        }
        sagas
    }

    pub fn cancel(
        &mut self,
        (id, key, items): (OrderId, &Key, &[Pieces]),
        (wish, now, lease): (Wish<'_>, DateTime<Utc>, Lease),
        log: &mut Log,
    ) -> Wished<Saga> {
        let Some(row) = self.orders.get(&id) else { return Wished::NotFound };
        if let (false, Some(record)) = (items.is_empty(), self.find_record(key)) {
            return Wished::Known(record);
        }
        let mut order = row.it.clone();
        match order.cancel(items, wish, now).unwrap() {
            Err(CancelRefusal::Busy) => Wished::Busy,
            Err(_) => Wished::Refused,
            Ok(Cancelling::Already) => Wished::Already,
            Ok(Cancelling::Whole(entries)) => {
                self.put(order.clone(), &entries, Some(lease), log);
                Wished::Begun(Saga::Order(Box::new(order)))
            }
            Ok(Cancelling::Items(adjustment, entries)) => {
                self.begin_adjustment(key, order, &adjustment, &entries, lease, log);
                Wished::Begun(Saga::Adjustment(adjustment))
            }
        }
    }

    pub fn adjust(
        &mut self,
        (id, key, what): (OrderId, &Key, &What),
        (wish, now, lease): (Wish<'_>, DateTime<Utc>, Lease),
        log: &mut Log,
    ) -> Wished<Saga> {
        let Some(row) = self.orders.get(&id) else { return Wished::NotFound };
        if let Some(record) = self.find_record(key) {
            return Wished::Known(record);
        }
        let mut order = row.it.clone();
        match Adjustment::begin(&mut order, what, wish, None, now).unwrap() {
            Err(Refusal::Busy) => Wished::Busy,
            Err(_) => Wished::Refused,
            Ok((adjustment, entries)) => {
                self.begin_adjustment(key, order, &adjustment, &entries, lease, log);
                Wished::Begun(Saga::Adjustment(Box::new(adjustment)))
            }
        }
    }

    fn begin_adjustment(
        &mut self,
        key: &Key,
        order: Order,
        adjustment: &Adjustment,
        entries: &[Entry],
        lease: Lease,
        log: &mut Log,
    ) {
        let done = adjustment.step.is_none();
        self.insert_record(key, order.id, Some(adjustment.id), done.then(|| answer::encoded_adjustment(adjustment)));
        self.put_effects(order, entries, log);
        let lease = (!done).then_some(lease);
        self.adjustments.insert(adjustment.id, Row::new(adjustment.clone(), lease));
    }

    pub fn ship(
        &mut self,
        (id, key, items): (OrderId, &Key, &[Pieces]),
        now: DateTime<Utc>,
        log: &mut Log,
    ) -> Wished<Vec<u8>> {
        let Some(row) = self.orders.get(&id) else { return Wished::NotFound };
        if let Some(record) = self.find_record(key) {
            return Wished::Known(record);
        }
        let mut order = row.it.clone();
        let tracking = Tracking { carrier: String::new(), number: String::new(), url: String::new() };
        match Shipment::begin(&mut order, items, tracking, &key.caller, None, now) {
            Err(Refusal::Busy) => Wished::Busy,
            Err(_) => Wished::Refused,
            Ok((shipment, entries)) => {
                let answer = prost::Message::encode_to_vec(&convert::shipment(&shipment));
                self.insert_record(key, id, None, Some(answer.clone()));
                self.put_effects(order, &entries, log);
                Wished::Begun(answer)
            }
        }
    }

    /// Adds a note, or an operator's request to retry a saga, to an order's timeline.
    pub fn note(&mut self, (id, key): (OrderId, &Key), now: DateTime<Utc>, log: &mut Log) -> Wished<Vec<u8>> {
        let Some(row) = self.orders.get(&id) else { return Wished::NotFound };
        if let Some(record) = self.find_record(key) {
            return Wished::Known(record);
        }
        if row.is_leased(now) {
            return Wished::Busy;
        }
        let mut order = row.it.clone();
        let entries = order.record(Entry::new(Kind::Note, key.caller.as_str(), "a note"), now);
        let answer = order.entries.to_be_bytes().to_vec();
        self.insert_record(key, id, None, Some(answer.clone()));
        self.put_effects(order, &entries, log);
        Wished::Begun(answer)
    }

    /// Makes the next try of a saga due now. `false` if that is not possible.
    pub fn retry(&mut self, (id, back): (OrderId, Option<ReturnId>), now: DateTime<Utc>, log: &mut Log) -> bool {
        let Some(row) = self.orders.get(&id) else { return false };
        let (running, step) = match back {
            None => (row.is_leased(now), row.it.step),
            Some(back) => match self.adjustments.get(&back) {
                Some(row) => (row.is_leased(now), row.it.step),
                None => return false,
            },
        };
        if step.is_none() || running || row.is_leased(now) {
            return false;
        }
        let mut order = row.it.clone();
        let entry = Entry { internal: true, ..Entry::new(Kind::RetryRequested, "operator", "") };
        let entries = order.record(entry, now);
        self.put_effects(order, &entries, log);
        match back {
            None => self.orders.get_mut(&id).into_iter().for_each(|row| (row.lease, row.due) = (None, Some(now))),
            Some(back) => {
                let row = self.adjustments.get_mut(&back);
                row.into_iter().for_each(|row| (row.lease, row.due) = (None, Some(now)));
            }
        }
        true
    }

    /// Abandons an order that is being placed. `None` if that is not possible.
    pub fn abandon(&mut self, id: OrderId, (lease, now): (Lease, DateTime<Utc>), log: &mut Log) -> Option<Saga> {
        let row = self.orders.get(&id).filter(|row| !row.is_leased(now))?;
        let mut order = row.it.clone();
        let wish = Wish { actor: "operator", reason: "", etag: "" };
        let entries = order.abandon(wish, "simulated", now).ok()?;
        self.put(order.clone(), &entries, Some(lease), log);
        Some(Saga::Order(Box::new(order)))
    }

    /// Marks a step as done that an operator did outside of souk. `false` if that is not possible. `blindly` accepts
    /// any step.
    pub fn finish(
        &mut self,
        (id, back, step): (OrderId, Option<ReturnId>, Step),
        now: DateTime<Utc>,
        (blindly, log): (bool, &mut Log),
    ) -> bool {
        let wish = Wish { actor: "operator", reason: "by transfer", etag: "" };
        let Some(row) = self.orders.get(&id) else { return false };
        let mut order = row.it.clone();
        let saga = match back {
            None if row.is_leased(now) => return false,
            None => {
                let entries = match blindly {
                    true => order.advance(&Answer::Done, None, now),
                    false => order.finish(step, wish, now),
                };
                let Ok(entries) = entries else { return false };
                let due = Lease { id: 0, until: now };
                self.put(order.clone(), &entries, Some(due), log);
                Saga::Order(Box::new(order))
            }
            Some(back) => {
                let Some(row) = self.adjustments.get_mut(&back).filter(|row| !row.is_leased(now)) else { return false };
                let mut adjustment = row.it.clone();
                let entries = match blindly {
                    true => adjustment.advance(&Answer::Done, now),
                    false => adjustment.finish(step, wish),
                };
                let Ok(entries) = entries else { return false };
                let due = adjustment.step.map(|_| Lease { id: 0, until: now });
                *row = Row::new(adjustment.clone(), due);
                order.take_adjustment(&adjustment, entries.len(), now);
                self.put_effects(order, &entries, log);
                Saga::Adjustment(Box::new(adjustment))
            }
        };
        let response = response(&saga);
        let mut keys = self.keys.iter_mut().filter(|(key, kept)| match back {
            None => kept.order == id && key.1 == "PlaceOrder",
            Some(_) => kept.back == back,
        });
        if let (Some((_, kept)), Some(response)) = (keys.next(), response) {
            kept.response = Some(response);
        }
        true
    }

    /// Makes the next try of a waiting order due now.
    pub fn wake(&mut self, id: OrderId, now: DateTime<Utc>) {
        let waiting = |row: &&mut Row<Order>| row.lease.is_none() && row.due.is_some_and(|due| due > now);
        self.orders.get_mut(&id).filter(waiting).into_iter().for_each(|row| row.due = Some(now));
    }

    /// True if every saga has ended.
    pub fn is_final(&self) -> bool {
        let running = |state: State| state.is_running();
        !self.orders.values().any(|row| running(row.it.state) || row.it.step.is_some())
            && !self.adjustments.values().any(|row| row.it.step.is_some())
    }
}
