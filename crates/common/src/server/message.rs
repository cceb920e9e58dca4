//! Reads the message of a unary call and checks it against the contract, before the service's code runs.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use prost_reflect::DynamicMessage;
use tonic::body::Body;

use super::overloaded;
use crate::{
    contract::{Contract, Method},
    error::{Problem, Reason},
    framing::{self, Coding, FRAME},
    quota::Held,
};

/// Limits for reading the body of a unary request.
pub struct Bounds<'a> {
    /// The maximum size of the message, in bytes.
    pub limit: usize,
    /// The longest time that the message may take to arrive.
    pub time: Duration,
    /// Counts the bytes that have arrived. `None`: the caller is this process.
    pub held: Option<&'a mut Held>,
}

/// Reads the whole body.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` if the body is larger than the limit; `INVALID_ARGUMENT` if it is incomplete or takes too long
/// to arrive; `OVERLOADED` if the server is receiving too many bytes at the moment.
pub async fn read(body: Body, mut bounds: Bounds<'_>) -> Result<Bytes, Problem> {
    let (limit, time) = (bounds.limit, bounds.time);
    let reading = async {
        let mut body = Limited::new(body, limit + FRAME);
        let (mut first, mut more) = (Bytes::new(), BytesMut::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| match error.is::<LengthLimitError>() {
                true => framing::too_large(limit),
                false => malformed("the request broke off before its end").caused_by(error),
            })?;
            let Ok(data) = frame.into_data() else { continue };
            let arrived = u64::try_from(data.len()).unwrap_or(u64::MAX);
            if bounds.held.as_mut().is_some_and(|held| !held.grow(arrived)) {
                return Err(overloaded());
            }
            // Most messages arrive in one piece, which needs no copy.
            if first.is_empty() && more.is_empty() {
                first = data;
            } else {
                more.extend_from_slice(&std::mem::take(&mut first));
                more.extend_from_slice(&data);
            }
        }
        Ok(if more.is_empty() { first } else { more.freeze() })
    };
    let late = |_| malformed(&format!("the request did not arrive within {time:?}"));
    tokio::time::timeout(time, reading).await.map_err(late)?
}

fn malformed(message: &str) -> Problem {
    Problem::new(Reason::MalformedRequest, message)
}

/// Checks the body of a unary request, and returns it with its message decompressed.
///
/// # Errors
/// `INVALID_ARGUMENT` with every field that breaks a rule; `RESOURCE_EXHAUSTED` if the message is larger than `limit`
/// bytes; the errors of [`framing::single`] for an invalid frame.
pub fn check(
    contract: &Contract,
    method: &Method,
    coding: Coding,
    bytes: Bytes,
    limit: usize,
) -> Result<Body, Problem> {
    let frame = framing::single(bytes, coding, limit)?;
    // Decoded even if the message has no rules: the service's code must only get valid messages. tonic decodes it
    // again, and would report an invalid one as a bug of the server.
    let decoded = DynamicMessage::decode(method.descriptor.input(), frame.slice(FRAME..))
        .map_err(|_| Problem::new(Reason::MalformedRequest, "the message is not of the method's request type"))?;
    contract.validator().check(&decoded)?;
    Ok(Body::new(Full::new(frame)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_cannot_be_decoded_is_a_client_error_with_rules_and_without() {
        let contract = Contract::souk().unwrap();
        let has_rules = |method: &Method| contract.validator().has_rules(&method.descriptor.input());
        let mut kinds = [0, 0];
        for method in contract.methods() {
            kinds[usize::from(has_rules(method))] += 1;
            // An incomplete number, a field with number 0, and the end of a group that never began.
            for broken in [&b"\x08\xff"[..], b"\x00\x00", b"\x0c"] {
                let frame = [&[0, 0, 0, 0, u8::try_from(broken.len()).unwrap()], broken].concat();
                let problem = check(contract, method, Coding::Identity, frame.into(), 1024).unwrap_err();
                assert_eq!(problem.reason(), Reason::MalformedRequest, "{}: {problem:?}", method.path);
            }
        }
        assert!(kinds.into_iter().all(|count| count > 0), "the contract has methods of both kinds: {kinds:?}");
    }
}
