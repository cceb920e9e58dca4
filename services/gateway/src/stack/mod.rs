//! The stack: the layers that every request passes, from the outside in, and the handlers.

mod admission;
mod body;
mod caller;
mod classify;
mod compression;
mod cors;
mod head;
mod headers;
mod layer;
mod limits;
mod observe;
mod respond;

use std::sync::Arc;

use http::{HeaderValue, Method as HttpMethod, Request, Response, StatusCode, header};
use souk_common::error::{Problem, Reason};
use tonic::body::Body;
use tower::ServiceBuilder;

use self::layer::{Next, around, check};
pub use self::{headers::SECURITY, layer::NextInfallible};
use crate::{
    answer,
    gateway::Gateway,
    request,
    routes::Miss,
    target::{Protocol, To},
};

impl Gateway {
    /// The layers of a request, one per line, from the outside in. Layers pass data in the request's extensions
    /// (`request`). A layer refuses a request without the data that it needs.
    pub(crate) fn stack(self: &Arc<Self>) -> NextInfallible {
        let gateway = self;
        let answers_in_any_case = ServiceBuilder::new()
            // Gives the request its id, deadline and span, and measures and logs it once, whatever its result.
            .layer(around(gateway, observe::observe))
            // Adds security headers for browsers.
            .layer(around(gateway, headers::secure))
            // Adds CORS headers.
            .layer(around(gateway, cors::cross_origin))
            // Compresses the response. The layers outside only add headers.
            .layer(around(gateway, compression::compress))
            // Turns errors into responses of the client's protocol.
            .layer(around(gateway, respond::respond));
        let may_refuse = ServiceBuilder::new()
            // Refuses ambiguous requests, which different servers would read differently.
            .layer(check(gateway, head::require_sound))
            // Refuses an address that has used up its rate limits or places, at the least cost.
            .layer(check(gateway, limits::refuse_exhausted))
            .layer(check(gateway, admission::refuse_crowd))
            // Checks the token: the rate limits and the access rule depend on the caller.
            .layer(around(gateway, caller::identify))
            // Charges the request to the rate limits. This includes requests with an invalid token, to stop attempts
            // with many tokens.
            .layer(around(gateway, limits::spend))
            // Checks the method's access rule.
            .layer(check(gateway, caller::authorize))
            // Reads the body before the request takes a place, so that an incomplete body blocks nobody else.
            .layer(around(gateway, body::read))
            // Admits the request to the limited number of concurrent requests, or refuses it soon.
            .layer(around(gateway, admission::admit));
        answers_in_any_case.service(may_refuse.service(Next::handlers(gateway)))
    }

    /// Answers a request that passed all layers, by its protocol.
    pub(crate) async fn dispatch(&self, request: Request<Body>) -> Result<Response<Body>, Problem> {
        let target = request::target(request.extensions())?.clone();
        // Each future is boxed: the largest is ten times the size of the smallest, and an unboxed one would be moved as
        // often.
        match (&target.to, target.protocol) {
            (To::Route(matched), _) => Box::pin(self.rest(matched, request)).await,
            (To::Method(method), Protocol::Connect) => Box::pin(self.connect(method, request)).await,
            (To::Method(method), _) => Box::pin(self.pass(method, request)).await,
            (To::Own, _) => Box::pin(self.own(request)).await,
            (To::Page(page), _) => Box::pin(self.page(*page, request.headers())).await,
            (To::Miss(Miss::Method(allow)), _) => not_allowed(request.method(), allow),
            (To::Miss(Miss::Path(problem)), _) => Err(problem.clone()),
            (To::Unknown, _) => {
                Err(Problem::new(Reason::Unimplemented, format!("there is no method {}", request.uri().path())))
            }
        }
    }
}

/// Responds to OPTIONS on every path that has a route. Other methods are refused.
fn not_allowed(method: &HttpMethod, allow: &str) -> Result<Response<Body>, Problem> {
    if *method != HttpMethod::OPTIONS {
        let message = format!("this path takes {allow}, not {method}");
        return Err(Problem::new(Reason::MethodNotAllowed, message).metadata(answer::ALLOW, allow));
    }
    let mut response = answer::empty(StatusCode::NO_CONTENT);
    if let Ok(value) = HeaderValue::from_str(allow) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    Ok(response)
}
