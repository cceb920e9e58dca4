//! Builds the response of a request in its protocol, from the handler's response or its error.

use std::{any::Any, convert::Infallible, panic::AssertUnwindSafe};

use futures::FutureExt;
use http::{Request, Response, StatusCode};
use souk_common::{
    context::RequestContext,
    error::{Problem, Reason},
};
use tonic::{Status, body::Body};

use super::{headers, layer::Next};
use crate::{
    answer::{self, with_retry_delay},
    cache::Change,
    gateway::Gateway,
    handlers::{connect, grpc},
    limits::Standing,
    record::{End, Record},
    request::{self, RefusedForBudget},
    streams::Ended,
    target::{Protocol, Target, To},
};

/// Responds to a request with the inner response or a problem. A panic becomes a problem, too.
pub async fn respond(gateway: &Gateway, mut request: Request<Body>, next: &Next) -> Result<Response<Body>, Infallible> {
    let extensions = request.extensions_mut();
    let standing = Standing::default();
    extensions.insert(standing.clone());
    let carried = (extensions.get().cloned(), request::target(extensions).cloned(), extensions.get().cloned());
    let (Some::<RequestContext>(context), Ok(target), Some::<Record>(record)) = carried else {
        return Ok(answer::empty(StatusCode::INTERNAL_SERVER_ERROR));
    };
    let path = request.uri().path().to_owned();
    let change = Change::of(gateway.cache.as_ref(), target.method());
    let answered = AssertUnwindSafe(async { next.run(request).await }).catch_unwind().await;
    let answered = answered.unwrap_or_else(|panic| Err(panicked(&*panic)));
    let mut response = answered.unwrap_or_else(|problem| {
        let problem = with_retry_delay(problem);
        let mut response = refusal(&target, &problem, &context, &path);
        if problem.reason() == Reason::RateLimited {
            response.extensions_mut().insert(RefusedForBudget);
        }
        record.set(End::refused(problem));
        response
    });
    if let Some(deprecation) = target.method().and_then(|method| method.deprecation.as_ref()) {
        headers::deprecate(response.headers_mut(), deprecation);
    }
    if !target.is_grpc() {
        standing.write(response.headers_mut());
        Change::settle(change, response.status());
        return Ok(response);
    }
    let ended = response.extensions_mut().remove::<Ended>();
    let response = grpc::observe(response, move |code| {
        let ended_here = ended.is_some_and(|ended| ended.here());
        let status = if ended_here { StatusCode::OK } else { grpc::http_status(code) };
        Change::settle(change, status);
        record.set_code(status, code);
    });
    Ok(match target.protocol {
        Protocol::GrpcWeb(encoding) => encoding.wrap(response),
        _ => response,
    })
}

/// Formats a problem for the protocol. For gRPC-Web, the gRPC form is converted later.
fn refusal(target: &Target, problem: &Problem, context: &RequestContext, path: &str) -> Response<Body> {
    match target.protocol {
        Protocol::Grpc | Protocol::GrpcWeb(_) => {
            Status::from(problem.clone().request_id(&*context.request_id)).into_http()
        }
        Protocol::Connect => connect::refusal(problem, &context.request_id),
        Protocol::Rest => {
            let binding = match &target.to {
                To::Route(matched) => Some(&matched.route.binding),
                _ => None,
            };
            answer::problem(problem, &context.request_id, path, binding)
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Problem {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Problem::internal().caused_by(format!("panic: {}", text.unwrap_or("without a message")))
}
