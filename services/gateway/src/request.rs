//! The data that layers attach to a request in its extensions: outer layers set it, and inner layers read it.
//!
//! Other data in the extensions: [`RequestContext`](souk_common::context::RequestContext) (request id and deadline),
//! [`Record`](crate::record::Record) (outcome) and [`Standing`](crate::limits::Standing) (remaining budgets).

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{Extensions, HeaderMap, request::Parts};
use souk_common::{auth::Identity, client_details::ClientDetails, contract::Method, error::Problem, ids::UserId};

use crate::{address, target::Target};

/// The client's address: see [`address::client`].
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub IpAddr);

/// The caller, or the problem with the caller's token.
#[derive(Debug, Clone)]
pub struct Caller(pub Result<Identity, Problem>);

/// Marks a response whose request was refused because its client had exhausted a budget.
#[derive(Debug, Clone, Copy)]
pub struct RefusedForBudget;

/// The whole body of a request that consists of one message.
#[derive(Debug, Clone)]
pub struct WholeBody(pub Bytes);

/// Reads data that an outer layer has set.
///
/// # Errors
/// `INTERNAL` if the data is missing. The stack is wrong then, and the request must not continue.
pub fn part<T: Clone + Send + Sync + 'static>(extensions: &Extensions) -> Result<&T, Problem> {
    let missing = || format!("the request has no {}: a layer is missing", std::any::type_name::<T>());
    extensions.get::<T>().ok_or_else(|| Problem::internal().caused_by(missing()))
}

/// Reads the target of the request.
///
/// # Errors
/// Those of [`part`].
pub fn target(extensions: &Extensions) -> Result<&Arc<Target>, Problem> {
    part::<Arc<Target>>(extensions)
}

/// The address or IPv6 network that counts as one client: see [`address::site`].
///
/// # Errors
/// Those of [`part`].
pub fn site(extensions: &Extensions) -> Result<IpAddr, Problem> {
    part::<ClientAddress>(extensions).map(|ClientAddress(client)| address::site(*client))
}

/// Adds the client's address and `User-Agent` to the headers of a call to a service, if the method asks for them.
///
/// # Errors
/// Those of [`part`].
pub fn add_client_details(method: &Method, parts: &Parts, headers: &mut HeaderMap) -> Result<(), Problem> {
    if method.client_details {
        let ClientAddress(address) = part::<ClientAddress>(&parts.extensions)?;
        ClientDetails::new(*address, &parts.headers).write(headers);
    }
    Ok(())
}

/// The signed-in user, if there is one.
///
/// # Errors
/// Those of [`part`].
pub fn user(extensions: &Extensions) -> Result<Option<UserId>, Problem> {
    Ok(match part::<Caller>(extensions)? {
        Caller(Ok(Identity::User { id, .. })) => Some(*id),
        _ => None,
    })
}
