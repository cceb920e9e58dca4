//! Regular expressions for whole numbers within bounds. JSON Schema's limits apply to numbers, but not to numbers in
//! strings.

use std::fmt::Write;

use crate::rules::Range;

/// A pattern that matches the decimal text of every number in the ranges, and of no other number. It allows leading
/// zeros.
pub fn pattern(ranges: &[Range]) -> String {
    let positive: Vec<_> = ranges.iter().filter(|range| range.1 >= 0).map(|range| (range.0.max(0), range.1)).collect();
    let negative: Vec<_> =
        ranges.iter().rev().filter(|range| range.0 < 0).map(|range| (-range.1.min(-1), -range.0)).collect();
    let (positive, negative) = (magnitudes(&positive), magnitudes(&negative));
    match (positive.as_str(), negative.as_str()) {
        (plus, minus) if plus == minus => format!("^-?0*(?:{plus})$"),
        (plus, "") => format!("^0*(?:{plus})$"),
        ("", minus) => format!("^-0*(?:{minus})$"),
        (plus, minus) => format!("^(?:0*(?:{plus})|-0*(?:{minus}))$"),
    }
}

fn magnitudes(ranges: &[Range]) -> String {
    let mut parts = Vec::new();
    for (low, high) in ranges {
        by_length(*low, *high, &mut parts);
    }
    parts.join("|")
}

/// Splits a range by the number of digits. Consecutive lengths that are covered completely become one part.
fn by_length(low: i128, high: i128, parts: &mut Vec<String>) {
    let mut whole: Option<(usize, usize)> = None;
    for length in low.to_string().len()..=high.to_string().len() {
        let (first, last) =
            (if length == 1 { 0 } else { 10_i128.pow(length as u32 - 1) }, 10_i128.pow(length as u32) - 1);
        let (from, to) = (low.max(first), high.min(last));
        if length > 1 && (from, to) == (first, last) || length == 1 && (from, to) == (1, 9) {
            whole = Some((whole.map_or(length, |(shortest, _)| shortest), length));
            continue;
        }
        parts.extend(whole.take().map(lengths));
        parts.push(same_length(from.to_string().as_bytes(), to.to_string().as_bytes()));
    }
    parts.extend(whole.map(lengths));
}

fn lengths((shortest, longest): (usize, usize)) -> String {
    format!("[1-9]{}", repeated(shortest - 1, longest - 1))
}

/// A pattern for `least` to `most` arbitrary digits.
fn repeated(least: usize, most: usize) -> String {
    match (least, most) {
        (_, 0) => String::new(),
        (1, 1) => "[0-9]".to_owned(),
        (least, most) if least == most => format!("[0-9]{{{least}}}"),
        (least, most) => format!("[0-9]{{{least},{most}}}"),
    }
}

/// A pattern for the numbers between two numbers with equally many digits.
fn same_length(low: &[u8], high: &[u8]) -> String {
    let (Some((&first, low_rest)), Some((&last, high_rest))) = (low.split_first(), high.split_first()) else {
        return String::new();
    };
    let rest = low_rest.len();
    if first == last {
        let mut text = char::from(first).to_string();
        let inner = same_length(low_rest, high_rest);
        let _ = if inner.contains('|') { write!(text, "(?:{inner})") } else { write!(text, "{inner}") };
        return text;
    }
    let from_start = low_rest.iter().all(|digit| *digit == b'0');
    let to_end = high_rest.iter().all(|digit| *digit == b'9');
    let middle = (if from_start { first } else { first + 1 }, if to_end { last } else { last - 1 });
    let mut parts = Vec::new();
    if !from_start {
        parts.push(same_length(low, &[&[first][..], &vec![b'9'; rest]].concat()));
    }
    if middle.0 <= middle.1 {
        let digit = match middle {
            (one, other) if one == other => char::from(one).to_string(),
            (one, other) => format!("[{}-{}]", char::from(one), char::from(other)),
        };
        parts.push(digit + &repeated(rest, rest));
    }
    if !to_end {
        parts.push(same_length(&[&[last][..], &vec![b'0'; rest]].concat(), high));
    }
    parts.join("|")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    #[test]
    fn patterns_of_common_ranges_are_short() {
        let cases = [
            (vec![(1, 1_000_000)], "^0*(?:[1-9][0-9]{0,5}|1000000)$"),
            (vec![(-1_000_000_000, -1), (1, 1_000_000_000)], "^-?0*(?:[1-9][0-9]{0,8}|1000000000)$"),
            (vec![(0, 999)], "^0*(?:[0-9]|[1-9][0-9]{1,2})$"),
            (vec![(-5, 3)], "^(?:0*(?:[0-3])|-0*(?:[1-5]))$"),
            (vec![(7, 7)], "^0*(?:7)$"),
        ];
        for (ranges, expected) in cases {
            assert_eq!(pattern(&ranges), expected);
        }
    }

    proptest! {
        #![proptest_config(crate::fuzz::cases())]

        #[test]
        fn a_pattern_matches_exactly_the_numbers_of_its_range(one in -20_000_i128..20_000, other in -20_000_i128..20_000, near in -30_000_i128..30_000) {
            let (low, high) = (one.min(other), one.max(other));
            let pattern = Regex::new(&pattern(&[(low, high)])).unwrap();
            for number in [low - 1, low, low + 1, high - 1, high, high + 1, near] {
                let within = (low..=high).contains(&number);
                prop_assert_eq!(pattern.is_match(&number.to_string()), within, "{} in {}..={}", number, low, high);
            }
        }
    }
}
