//! One REST request: access, body, message, checks, call, JSON.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header, request::Parts};
use http_body_util::BodyExt;
use prost_reflect::DynamicMessage;
use souk_common::{
    client::Client,
    context::RequestContext,
    contract::HeaderField,
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
    cache,
    foreign::Api,
    gateway::Gateway,
    head,
    manners::{
        caching::{self, Answer},
        idempotency, precondition,
    },
    routes::{Matched, Route},
    stream::Form,
    transcode,
    upstream::Onward,
};

/// What every answer is that is no stream.
const JSON: &str = "application/json";
/// A service says by it that the answer is that of the first request with the same key.
pub const IDEMPOTENT_REPLAYED: &str = "idempotent-replayed";

impl Gateway {
    /// Answers a REST request that has a route.
    pub(crate) async fn rest(&self, matched: &Matched, request: Request<Body>) -> Result<Response<Body>, Problem> {
        let route = &*matched.route;
        let descriptor = &route.method.descriptor;
        let (parts, body) = request.into_parts();
        self.admit(&route.method, &parts.headers).await?;
        if descriptor.is_client_streaming() {
            return Err(Problem::new(Reason::Unimplemented, "this method takes a stream: call it with gRPC"));
        }
        let accept = Accept::of(&parts.headers);
        let form = if descriptor.is_server_streaming() {
            Some(Form::choose(&accept)?)
        } else {
            if !route.binding.answers_raw() {
                accept.choose(&[JSON])?;
            }
            None
        };
        let mut body = self.whole(&parts.headers, body, 0).await?;
        if !body.is_empty() && route.binding.takes_body() {
            body = self.inflated(&parts.headers, body, Reason::MediaTypeUnsupported)?;
            if !route.binding.takes_anything() {
                is_json(&parts.headers)?;
            }
        }
        let query = parts.uri.query().unwrap_or_default();
        let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default();
        let asked = transcode::Parts { captures: &matched.captures, query, body: &body, content_type };
        let mut message = route.binding.bind(asked)?;
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
        if let Some(resume) = &route.resume {
            resume.fill(&mut message, &parts.headers)?;
        }
        let attempts = precondition::attempts(message, &route.method, &parts.headers)?;
        attempts.iter().try_for_each(|message| self.check(message))?;
        let mut answered = Err(Problem::internal());
        for message in attempts {
            if let Some(form) = form {
                return self.stream(&matched.route, form, message, &parts.headers, parts.uri.path()).await;
            }
            answered = self.call(&matched.route, message, &parts).await;
            if !answered.as_ref().is_err_and(precondition::try_next) {
                break;
            }
        }
        answered.map_err(|problem| precondition::failed(problem, &parts.headers))
    }

    /// Checks a message against the rules of its contract.
    ///
    /// # Errors
    /// `FIELD_INVALID` with every field that breaks one.
    pub(crate) fn check(&self, message: &DynamicMessage) -> Result<(), Problem> {
        self.contract.validator().check(message).map_err(|violations| {
            Problem::fields(violations.into_iter().map(|violation| (violation.field_path, violation.message)))
        })
    }

