//! The target and protocol of a request.

use std::sync::Arc;

use http::Method as HttpMethod;
use souk_common::contract::Method;

use crate::{
    page::Page,
    routes::{Matched, Miss},
    web::Encoding,
};

/// The target of a request.
#[derive(Debug)]
pub struct Target {
    /// Protocol of the request and its response.
    pub protocol: Protocol,
    /// The requested method, page or service.
    pub to: To,
}

/// A protocol of requests and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// JSON over HTTP.
    Rest,
    /// gRPC over HTTP/2.
    Grpc,
    /// gRPC without HTTP trailers, for browsers.
    GrpcWeb(Encoding),
    /// Connect's unary calls.
    Connect,
}

/// What a request asks for.
#[derive(Debug)]
pub enum To {
    /// A method of the contract, addressed by its gRPC path.
    Method(Arc<Method>),
    /// A method of the contract, addressed by a REST route.
    Route(Matched),
    /// The gateway's own gRPC services: health and reflection.
    Own,
    /// An unknown gRPC method.
    Unknown,
    /// One of the gateway's own pages.
    Page(Page),
    /// An unknown path, or a path without a route for the HTTP method.
    Miss(Miss),
}

impl Target {
    /// Name of the target in logs and metrics. It is a template and never the actual path.
    pub fn label(&self) -> &str {
        match &self.to {
            To::Method(method) => &method.path,
            To::Route(matched) => &matched.route.template.text,
            To::Own => "grpc",
            To::Page(page) => page.path(),
            To::Unknown | To::Miss(_) => "",
        }
    }

    /// The HTTP method as it appears in metrics. Clients can send arbitrary methods, and these must not become time
    /// series.
    pub fn measured(&self, method: &HttpMethod) -> HttpMethod {
        const KNOWN: [HttpMethod; 7] = [
            HttpMethod::GET,
            HttpMethod::HEAD,
            HttpMethod::POST,
            HttpMethod::PUT,
            HttpMethod::PATCH,
            HttpMethod::DELETE,
            HttpMethod::OPTIONS,
        ];
        let of_route = matches!(&self.to, To::Route(matched) if matched.route.http_method == method.as_str());
        if of_route || KNOWN.contains(method) {
            return method.clone();
        }
        // The OpenTelemetry name for all other methods.
        HttpMethod::from_bytes(b"_OTHER").unwrap_or(HttpMethod::GET)
    }

    /// The method of the contract, if the target is one.
    pub fn method(&self) -> Option<&Arc<Method>> {
        match &self.to {
            To::Method(method) => Some(method),
            To::Route(matched) => Some(&matched.route.method),
            _ => None,
        }
    }

    /// True if the response may last as long as a stream.
    pub fn streams(&self) -> bool {
        let streams = |method: &Arc<Method>| streams_in(method) || method.descriptor.is_server_streaming();
        matches!(self.to, To::Own) || self.method().is_some_and(streams)
    }

    /// True if the request body is a stream of messages, which is not read as a whole.
    pub fn streams_in(&self) -> bool {
        matches!(self.to, To::Own) || self.method().is_some_and(streams_in)
    }

    /// True if the client's deadline applies to this target.
    pub fn takes_timeout(&self) -> bool {
        !matches!(self.to, To::Page(_) | To::Miss(_))
    }

    /// True if the response is gRPC or gRPC-Web.
    pub fn is_grpc(&self) -> bool {
        matches!(self.protocol, Protocol::Grpc | Protocol::GrpcWeb(_))
    }
}

fn streams_in(method: &Arc<Method>) -> bool {
    method.descriptor.is_client_streaming()
}
