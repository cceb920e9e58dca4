//! Conversions between the contract's messages and the domain's types. Messages that events share are in `events`.

use chrono::{DateTime, Utc};
use prost_types::Timestamp;
use souk_proto::inventory::v1::{
    LedgerEntry as LedgerEntryMessage, Location as LocationMessage, PastStockLevel, Reservation as ReservationMessage,
    batch_update_reservations_response::Shortage as ShortageMessage,
    ledger_entry,
    reconcile_stock_response::{Drift, Repair},
    reservation,
};

pub(super) use crate::events::{level_message as level, low_stock_message as low_stock, product_message as product};
use crate::{
    domain::{
        command::Shortage,
        location::Location,
        reservation::{Reservation, State},
        stock::{
            LedgerEntry, PastLevel, Reason,
            balance::{Balance, Mended},
        },
    },
    events::timestamp,
};

/// Converts a timestamp; `None` if it is out of range.
pub(super) fn moment(given: &Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(given.seconds, u32::try_from(given.nanos).ok()?)
}

pub(super) fn location(location: Location) -> LocationMessage {
    LocationMessage {
        name: location.id.name(),
        code: location.code,
        display_name: location.display_name,
        priority: location.priority,
        create_time: Some(timestamp(location.created_at)),
    }
}

pub(super) fn past_level(level: PastLevel) -> PastStockLevel {
    PastStockLevel {
        product: level.product.name(),
        location: level.location.name(),
        on_hand: level.on_hand,
        update_time: Some(timestamp(level.updated_at)),
    }
}

pub(super) fn ledger_entry(entry: LedgerEntry) -> LedgerEntryMessage {
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
        create_time: Some(timestamp(entry.created_at)),
    }
}

/// The reason for a manual change. Sales are excluded, because only a commit makes them. So are the two halves of a
/// transfer.
pub(super) fn reason(number: i32) -> Option<Reason> {
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

pub(super) fn reservation(reservation: Reservation) -> ReservationMessage {
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
        expire_time: Some(timestamp(reservation.expires_at)),
        create_time: Some(timestamp(reservation.created_at)),
        update_time: Some(timestamp(reservation.updated_at)),
    }
}

pub(super) fn shortage(shortage: &Shortage) -> ShortageMessage {
    ShortageMessage { product: shortage.product.name(), wanted: shortage.wanted, available: shortage.available }
}

pub(super) fn reservation_state(state: State) -> reservation::State {
    match state {
        State::Open => reservation::State::Open,
        State::Committed => reservation::State::Committed,
        State::Released => reservation::State::Released,
        State::Expired => reservation::State::Expired,
    }
}

pub(super) fn drift(balance: &Balance, mended: Option<Mended>) -> Drift {
    let (product, location) = balance.place;
    Drift {
        product: product.name(),
        location: location.name(),
        on_hand: balance.book.on_hand,
        ledger_quantity: balance.proof.on_hand,
        reserved: balance.book.reserved,
        held_quantity: balance.proof.reserved,
        repair: mended.map(|mended| Repair {
            on_hand: mended.level.on_hand,
            reserved: mended.level.reserved,
            entered_quantity: mended.entry,
        }),
    }
}
