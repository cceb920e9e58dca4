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
    // Also where there are no rules: what reaches the service's code must be a message. tonic, which reads it again,
    // takes one that is not for a fault of ours.
    let decoded = DynamicMessage::decode(method.descriptor.input(), frame.slice(FRAME..))
        .map_err(|_| Problem::new(Reason::MalformedRequest, "the message is not of the method's request type"))?;
    contract.validator().check(&decoded).map_err(Problem::from)?;
    Ok(Body::new(Full::new(frame)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn a_message_that_cannot_be_read_is_the_clients_fault_with_rules_and_without() {
        let contract = Contract::souk().unwrap();
        let has_rules = |method: &Method| contract.validator().has_rules(&method.descriptor.input());
        let mut kinds = [0, 0];
        for method in contract.methods() {
            kinds[usize::from(has_rules(method))] += 1;
            // A number that breaks off, a field of number 0, and the end of a group that did not begin.
            for broken in [&b"\x08\xff"[..], b"\x00\x00", b"\x0c"] {
                let frame = [&[0, 0, 0, 0, u8::try_from(broken.len()).unwrap()], broken].concat();
                let body = Body::new(Full::new(Bytes::from(frame)));
                let status = check(contract, method, Coding::Identity, body, 1024).await.unwrap_err();
                assert_eq!(status.code(), Code::InvalidArgument, "{}: {status:?}", method.path);
                assert_eq!(Problem::from_status(&status).reason(), Reason::MalformedRequest);
            }
        }
        assert!(kinds.into_iter().all(|count| count > 0), "the contract has methods of both kinds: {kinds:?}");
    }
}
