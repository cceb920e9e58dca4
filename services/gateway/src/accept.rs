//! The media types that a client accepts: the `Accept` header (RFC 9110, 12.5.1).

use http::{HeaderMap, header};
use souk_common::error::{Problem, Reason};

/// The media ranges of a request. Parameters other than `q` are ignored: no response here has any.
#[derive(Debug, Clone, PartialEq)]
pub struct Accept(Vec<Range>);

#[derive(Debug, Clone, PartialEq)]
struct Range {
    /// `application`, or `*`.
    kind: String,
    /// `json`, or `*`.
    subtype: String,
    quality: f32,
}

/// The weight of a media type: its quality from 0 (not accepted) to 1, and the specificity of the matching range.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Weight {
    /// Quality from 0 to 1.
    pub quality: f32,
    /// Specificity of the match: 2 for type and subtype, 1 for the type only, 0 for `*/*`.
    pub exactness: u8,
}

impl Accept {
    /// Reads the headers. Invalid media ranges are ignored. Without a valid one, everything is accepted.
    pub fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        Self(values.flat_map(|value| value.split(',')).filter_map(Range::parse).collect())
    }

    /// The weight of a media type, by the most specific range that matches it.
    pub fn weigh(&self, media_type: &str) -> Weight {
        if self.0.is_empty() {
            return Weight { quality: 1.0, exactness: 0 };
        }
        let weights = self.0.iter().filter_map(|range| {
            range.exactness(media_type).map(|exactness| Weight { quality: range.quality, exactness })
        });
        let best = weights.max_by(|a, b| {
            (a.exactness, a.quality).partial_cmp(&(b.exactness, b.quality)).unwrap_or(std::cmp::Ordering::Equal)
        });
        best.unwrap_or(Weight { quality: 0.0, exactness: 0 })
    }

    /// Returns the offered media type with the highest weight, or the first of several equal ones.
    ///
    /// # Errors
    /// `NOT_ACCEPTABLE` if none is accepted.
    pub fn choose<'t>(&self, offered: &[&'t str]) -> Result<&'t str, Problem> {
        let mut best: Option<(Weight, &'t str)> = None;
        for media_type in offered {
            let weight = self.weigh(media_type);
            if weight.quality > 0.0 && best.is_none_or(|(other, _)| weight > other) {
                best = Some((weight, media_type));
            }
        }
        best.map(|(_, media_type)| media_type).ok_or_else(|| {
            let message =
                format!("the answer is {}: name it in `accept`, or leave the header out", offered.join(" or "));
            Problem::new(Reason::NotAcceptable, message)
        })
    }
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        let (kind, subtype) = parts.next()?.trim().split_once('/')?;
        let quality = parts.find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
        });
        let quality = match quality {
            Some(text) => text.parse().ok().filter(|quality| (0.0..=1.0).contains(quality))?,
            None => 1.0,
        };
        let named = !kind.is_empty() && !subtype.is_empty() && (kind != "*" || subtype == "*");
        named.then(|| Self { kind: kind.to_ascii_lowercase(), subtype: subtype.to_ascii_lowercase(), quality })
    }

    fn exactness(&self, media_type: &str) -> Option<u8> {
        let (kind, subtype) = media_type.split_once('/')?;
        match (self.kind.as_str(), self.subtype.as_str()) {
            ("*", _) => Some(0),
            (own, "*") => (own == kind).then_some(1),
            own => (own == (kind, subtype)).then_some(2),
        }
    }
}

/// True if `Accept-Encoding` names a coding as accepted (RFC 9110, 12.5.3).
pub fn names_coding(headers: &HeaderMap, wanted: &str) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let codings = values.flat_map(|value| value.split(','));
    codings.map(|coding| coding.split_once(';').unwrap_or((coding, ""))).any(|(name, parameters)| {
        let weight = parameters.trim().strip_prefix("q=").map(str::parse::<f32>);
        name.trim().eq_ignore_ascii_case(wanted) && !matches!(weight, Some(Ok(0.0)))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const JSON: &str = "application/json";
    const SSE: &str = "text/event-stream";
    const NDJSON: &str = "application/x-ndjson";

    fn accept(values: &[&str]) -> Accept {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::ACCEPT, HeaderValue::from_str(value).unwrap());
        }
        Accept::of(&headers)
    }

    #[test]
    fn one_media_type_is_accepted_or_refused() {
        let table: [(&[&str], bool); 18] = [
            (&[], true),
            (&["*/*"], true),
            (&["application/json"], true),
            (&["Application/JSON; charset=utf-8"], true),
            (&["application/*"], true),
            (&["text/html, application/json;q=0.1"], true),
            (&["text/html", "application/json"], true),
            (&["text/html, */*;q=0.001"], true),
            (&["*/*;q=0, application/json"], true),
            (&["nonsense"], true),
            (&[""], true),
            (&["text/html"], false),
            (&["application/json;q=0"], false),
            (&["application/json;q=0.000, */*"], false),
            (&["application/*;q=0, */*"], false),
            (&["*/*;q=0"], false),
            (&["application/jsonp"], false),
            (&["application/json;q=2, text/html"], false),
        ];
        for (values, expected) in table {
            assert_eq!(accept(values).choose(&[JSON]).is_ok(), expected, "{values:?}");
        }
        let refused = accept(&["text/html"]).choose(&[NDJSON, SSE]).unwrap_err();
        assert_eq!(refused.reason(), Reason::NotAcceptable);
        assert!(refused.message().contains("application/x-ndjson or text/event-stream"), "{refused}");
    }

    #[test]
    fn of_two_media_types_the_preferred_one_is_chosen() {
        let table: [(&[&str], &str); 8] = [
            (&[], NDJSON),
            (&["*/*"], NDJSON),
            (&["text/event-stream"], SSE),
            (&["text/event-stream, */*"], SSE),
            (&["text/event-stream;q=0.5, application/x-ndjson;q=0.4"], SSE),
            (&["text/event-stream;q=0.5, */*"], NDJSON),
            (&["text/*"], SSE),
            (&["application/x-ndjson, text/event-stream"], NDJSON),
        ];
        for (values, expected) in table {
            assert_eq!(accept(values).choose(&[NDJSON, SSE]).unwrap(), expected, "{values:?}");
        }
    }

    #[test]
    fn gzip_is_used_only_if_it_is_accepted() {
        let cases = [
            ("gzip", true),
            ("GZip, br", true),
            ("br, gzip;q=0.1", true),
            ("gzip; q=0", false),
            ("gzip;q=0.000", false),
            ("identity", false),
            ("", false),
        ];
        for (accept, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accept));
            assert_eq!(names_coding(&headers, "gzip"), expected, "{accept}");
        }
        assert!(!names_coding(&HeaderMap::new(), "gzip"));
    }
}
