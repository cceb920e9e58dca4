//! Random histories of orders, compared with a model: allowed changes succeed, all others are refused, and stock and
//! money add up after each. `PROPTEST_CASES=200` sets the number of histories.

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use souk_common::error::{Problem, Reason};
use souk_proto::order::v1::{
    AddOrderNoteRequest, Order,
    order::{FulfillmentState, State},
};
use tonic::Status;

use crate::harness::{Souk, back, both, cancel, gbp, key, refund, shipment, untracked};

/// The price of one piece, in pence.
const PRICE: i64 = 250;

/// A change that is requested of a confirmed order. Pieces are a line and a number.
#[derive(Clone, Debug)]
enum Ask {
    Cancel,
    CancelItems(i32, i64),
    Ship(i32, i64),
    Return(i32, i64),
    /// The amount in pence.
    Refund(i64),
    Note,
}

fn ask() -> impl Strategy<Value = Ask> {
    let pieces = || (1..4_i32, 1..4_i64);
    prop_oneof![
        1 => Just(Ask::Cancel),
        3 => pieces().prop_map(|(line, quantity)| Ask::CancelItems(line, quantity)),
        3 => pieces().prop_map(|(line, quantity)| Ask::Ship(line, quantity)),
        3 => pieces().prop_map(|(line, quantity)| Ask::Return(line, quantity)),
        2 => (0..1500_i64).prop_map(Ask::Refund),
        1 => Just(Ask::Note),
    ]
}

#[derive(Clone, Debug, Default)]
struct Line {
    quantity: i64,
    cancelled: i64,
    shipped: i64,
    returned: i64,
    /// Pieces that were returned although no shipment named them.
    never_shipped: i64,
}

/// The expected state of an order.
#[derive(Clone, Debug)]
struct Model {
    lines: Vec<Line>,
    refunded: i64,
    cancelled: bool,
}

impl Line {
    fn open(&self) -> i64 {
        self.quantity - self.cancelled - self.shipped - self.never_shipped
    }

    fn bought(&self) -> i64 {
        self.quantity - self.cancelled - self.returned
    }
}

impl Model {
    fn total(&self) -> i64 {
        self.lines.iter().map(|line| line.quantity * PRICE).sum()
    }

    fn line(&mut self, number: i32) -> &mut Line {
        &mut self.lines[usize::try_from(number).unwrap() - 1]
    }

    fn give_back(&mut self, pence: i64) {
        self.refunded = self.total().min(self.refunded + pence);
    }

    fn cancel_whole(&mut self) {
        self.cancelled = true;
        self.refunded = self.total();
        for line in &mut self.lines {
            line.cancelled += line.bought();
        }
    }

    /// Makes the change, or returns why it is refused.
    fn ask(&mut self, ask: &Ask) -> Result<(), Reason> {
        let shipped = self.lines.iter().any(|line| line.shipped > 0);
        let open: i64 = self.lines.iter().map(Line::open).sum();
        let (cancelled, left) = (self.cancelled, self.total() - self.refunded);
        match *ask {
            Ask::Note => {}
            Ask::Cancel | Ask::CancelItems(..) if cancelled => {}
            _ if cancelled => return Err(Reason::StateConflict),
            Ask::Cancel if shipped => return Err(Reason::OrderShipped),
            Ask::Cancel => self.cancel_whole(),
            Ask::CancelItems(number, quantity) => {
                if quantity > self.line(number).open() {
                    return Err(Reason::FieldInvalid);
                }
                if quantity == open && !shipped {
                    self.cancel_whole();
                } else {
                    self.line(number).cancelled += quantity;
                    self.give_back(quantity * PRICE);
                }
            }
            Ask::Ship(number, quantity) => {
                if quantity > self.line(number).open() {
                    return Err(Reason::FieldInvalid);
                }
                self.line(number).shipped += quantity;
            }
            Ask::Return(number, quantity) => {
                let line = self.line(number);
                if quantity > line.bought() {
                    return Err(Reason::FieldInvalid);
                }
                let with_customer = line.shipped - (line.returned - line.never_shipped);
                line.never_shipped += (quantity - with_customer).max(0);
                line.returned += quantity;
                self.give_back(quantity * PRICE);
            }
            Ask::Refund(pence) if pence == 0 || pence > left => return Err(Reason::FieldInvalid),
            Ask::Refund(pence) => self.give_back(pence),
        }
        Ok(())
    }

