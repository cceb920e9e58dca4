//! `Cache-Control` of responses (RFC 9111), and 304 for clients that have the current version (RFC 9110, 13.1.2).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as HttpMethod, Response, StatusCode, header, request::Parts};
use souk_common::contract::Method;
use tonic::body::Body;

use crate::{
    accept, answer,
    etag::{self, Named},
    routes::Route,
};

/// The request headers that a response may depend on besides its URL. A cache that respects them never serves one
/// caller's response to another. This matters for public methods, too: a service may show staff more than everyone
/// else.
const VARY: HeaderValue = HeaderValue::from_static("authorization, accept-encoding");

/// A successful response.
#[derive(Debug)]
pub struct Answer {
    json: Bytes,
    /// Entity tag of the response to a safe method.
    tag: Option<String>,
    /// Content type, if the body is not JSON but raw bytes of a service.
    content_type: Option<HeaderValue>,
}

impl Answer {
    /// Creates a response from an encoded message and its JSON, or from raw bytes and their content type.
    pub fn of(route: &Route, message: &[u8], json: Bytes, content_type: Option<String>) -> Self {
        let tag = route.method.safe.then(|| etag::of(&route.binding, message, &json));
        let unknown = HeaderValue::from_static("application/octet-stream");
        let named = |name: String| HeaderValue::try_from(name).ok().filter(|value| !value.is_empty());
        let content_type = content_type.map(|name| named(name).unwrap_or(unknown));
        Self { json, tag, content_type }
    }

    /// Creates a response from a stored body and its entity tag.
    pub fn kept(json: Bytes, tag: Option<String>) -> Self {
        Self { json, tag, content_type: None }
    }

    /// Creates a response without a message behind it.
    #[cfg(test)]
    pub fn plain(json: impl Into<Bytes>) -> Self {
        Self { json: json.into(), tag: None, content_type: None }
    }

    /// The entity tag, without quotes.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The JSON body.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    fn response(&self) -> Response<Body> {
        match &self.content_type {
            Some(content_type) => answer::with_body(StatusCode::OK, content_type.clone(), self.json.clone()),
            None => answer::json(StatusCode::OK, self.json.clone()),
        }
    }

    /// Size in memory, in bytes.
    pub fn size(&self) -> usize {
        self.json.len() + self.tag.as_ref().map_or(0, String::len)
    }
}

/// Builds the HTTP response for a successful call.
pub fn answer(request: &Parts, method: &Method, answer: &Answer) -> Response<Body> {
    let reads = matches!(request.method, HttpMethod::GET | HttpMethod::HEAD);
    let Some(tag) = answer.tag.as_ref().filter(|_| reads) else {
        let mut response = answer.response();
        answer::never_store(&mut response);
        return response;
    };
    let known = known(&request.headers, tag);
    let mut response = match known {
        Some(_) => answer::empty(StatusCode::NOT_MODIFIED),
        None => answer.response(),
    };
    let headers = response.headers_mut();
    if let Some(tag) = etag::header(known.unwrap_or(tag)) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::CACHE_CONTROL, control(method, &request.headers));
    headers.append(header::VARY, VARY);
    response
}

/// The tag by which the client already has this representation. Weak tags count: the client's version is equivalent.
fn known<'k>(headers: &'k HeaderMap, tag: &'k str) -> Option<&'k str> {
    match etag::named(headers, &header::IF_NONE_MATCH)?.ok()? {
        Named::Any => Some(tag),
        Named::Tags(tags) => {
            // A cache may send tags of what it stores for other clients. It must not reuse a version that this client
            // cannot decode.
            tags.iter().find_map(|known| known.is_as_good_as(tag, |coding| accept::names_coding(headers, coding)))
        }
    }
}

/// The `Cache-Control` header for the response of a safe method.
fn control(method: &Method, headers: &HeaderMap) -> HeaderValue {
    let public = method.access.as_ref().is_some_and(|rule| rule.public);
    // The response to a request with a token may be meant for the token's holder only.
    let who = if public && !headers.contains_key(header::AUTHORIZATION) { "public" } else { "private" };
    let text = match method.caching {
        Some(caching) if caching.max_age.is_zero() => format!("{who}, no-cache"),
        Some(caching) => {
            let (fresh, stale) = (caching.max_age.as_secs(), caching.stale_while_revalidate.as_secs());
            let stale = if stale == 0 { String::new() } else { format!(", stale-while-revalidate={stale}") };
            format!("{who}, max-age={fresh}{stale}")
        }
        None if public => format!("{who}, no-cache"),
        // The response is personal, and the contract does not allow caching it anywhere.
        None => "no-store".to_owned(),
    };
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("no-store"))
}
