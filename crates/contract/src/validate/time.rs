//! Rules of `google.protobuf.Timestamp` and `Duration`, both in nanoseconds.
use chrono::{DateTime, SecondsFormat, Utc};
use prost_reflect::{DynamicMessage, Value};

use super::{
    Unsupported,
    numbers::{self, NumberTest},
    rules::{Rule, Source, Test},
};

const SECOND: i128 = 1_000_000_000;

/// The test of a point in time.
#[derive(Debug)]
pub(super) enum TimeTest {
    Fixed(NumberTest<i128>),
    Past,
}

impl Test<i128> for TimeTest {
    fn admits(&self, value: i128) -> bool {
        match self {
            Self::Fixed(test) => test.admits(value),
            Self::Past => value <= now(),
        }
    }
}

fn now() -> i128 {
    let now = Utc::now();
    i128::from(now.timestamp()) * SECOND + i128::from(now.timestamp_subsec_nanos())
}

/// The nanoseconds of a timestamp (since 1970) or a duration. Both types have seconds and nanos, with the same field
/// numbers.
pub(super) fn nanoseconds(message: &DynamicMessage) -> i128 {
    let seconds = message.get_field_by_number(1);
    let seconds = seconds.as_deref().and_then(Value::as_i64).unwrap_or_default();
    let nanos = message.get_field_by_number(2);
    let nanos = nanos.as_deref().and_then(Value::as_i32).unwrap_or_default();
    i128::from(seconds) * SECOND + i128::from(nanos)
}

/// Reads the rules of a timestamp.
pub(super) fn read(source: &Source<'_>) -> Result<Vec<Rule<TimeTest>>, Unsupported> {
    let mut numbers = numbers::Reader::new(source, show_timestamp);
    let mut rules = Vec::new();
    for (field, value) in source.rules.fields() {
        match (field.name(), value) {
            ("lt_now", Value::Bool(wanted)) => {
                if *wanted {
                    rules.push(source.rule("lt_now", TimeTest::Past, "must be in the past"));
                }
            }
            // Timestamps have no rules with lists, unlike other numbers.
            ("in" | "not_in", _) => return Err(source.unknown(field.name())),
            (name, value) => {
                if !numbers.take(name, value)? {
                    return Err(source.unknown(name));
                }
            }
        }
    }
    let fixed = numbers.finish().into_iter();
    rules.extend(fixed.map(|rule| Rule { test: TimeTest::Fixed(rule.test), fault: rule.fault }));
    Ok(rules)
}

/// Formats a duration as in protobuf's JSON: `90s`, `1.5s`.
pub(super) fn show_duration(nanoseconds: i128) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let (seconds, rest) = (nanoseconds.abs() / SECOND, nanoseconds.abs() % SECOND);
    let fraction = format!(".{rest:09}");
    format!("{sign}{seconds}{}s", fraction.trim_end_matches('0').trim_end_matches('.'))
}

/// Formats a timestamp as in protobuf's JSON: `2026-11-21T15:00:00Z`.
fn show_timestamp(nanoseconds: i128) -> String {
    let seconds = i64::try_from(nanoseconds.div_euclid(SECOND)).ok();
    let rest = u32::try_from(nanoseconds.rem_euclid(SECOND)).unwrap_or_default();
    match seconds.and_then(|seconds| DateTime::from_timestamp(seconds, rest)) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        None => format!("{} from 1970", show_duration(nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations_are_shown_as_in_json() {
        assert_eq!(show_duration(604_800 * SECOND), "604800s");
        assert_eq!(show_duration(-1_500_000_000), "-1.5s");
        assert_eq!(show_duration(0), "0s");
        assert_eq!(show_timestamp(1_700_000_000 * SECOND), "2023-11-14T22:13:20Z");
        assert_eq!(show_timestamp(-1), "1969-12-31T23:59:59.999999999Z");
        assert!(show_timestamp(i128::from(i64::MAX) * SECOND).ends_with("s from 1970"));
    }
}
