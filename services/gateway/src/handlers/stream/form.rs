//! The formats of a stream over REST: Server-Sent Events and newline-delimited JSON.

use std::{fmt::Write, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use souk_common::error::Problem;

use crate::accept::Accept;

const SSE: &str = "text/event-stream";
const NDJSON: &str = "application/x-ndjson";

/// The format of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Server-Sent Events, for browsers' `EventSource`.
    Sse,
    /// Newline-delimited JSON: one JSON text per line.
    Ndjson,
}

impl Form {
    /// Chooses the format that the client prefers. The default is NDJSON.
    ///
    /// # Errors
    /// `NOT_ACCEPTABLE` if the client accepts neither.
    pub fn choose(accept: &Accept) -> Result<Self, Problem> {
        Ok(if accept.choose(&[NDJSON, SSE])? == SSE { Self::Sse } else { Self::Ndjson })
    }

    /// The `content-type` of this format.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Sse => SSE,
            Self::Ndjson => NDJSON,
        }
    }

    /// The bytes before the first message: the reconnection delay.
    pub fn opening(self, retry: Duration) -> Bytes {
        match self {
            Self::Sse => format!("retry: {}\n\n", retry.as_millis()).into(),
            Self::Ndjson => Bytes::new(),
        }
    }

    /// Encodes a message. `id` is its position in the stream.
    pub fn message(self, json: Vec<u8>, id: Option<&str>) -> Bytes {
        match self {
            Self::Sse => event(None, id, &String::from_utf8_lossy(&json)),
            Self::Ndjson => line(json),
        }
    }

    /// A heartbeat for a silent connection. `None` if the format has no comments.
    pub fn heartbeat(self) -> Option<Bytes> {
        match self {
            Self::Sse => Some(Bytes::from_static(b":\n\n")),
            Self::Ndjson => None,
        }
    }

    /// Encodes a failure after the first message, as problem+json.
    pub fn failure(self, problem: &Value) -> Bytes {
        match self {
            Self::Sse => event(Some("error"), None, &problem.to_string()),
            Self::Ndjson => line(json!({ "error": problem }).to_string().into_bytes()),
        }
    }

    /// The end of a complete stream. `EventSource` reconnects after every end of a response. This event tells it that
    /// nothing more will come.
    pub fn whole(self) -> Bytes {
        match self {
            Self::Sse => event(Some("end"), None, "{}"),
            Self::Ndjson => Bytes::new(),
        }
    }

    /// The end of a stream that the gateway ends at its time limit and not because of a failure. NDJSON must mark the
    /// stream as incomplete. `EventSource` reconnects by itself.
    pub fn cut(self, problem: &Value) -> Bytes {
        match self {
            Self::Sse => Bytes::new(),
            Self::Ndjson => self.failure(problem),
        }
    }
}

fn line(mut json: Vec<u8>) -> Bytes {
    json.push(b'\n');
    json.into()
}

/// Encodes an event. Each line of its data has its own `data:` field; the client joins them again.
fn event(name: Option<&str>, id: Option<&str>, data: &str) -> Bytes {
    let mut text = String::with_capacity(data.len() + 32);
    for (field, value) in [("event", name), ("id", id)] {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{field}: {value}");
        }
    }
    for part in data.split(['\n', '\r']) {
        let _ = writeln!(text, "data: {part}");
    }
    text.push('\n');
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_and_events_have_the_same_content() {
        let problem = json!({"reason": "OUT_OF_STOCK"});
        let sse = Form::Sse;
        assert_eq!(sse.opening(Duration::from_millis(1500)), "retry: 1500\n\n");
        assert_eq!(sse.message(b"{}".to_vec(), Some("7")), "id: 7\ndata: {}\n\n");
        assert_eq!(sse.message(b"{\n\"a\":\n1}".to_vec(), None), "data: {\ndata: \"a\":\ndata: 1}\n\n");
        assert_eq!(sse.failure(&problem), "event: error\ndata: {\"reason\":\"OUT_OF_STOCK\"}\n\n");
        assert_eq!(sse.whole(), "event: end\ndata: {}\n\n");
        let lines = Form::Ndjson;
        assert_eq!(lines.message(b"{}".to_vec(), Some("7")), "{}\n");
        assert_eq!(lines.failure(&problem), "{\"error\":{\"reason\":\"OUT_OF_STOCK\"}}\n");
        assert_eq!(lines.cut(&problem), lines.failure(&problem));
        assert!(sse.cut(&problem).is_empty() && lines.whole().is_empty() && lines.opening(Duration::ZERO).is_empty());
    }
}
