//! The inventory service in memory: its real decisions on rows that are kept in maps.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use souk_common::ids::{LocationId, OrderId, ProductId};
use souk_inventory::domain::{
    book::{Book, Changes, Facts, Known, Spent, StockRow},
    command::{Action, Command, Refusal, Reply, RequestKey},
    product::{State as ProductState, Tracking},
    reservation::{Reservation, State as Held, sum},
    stock::{Level, Place},
};
use tonic::Status;
use uuid::Uuid;

use super::{
    dice::Dice,
    wire::{Peer, Wire},
    world::{Planted, State},
};
use crate::{
    clients::{Unanswered, released, restocked, short_or_done},
    domain::{Answer, Goods},
    saga::ports::Stock,
};

/// The resource name of the caller of the inventory service.
const CALLER: &str = "services/order";

/// Stock, reservations, and the keys of requests.
pub struct Shelf {
    locations: Vec<LocationId>,
    pub products: HashMap<ProductId, Facts>,
    pub stock: BTreeMap<Place, Level>,
    pub reservations: BTreeMap<OrderId, Reservation>,
    spent: HashMap<Vec<u8>, Spent>,
    /// The stock at the start.
    pub start: BTreeMap<ProductId, i64>,
}

/// The product with this number. The stock of the last one is not tracked.
pub fn product(number: u64) -> ProductId {
    ProductId::from_uuid(Uuid::from_u128(1 << 64 | u128::from(number)))
}

/// The number of products.
pub const PRODUCTS: u64 = 3;

impl Shelf {
    pub fn new(dice: &mut Dice) -> Self {
        let locations = [2, 1].map(|number| LocationId::from_uuid(Uuid::from_u128(2 << 64 | number)));
        let facts = |number| Facts {
            state: ProductState::Active,
            tracking: if number + 1 == PRODUCTS { Tracking::Untracked } else { Tracking::Tracked },
            low_stock_threshold: None,
        };
        let mut shelf = Self {
            locations: locations.to_vec(),
            products: (0..PRODUCTS).map(|number| (product(number), facts(number))).collect(),
            stock: BTreeMap::new(),
            reservations: BTreeMap::new(),
            spent: HashMap::new(),
            start: BTreeMap::new(),
        };
        let most = dice.pick(&[3, 6, 20]);
        for product in (0..PRODUCTS - 1).map(product) {
            for location in locations {
                let on_hand = dice.from(0..most) as i64;
                *shelf.start.entry(product).or_default() += on_hand;
                shelf.stock.insert((product, location), Level { on_hand, reserved: 0 });
            }
        }
        shelf
    }

    /// Decides one command and applies its changes, as one transaction.
    pub fn run(&mut self, now: DateTime<Utc>, action: Action) -> Result<Reply, Refusal> {
        let order = action.order();
        let concerned = |held: &&Reservation| Some(held.order) == order || held.has_lapsed(now);
        let mut book = Book::open(Known {
            now,
            posted_at: now,
            locations: self.locations.clone(),
            products: self.products.clone(),
            stock: self.stock.iter().map(|(&place, &level)| StockRow { place, level }).collect(),
            reservations: self.reservations.values().filter(concerned).cloned().collect(),
            spent: action
                .key()
                .and_then(|key| Some((key.id.clone(), self.spent.get(&key.id)?.clone())))
                .into_iter()
                .collect(),
        });
        let answer = book.decide(&[Command { actor: CALLER.to_owned(), action }]).remove(0);
        self.write(book.into_changes());
        answer
    }

    fn write(&mut self, changes: Changes) {
        for row in changes.stock_added.into_iter().chain(changes.stock_changed) {
            self.stock.insert(row.place, row.level);
        }
        let whole = changes.created.into_iter().chain(changes.moved).chain(changes.relined);
        self.reservations.extend(whole.map(|reservation| (reservation.order, reservation)));
        for (order, line) in changes.returned {
            let lines = &mut self.reservations.get_mut(&order).unwrap().lines;
            let same = lines.iter_mut().find(|held| (held.product, held.location) == (line.product, line.location));
            same.unwrap().returned = line.returned;
        }
        self.spent.extend(changes.answers.into_iter().map(|(id, answer)| (id, Spent::Answered(answer))));
    }

