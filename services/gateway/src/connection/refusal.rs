//! Turns hyper's own refusals into problems.
//!
//! hyper itself responds to a request that is not HTTP/1.1 or whose head is too large. That response has a status and
//! no body, and hyper offers no way to add one. So this module recognises the response by its bytes: no other response
//! with one of these statuses lacks a content type. If hyper changes its format, the response is sent unchanged, and a
//! test fails. HTTP/2 has no such response: a malformed request ends its stream or connection, and a head that is too
//! large gets a 431 without a body.

use bytes::{Buf, Bytes};
use http::StatusCode;
use souk_common::{
    context::RequestContext,
    error::{Problem, Reason},
};

use crate::{answer, stack};

/// The statuses of hyper's refusals, with their meaning.
const REFUSALS: [(u16, &str); 3] = [
    (400, "the request is not well-formed HTTP/1.1: its request line or one of its headers cannot be read"),
    (414, "the request's path and query are too long"),
    (431, "the request's headers are too many or too long: see gateway.max_header_bytes"),
];
/// Maximum length of hyper's own refusal, in bytes.
const LONGEST: usize = 256;

/// A refusal that is being sent.
pub struct Refusal(Bytes);

impl Refusal {
    /// The bytes that were not sent yet.
    pub fn rest(&self) -> &[u8] {
        &self.0
    }

    /// Marks `sent` bytes as sent.
    pub fn advance(&mut self, sent: usize) {
        self.0.advance(sent);
    }
}

/// Creates the replacement for a refusal by hyper. `None` if the bytes are something else.
pub fn of(bytes: &[u8]) -> Option<Refusal> {
    if bytes.len() > LONGEST || !bytes.starts_with(b"HTTP/1.") {
        return None;
    }
    let head = std::str::from_utf8(bytes).ok()?.strip_suffix("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let (_, detail) = REFUSALS.into_iter().find(|(known, _)| *known == status)?;
    let mut date = None;
    for line in lines {
        match line.split_once(": ")? {
            ("connection", "close") | ("content-length", "0") => {}
            ("date", value) => date = Some(value),
            _ => return None,
        }
    }
    let status = StatusCode::from_u16(status).ok()?;
    let request_id = RequestContext::background().request_id;
    tracing::debug!(request_id = &*request_id, status = status.as_u16(), "cannot parse a request");
    let problem = Problem::new(Reason::MalformedRequest, detail).on_http(status.as_u16());
    // The path of the request is not known.
    let body = answer::problem_json(&problem, &request_id, "", None).to_string();
    let reason = status.canonical_reason().unwrap_or_default();
    let mut text = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         connection: close\r\ncache-control: no-store\r\nx-request-id: {request_id}\r\n",
        status.as_u16(),
        body.len(),
    );
    let security = stack::SECURITY;
    let security = security.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    for (name, value) in security.chain(date.map(|date| ("date", date))) {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.extend(["\r\n", &body]);
    Some(Refusal(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "date: Mon, 30 Nov 2026 05:30:00 GMT\r\n";

    #[test]
    fn only_responses_of_hyper_itself_are_replaced() {
        let own = |status: &str, headers: &str| of(format!("HTTP/1.1 {status}\r\n{headers}\r\n").as_bytes());
        for (status, _) in REFUSALS {
            let refusal =
                own(&format!("{status} Any Reason"), &format!("connection: close\r\ncontent-length: 0\r\n{DATE}"));
            let text = String::from_utf8(refusal.unwrap().rest().to_vec()).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && head.contains(DATE.trim()), "{head}");
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
            let problem: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!((&problem["status"], &problem["reason"]), (&status.into(), &"MALFORMED_REQUEST".into()));
        }
        for (status, headers) in [
            ("400 Bad Request", "content-type: application/problem+json\r\ncontent-length: 0\r\n"),
            ("400 Bad Request", "content-length: 7\r\n"),
            ("404 Not Found", "content-length: 0\r\n"),
            ("200 OK", "content-length: 0\r\n"),
        ] {
            assert!(own(status, headers).is_none(), "{status} {headers}");
        }
        assert!(of(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0").is_none(), "a part");
        assert!(of(b"").is_none());
    }
}
