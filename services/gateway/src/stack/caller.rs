//! Authentication and authorisation: checks the token and the method's access rule. The service checks which resources
//! belong to the caller.

use http::{Request, Response, header};
use souk_common::{
    auth::{Admit, Identity},
    error::{Problem, Reason},
};
use tonic::body::Body;

use super::layer::Next;
use crate::{
    gateway::Gateway,
    request::{self, Caller},
};

/// Identifies the caller of a method. An invalid token is recorded, too, so that attempts count against the rate limits
/// before they are refused.
pub async fn identify(gateway: &Gateway, mut request: Request<Body>, next: &Next) -> Result<Response<Body>, Problem> {
    if gateway.verifier.is_none() && !gateway.api.passes_authorization {
        // The gateway has not checked the token, so no service may receive it.
        request.headers_mut().remove(header::AUTHORIZATION);
    }
    if request::target(request.extensions())?.method().is_some() {
        let identified = match &gateway.verifier {
            Some(verifier) if request.headers().contains_key(header::AUTHORIZATION) => {
                Box::pin(verifier.identify(request.headers())).await
            }
            _ => Ok(Identity::Anonymous),
        };
        let identity = match identified {
            // Services call each other directly, so a service token that arrives here is stolen.
            Ok(Identity::Service { .. }) => {
                Err(Problem::new(Reason::TokenInvalid, "this token is not one for clients"))
            }
            identified => identified,
        };
        request.extensions_mut().insert(Caller(identity));
    }
    next.run(request).await
}

/// Checks the method's access rule.
pub fn authorize(gateway: &Gateway, request: &mut Request<Body>) -> Result<(), Problem> {
    if let Some(method) = request::target(request.extensions())?.method() {
        let rule = method.access.as_ref().filter(|rule| !rule.only_internal());
        let rule =
            rule.ok_or_else(|| Problem::new(Reason::AccessDenied, "this method is for souk's own services alone"))?;
        let Caller(identity) = request::part::<Caller>(request.extensions())?;
        let identity = identity.as_ref().map_err(Problem::clone)?;
        let kind = if *identity == Identity::Anonymous { "anonymous" } else { "user" };
        tracing::Span::current().record("souk.caller", kind);
        match &gateway.verifier {
            Some(verifier) => verifier.admit(rule, identity)?,
            None => rule.admit(identity)?,
        };
    }
    Ok(())
}
