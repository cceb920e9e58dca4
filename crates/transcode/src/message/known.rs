//! Well-known types whose JSON is one string: `Timestamp`, `Duration`, `FieldMask`. Reading and writing are strict:
//! values that cannot be represented are refused, not rounded.

use prost_reflect::{DynamicMessage, MessageDescriptor, Value};

use super::timestamp;

/// The longest duration in whole seconds, about 10,000 years.
const LONGEST: i64 = 315_576_000_000;

/// The source of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// JSON: the names in a mask are in lowerCamelCase.
    Json,
    /// A URL, which people type: the names of the contract are also accepted.
    Url,
}

/// Reads a text into a message of one of these types; `None` for all other types.
pub fn read(message: &MessageDescriptor, text: &str, spelling: Spelling) -> Option<Result<DynamicMessage, String>> {
    let made = |fields: Vec<(&str, Value)>| {
        let mut made = DynamicMessage::new(message.clone());
        for (name, value) in fields {
            made.set_field_by_name(name, value);
        }
        made
    };
    let seconds_and_nanos =
        |(seconds, nanos)| made(vec![("seconds", Value::I64(seconds)), ("nanos", Value::I32(nanos))]);
    Some(match message.full_name() {
        "google.protobuf.Timestamp" => timestamp::parse(text)
            .map(|time| seconds_and_nanos((time.timestamp(), time.timestamp_subsec_nanos().cast_signed())))
            .map_err(|error| error.to_string()),
        "google.protobuf.Duration" => duration(text).map(seconds_and_nanos).map_err(str::to_owned),
        "google.protobuf.FieldMask" => mask(text, spelling)
            .map(|paths| made(vec![("paths", Value::List(paths.into_iter().map(Value::String).collect()))]))
            .map_err(str::to_owned),
        _ => return None,
    })
}

/// Seconds and nanoseconds of a duration such as `-1.5s`; both have the same sign.
fn duration(text: &str) -> Result<(i64, i32), &'static str> {
    const FORM: &str = "must be a duration in seconds such as 1.5s";
    const DIGITS: &str = "must be a duration in seconds such as 1.5s, with at most 9 digits after the point";
    const RANGE: &str = "must be a duration of at most 315576000000.999999999s, either way";
    let number = text.strip_suffix('s').ok_or(FORM)?;
    let unsigned = number.strip_prefix('-').unwrap_or(number);
    let (whole, fraction) = match unsigned.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (unsigned, None),
    };
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !fraction.is_none_or(is_digits) {
        return Err(FORM);
    }
    let fraction = fraction.unwrap_or_default();
    if fraction.len() > 9 {
        return Err(DIGITS);
    }
    let nanos: i32 = format!("{fraction:0<9}").parse().map_err(|_| FORM)?;
    let seconds = whole.parse().ok().filter(|seconds: &i64| *seconds <= LONGEST).ok_or(RANGE)?;
    Ok(if number.starts_with('-') { (-seconds, -nanos) } else { (seconds, nanos) })
}

/// The text of a duration; `None` if the parts are not a valid duration.
pub fn write_duration(seconds: i64, nanos: i32) -> Option<String> {
    let (whole, parts) = (seconds.unsigned_abs(), nanos.unsigned_abs());
    let opposed = (seconds < 0 && nanos > 0) || (seconds > 0 && nanos < 0);
    if opposed || parts > 999_999_999 || whole > LONGEST.unsigned_abs() {
        return None;
    }
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    Some(match parts {
        0 => format!("{sign}{whole}s"),
        _ if parts.is_multiple_of(1_000_000) => format!("{sign}{whole}.{:03}s", parts / 1_000_000),
        _ if parts.is_multiple_of(1000) => format!("{sign}{whole}.{:06}s", parts / 1000),
        _ => format!("{sign}{whole}.{parts:09}s"),
    })
}

/// The paths of a mask, in the names of the contract.
fn mask(text: &str, spelling: Spelling) -> Result<Vec<String>, &'static str> {
    const FORM: &str = "must be field names in lowerCamelCase, joined by commas";
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(|path| snake(path, spelling).ok_or(FORM)).collect()
}