    /// The first inconsistency of the stock's sums, if there is one.
    pub fn fault(&self) -> Option<String> {
        let mut reserved = BTreeMap::<Place, i64>::new();
        for line in self.reservations.values().filter(|held| held.state == Held::Open).flat_map(|held| &held.lines) {
            *reserved.entry((line.product, line.location)).or_default() += line.quantity;
        }
        self.stock.iter().find_map(|(place, level)| {
            let sum = reserved.get(place).copied().unwrap_or_default();
            let right = level.reserved == sum && 0 <= level.reserved && level.reserved <= level.on_hand;
            (!right).then(|| format!("{place:?} has {level:?}, and open reservations of {sum}"))
        })
    }

    /// Pieces of a product on hand, over all locations.
    pub fn on_hand(&self, product: ProductId) -> i64 {
        self.stock.iter().filter(|(place, _)| place.0 == product).map(|(_, level)| level.on_hand).sum()
    }
}

/// Handles a call to the inventory service.
fn obey(state: &mut State, action: Action) -> Result<Reply, Refusal> {
    let now = state.now();
    let known = action.order().and_then(|order| state.shelf.reservations.get(&order).cloned());
    if let (Some(Planted::CommitNotDurable), Action::Commit { .. }, Some(held)) = (state.planted, &action, &known)
        && state.dice.percent(10)
    {
        return Ok(Reply::Reservation(held.clone()));
    }
    let released = matches!(action, Action::Release { .. }).then_some(action.order()).flatten();
    let answer = state.shelf.run(now, action);
    if let (Some(Planted::ReleaseForgotten), Some(order), None) = (state.planted, released, known) {
        state.shelf.reservations.remove(&order);
    }
    if let Some(fault) = state.shelf.fault() {
        state.broke(format!("stock does not add up: {fault}"));
    }
    answer
}

impl Wire {
    async fn ask_stock(&self, op: &'static str, action: Action) -> Result<Reply, Status> {
        let about = action.order();
        let answer = self.call((Peer::Stock, op), about, move |state| obey(state, action.clone())).await;
        match answer {
            Some(answer) => answer.map_err(|refusal| souk_inventory::error::Error::from(refusal).into()),
            None => Err(Status::unavailable("no answer")),
        }
    }

    /// Closes expired reservations, as the inventory service's job does.
    pub fn close_lapsed(state: &mut State) {
        let now = state.now();
        let lapsed = state.shelf.reservations.values().filter(|held| held.has_lapsed(now));
        for order in lapsed.map(|held| held.order).collect::<Vec<_>>() {
            state.count("reservation ran out", "stock");
            let _ = obey(state, Action::Expire { order });
        }
    }
}

fn items(goods: &[Goods]) -> souk_inventory::domain::reservation::Items {
    sum(goods.iter().map(|goods| (goods.product, goods.quantity))).unwrap()
}

impl Stock for Wire {
    async fn reserve(&self, order: OrderId, goods: &[Goods], ttl: Duration) -> Result<Answer, Unanswered> {
        let ttl = TimeDelta::from_std(ttl).unwrap();
        let answer = self.ask_stock("reserve", Action::Reserve { order, items: items(goods), ttl }).await;
        short_or_done("Reserve", answer)
    }

    async fn commit(&self, order: OrderId) -> Result<Answer, Unanswered> {
        short_or_done("CommitReservation", self.ask_stock("commit", Action::Commit { order }).await)
    }

    async fn release(&self, order: OrderId) -> Result<Answer, Unanswered> {
        released(self.ask_stock("release", Action::Release { order }).await)
    }

    async fn restock(&self, order: OrderId, key: String, goods: &[Goods]) -> Result<Answer, Unanswered> {
        let bytes = format!("{order} {key} {goods:?}");
        let key = RequestKey::new(CALLER, "ReturnReservation", &key, bytes.as_bytes());
        restocked(self.ask_stock("restock", Action::Return { order, key, items: items(goods) }).await)
    }
}
