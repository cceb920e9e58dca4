//! `If-Match` (RFC 9110, 13.1.1): a change of what the client has seen, and of nothing newer.
//!
//! RFC 9110 compares strongly: a weak tag never matches. Here it does, as the tag it is made of. What a method is guarded
//! by is the resource's own `etag`, which names a state of the resource and not the bytes of an answer, and a proxy that
//! compresses answers weakens it (nginx) or adds to it (Apache) without asking: see ADR 0017.

use http::{HeaderMap, header};
use prost_reflect::DynamicMessage;
use souk_common::{
    contract::Method,
    error::{Problem, Reason},
};

use crate::etag::{self, Named};
use crate::transcode;

const PRECONDITION_FAILED: u16 = 412;
/// Tags that one request may name: each may cost a call.
const MOST_TAGS: usize = 8;

/// The message in all the forms that `If-Match` lets it have: with each tag in the field that the method has for it. To
/// be sent one after the other until the service finds the tag to be the current one; as it refuses any other without a
/// change, at most one is carried out.
///
/// # Errors
/// `MALFORMED_REQUEST` where the method has no such field, the header is no list of tags, or the request has another tag
/// in that field; 412 where no tag can be that of anything.
pub fn attempts(message: DynamicMessage, method: &Method, headers: &HeaderMap) -> Result<Vec<DynamicMessage>, Problem> {
    let Some(named) = etag::named(headers, &header::IF_MATCH) else { return Ok(vec![message]) };
    let Some(field) = &method.etag else {
        return Err(refused("this method takes no If-Match: it does not check what the resource was"));
    };
    let tags = match named {
        Err(_) => return Err(refused("If-Match must be etags in double quotes with commas between, or *")),
        // If there is nothing, the service says so, with and without the header.
        Ok(Named::Any) => return Ok(vec![message]),
        Ok(Named::Tags(tags)) => tags,
    };
    let mut possible: Vec<&str> = Vec::new();
    for tag in tags.iter().flat_map(|tag| tag.meant()) {
        // Empty, it would guard nothing.
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
    // If the request has a tag of its own, it is the one of them that counts.
    match differs {
        Some(problem) if attempts.is_empty() => Err(problem),
        _ => Ok(attempts),
    }
}

/// Whether another attempt may go better: this one's tag is not the current one. The key of a request that was carried
/// out before is known with the tag that it had then alone.
pub fn try_next(problem: &Problem) -> bool {
    matches!(problem.reason(), Reason::EtagMismatch | Reason::IdempotencyKeyReused)
}

/// What a client asked by header fails as HTTP has it: 412, where the field alone gives 409.
pub fn failed(problem: Problem, headers: &HeaderMap) -> Problem {
    let by_header = problem.reason() == Reason::EtagMismatch && headers.contains_key(header::IF_MATCH);
    if by_header { problem.on_http(PRECONDITION_FAILED) } else { problem }
}

fn refused(message: &str) -> Problem {
    Problem::new(Reason::MalformedRequest, message)
}
