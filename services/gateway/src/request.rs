//! What a request carries through the stack, in its extensions: each layer reads what one further out has put there.
//!
//! Beside what is here these are [`RequestContext`](souk_common::context::RequestContext) (its id and deadline),
//! [`Record`](crate::observe::Record) (how it went) and [`Standing`](crate::limits::Standing) (what is left of budgets).

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::Extensions;
use souk_common::{auth::Identity, error::Problem, ids::UserId};

use crate::{address, target::Target};

/// Where the client is: see [`address::client`].
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub IpAddr);

/// Who calls, or what is wrong with their token.
#[derive(Debug, Clone)]
pub struct Caller(pub Result<Identity, Problem>);

/// On a response: its request was refused as its client had used up a budget.
#[derive(Debug, Clone, Copy)]
pub struct RefusedForBudget;

/// The whole body of a request that is one message.
#[derive(Debug, Clone)]
pub struct WholeBody(pub Bytes);

/// What a layer further out has put there.
///
/// # Errors
/// `INTERNAL` where it is missing: the stack is wrong, and no request may pass for it.
pub fn part<T: Clone + Send + Sync + 'static>(extensions: &Extensions) -> Result<&T, Problem> {
    let missing = || format!("the request has no {}: a layer is missing", std::any::type_name::<T>());
    extensions.get::<T>().ok_or_else(|| Problem::internal().caused_by(missing()))
}

/// What the request is for.
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
