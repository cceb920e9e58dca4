//! The request's body, read as a whole before the request takes a place: a client that sends half of one holds nothing
//! but its own connection.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use serde::Deserialize;
use souk_common::{
    error::{Problem, Reason},
    framing::FRAME,
    quota::{Held, Quota},
};
use tonic::body::Body;

use crate::{
    connect,
    gateway::Gateway,
    layers::Next,
    request::{self, WholeBody},
    rest,
    target::{Protocol, To},
};

/// `[gateway.body]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Bytes of requests' bodies that are in memory at a time.
    #[serde(with = "souk_common::config::byte_size")]
    pub max_bytes: usize,
    /// The same, of one address.
    #[serde(with = "souk_common::config::byte_size")]
    pub max_bytes_per_address: usize,
}

impl Settings {
    /// The setting that is wrong, and what would be right, where requests have at most so many bytes.
    pub fn fault(&self, max_request_bytes: usize) -> Option<(&'static str, String)> {
        // The largest message, in its frame.
        let least = max_request_bytes.saturating_add(FRAME);
        [("body.max_bytes", self.max_bytes), ("body.max_bytes_per_address", self.max_bytes_per_address)]
            .into_iter()
            .find(|(_, bytes)| *bytes < least)
            .map(|(name, _)| {
                (name, format!("must be {least}B or more, as the largest request (server.max_request_bytes)"))
            })
    }
}

/// Bytes that a body counts for at least, so that many small ones count, too.
const LEAST: u64 = 4096;
/// A client has this long for any body, and a second more for so many bytes that the method takes: a call whose message is
/// small is not waited for as long as an import.
const GRACE: Duration = Duration::from_secs(5);
const SLOWEST: u64 = 128 * 1024;
/// How many times the limit a body that is too large is read on and thrown away. A client that sends all before it
/// reads would otherwise meet a broken connection instead of the answer.
const READ_ON: usize = 4;
/// What HTTP has for a client that is too slow.
const REQUEST_TIMEOUT: u16 = 408;

/// The bodies of a gateway that are in memory.
pub fn quota(settings: &Settings) -> Arc<Quota> {
    let bytes = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
    Quota::new(bytes(settings.max_bytes), bytes(settings.max_bytes_per_address))
}

/// Reads the body of a call that is one message. That of a stream is read as it is passed on, and one that nobody asked
/// for is not read at all. What the request's head alone shows to be wrong is refused first.
pub async fn read(gateway: &Gateway, request: Request<Body>, next: &Next) -> Result<Response<Body>, Problem> {
    let target = request::target(request.extensions())?.clone();
    let Some(method) = target.method() else { return next.run(request).await };
    match (&target.to, target.protocol) {
        (To::Route(matched), _) => drop(rest::negotiate(matched, request.headers())?),
        (_, Protocol::Connect) => connect::negotiate(method, request.method(), request.headers())?,
        _ => {}
    }
    if target.streams_in() {
        return next.run(request).await;
    }
    let limit = gateway.request_limit(method);
    // The bytes around the message itself.
    let framing = match target.protocol {
        Protocol::Grpc | Protocol::GrpcWeb(_) => FRAME,
        Protocol::Rest | Protocol::Connect => 0,
    };
    let (mut parts, body) = request.into_parts();
    let limits = Limits {
        bytes: limit,
        framing,
        time: gateway.config.settings.body_timeout.min(GRACE + Duration::from_secs(limit as u64 / SLOWEST)),
    };
    let site = request::site(&parts.extensions)?;
    let (bytes, _held) = match body.is_end_stream() {
        true => (Bytes::new(), None),
        false => Box::pin(whole(&gateway.bodies, site, &parts.headers, body, limits))
            .await
            .map(|(bytes, held)| (bytes, Some(held)))?,
    };
    parts.extensions.insert(WholeBody(bytes));
    next.run(Request::from_parts(parts, Body::empty())).await
}

/// What a body may be.
struct Limits {
    /// Bytes of the message.
    bytes: usize,
    /// Bytes around the message.
    framing: usize,
    time: Duration,
}

/// Reads a body, within the limits of size and time.
async fn whole(
    quota: &Arc<Quota>,
    site: IpAddr,
    headers: &HeaderMap,
    body: Body,
    limits: Limits,
) -> Result<(Bytes, Held), Problem> {
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > limits.bytes.saturating_mul(READ_ON)) {
        return Err(too_large(limits.bytes));
    }
    let held = quota.take(site, LEAST).ok_or_else(crowded)?;
    match tokio::time::timeout(limits.time, collect(body, held, &limits)).await {
        Ok(read) => read,
        Err(_) => {
            let late = malformed(format!("the body did not arrive within {:?}", limits.time));
            Err(late.on_http(REQUEST_TIMEOUT))
        }
    }
}

async fn collect(mut body: Body, mut held: Held, limits: &Limits) -> Result<(Bytes, Held), Problem> {
    let most = limits.bytes + limits.framing;
    let mut kept = BytesMut::new();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|status| match status.code() {
            // Of a body that is decoded while it is read: what is wrong with it.
            tonic::Code::InvalidArgument => Problem::from(status),
            _ => malformed("the body broke off").caused_by(status),
        })?;
        let Ok(data) = frame.into_data() else { continue };
        seen += data.len();
        if seen > limits.bytes.saturating_mul(READ_ON) {
            break;
        }
        if seen > most {
            held.shrink(held.amount().saturating_sub(LEAST));
            kept = BytesMut::new();
            continue;
        }
        let more = (seen as u64).saturating_sub(held.amount());
        if !held.grow(more) {
            return Err(crowded());
        }
        kept.extend_from_slice(&data);
    }
    if seen > most { Err(too_large(limits.bytes)) } else { Ok((kept.freeze(), held)) }
}

/// A body of more than `limit` bytes.
pub fn too_large(limit: usize) -> Problem {
    Problem::new(Reason::BodyTooLarge, format!("the body is larger than the {limit} bytes that are taken"))
        .metadata("limitBytes", limit)
}

fn crowded() -> Problem {
    let message = "this address, or all clients together, send more at a time than the gateway keeps: try again later";
    Problem::new(Reason::Overloaded, message)
}

fn malformed(message: impl Into<String>) -> Problem {
    Problem::new(Reason::MalformedRequest, message)
}
