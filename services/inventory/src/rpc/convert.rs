//! Between the contract's messages and the domain's types.

use chrono::{DateTime, Utc};
use prost_types::Timestamp;
use souk_proto::inventory::v1::{
    LedgerEntry as LedgerEntryMessage, Location as LocationMessage, PastStockLevel, Product as ProductMessage,
    Reservation as ReservationMessage, StockLevel as StockLevelMessage,
    batch_update_reservations_response::Shortage as ShortageMessage, ledger_entry,
    list_low_stock_response::LowStock as LowStockMessage, product, reservation,
};

use crate::domain::{
    command::Shortage,
    product::{Product, State as ProductState, Tracking},
    reservation::{Reservation, State as ReservationState},
    stock::{LedgerEntry, Location, LowStock, PastLevel, Reason, StockLevel},
};

fn time(time: DateTime<Utc>) -> Option<Timestamp> {
    // A fraction of a second is less than 10^9 nanoseconds, so it fits.
    let nanos = i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default();
    Some(Timestamp { seconds: time.timestamp(), nanos })
}

/// The time that a message gives; none if it gives none that there is.
pub fn moment(given: &Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(given.seconds, u32::try_from(given.nanos).ok()?)
}

pub fn product(product: Product) -> ProductMessage {
    ProductMessage {
        name: product.id.name(),
        etag: product.etag(),
        sku: product.sku,
        low_stock_threshold: product.low_stock_threshold,
        title: product.title,
        description: product.description,
        price: Some(product.price.into()),
        stock_tracking: match product.tracking {
            Tracking::Tracked => product::StockTracking::Tracked,
            Tracking::Untracked => product::StockTracking::Untracked,
        }
        .into(),
        state: match product.state {
            ProductState::Active => product::State::Active,
            ProductState::Archived => product::State::Archived,
        }
        .into(),
        create_time: time(product.created_at),
        update_time: time(product.updated_at),
    }
}

pub fn location(location: Location) -> LocationMessage {
    LocationMessage {
        name: location.id.name(),
        code: location.code,
        display_name: location.display_name,
        priority: location.priority,
        create_time: time(location.created_at),
    }
}

pub fn level(level: StockLevel) -> StockLevelMessage {
    StockLevelMessage {
        product: level.product.name(),
        location: level.location.name(),
        on_hand: level.on_hand,
        reserved: level.reserved,
        available: level.available,
        update_time: time(level.updated_at),
    }
}

pub fn past_level(level: PastLevel) -> PastStockLevel {
    PastStockLevel {
        product: level.product.name(),
        location: level.location.name(),
        on_hand: level.on_hand,
        update_time: time(level.updated_at),
    }
}

pub fn low_stock(low: LowStock) -> LowStockMessage {
    LowStockMessage {
        product: low.product.name(),
        sku: low.sku,
        title: low.title,
        available: low.available,
        low_stock_threshold: low.threshold,
    }
}

pub fn ledger_entry(entry: LedgerEntry) -> LedgerEntryMessage {
    let movement = entry.movement;
    let product = movement.product.name();
    LedgerEntryMessage {
        name: format!("{product}/{}", entry.id.name()),
        product,
        location: movement.location.name(),
        quantity: movement.quantity,
        on_hand_after: movement.on_hand_after,
        reason: match movement.reason {
            Reason::Receipt => ledger_entry::Reason::Receipt,
            Reason::Count => ledger_entry::Reason::Count,
            Reason::Damage => ledger_entry::Reason::Damage,
            Reason::Correction => ledger_entry::Reason::Correction,
            Reason::Sale => ledger_entry::Reason::Sale,
            Reason::Return => ledger_entry::Reason::Return,
            Reason::TransferOut => ledger_entry::Reason::TransferOut,
            Reason::TransferIn => ledger_entry::Reason::TransferIn,
        }
        .into(),
        reference: movement.reference,
        note: movement.note,
        actor: movement.actor,
        create_time: time(entry.created_at),
    }
}

/// The reasons that a person may give for a change. A sale is none, that is made by
/// a commit; nor is half a transfer.
pub fn reason(number: i32) -> Option<Reason> {
    match ledger_entry::Reason::try_from(number).ok()? {
        ledger_entry::Reason::Receipt => Some(Reason::Receipt),
        ledger_entry::Reason::Count => Some(Reason::Count),
        ledger_entry::Reason::Damage => Some(Reason::Damage),
        ledger_entry::Reason::Correction => Some(Reason::Correction),
        ledger_entry::Reason::Return => Some(Reason::Return),
        ledger_entry::Reason::Sale
        | ledger_entry::Reason::TransferOut
        | ledger_entry::Reason::TransferIn
        | ledger_entry::Reason::Unspecified => None,
    }
}

pub fn reservation(reservation: Reservation) -> ReservationMessage {
    ReservationMessage {
        name: reservation.id().name(),
        order: reservation.order.name(),
        state: reservation_state(reservation.state).into(),
        lines: reservation
            .lines
            .iter()
            .map(|line| reservation::Line {
                product: line.product.name(),
                location: line.location.name(),
                quantity: line.quantity,
                returned_quantity: line.returned,
            })
            .collect(),
        expire_time: time(reservation.expires_at),
        create_time: time(reservation.created_at),
        update_time: time(reservation.updated_at),
    }
}

pub fn shortage(shortage: &Shortage) -> ShortageMessage {
    ShortageMessage { product: shortage.product.name(), wanted: shortage.wanted, available: shortage.available }
}

pub fn reservation_state(state: ReservationState) -> reservation::State {
    match state {
        ReservationState::Open => reservation::State::Open,
        ReservationState::Committed => reservation::State::Committed,
        ReservationState::Released => reservation::State::Released,
        ReservationState::Expired => reservation::State::Expired,
    }
}
