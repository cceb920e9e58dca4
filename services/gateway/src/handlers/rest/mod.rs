//! Handles one REST request: parses the message, checks it, calls the service and encodes the response as JSON.

mod idempotency;
mod precondition;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header, request::Parts};
use prost_reflect::DynamicMessage;
use souk_common::{
    client::Client,
    context::RequestContext,
    contract::{HeaderField, Method},
    error::{ACCEPT_ENCODING, OrProblem, Problem, Reason},
    framing::{self, Coding, NotInflated},
};
use tonic::{
    Extensions,
    body::Body,
    client::Grpc,
    metadata::{MetadataMap, MetadataValue},
};

use crate::{
    accept::Accept,
    body, cache,
    caching::{self, Answer},
    foreign::Api,
    gateway::Gateway,
    handlers::stream::Form,
    head,
    request::{self, WholeBody},
    routes::{Matched, Route},
    transcode,
    upstream::Onward,
};

/// The content type of responses that are not streams.
const JSON: &str = "application/json";
/// Header of a response that repeats the response to the first request with the same key.
pub const IDEMPOTENT_REPLAYED: &str = "idempotent-replayed";

impl Gateway {
    /// Handles a REST request that has a route.
    pub(crate) async fn rest(&self, matched: &Matched, request: Request<Body>) -> Result<Response<Body>, Problem> {
        let route = &*matched.route;
        let (parts, _) = request.into_parts();
        let form = negotiate(matched, &parts.headers)?;
        let attempts = precondition::attempts(self.message(matched, &parts)?, &route.method, &parts.headers)?;
        attempts.iter().try_for_each(|message| self.check(message))?;
        if let Some(message) = attempts.first() {
            self.limits.surcharge(&route.method, message, &parts).await?;
        }
        let mut answered = Err(Problem::internal());
        for message in attempts {
            if let Some(form) = form {
                return Box::pin(self.stream(&matched.route, form, message, &parts)).await;
            }
            answered = self.call(&matched.route, message, &parts).await;
            if !answered.as_ref().is_err_and(precondition::try_next) {
                break;
            }
        }
        answered.map_err(|problem| precondition::failed(problem, &parts.headers))
    }

    /// Builds the request message from the path, the query, the body and the headers that set fields.
    fn message(&self, matched: &Matched, parts: &Parts) -> Result<DynamicMessage, Problem> {
        let route = &*matched.route;
        let limit = self.request_limit(&route.method);
        let WholeBody(mut body) = request::part::<WholeBody>(&parts.extensions)?.clone();
        if !body.is_empty() && route.binding.takes_body() {
            body = self.inflated(&parts.headers, body, Reason::MediaTypeUnsupported, limit)?;
            if !route.binding.takes_anything() {
                is_json(&parts.headers)?;
            }
        }
        let query = parts.uri.query().unwrap_or_default();
        let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default();
        let asked = transcode::Parts { captures: &matched.captures, query, body: &body, content_type };
        let mut message = route.binding.bind(asked).map_err(transcode::problem)?;
        for HeaderField { name, field } in &route.method.headers {
            if let Some(value) = head::single(&parts.headers, name)? {
                let value = value.to_str().map_err(|_| malformed(format!("the header {name} is not text")))?;
                transcode::fill(&mut message, field, name, value)?;
            }
        }
        if let Some(field) = &route.method.idempotency_key
            && let Some(key) = idempotency::key(&parts.headers, field)?
        {
            transcode::fill(&mut message, field, "Idempotency-Key", &key)?;
        }
        if let Some(resume) = &route.method.resume {
            resume.fill(&mut message, &parts.headers)?;
        }
        Ok(message)
    }

    /// Checks a message against the rules of its contract.
    ///
    /// # Errors
    /// `FIELD_INVALID` with every invalid field.
    pub(crate) fn check(&self, message: &DynamicMessage) -> Result<(), Problem> {
        Ok(self.contract.validator().check(message)?)
    }

