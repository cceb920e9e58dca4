//! Determines the target of a request from its head, before any other layer.

use std::{sync::Arc, time::Duration};

use http::{Method as HttpMethod, Request};
use tonic::body::Body;

use crate::{
    config::Config,
    cors,
    gateway::Gateway,
    handlers::{connect, grpc},
    own,
    page::Page,
    routes::Miss,
    target::{Protocol, Target, To},
    web::Encoding,
};

/// The HTTP methods that pages accept, and that responses name for routes that accept any method.
const PAGE: &str = "GET, HEAD, OPTIONS";
const ANY: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

impl Gateway {
    /// Determines the target of a request and stores it in the request. A gRPC-Web request becomes a gRPC request, and
    /// the timeout of Connect becomes the timeout of gRPC.
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
                None if own::is_own(path) => To::Own,
                None => To::Unknown,
            };
            return Target { protocol: Protocol::Grpc, to };
        }
        if let HttpMethod::TRACE | HttpMethod::CONNECT = *request.method() {
            // Refused even by routes that accept any method: TRACE shows headers to scripts, and CONNECT opens tunnels.
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

/// The longest time that a request may take.
pub fn deadline(target: &Target, config: &Config) -> Duration {
    let usual = if target.streams() { config.settings.stream.timeout } else { config.common.server.deadline };
    target.method().and_then(|method| method.deadline).unwrap_or(usual)
}
