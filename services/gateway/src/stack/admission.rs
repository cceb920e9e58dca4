//! Admits requests to the limited number of concurrent requests.

use http::{Request, Response};
use souk_common::error::Problem;
use tonic::body::Body;

use super::layer::Next;
use crate::{gateway::Gateway, request};

/// Refuses a client if its address has reached its limit of running requests, before the request is read.
pub fn refuse_crowd(gateway: &Gateway, request: &mut Request<Body>) -> Result<(), Problem> {
    let extensions = request.extensions();
    match request::target(extensions)?.method() {
        Some(_) => gateway.admission.refuse_crowd(request::site(extensions)?),
        None => Ok(()),
    }
}

/// Gives a call of the contract a place until the last byte of its response is sent. Streams have their own places.
pub async fn admit(gateway: &Gateway, request: Request<Body>, next: &Next) -> Result<Response<Body>, Problem> {
    let extensions = request.extensions();
    let target = request::target(extensions)?.clone();
    let Some(method) = target.method() else { return next.run(request).await };
    let (site, user) = (request::site(extensions)?, request::user(extensions)?);
    let admitted = gateway.admission.admit(site, user, method.rate_class).await?;
    let response = next.run(request).await?;
    if target.streams() {
        return Ok(response);
    }
    Ok(admitted.hold(response))
}