/// Converts `displayName.first` to `display_name.first`.
fn snake(path: &str, spelling: Spelling) -> Option<String> {
    let mut out = String::with_capacity(path.len() + 4);
    for character in path.chars() {
        match character {
            '_' if spelling == Spelling::Json => return None,
            'A'..='Z' => out.extend(['_', character.to_ascii_lowercase()]),
            // The service checks whether the field exists; it also accepts `*`.
            other => out.push(other),
        }
    }
    let whole = !out.is_empty() && out.split('.').all(|name| !name.is_empty());
    whole.then_some(out)
}

/// The JSON form of a mask's path; `None` if reading it would give another path.
pub fn write_path(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut underscore = false;
    for character in path.chars() {
        match character {
            'a'..='z' if underscore => out.push(character.to_ascii_uppercase()),
            'A'..='Z' | ',' => return None,
            '_' if !underscore => {}
            _ if underscore => return None,
            other => out.push(other),
        }
        underscore = character == '_';
    }
    (!underscore && !out.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn valid_and_invalid_durations() {
        for (text, parts) in [
            ("0s", (0, 0)),
            ("1.5s", (1, 500_000_000)),
            ("-1.5s", (-1, -500_000_000)),
            ("-0.5s", (0, -500_000_000)),
            ("007s", (7, 0)),
            ("0.000000001s", (0, 1)),
            ("315576000000s", (315_576_000_000, 0)),
            ("-315576000000.999999999s", (-315_576_000_000, -999_999_999)),
        ] {
            assert_eq!(duration(text), Ok(parts), "{text}");
        }
        for (text, why) in [
            ("1", "must be a duration in seconds"),
            ("", "must be a duration in seconds"),
            ("s", "must be a duration in seconds"),
            ("1.s", "must be a duration in seconds"),
            (".5s", "must be a duration in seconds"),
            ("+1s", "must be a duration in seconds"),
            ("1.-5s", "must be a duration in seconds"),
            ("1e3s", "must be a duration in seconds"),
            ("1.0000000001s", "must be a duration in seconds such as 1.5s, with at most 9 digits"),
            ("315576000001s", "must be a duration of at most"),
            ("99999999999999999999s", "must be a duration of at most"),
        ] {
            assert!(duration(text).unwrap_err().starts_with(why), "{text}");
        }
        for opposed in [(1, -1), (-1, 1), (0, 1_000_000_000), (315_576_000_001, 0), (i64::MIN, i32::MIN)] {
            assert_eq!(write_duration(opposed.0, opposed.1), None, "{opposed:?}");
        }
    }

    #[test]
    fn valid_and_invalid_field_masks() {
        assert_eq!(mask("", Spelling::Json), Ok(vec![]));
        assert_eq!(mask("displayName,price.units", Spelling::Json).unwrap(), ["display_name", "price.units"]);
        assert_eq!(mask("display_name,priceUnits,*", Spelling::Url).unwrap(), ["display_name", "price_units", "*"]);
        for text in ["a,,b", ",a", "a,", ",", "a..b", ".a", "a.", "display_name"] {
            assert!(mask(text, Spelling::Json).is_err(), "{text}");
        }
        for path in ["", "foo__bar", "foo_", "foo_3_bar", "fooBar", "a,b", "foo_.b"] {
            assert_eq!(write_path(path), None, "{path}");
        }
    }

    proptest! {
        #![proptest_config(crate::fuzz::cases())]

        #[test]
        fn every_duration_survives_json(seconds in -315_576_000_000_i64..315_576_000_000, nanos in 0_i32..1_000_000_000) {
            let nanos = if seconds < 0 { -nanos } else { nanos };
            prop_assert_eq!(duration(&write_duration(seconds, nanos).unwrap()), Ok((seconds, nanos)));
        }

        #[test]
        fn every_mask_path_survives_json(path in "[a-zA-Z0-9_.,*ä]{0,12}") {
            if let (Some(text), false) = (write_path(&path), path.split('.').any(str::is_empty)) {
                prop_assert_eq!(mask(&text, Spelling::Json), Ok(vec![path]));
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[-0-9a-zA-Z_.,s*€]{0,30}") {
            let _ = duration(&text);
            for spelling in [Spelling::Json, Spelling::Url] {
                let _ = mask(&text, spelling);
            }
        }
    }
}
