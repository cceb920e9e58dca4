//! Reads the message of a unary call, and checks it against the contract, before the service's code sees it.

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

/// What the body of a unary request is read within.
pub struct Bounds<'a> {
    /// Bytes of the message.
    pub limit: usize,
    /// How long it may take to arrive.
    pub time: Duration,
    /// Counts what has arrived. `None`: the caller is this process.
    pub held: Option<&'a mut Held>,
}

/// Reads the whole body.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` for more than the limit, `INVALID_ARGUMENT` for a body that breaks off or takes too long, and
/// `OVERLOADED` where too many bytes are being received.
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
            // Most messages come in one piece, which need not be copied.
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

/// Checks the body of a unary request, and gives it back with its message inflated.
///
/// # Errors
/// `INVALID_ARGUMENT` with every field that breaks a rule; `RESOURCE_EXHAUSTED` for a message over `limit` bytes;
/// see [`framing::single`] for what is no message.
pub fn check(
    contract: &Contract,
    method: &Method,
    coding: Coding,
    bytes: Bytes,
    limit: usize,
) -> Result<Body, Problem> {
    let frame = framing::single(bytes, coding, limit)?;
    // Also where there are no rules: what reaches the service's code must be a message. tonic, which reads it again,
    // takes one that is not for a bug.
    let decoded = DynamicMessage::decode(method.descriptor.input(), frame.slice(FRAME..))
        .map_err(|_| Problem::new(Reason::MalformedRequest, "the message is not of the method's request type"))?;
    contract.validator().check(&decoded)?;
    Ok(Body::new(Full::new(frame)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_cannot_be_read_is_the_clients_fault_with_rules_and_without() {
        let contract = Contract::souk().unwrap();
        let has_rules = |method: &Method| contract.validator().has_rules(&method.descriptor.input());
        let mut kinds = [0, 0];
        for method in contract.methods() {
            kinds[usize::from(has_rules(method))] += 1;
            // A number that breaks off, a field of number 0, and the end of a group that did not begin.
            for broken in [&b"\x08\xff"[..], b"\x00\x00", b"\x0c"] {
                let frame = [&[0, 0, 0, 0, u8::try_from(broken.len()).unwrap()], broken].concat();
                let problem = check(contract, method, Coding::Identity, frame.into(), 1024).unwrap_err();
                assert_eq!(problem.reason(), Reason::MalformedRequest, "{}: {problem:?}", method.path);
            }
        }
        assert!(kinds.into_iter().all(|count| count > 0), "the contract has methods of both kinds: {kinds:?}");
    }
}
