//! Server streams over REST: each message is sent as it arrives, as Server-Sent Events or NDJSON.

mod form;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream, stream::Peekable};
use http::{HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};
use http_body::Frame;
use http_body_util::StreamBody;
use prost_reflect::DynamicMessage;
use serde_json::Value;
use souk_common::{
    context::RequestContext,
    error::{OrProblem, Problem},
};
use tonic::{Status, body::Body, client::Grpc};

pub use self::form::Form;
use crate::{
    answer::{self, with_retry_delay},
    foreign::Errors,
    gateway::Gateway,
    handlers::rest,
    record::{self, Record},
    request,
    resume::LAST_EVENT_ID,
    routes::Route,
    streams::{End, Place},
    upstream::Onward,
};

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl Gateway {
    /// Handles a REST request for a server stream. A failure has its own HTTP status until the first message arrives or
    /// `gateway.stream.hold` has passed. After that it is sent as part of the stream.
    pub(crate) async fn stream(
        &self,
        route: &Arc<Route>,
        form: Form,
        message: DynamicMessage,
        parts: &Parts,
    ) -> Result<Response<Body>, Problem> {
        let upstream = self.upstreams.of(&route.method.service).ok_or_else(Problem::internal)?;
        let settings = &self.config.settings.stream;
        let context = request::part::<RequestContext>(&parts.extensions)?;
        let record = request::part::<Record>(&parts.extensions)?.clone();
        let place = self.place(parts)?;
        let end = self.streams.end(context, route.method.resume.is_some());
        let mut client = Grpc::new(upstream.client.clone()).max_decoding_message_size(usize::MAX);
        let request = rest::onward(&route.method, message, parts, &self.api)?;
        let told = Arc::new(OnceLock::new());
        let telling = told.clone();
        let path_onward = route.grpc_path.clone();
        let call = async move {
            client.ready().await.or_unavailable("a service")?;
            let (metadata, messages, _) = client.server_streaming(request, path_onward, Onward).await?.into_parts();
            let _ = telling.set(metadata.into_headers());
            Ok::<_, Status>(messages)
        };
        // Some services send their headers only with the first message, so this wait includes the call itself.
        let messages: Messages = Box::pin(stream::once(call).try_flatten());
        let mut messages = messages.peekable();
        let first = tokio::time::timeout(settings.hold, Pin::new(&mut messages).peek()).await;
        if let Ok(Some(Err(status))) = first {
            let problem = self.api.errors.in_stream(status);
            // `EventSource` never reconnects after a status other than 200. A client that reconnects has already had
            // its stream. So a temporary failure is sent as part of the stream, and the client tries again.
            let for_now = problem.http_status() == StatusCode::SERVICE_UNAVAILABLE.as_u16();
            if !(form == Form::Sse && for_now && parts.headers.contains_key(LAST_EVENT_ID)) {
                return Err(problem);
            }
        }
        // The outcome until the end of the stream is known.
        record.set(record::End::left());
        let relay = Relay {
            opening: Some(form.opening(settings.retry)),
            messages,
            end,
            form,
            errors: self.api.errors.clone(),
            route: route.clone(),
            heartbeat: settings.heartbeat,
            request_id: context.request_id.clone(),
            path: parts.uri.path().to_owned(),
            over: false,
            record,
            _place: place,
        };
        let frames = stream::unfold(relay, async |mut relay| {
            let bytes = relay.next().await?;
            Some((Ok::<_, Infallible>(Frame::data(bytes)), relay))
        });
        let mut response = Response::new(Body::new(StreamBody::new(frames)));
        let headers = response.headers_mut();
        if let Some(told) = told.get() {
            self.api.response_headers.copy(told, headers);
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // nginx buffers a whole response before it sends any of it, unless this header forbids it.
        headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        answer::never_store(&mut response);
        Ok(response)
    }
}

/// An open stream.
struct Relay {
    opening: Option<Bytes>,
    messages: Peekable<Messages>,
    end: End,
    form: Form,
    errors: Errors,
    route: Arc<Route>,
    heartbeat: Duration,
    request_id: Arc<str>,
    path: String,
    over: bool,
    record: Record,
    _place: Place,
}

impl Relay {
    /// Returns the next piece of the body.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(opening) = self.opening.take().filter(|opening| !opening.is_empty()) {
            return Some(opening);
        }
        if self.over {
            return None;
        }
        let last = tokio::select! {
            biased;
            problem = &mut self.end => {
                // This is no failure: the client has already received its status.
                self.record.set(record::End::OK);
                self.form.cut(&self.told(&problem))
            }
            next = self.messages.next() => match next {
                Some(next) => match next.map_err(|status| self.errors.in_stream(&status)).and_then(|message| self.message(message)) {
                    Ok(bytes) => return Some(bytes),
                    Err(problem) => {
                        let problem = with_retry_delay(problem);
                        let told = self.form.failure(&self.told(&problem));
                        self.record.set(record::End::refused(problem));
                        told
                    }
                },
                None => {
                    self.record.set(record::End::OK);
                    self.form.whole()
                }
            },
            beat = silence(self.form, self.heartbeat) => return Some(beat),
        };
        self.over = true;
        (!last.is_empty()).then_some(last)
    }

    fn message(&self, message: Bytes) -> Result<Bytes, Problem> {
        let json = self.route.binding.renderer.render(&message).or_internal()?;
        let id = self.route.method.resume.as_ref().and_then(|resume| resume.place(message));
        Ok(self.form.message(json, id.as_deref()))
    }

    fn told(&self, problem: &Problem) -> Value {
        answer::problem_json(problem, &self.request_id, &self.path, Some(&self.route.binding))
    }
}

/// Waits until nothing was sent for the heartbeat interval. Returns the bytes to send then.
async fn silence(form: Form, heartbeat: Duration) -> Bytes {
    match form.heartbeat() {
        Some(beat) => {
            tokio::time::sleep(heartbeat).await;
            beat
        }
        None => std::future::pending().await,
    }
}
