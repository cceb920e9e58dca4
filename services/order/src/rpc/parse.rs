//! Parses requests into domain types. The contract's rules have been checked already.

use chrono::{DateTime, SubsecRound, Utc};
use prost::Message;
use prost_types::Timestamp;
use sha2::{Digest, Sha256};
use souk_common::{
    auth::Caller,
    error::Problem,
    ids::{IdError, OrderId},
};

use crate::{
    domain::{Fault, Pieces},
    store::{Key, now},
};

pub(super) fn order(field: &str, name: &str) -> Result<OrderId, Problem> {
    OrderId::parse_name(name).map_err(|error| id(field, &error))
}

pub(super) fn id(field: &str, error: &IdError) -> Problem {
    Problem::invalid(field, error.to_string())
}

/// A request's key, scoped to the caller and the method, with the digest of all that it asks.
pub(super) fn key(caller: &Caller, method: &'static str, request_id: &str, request: &impl Message) -> Key {
    Key {
        caller: caller.actor(),
        method,
        key: request_id.to_owned(),
        request_hash: Sha256::digest(request.encode_to_vec()).to_vec(),
    }
}

/// A time that has passed.
pub(super) fn past(field: &str, time: Option<Timestamp>) -> Result<Option<DateTime<Utc>>, Problem> {
    let Some(time) = time else { return Ok(None) };
    // As far as the contract's Timestamp reaches: the years 1 to 9999.
    const RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    let read = u32::try_from(time.nanos)
        .ok()
        .filter(|_| RANGE.contains(&time.seconds))
        .and_then(|nanos| DateTime::from_timestamp(time.seconds, nanos))
        .ok_or_else(|| Problem::invalid(field, "must be a time of the years 1 to 9999"))?
        .trunc_subsecs(6);
    if read > now() {
        return Err(Problem::invalid(field, "must not be in the future"));
    }
    Ok(Some(read))
}

/// Pieces of lines, from any message type.
pub(super) fn pieces<T>(items: &[T], read: impl Fn(&T) -> (i32, i64)) -> Vec<Pieces> {
    items.iter().map(read).map(|(number, quantity)| Pieces { number, quantity }).collect()
}

pub(super) fn faults(faults: Vec<Fault>) -> Problem {
    Problem::fields(faults.into_iter().map(|fault| (fault.field, fault.message)))
}
