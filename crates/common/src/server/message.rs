//! Checks the message of a unary call against the contract before the service's code sees it.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use prost_reflect::DynamicMessage;
use tonic::{Status, body::Body};

use crate::{
    contract::{Contract, Method},
    error::{Problem, Reason},
};

/// Bytes of a gRPC frame before its message: a flag and the length.
const FRAME: usize = 5;

/// Reads the one message of a unary request, checks it, and gives the body back as it was.
///
/// # Errors
/// `INVALID_ARGUMENT` with every field that breaks a rule; `RESOURCE_EXHAUSTED` for a message over `limit` bytes.
pub async fn check(contract: &Contract, method: &Method, body: Body, limit: usize) -> Result<Body, Status> {
    let bytes = match Limited::new(body, limit + FRAME).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(too_large(limit)),
        Err(error) => {
            let problem = Problem::new(Reason::MalformedRequest, "the request broke off before its end");
            return Err(problem.caused_by(error).into());
        }
    };
    let message = message(&bytes)?;
    // Also where there are no rules: what reaches the service's code must be a message. tonic, which reads it again,
    // takes one that is not for a fault of ours.
    let decoded = DynamicMessage::decode(method.descriptor.input(), message).map_err(|_| malformed())?;
    contract.validator().check(&decoded).map_err(Problem::from)?;
    Ok(Body::new(Full::new(bytes)))
}

fn malformed() -> Problem {
    Problem::new(Reason::MalformedRequest, "the message is not of the method's request type")
}

/// The message inside the one frame of a unary request.
fn message(bytes: &Bytes) -> Result<Bytes, Problem> {
    let malformed = || Problem::new(Reason::MalformedRequest, "the request is not one whole gRPC message");
    let header: [u8; FRAME] = bytes.get(..FRAME).and_then(|header| header.try_into().ok()).ok_or_else(malformed)?;
    let [flag, length @ ..] = header;
    if flag != 0 {
        return Err(Problem::new(
            Reason::Unimplemented,
            "compressed requests are not taken: send the message as it is",
        ));
    }
    let message = bytes.slice(FRAME..);
    if message.len() != u32::from_be_bytes(length) as usize {
        return Err(malformed());
    }
    Ok(message)
}

fn too_large(limit: usize) -> Status {
    Problem::new(Reason::BodyTooLarge, format!("the request is larger than the {limit} bytes that are taken"))
        .metadata("limitBytes", limit)
        .into()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_frame_is_taken_apart() {
        assert_eq!(message(&Bytes::from_static(b"\0\0\0\0\x02hi")).unwrap(), "hi");
        assert_eq!(message(&Bytes::from_static(b"\0\0\0\0\0")).unwrap(), "");
        for wrong in [&b""[..], b"\0\0\0", b"\0\0\0\0\x03hi", b"\0\0\0\0\x01hi"] {
            assert_eq!(message(&Bytes::from_static(wrong)).unwrap_err().reason(), Reason::MalformedRequest);
        }
        let compressed = message(&Bytes::from_static(b"\x01\0\0\0\x02hi")).unwrap_err();
        assert_eq!(compressed.reason(), Reason::Unimplemented);
    }

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
                let status = check(contract, method, body, 1024).await.unwrap_err();
                assert_eq!(status.code(), Code::InvalidArgument, "{}: {status:?}", method.path);
                assert_eq!(Problem::from_status(&status).reason(), Reason::MalformedRequest);
            }
        }
        assert!(kinds.into_iter().all(|count| count > 0), "the contract has methods of both kinds: {kinds:?}");
    }
}
