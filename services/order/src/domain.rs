//! The rules of orders: what they are, how they are priced, and how they come to their end. No I/O.

mod action;
mod order;
mod placement;
mod returns;
mod saga;
mod timeline;

pub use action::{Action, Answer, Goods, Saga};
pub use order::{
    Address, CancelRefusal, Line, Order, Payment, PaymentState, Rejection, RejectionReason, Shortage, Token,
};
pub use placement::{Fault, Offer, Placement, Priced, Wanted, price};
pub use returns::{Return, ReturnLine, ReturnRefusal};
pub use saga::{Facts, Illegal, Outcome, Position, State, Step, advance, begin};
pub use timeline::{Entry, Kind, SERVICE_ACTOR};
