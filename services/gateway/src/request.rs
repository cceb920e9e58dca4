//! The data of a request in its extensions: outer layers set it, and inner layers read it.
//!
//! Beside what is here these are [`RequestContext`](souk_common::context::RequestContext) (its id and deadline),
//! [`Record`](crate::record::Record) (how it went) and [`Standing`](crate::limits::Standing) (what is left of budgets).

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::Extensions;
use souk_common::{auth::Identity, error::Problem, ids::UserId};

use crate::{address, target::Target};

/// Where the client is: see [`address::client`].
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub IpAddr);

/// The caller, or the problem with their token.
#[derive(Debug, Clone)]
pub struct Caller(pub Result<Identity, Problem>);

/// On a response: its request was refused as its client had used up a budget.
#[derive(Debug, Clone, Copy)]
pub struct RefusedForBudget;

/// The whole body of a request that is one message.
#[derive(Debug, Clone)]
pub struct WholeBody(pub Bytes);

/// Data that an outer layer has set.
///
/// # Errors
/// `INTERNAL` if it is missing: the stack is wrong, and the request must not pass.
pub fn part<T: Clone + Send + Sync + 'static>(extensions: &Extensions) -> Result<&T, Problem> {
    let missing = || format!("the request has no {}: a layer is missing", std::any::type_name::<T>());
    extensions.get::<T>().ok_or_else(|| Problem::internal().caused_by(missing()))
}

/// The target of the request.
///
/// # Errors
/// As [`part`].
pub fn target(extensions: &Extensions) -> Result<&Arc<Target>, Problem> {
    part::<Arc<Target>>(extensions)
}

/// The address, or the network of IPv6, that counts as one client: see [`address::site`].
///
/// # Errors
/// As [`part`].
pub fn site(extensions: &Extensions) -> Result<IpAddr, Problem> {
    part::<ClientAddress>(extensions).map(|ClientAddress(client)| address::site(*client))
}

/// The user who calls, if one is signed in.
///
/// # Errors
/// As [`part`].
pub fn user(extensions: &Extensions) -> Result<Option<UserId>, Problem> {
    Ok(match part::<Caller>(extensions)? {
        Caller(Ok(Identity::User { id, .. })) => Some(*id),
        _ => None,
    })
}
