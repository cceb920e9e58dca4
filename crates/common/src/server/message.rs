//! Checks the message of a unary call against the contract before the service's code sees it.

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use prost_reflect::DynamicMessage;
use tonic::{Status, body::Body};

use crate::{
    contract::{Contract, Method},
    error::{Problem, Reason},
    framing::{self, Coding, FRAME},
};

/// Reads the one message of a unary request, checks it, and gives the body back with the message inflated.
///
/// # Errors
/// `INVALID_ARGUMENT` with every field that breaks a rule; `RESOURCE_EXHAUSTED` for a message over `limit` bytes;
/// see [`framing::single`] for what is no message.
pub async fn check(
    contract: &Contract,
    method: &Method,
    coding: Coding,
    body: Body,
    limit: usize,
) -> Result<Body, Status> {
    let bytes = match Limited::new(body, limit + FRAME).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(framing::too_large(limit).into()),
        Err(error) => {
            let problem = Problem::new(Reason::MalformedRequest, "the request broke off before its end");
            return Err(problem.caused_by(error).into());
        }
    };
    let frame = framing::single(bytes, coding, limit)?;
    let message = frame.slice(FRAME..);
    let input = method.descriptor.input();
    if contract.validator().has_rules(&input) {
        let decoded = DynamicMessage::decode(input, message).map_err(|_| {
            Status::from(Problem::new(Reason::MalformedRequest, "the message is not of the method's request type"))
        })?;
        contract.validator().check(&decoded).map_err(|violations| {
            Problem::fields(violations.into_iter().map(|violation| (violation.field_path, violation.message)))
        })?;
    }
    Ok(Body::new(Full::new(frame)))
}
