//! `If-Match` (RFC 9110, 13.1.1): the change applies only to the version that the client has seen.
//!
//! RFC 9110 compares strongly: a weak tag never matches. Here a weak tag matches like the strong one. The precondition
//! of a method is the resource's own `etag`, which names a state of the resource and not the bytes of a response.
//! Proxies that compress responses change the tag without notice: nginx makes it weak, and Apache adds a suffix. See
//! ADR 0017.

use http::{HeaderMap, header};
use prost_reflect::DynamicMessage;
use souk_common::{
    contract::Method,
    error::{Problem, Reason},
};

use crate::etag::{self, Named};
use crate::transcode;

const PRECONDITION_FAILED: u16 = 412;
/// Maximum number of tags in one request. Each tag may cost a call.
const MOST_TAGS: usize = 8;

/// Returns one copy of the message per tag of `If-Match`, with the tag in the method's etag field. The caller sends
/// them in turn until the service accepts one. The service refuses an outdated tag without a change, so at most one of
/// them takes effect.
///
/// # Errors
/// `MALFORMED_REQUEST` if the method has no such field, if the header is not a list of tags, or if the field already
/// has another tag. 412 if all tags of the header are empty.
pub fn attempts(message: DynamicMessage, method: &Method, headers: &HeaderMap) -> Result<Vec<DynamicMessage>, Problem> {
    let Some(named) = etag::named(headers, &header::IF_MATCH) else { return Ok(vec![message]) };
    let Some(field) = &method.etag else {
        return Err(refused("this method takes no If-Match: it does not check what the resource was"));
    };
    let tags = match named {
        Err(_) => return Err(refused("If-Match must be etags in double quotes with commas between, or *")),
        // If the resource does not exist, the service reports that with or without the header.
        Ok(Named::Any) => return Ok(vec![message]),
        Ok(Named::Tags(tags)) => tags,
    };
    let mut possible: Vec<&str> = Vec::new();
    for tag in tags.iter().flat_map(|tag| tag.meant()) {
        // An empty tag would set no precondition.
        if !tag.is_empty() && !possible.contains(&tag) {
            possible.push(tag);
        }
    }
    if possible.is_empty() {
        return Err(Problem::etag_mismatch().on_http(PRECONDITION_FAILED));
    }
    if possible.len() > MOST_TAGS {
        return Err(refused("If-Match has more than 8 etags"));
    }
    let mut attempts = Vec::with_capacity(possible.len());
    let mut differs = None;
    for tag in possible {
        let mut attempt = message.clone();
        match transcode::fill(&mut attempt, field, "If-Match", tag) {
            Ok(()) => attempts.push(attempt),
            Err(problem) => differs = Some(problem),
        }
    }
    // If the request sets the field itself, only the equal tag counts.
    match differs {
        Some(problem) if attempts.is_empty() => Err(problem),
        _ => Ok(attempts),
    }
}

/// True if the next tag should be tried, because this one is not the current tag. A repeated request matches its
/// idempotency record only with the tag of the first request. Any other tag gives `IDEMPOTENCY_KEY_REUSED`.
pub fn try_next(problem: &Problem) -> bool {
    matches!(problem.reason(), Reason::EtagMismatch | Reason::IdempotencyKeyReused)
}

/// A failed precondition from the header has the status 412, as HTTP requires. If only the field sets it, the status is
/// 409.
pub fn failed(problem: Problem, headers: &HeaderMap) -> Problem {
    let by_header = problem.reason() == Reason::EtagMismatch && headers.contains_key(header::IF_MATCH);
    if by_header { problem.on_http(PRECONDITION_FAILED) } else { problem }
}

fn refused(message: &str) -> Problem {
    Problem::new(Reason::MalformedRequest, message)
}
