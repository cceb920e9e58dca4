//! Gives requests a place among those that are worked on.

use http::{Request, Response};
use souk_common::error::Problem;
use tonic::body::Body;

use super::layer::Next;
use crate::{gateway::Gateway, request};

/// Refuses a client at once whose address has as many requests under way as it may: nothing of it is read.
pub async fn refuse_crowd(gateway: &Gateway, request: Request<Body>, next: &Next) -> Result<Response<Body>, Problem> {
    if request::target(request.extensions())?.method().is_some() {
        let site = request::site(request.extensions())?;
        gateway.admission.refuse_crowd(site)?;
    }
    next.run(request).await
}

/// Gives a call of the contract a place, until the last byte of its response has gone. The response of a stream has a
/// place of its own.
pub async fn admit(gateway: &Gateway, request: Request<Body>, next: &Next) -> Result<Response<Body>, Problem> {
    let extensions = request.extensions();
    let target = request::target(extensions)?;
    let Some(method) = target.method() else { return next.run(request).await };
    let (site, user) = (request::site(extensions)?, request::user(extensions)?);
    let admitted = gateway.admission.admit(site, user, method.rate_class).await?;
    let response = next.run(request).await?;
    if target.streams() {
        return Ok(response);
    }
    Ok(admitted.hold(response))
}
