//! What a request is answered with, in the words of its protocol: the handler's response, or why there is none.

use std::{any::Any, convert::Infallible, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use http::{Request, Response, StatusCode};
use souk_common::{
    context::RequestContext,
    error::{Problem, Reason},
};
use tonic::body::Body;

use crate::{
    answer,
    cache::Change,
    gateway::Gateway,
    grpc, headers,
    layers::Next,
    limits::Standing,
    observe::{End, Record},
    request::{self, RefusedForBudget},
    stream::Ended,
    target::Protocol,
};

/// When to come back where no one knows better.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Answers a request: with what is inside, or with its problem. A panic is a problem, too.
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
        let mut response = target.refusal(&problem, &context, &path);
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

/// Adds to a refusal for now (503) when the client may try again, where the service did not say.
pub fn with_retry_delay(problem: Problem) -> Problem {
    let for_now = problem.http_status() == StatusCode::SERVICE_UNAVAILABLE.as_u16();
    if for_now && problem.retry_delay().is_none() { problem.retry_after(RETRY_AFTER) } else { problem }
}

fn panicked(panic: &(dyn Any + Send)) -> Problem {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Problem::internal().caused_by(format!("panic: {}", text.unwrap_or("without a message")))
}
