//! The target and protocol of a request, determined first, from its head alone.

use std::{sync::Arc, time::Duration};

use http::{Method as HttpMethod, Request};
use souk_common::{context::RequestContext, contract::Method, error::Problem};
use tonic::{Status, body::Body};

use crate::{
    answer,
    config::Config,
    connect, cors,
    gateway::Gateway,
    grpc,
    pages::Page,
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

/// The HTTP methods that pages accept, and that responses name for routes that accept any method.
const PAGE: &str = "GET, HEAD, OPTIONS";
const ANY: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

impl Gateway {
    /// Finds out what a request is for, and notes it on it. One that is gRPC-Web becomes gRPC, and Connect's deadline
    /// becomes gRPC's.
    pub(crate) fn classify(&self, request: Request<Body>) -> (Request<Body>, Arc<Target>) {
        let web = Encoding::of(&request);
        let mut request = match web {
            Some(encoding) => encoding.unwrap(request),
            None => request,
        };
        let mut target = self.target(&request);
        if let (Some(encoding), Protocol::Grpc) = (web, target.protocol) {
            target.protocol = Protocol::GrpcWeb(encoding);
        }
        if target.protocol == Protocol::Connect {
            connect::take_timeout(request.headers_mut());
        }
        let target = Arc::new(target);
        request.extensions_mut().insert(target.clone());
        (request, target)
    }

    fn target(&self, request: &Request<Body>) -> Target {
        let path = request.uri().path();
        let rest = |to| Target { protocol: Protocol::Rest, to };
        let only = |allow: &str| rest(To::Miss(Miss::Method(allow.to_owned())));
        if grpc::is_grpc(request) {
            if *request.method() != HttpMethod::POST {
                return only("POST");
            }
            let to = match self.contract.method(path) {
                Some(method) => To::Method(method.clone()),
                None if grpc::is_own(path) => To::Own,
                None => To::Unknown,
            };
            return Target { protocol: Protocol::Grpc, to };
        }
        if let HttpMethod::TRACE | HttpMethod::CONNECT = *request.method() {
            // Refused even by routes that accept any method: TRACE shows headers to scripts, CONNECT opens tunnels.
            return only(PAGE);
        }
        if let Some(page) = Page::at(path) {
            return match *request.method() {
                HttpMethod::GET | HttpMethod::HEAD => rest(To::Page(page)),
                _ => only(PAGE),
            };
        }
        if let Some(method) = self.contract.method(path) {
            let takes = *request.method() == HttpMethod::POST || (*request.method() == HttpMethod::GET && method.safe);
            return match takes {
                true => Target { protocol: Protocol::Connect, to: To::Method(method.clone()) },
                false => only(connect::allow(method)),
            };
        }
        match self.routes.find(request.method(), path) {
            // A route that accepts any method must not treat a CORS preflight as a call.
            Ok(matched) if matched.route.http_method == "*" && cors::is_preflight(request) => only(ANY),
            Ok(matched) => rest(To::Route(matched)),
            Err(miss) => rest(To::Miss(miss)),
        }
    }
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

    /// How long it may take.
    pub fn deadline(&self, config: &Config) -> Duration {
        let usual = if self.streams() { config.settings.stream.timeout } else { config.common.server.deadline };
        self.method().and_then(|method| method.deadline).unwrap_or(usual)
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

    /// A problem in the format of the protocol. gRPC-Web's is translated from gRPC's later.
    pub fn refusal(&self, problem: &Problem, context: &RequestContext, path: &str) -> http::Response<Body> {
        match self.protocol {
            Protocol::Grpc | Protocol::GrpcWeb(_) => {
                Status::from(problem.clone().request_id(&*context.request_id)).into_http()
            }
            Protocol::Connect => connect::refusal(problem, &context.request_id),
            Protocol::Rest => {
                let binding = match &self.to {
                    To::Route(matched) => Some(&matched.route.binding),
                    _ => None,
                };
                answer::problem(problem, &context.request_id, path, binding)
            }
        }
    }
}

fn streams_in(method: &Arc<Method>) -> bool {
    method.descriptor.is_client_streaming()
}
