//! Reads the whole request body before the request takes a place. A client that sends only half a body blocks nothing
//! but its own connection.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::Deserialize;
use souk_common::{
    error::{Problem, Reason},
    framing::FRAME,
    quota::{Held, Quota},
};
use tonic::body::Body;

/// The settings of `[gateway.body]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Maximum size of all request bodies in memory, in bytes.
    #[serde(with = "souk_common::config::byte_size")]
    pub max_bytes: usize,
    /// Maximum size of one address's request bodies in memory, in bytes.
    #[serde(with = "souk_common::config::byte_size")]
    pub max_bytes_per_address: usize,
}

impl Settings {
    /// Returns the name of an invalid setting and its valid values. `max_request_bytes` is the largest size of a
    /// request.
    pub fn fault(&self, max_request_bytes: usize) -> Option<(&'static str, String)> {
        // The largest message with its frame.
        let least = max_request_bytes.saturating_add(FRAME);
        [("body.max_bytes", self.max_bytes), ("body.max_bytes_per_address", self.max_bytes_per_address)]
            .into_iter()
            .find(|(_, bytes)| *bytes < least)
            .map(|(name, _)| {
                (name, format!("must be {least}B or more, as the largest request (server.max_request_bytes)"))
            })
    }
}

/// Minimum size that a body counts with, in bytes. So many small bodies count, too.
const LEAST: u64 = 4096;
/// How much of a body that is too large is read and discarded, as a multiple of the limit. A client that sends
/// everything before it reads would otherwise get a broken connection instead of the response.
const READ_ON: usize = 4;
/// The HTTP status for a client that is too slow.
const REQUEST_TIMEOUT: u16 = 408;

/// The quota of request bodies in the memory of a gateway.
pub fn quota(settings: &Settings) -> Arc<Quota> {
    let bytes = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
    Quota::new(bytes(settings.max_bytes), bytes(settings.max_bytes_per_address))
}

/// Limits of one request body.
pub struct Limits {
    /// Maximum size of the message, in bytes.
    pub bytes: usize,
    /// Size of the framing around the message, in bytes.
    pub framing: usize,
    /// Maximum time until the body has arrived.
    pub time: Duration,
}

/// Reads a whole body, within its limits of size and time.
///
/// # Errors
/// `BODY_TOO_LARGE`, `OVERLOADED`, or `MALFORMED_REQUEST` if the body breaks off or is late.
pub async fn whole(
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
            // The body is decoded while it is read. This status says what is wrong with its content.
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

/// The error for a body larger than `limit` bytes.
pub fn too_large(limit: usize) -> Problem {
    Problem::new(Reason::BodyTooLarge, format!("the body is larger than the limit of {limit} bytes"))
        .metadata("limitBytes", limit)
}

fn crowded() -> Problem {
    let message = "this address, or all clients together, send more at a time than the gateway keeps: try again later";
    Problem::new(Reason::Overloaded, message)
}

fn malformed(message: impl Into<String>) -> Problem {
    Problem::new(Reason::MalformedRequest, message)
}
