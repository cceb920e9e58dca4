//! Errors of services. Errors of souk's services become souk's problems. Errors of other services are passed on
//! unchanged.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::HeaderMap;
use prost::Message;
use prost_reflect::DescriptorPool;
use serde_json::{Value, json};
use souk_common::{
    contract::Contract,
    error::{DOMAIN, Problem},
};
use tonic::Status;
use tonic_types::{StatusExt, pb};

use super::HeaderList;
use crate::{streams, transcode::render::Renderer};

/// How errors of services are reported to clients.
#[derive(Debug, Clone, Default)]
pub enum Errors {
    /// As souk's problems, by reason. Internal details go only to the log.
    #[default]
    Own,
    /// Unchanged, with the service's own code, message and details.
    Passed(Arc<Passing>),
}

/// The data needed to pass on errors of foreign services.
#[derive(Debug)]
pub struct Passing {
    /// Descriptor pools for the types of error details: the contract, then souk's own contract, which has Google's
    /// types.
    pools: Vec<DescriptorPool>,
    headers: HeaderList,
}

impl Errors {
    /// Passes errors on. Known types of details are those of the contract and Google's common types.
    pub fn passed(contract: &DescriptorPool, headers: HeaderList) -> Self {
        let usual = Contract::souk().ok().map(|souk| souk.pool().clone());
        Self::Passed(Arc::new(Passing { pools: [contract.clone()].into_iter().chain(usual).collect(), headers }))
    }

    /// The problem that a client gets for a call that ended with this status.
    pub fn problem(&self, status: &Status) -> Problem {
        match self {
            Self::Passed(passing) if is_the_services(status) => passing.problem(status),
            _ => Problem::from_status(status),
        }
    }

    /// The problem for a stream that ended with this status. The connection may also have broken off.
    pub fn in_stream(&self, status: &Status) -> Problem {
        match self {
            Self::Passed(passing) if is_the_services(status) => passing.problem(status),
            _ => streams::failure(status),
        }
    }
}

/// True if the service itself returned this status. A status that was created on this side has a cause, or an error
/// info with souk's domain.
fn is_the_services(status: &Status) -> bool {
    let ours = status.get_details_error_info().is_some_and(|info| info.domain == DOMAIN);
    !ours && std::error::Error::source(status).is_none()
}

impl Passing {
    fn problem(&self, status: &Status) -> Problem {
        let details = pb::Status::decode(status.details()).map(|status| status.details).unwrap_or_default();
        let details = details.iter().map(|detail| self.json(&detail.type_url, &detail.value)).collect();
        let mut headers = HeaderMap::new();
        self.headers.copy(&status.metadata().clone().into_headers(), &mut headers);
        Problem::passed(status, details, headers)
    }

    /// Encodes an error detail as JSON, like an `Any`. Uses base64 if the type is unknown or the bytes do not match it.
    fn json(&self, type_url: &str, value: &[u8]) -> Value {
        let name = type_url.rsplit('/').next().unwrap_or_default();
        let message = self.pools.iter().find_map(|pool| pool.get_message_by_name(name));
        let rendered = message.and_then(|message| Renderer::new(&message, None).render(value).ok());
        match rendered.and_then(|json| serde_json::from_slice(&json).ok()) {
            Some(Value::Object(mut members)) => {
                members.insert("@type".to_owned(), type_url.into());
                Value::Object(members)
            }
            Some(other) => json!({"@type": type_url, "value": other}),
            None => json!({"@type": type_url, "base64": BASE64_STANDARD.encode(value)}),
        }
    }
}

#[cfg(test)]
mod tests {
    use souk_common::error::Reason;
    use tonic::Code;
    use tonic_types::ErrorDetails;

    use super::*;

    fn passed() -> Errors {
        Errors::passed(&DescriptorPool::new(), HeaderList::default())
    }

    #[test]
    fn details_are_converted_by_their_type() {
        let mut details =
            ErrorDetails::with_error_info("NO_CREDIT", "bank.example", [("left".to_owned(), "3".to_owned())]);
        details.set_retry_info(Some(std::time::Duration::from_millis(1500)));
        let status = Status::with_error_details(Code::OutOfRange, "page 9 of 3", details);
        let body = passed().problem(&status).to_json("id", "/");
        assert_eq!((&body["status"], &body["detail"]), (&json!(400), &json!("page 9 of 3")));
        let told = body["details"].as_array().unwrap();
        let info = told.iter().find(|detail| detail["@type"] == "type.googleapis.com/google.rpc.ErrorInfo").unwrap();
        assert_eq!((&info["domain"], &info["metadata"]["left"]), (&json!("bank.example"), &json!("3")));
        let retry = told.iter().find(|detail| detail["@type"] == "type.googleapis.com/google.rpc.RetryInfo").unwrap();
        assert_eq!(retry["retryDelay"], "1.500s");
        assert_eq!(body["retry_after"], 2);
    }

    #[test]
    fn details_of_an_unknown_type_are_kept_in_base64() {
        let status = pb::Status {
            details: vec![any("x.example/my.Type", b"\x01\x02"), any("google.rpc.ErrorInfo", b"\x0a\x7f")],
            ..pb::Status::default()
        };
        let status = Status::with_details(Code::DataLoss, "gone", status.encode_to_vec().into());
        let body = passed().problem(&status).to_json("id", "/");
        assert_eq!(body["details"][0], json!({"@type": "x.example/my.Type", "base64": "AQI="}));
        assert_eq!(body["details"][1], json!({"@type": "google.rpc.ErrorInfo", "base64": "Cn8="}));
        // Invalid details cause no panic.
        let garbled = Status::with_details(Code::Unknown, "x", vec![0xff; 9].into());
        assert_eq!(passed().problem(&garbled).to_json("", "")["details"], Value::Null);
    }

    fn any(type_url: &str, value: &[u8]) -> prost_reflect::prost_types::Any {
        prost_reflect::prost_types::Any { type_url: type_url.to_owned(), value: value.to_vec() }
    }

    #[test]
    fn errors_of_the_gateway_itself_keep_their_reasons() {
        let own = Status::from(Problem::unavailable("a service"));
        assert_eq!(passed().problem(&own).reason(), Reason::ServiceUnavailable);
        assert_eq!(passed().problem(&own).reason_name(), "SERVICE_UNAVAILABLE");
        // Messages of souk's own services are never passed on.
        let internal = Status::new(Code::Internal, "postgres://10.0.0.7");
        assert!(!Errors::Own.problem(&internal).message().contains("10.0.0.7"));
        assert!(passed().problem(&internal).to_json("", "").to_string().contains("10.0.0.7"));
    }
}
