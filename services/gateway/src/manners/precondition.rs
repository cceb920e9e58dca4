//! `If-Match` (RFC 9110, 13.1.1): a change of what the client has seen, and of nothing newer.

use http::{HeaderMap, header};
use prost_reflect::DynamicMessage;
use souk_common::{
    contract::Method,
    error::{Problem, Reason},
};

use super::etag::{self, Named};
use crate::transcode;

const PRECONDITION_FAILED: u16 = 412;

/// Puts the tag of `If-Match` into the field that the method has for it.
///
/// # Errors
/// `MALFORMED_REQUEST` where the method has none, the header is not one strong tag, or the request has another tag in
/// that field; 412 for a weak tag, which never matches.
pub fn fill(message: &mut DynamicMessage, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(named) = etag::named(headers, &header::IF_MATCH) else { return Ok(()) };
    let Some(field) = &method.etag else {
        return Err(refused("this method takes no If-Match: it does not check what the resource was"));
    };
    match named {
        Err(_) => Err(refused("If-Match must be an etag in double quotes, or *")),
        // Where there is nothing, the service says so, with and without the header.
        Ok(Named::Any) => Ok(()),
        Ok(Named::Tags(tags)) => match tags.as_slice() {
            [tag] if tag.weak => Err(Problem::new(
                Reason::EtagMismatch,
                "If-Match has a weak etag, which never matches: send the resource's own, without W/",
            )
            .on_http(PRECONDITION_FAILED)),
            [tag] => transcode::fill(message, field, "If-Match", tag.unpacked()),
            _ => Err(refused("If-Match takes one etag here, or *")),
        },
    }
}

/// What a client asked by header fails as HTTP has it: 412, where the field alone gives 409.
pub fn failed(problem: Problem, headers: &HeaderMap) -> Problem {
    let by_header = problem.reason() == Reason::EtagMismatch && headers.contains_key(header::IF_MATCH);
    if by_header { problem.on_http(PRECONDITION_FAILED) } else { problem }
}

fn refused(message: &str) -> Problem {
    Problem::new(Reason::MalformedRequest, message)
}
