//! Refuses a head that can be read in more than one way.

use http::{Request, Response};
use souk_common::{context, error::Problem};
use tonic::body::Body;

use super::layer::Next;
use crate::{gateway::Gateway, head, request};

/// Refuses a request whose head can be read in more than one way, before anyone reads it.
pub async fn require_sound(_: &Gateway, mut request: Request<Body>, next: &Next) -> Result<Response<Body>, Problem> {
    head::check(&mut request)?;
    if request::target(request.extensions())?.takes_timeout() {
        context::timeout(request.headers())?;
    }
    next.run(request).await
}