    /// Checks that an order is as expected.
    fn fits(&self, order: &Order) {
        let state = if self.cancelled { State::Cancelled } else { State::Confirmed };
        assert_eq!(order.state(), state, "{self:?}");
        assert_eq!(order.refunded_total, Some(pence(self.refunded)), "{self:?}");
        for (line, is) in self.lines.iter().zip(&order.lines) {
            let is = (is.cancelled_quantity, is.shipped_quantity, is.returned_quantity);
            assert_eq!(is, (line.cancelled, line.shipped, line.returned), "{self:?}");
        }
        // The second line is postage.
        let goods = [&self.lines[0], &self.lines[2]];
        let expected = match (goods.iter().any(|line| line.shipped > 0), goods.iter().any(|line| line.open() > 0)) {
            (false, true) => FulfillmentState::Unfulfilled,
            (true, true) => FulfillmentState::PartiallyShipped,
            (true, false) => FulfillmentState::Shipped,
            (false, false) => FulfillmentState::NotNeeded,
        };
        assert_eq!(order.fulfillment_state(), expected, "{self:?}");
    }
}

fn pence(pence: i64) -> souk_proto::google::r#type::Money {
    gbp(pence / 100, i32::try_from(pence % 100).unwrap() * 10_000_000)
}

async fn do_it(souk: &Souk, order: &str, ask: &Ask) -> Result<(), Status> {
    match *ask {
        Ask::Cancel => souk.cancel(&souk.ada, order, "").await.map(drop),
        Ask::CancelItems(line, quantity) => {
            souk.cancel_items(&souk.ada, cancel(order, &[(line, quantity)])).await.map(drop)
        }
        Ask::Ship(line, quantity) => souk.ship(&souk.staff, shipment(order, &[(line, quantity)])).await.map(drop),
        Ask::Return(line, quantity) => souk.give_back(&souk.staff, back(order, &[(line, quantity)])).await.map(drop),
        Ask::Refund(amount) => souk.refund(&souk.staff, refund(order, pence(amount))).await.map(drop),
        Ask::Note => {
            let (name, request_id, text) = (order.to_owned(), key(), "a note".to_owned());
            let request = AddOrderNoteRequest { name, request_id, text, visible_to_customer: false };
            souk.api(&souk.staff).add_order_note(request).await.map(drop)
        }
    }
}

/// The history of one order, beginning with its placement.
async fn live(souk: &Souk, lantern: &str, postage: &str, quantities: [i64; 2], asks: &[Ask]) {
    let before = souk.sums(lantern).await.0;
    let [first, last] = quantities;
    let order = souk.confirmed(&[(lantern, first), (postage, 1), (lantern, last)]).await;
    let lines = [first, 1, last].map(|quantity| Line { quantity, ..Line::default() });
    let mut model = Model { lines: lines.to_vec(), refunded: 0, cancelled: false };
    for ask in asks {
        let (answer, expected) = (do_it(souk, &order.name, ask).await, model.ask(ask));
        let answer = answer.map_err(|status| Problem::from(status).reason());
        assert_eq!(answer, expected, "{}: {ask:?} of {model:?}", souk.engine);
        model.fits(&souk.get(&souk.ada, &order.name).await.unwrap());
    }
    let sold = model.lines[0].bought() + model.lines[2].bought();
    assert_eq!(souk.sums(lantern).await, (before - sold, before - sold), "{model:?}");
    souk.verified().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_and_money_add_up_in_every_random_history() {
    let few = std::env::var_os("PROPTEST_CASES").is_none();
    let config = Config { failure_persistence: None, max_shrink_iters: 50, ..Config::default() };
    let config = if few { Config { cases: 12, ..config } } else { config };
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 1_000_000).await;
        let postage = souk.made(untracked("POST")).await;
        let histories = ([1..6_i64, 1..3_i64], prop::collection::vec(ask(), 1..12));
        let (handle, config) = (tokio::runtime::Handle::current(), config.clone());
        let lived = tokio::task::spawn_blocking(move || {
            let run = |(quantities, asks): ([i64; 2], Vec<Ask>)| -> Result<(), TestCaseError> {
                handle.block_on(live(&souk, &lantern, &postage, quantities, &asks));
                Ok(())
            };
            let result = TestRunner::new(config).run(&histories, run).map_err(|error| error.to_string());
            (souk, result)
        });
        let (souk, result) = lived.await.unwrap();
        assert_eq!(result, Ok(()), "{}", souk.engine);
    }
}