    async fn call(
        &self,
        route: &Arc<Route>,
        message: DynamicMessage,
        asked: &Parts,
    ) -> Result<Response<Body>, Problem> {
        let upstream = self.upstreams.of(&route.method.service).ok_or_else(Problem::internal)?;
        let client = upstream.client.clone();
        let cache = self.cache.as_ref().filter(|_| !route.binding.answers_raw());
        let question = cache.and_then(|cache| Some((cache, cache.question(route, &message)?)));
        if let Some((cache, question)) = question {
            let patience = self.config.common.server.deadline;
            let patience = RequestContext::current().map_or(patience, |context| context.remaining(patience));
            // In nobody's name: what is kept is for everyone.
            let (route_too, api) = (route.clone(), self.api.clone());
            let fetch = async move { Ok(ask(client, &route_too, tonic::Request::new(message), &api).await?.0) };
            let (entry, source) = cache.get(question, patience, fetch).await?;
            let mut response = caching::answer(asked, &route.method, &entry.answer);
            cache::tell(&mut response, &entry, source);
            return Ok(response);
        }
        let onward = onward(message, &asked.headers, &self.api);
        let (answer, told) = ask(client, route, onward, &self.api).await?;
        let mut response = caching::answer(asked, &route.method, &answer);
        if told.get(IDEMPOTENT_REPLAYED).is_some_and(|value| value == "true") {
            response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        self.api.response_headers.copy(&told, response.headers_mut());
        Ok(response)
    }

    /// Reads a body, within the limits of size and time. `framing` are the bytes around the message itself.
    pub(crate) async fn whole(&self, headers: &HeaderMap, body: Body, framing: usize) -> Result<Bytes, Problem> {
        let limit = self.config.common.server.max_request_bytes;
        let told = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if told.is_some_and(|length| length > limit.saturating_mul(READ_ON)) {
            return Err(too_large(limit));
        }
        let slow = self.config.settings.body_timeout;
        match tokio::time::timeout(slow, read(body, limit + framing)).await {
            Ok(Ok(Some(bytes))) => Ok(bytes),
            Ok(Ok(None)) => Err(too_large(limit)),
            // Of a body that is decoded while it is read: what is wrong with it.
            Ok(Err(status)) if status.code() == tonic::Code::InvalidArgument => Err(status.into()),
            Ok(Err(error)) => Err(malformed("the body broke off").caused_by(error)),
            Err(_) => {
                let late = malformed(format!("the body did not arrive within {slow:?}"));
                Err(late.on_http(REQUEST_TIMEOUT))
            }
        }
    }
}

impl Gateway {
    /// A body as it was before its `content-encoding`, within the limit of size. One that is compressed in a way that is
    /// not accepted is refused for the reason `otherwise`.
    pub(crate) fn inflated(&self, headers: &HeaderMap, body: Bytes, otherwise: Reason) -> Result<Bytes, Problem> {
        let coding = Coding::named(headers, &header::CONTENT_ENCODING).ok_or_else(|| {
            let message = "the body is compressed in a way that is not accepted: send it with `content-encoding: gzip`, \
                           or as it is";
            Problem::new(otherwise, message).metadata(ACCEPT_ENCODING, Coding::ACCEPTED)
        })?;
        inflated(body, coding, self.config.common.server.max_request_bytes)
    }
}

/// What was compressed, of at most `limit` bytes before.
///
/// # Errors
/// `BODY_TOO_LARGE`, or `MALFORMED_REQUEST` where it is not what it says.
pub fn inflated(body: Bytes, coding: Coding, limit: usize) -> Result<Bytes, Problem> {
    match coding {
        Coding::Identity => Ok(body),
        Coding::Gzip => framing::inflate(&body, limit).map_err(|error| match error {
            NotInflated::TooLarge => too_large(limit),
            NotInflated::Malformed(cause) => {
                malformed("what is sent as compressed with gzip is not, or not whole").caused_by(cause)
            }
        }),
    }
}

fn too_large(limit: usize) -> Problem {
    Problem::new(Reason::BodyTooLarge, format!("the body is larger than the {limit} bytes that are taken"))
        .metadata("limitBytes", limit)
}

/// What HTTP has for a client that is too slow.
const REQUEST_TIMEOUT: u16 = 408;

/// Asks the service. Gives its metadata, too.
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

/// The message for the service, with what of the request's headers it gets.
pub fn onward(message: DynamicMessage, headers: &HeaderMap, api: &Api) -> tonic::Request<DynamicMessage> {
    let mut metadata = HeaderMap::new();
    api.request_headers.copy(headers, &mut metadata);
    let metadata = MetadataMap::from_headers(metadata);
    let mut request = tonic::Request::from_parts(metadata, Extensions::default(), message);
    // The service checks the token again: it believes no one, not even the gateway.
    if let Some(token) = headers.get(header::AUTHORIZATION)
        && let Ok(token) = MetadataValue::try_from(token.as_bytes())
    {
        request.metadata_mut().insert("authorization", token);
    }
    request
}

/// How many times the limit a body that is too large is read on and thrown away. A client that sends all before it
/// reads would otherwise meet a broken connection instead of the answer.
const READ_ON: usize = 4;

/// A whole body; `None` where it is larger than `limit` bytes.
async fn read(mut body: Body, limit: usize) -> Result<Option<Bytes>, tonic::Status> {
    let mut kept = BytesMut::new();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        seen += data.len();
        if seen > limit.saturating_mul(READ_ON) {
            break;
        }
        if seen > limit {
            kept = BytesMut::new();
        } else {
            kept.extend_from_slice(&data);
        }
    }
    Ok((seen <= limit).then(|| kept.freeze()))
}

/// Whether the body is said to be JSON. Without a word about it, it is taken to be.
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
