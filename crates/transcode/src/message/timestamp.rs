//! Parses times by RFC 3339, strictly: nothing is dropped silently.
use chrono::{DateTime, Datelike, NaiveDate, TimeDelta, Utc};

/// Why a text is not a valid time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// The text does not have the form of a time, or has a day that does not exist.
    #[error("must be a time such as 2026-01-31T12:00:00Z")]
    Form,
    /// The seconds are 60 or more. `google.protobuf.Timestamp` has no leap seconds.
    #[error("must be a time such as 2026-01-31T12:00:00Z, with a second from 00 to 59")]
    Second,
    /// The fraction is finer than a nanosecond.
    #[error("must be a time such as 2026-01-31T12:00:00Z, with at most 9 digits after the point")]
    Digits,
    /// The time is before the year 1 or after the year 9999, in UTC.
    #[error("must be a time such as 2026-01-31T12:00:00Z, in the years 0001 to 9999 of UTC")]
    Range,
}

/// Parses an RFC 3339 time: `2026-01-31T12:00:00Z`, `2026-01-31T12:00:00.123456789+02:00`.
///
/// # Errors
/// What is wrong, in words that begin with "must be".
pub fn parse(text: &str) -> Result<DateTime<Utc>, TimestampError> {
    use TimestampError::Form;
    let mut rest = text;
    let year = digits(&mut rest, 4)?;
    let month = after(&mut rest, '-').and_then(|()| digits(&mut rest, 2))?;
    let day = after(&mut rest, '-').and_then(|()| digits(&mut rest, 2))?;
    let hour = after(&mut rest, 'T').and_then(|()| digits(&mut rest, 2))?;
    let minute = after(&mut rest, ':').and_then(|()| digits(&mut rest, 2))?;
    let second = after(&mut rest, ':').and_then(|()| digits(&mut rest, 2))?;
    let nanos = match rest.strip_prefix('.') {
        Some(fraction) => nanos(fraction, &mut rest)?,
        None => 0,
    };
    let offset = offset(rest)?;
    if second >= 60 {
        return Err(TimestampError::Second);
    }
    let date = i32::try_from(year).ok().and_then(|year| NaiveDate::from_ymd_opt(year, month, day)).ok_or(Form)?;
    let local = date.and_hms_nano_opt(hour, minute, second, nanos).ok_or(Form)?;
    let time = local.checked_sub_signed(offset).ok_or(TimestampError::Range)?.and_utc();
    if (1..=9999).contains(&time.year()) { Ok(time) } else { Err(TimestampError::Range) }
}

fn after(rest: &mut &str, mark: char) -> Result<(), TimestampError> {
    *rest = rest.strip_prefix(mark).ok_or(TimestampError::Form)?;
    Ok(())
}

/// Reads this number of digits from the front.
fn digits(rest: &mut &str, count: usize) -> Result<u32, TimestampError> {
    let (head, tail) = rest.split_at_checked(count).ok_or(TimestampError::Form)?;
    if !head.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(TimestampError::Form);
    }
    *rest = tail;
    head.parse().map_err(|_| TimestampError::Form)
}

/// The nanoseconds of a fraction of a second.
fn nanos<'a>(fraction: &'a str, rest: &mut &'a str) -> Result<u32, TimestampError> {
    let count = fraction.bytes().take_while(u8::is_ascii_digit).count();
    *rest = &fraction[count..];
    match count {
        0 => Err(TimestampError::Form),
        1..=9 => format!("{:0<9}", &fraction[..count]).parse().map_err(|_| TimestampError::Form),
        _ => Err(TimestampError::Digits),
    }
}

/// The offset of the local time from UTC.
fn offset(text: &str) -> Result<TimeDelta, TimestampError> {
    if text == "Z" {
        return Ok(TimeDelta::zero());
    }
    let ahead = text.starts_with('+');
    let mut rest = text.strip_prefix(['+', '-']).ok_or(TimestampError::Form)?;
    let hours = digits(&mut rest, 2)?;
    let minutes = after(&mut rest, ':').and_then(|()| digits(&mut rest, 2))?;
    if !rest.is_empty() || hours > 23 || minutes > 59 {
        return Err(TimestampError::Form);
    }
    let offset = TimeDelta::minutes(i64::from(hours * 60 + minutes));
    Ok(if ahead { offset } else { -offset })
}

#[cfg(test)]
mod tests {
    use chrono::SecondsFormat;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timestamps_are_parsed_as_in_rfc_3339() {
        for (text, utc) in [
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
            ("2026-01-31T12:00:00.5Z", "2026-01-31T12:00:00.500Z"),
            ("2026-01-31T12:00:00.123456789Z", "2026-01-31T12:00:00.123456789Z"),
            ("2026-01-31T14:00:00+02:00", "2026-01-31T12:00:00Z"),
            ("2026-01-31T12:00:00-00:00", "2026-01-31T12:00:00Z"),
            ("2024-02-29T23:59:59-23:59", "2024-03-01T23:58:59Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
            ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(parse(text).unwrap().to_rfc3339_opts(SecondsFormat::AutoSi, true), utc, "{text}");
        }
    }

    #[test]
    fn invalid_and_inexact_timestamps_are_refused() {
        use TimestampError::{Digits, Form, Range, Second};
        for (text, error) in [
            ("2016-12-31T23:59:60Z", Second),
            ("2026-01-31T12:00:61Z", Second),
            ("2026-01-31T12:00:00.1234567891Z", Digits),
            ("2026-01-31T12:00:00.0000000000Z", Digits),
            ("0001-01-01T00:00:00+00:01", Range),
            ("9999-12-31T23:59:59-00:01", Range),
            ("0000-12-31T00:00:00Z", Range),
            ("", Form),
            ("2026-01-31", Form),
            ("2026-01-31T12:00Z", Form),
            ("2026-01-31T12:00:00", Form),
            ("2026-01-31t12:00:00z", Form),
            ("2026-01-31 12:00:00Z", Form),
            ("2026-01-31T12:00:00.Z", Form),
            ("2026-01-31T12:00:00,5Z", Form),
            ("2026-01-31T12:00:00+0200", Form),
            ("2026-01-31T12:00:00+24:00", Form),
            ("2026-01-31T12:00:00+02:60", Form),
            ("2026-02-30T12:00:00Z", Form),
            ("2026-13-01T12:00:00Z", Form),
            ("2026-01-31T24:00:00Z", Form),
            ("2026-01-31T12:60:00Z", Form),
            ("+026-01-31T12:00:00Z", Form),
            ("2026-01-31T12:00:00Zx", Form),
            ("2026-01-3€T12:00:00Z", Form),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_timestamp_survives_json(seconds in -62_135_596_800_i64..253_402_300_800, nanos in 0_u32..1_000_000_000) {
            let time = DateTime::from_timestamp(seconds, nanos).unwrap();
            prop_assert_eq!(parse(&time.to_rfc3339_opts(SecondsFormat::Nanos, true)), Ok(time));
        }

        #[test]
        fn no_text_panics(text in "[0-9TZ:.+€-]{0,40}") {
            let _ = parse(&text);
        }
    }
}
