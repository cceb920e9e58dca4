//! Refuses a request with an ambiguous head.

use http::Request;
use souk_common::{context, error::Problem};
use tonic::body::Body;

use crate::{gateway::Gateway, head, request};

/// Refuses a request whose head can be read in more than one way, before other layers use it.
pub fn require_sound(_: &Gateway, request: &mut Request<Body>) -> Result<(), Problem> {
    head::check(request)?;
    if request::target(request.extensions())?.takes_timeout() {
        context::timeout(request.headers())?;
    }
    Ok(())
}
