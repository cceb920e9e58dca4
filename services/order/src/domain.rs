//! The rules of orders: prices, states and transitions. No I/O.

mod action;
mod adjustments;
mod cancellation;
pub mod delivery;
pub mod endpoint;
mod lines;
mod order;
mod payment;
mod placement;
mod rejection;
mod saga;
mod shipments;
mod timeline;

pub use action::{Action, Answer, Goods, Saga};
pub use adjustments::{Adjustment, Cause, Refusal, What};
pub use cancellation::{CancelRefusal, Cancelling};
pub use lines::{Fulfillment, Line, Move, Pieces};
pub use order::{Address, Order, Wish};
pub use payment::{Payment, PaymentState, Token};
pub use placement::{Fault, Offer, Placement, Priced, Unpriced, Wanted, price, shortage};
pub use rejection::{Rejection, RejectionReason, Shortage};
pub use saga::{Facts, Illegal, Outcome, Position, State, Step, advance, begin};
pub use shipments::{Shipment, Tracking};
pub use timeline::{Entry, Kind, SERVICE_ACTOR};
