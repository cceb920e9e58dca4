//! Percent-decoding that refuses invalid input.

use std::borrow::Cow;

/// Why a part of a URL cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A `%` without two hexadecimal digits after it.
    #[error("has a `%` that is not followed by two hexadecimal digits")]
    Escape,
    /// The decoded bytes are not UTF-8.
    #[error("is not UTF-8")]
    Utf8,
}

/// The rules that apply in addition to `%XX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A path segment: no further rules.
    Segment,
    /// A path segment of a variable with several segments: `%2F` is not decoded (google.api.http).
    SegmentOfMany,
    /// A query string: `+` is a space.
    Query,
}

/// Decodes `%XX`.
///
/// # Errors
/// If an escape is invalid, or the bytes are not UTF-8.
pub fn decode(text: &str, mode: Mode) -> Result<Cow<'_, str>, DecodeError> {
    let plus = mode == Mode::Query;
    if !text.bytes().any(|byte| byte == b'%' || (plus && byte == b'+')) {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let (high, low) = bytes.next().zip(bytes.next()).ok_or(DecodeError::Escape)?;
                let value = hex(high)? << 4 | hex(low)?;
                if value == b'/' && mode == Mode::SegmentOfMany {
                    decoded.extend([b'%', high, low]);
                } else {
                    decoded.push(value);
                }
            }
            b'+' if plus => decoded.push(b' '),
            other => decoded.push(other),
        }
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| DecodeError::Utf8)
}

fn hex(digit: u8) -> Result<u8, DecodeError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(DecodeError::Escape),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_mode_decodes_its_characters() {
        assert_eq!(decode("a%20b+c", Mode::Segment).unwrap(), "a b+c");
        assert_eq!(decode("a%20b+c", Mode::Query).unwrap(), "a b c");
        assert_eq!(decode("a%2fb%2Fc%41", Mode::SegmentOfMany).unwrap(), "a%2fb%2FcA");
        assert_eq!(decode("a%2fb", Mode::Segment).unwrap(), "a/b");
        assert_eq!(decode("%E2%82%AC", Mode::Segment).unwrap(), "€");
    }

    #[test]
    fn invalid_escapes_are_refused() {
        for bad in ["%", "%4", "%zz", "a%"] {
            assert_eq!(decode(bad, Mode::Query), Err(DecodeError::Escape), "{bad}");
        }
        assert_eq!(decode("%ff%fe", Mode::Segment), Err(DecodeError::Utf8));
    }

    proptest! {
        #![proptest_config(crate::fuzz::cases())]

        #[test]
        fn no_text_panics_and_decoding_reverses_encoding(text in ".*", raw in "[%+0-9a-fA-F/]*") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(decode(&encoded, Mode::Segment).unwrap(), text.as_str());
            for mode in [Mode::Segment, Mode::SegmentOfMany, Mode::Query] {
                let _ = decode(&raw, mode);
            }
        }
    }
}
