//! The target and protocol of a request.

use std::sync::Arc;

use http::Method as HttpMethod;
use souk_common::contract::Method;

use crate::{
    page::Page,
    routes::{Matched, Miss},
    web::Encoding,
};

/// Where a request leads.
#[derive(Debug)]
pub struct Target {
    /// How it asks, and is answered.
    pub protocol: Protocol,
    /// What it asks for.
    pub to: To,
}

/// A protocol, as far as requests and responses differ by it.
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
    /// A method of the contract, by its gRPC path.
    Method(Arc<Method>),
    /// A method of the contract, by a REST route.
    Route(Matched),
    /// The gateway's own gRPC services: health and reflection.
    Own,
    /// A gRPC method that is not known.
    Unknown,
    /// One of the gateway's own pages.
    Page(Page),
    /// A path that is not known, or not with this HTTP method.
    Miss(Miss),
}

impl Target {
    /// Names the target in logs and metrics: a template, never the path itself.
    pub fn label(&self) -> &str {
        match &self.to {
            To::Method(method) => &method.path,
            To::Route(matched) => &matched.route.template.text,
            To::Own => "grpc",
            To::Page(page) => page.path(),
            To::Unknown | To::Miss(_) => "",
        }
    }

    /// The HTTP method as it is in metrics. What a client makes up must not become a time series.
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
        // OpenTelemetry's name for all others.
        HttpMethod::from_bytes(b"_OTHER").unwrap_or(HttpMethod::GET)
    }

    /// The method of the contract that it leads to.
    pub fn method(&self) -> Option<&Arc<Method>> {
        match &self.to {
            To::Method(method) => Some(method),
            To::Route(matched) => Some(&matched.route.method),
            _ => None,
        }
    }

    /// Whether its response may last as long as a stream.
    pub fn streams(&self) -> bool {
        let streams = |method: &Arc<Method>| streams_in(method) || method.descriptor.is_server_streaming();
        matches!(self.to, To::Own) || self.method().is_some_and(streams)
    }

    /// Whether its body is a stream of messages, which no one reads as a whole.
    pub fn streams_in(&self) -> bool {
        matches!(self.to, To::Own) || self.method().is_some_and(streams_in)
    }

    /// Whether a deadline that its client sends means anything.
    pub fn takes_timeout(&self) -> bool {
        !matches!(self.to, To::Page(_) | To::Miss(_))
    }

    /// Whether it is answered as gRPC has it, in HTTP/2 or for browsers.
    pub fn is_grpc(&self) -> bool {
        matches!(self.protocol, Protocol::Grpc | Protocol::GrpcWeb(_))
    }
}

fn streams_in(method: &Arc<Method>) -> bool {
    method.descriptor.is_client_streaming()
}
