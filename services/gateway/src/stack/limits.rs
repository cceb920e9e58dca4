//! Charges requests to the budgets of their address and their caller.

use http::{Request, Response, header};
use souk_common::error::Problem;
use tonic::body::Body;

use super::layer::Next;
use crate::{gateway::Gateway, limits::Asks, page::Page, request, target::To};

/// Refuses a client whose address has exhausted its budget, before the token is checked. It knows only recent refusals;
/// [`spend`] finds the others.
pub fn refuse_exhausted(gateway: &Gateway, request: &mut Request<Body>) -> Result<(), Problem> {
    if gateway.limits.any_exhausted() && !is_probe(request)? {
        gateway.limits.refuse_exhausted(&Asks::of(request.extensions())?)?;
    }
    Ok(())
}

/// Charges the base cost of a request to the budgets of its caller and its address. Surcharges for the content of a
/// request follow later: see [`Limits::surcharge`](crate::limits::Limits::surcharge).
pub async fn spend(gateway: &Gateway, request: Request<Body>, next: &Next) -> Result<Response<Body>, Problem> {
    if !is_probe(&request)? {
        let target = request::target(request.extensions())?;
        let mut asks = Asks::of(request.extensions())?;
        let method = target.method();
        if method.is_some() {
            asks.user = request::user(request.extensions())?;
        }
        let cost = method.map_or(1, |method| method.cost.base);
        gateway.limits.draw(&asks, cost).await?;
    }
    next.run(request).await
}

/// True if a request is a liveness or readiness probe. Probes are never limited, unless they have a token, which would
/// have to be checked.
fn is_probe(request: &Request<Body>) -> Result<bool, Problem> {
    let target = request::target(request.extensions())?;
    let is_page = matches!(target.to, To::Page(Page::Alive | Page::Ready));
    Ok(is_page && !request.headers().contains_key(header::AUTHORIZATION))
}