    async fn call(
        &self,
        route: &Arc<Route>,
        message: DynamicMessage,
        parts: &Parts,
    ) -> Result<Response<Body>, Problem> {
        let upstream = self.upstreams.of(&route.method.service).ok_or_else(Problem::internal)?;
        let client = upstream.client.clone();
        let context = request::part::<RequestContext>(&parts.extensions)?;
        let cache = self.cache.as_ref().filter(|_| !route.binding.answers_raw());
        let question = cache.and_then(|cache| Some((cache, cache.question(route, &message)?)));
        if let Some((cache, question)) = question {
            // The call has no token and does not end with this request's deadline, because its response is shared by
            // everyone.
            let mut anonymous = tonic::Request::new(message);
            anonymous.extensions_mut().insert(context.clone().detached());
            let (route_too, api) = (route.clone(), self.api.clone());
            let fetch = async move { Ok(ask(client, &route_too, anonymous, &api).await?.0) };
            let wait = context.remaining(self.config.common.server.deadline);
            let (entry, source) = cache.get(question, wait, fetch).await?;
            let mut response = caching::answer(parts, &route.method, &entry.answer);
            cache::tell(&mut response, &entry, source);
            return Ok(response);
        }
        let (answer, metadata) =
            ask(client, route, onward(&route.method, message, parts, &self.api)?, &self.api).await?;
        let mut response = caching::answer(parts, &route.method, &answer);
        if metadata.get(IDEMPOTENT_REPLAYED).is_some_and(|value| value == "true") {
            response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        self.api.response_headers.copy(&metadata, response.headers_mut());
        Ok(response)
    }

    /// Maximum size of a method's request message, in bytes.
    pub(crate) fn request_limit(&self, method: &Method) -> usize {
        method.request_limit(self.config.common.server.max_request_bytes)
    }

    /// Decompresses a body by its `content-encoding`, within the size limit. An unsupported compression is refused with
    /// the reason `otherwise`.
    pub(crate) fn inflated(
        &self,
        headers: &HeaderMap,
        body: Bytes,
        otherwise: Reason,
        limit: usize,
    ) -> Result<Bytes, Problem> {
        let coding = Coding::named(headers, &header::CONTENT_ENCODING).ok_or_else(|| {
            let message = "the body is compressed in a way that is not accepted: send it with `content-encoding: gzip`, \
                           or as it is";
            Problem::new(otherwise, message).metadata(ACCEPT_ENCODING, Coding::ACCEPTED)
        })?;
        inflated(body, coding, limit)
    }
}

/// Negotiates the format of a route's response from the request's head. Returns the format of a stream; `None` if the
/// response is not a stream.
///
/// # Errors
/// `NOT_ACCEPTABLE`, or `UNIMPLEMENTED` for a method with a client stream.
pub fn negotiate(matched: &Matched, headers: &HeaderMap) -> Result<Option<Form>, Problem> {
    let descriptor = &matched.route.method.descriptor;
    if descriptor.is_client_streaming() {
        return Err(Problem::new(Reason::Unimplemented, "this method takes a stream: call it with gRPC"));
    }
    let accept = Accept::of(headers);
    if descriptor.is_server_streaming() {
        return Form::choose(&accept).map(Some);
    }
    if !matched.route.binding.answers_raw() {
        accept.choose(&[JSON])?;
    }
    Ok(None)
}

/// Decompresses a body to at most `limit` bytes.
///
/// # Errors
/// `BODY_TOO_LARGE`, or `MALFORMED_REQUEST` if the body is not in the announced format.
pub fn inflated(body: Bytes, coding: Coding, limit: usize) -> Result<Bytes, Problem> {
    match coding {
        Coding::Identity => Ok(body),
        Coding::Gzip => framing::inflate(&body, limit).map_err(|error| match error {
            NotInflated::TooLarge => body::too_large(limit),
            NotInflated::Malformed(cause) => malformed("the body is not gzip, or is incomplete").caused_by(cause),
        }),
    }
}

/// Calls the service. Returns the message and the metadata.
async fn ask(
    client: Client,
    route: &Route,
    request: tonic::Request<DynamicMessage>,
    api: &Api,
) -> Result<(Answer, HeaderMap), Problem> {
    let mut client = Grpc::new(client).max_decoding_message_size(usize::MAX);
    client.ready().await.or_unavailable("a service")?;
    let answered = client.unary(request, route.grpc_path.clone(), Onward).await;
    let (metadata, message, _) = answered.map_err(|status| api.errors.problem(&status))?.into_parts();
    let (body, content_type) = route.binding.write(&message).or_internal()?;
    Ok((Answer::of(route, &message, body, content_type), metadata.into_headers()))
}

/// The request to the service: the message, and the headers that are forwarded.
///
/// # Errors
/// Those of [`request::part`].
pub fn onward(
    method: &Method,
    message: DynamicMessage,
    parts: &Parts,
    api: &Api,
) -> Result<tonic::Request<DynamicMessage>, Problem> {
    let mut metadata = HeaderMap::new();
    api.request_headers.copy(&parts.headers, &mut metadata);
    request::add_client_details(method, parts, &mut metadata)?;
    let metadata = MetadataMap::from_headers(metadata);
    let mut request = tonic::Request::from_parts(metadata, Extensions::default(), message);
    request.extensions_mut().insert(request::part::<RequestContext>(&parts.extensions)?.clone());
    // The service checks the token again: it does not trust the gateway.
    if let Some(token) = parts.headers.get(header::AUTHORIZATION)
        && let Ok(token) = MetadataValue::try_from(token.as_bytes())
    {
        request.metadata_mut().insert("authorization", token);
    }
    Ok(request)
}

/// Checks that the content type is JSON. A missing content type counts as JSON.
fn is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported = |message: &str| Err(Problem::new(Reason::MediaTypeUnsupported, message));
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
    if !essence.trim().eq_ignore_ascii_case("application/json") {
        return unsupported("the body must be JSON: send it with `content-type: application/json`");
    }
    for parameter in parameters.split(';') {
        if let Some((name, charset)) = parameter.split_once('=')
            && name.trim().eq_ignore_ascii_case("charset")
            && !charset.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        {
            return unsupported("the body must be in UTF-8");
        }
    }
    Ok(())
}

fn malformed(message: impl Into<String>) -> Problem {
    Problem::new(Reason::MalformedRequest, message)
}
