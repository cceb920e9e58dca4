//! Exact parsing of numbers in text: whether `1e3`, `5.0` or `9223372036854775807.0` is a whole number, and which one.
//!
//! A conversion through a float would change numbers of more than 53 bits.

/// A decimal number: its digits, times a power of ten.
struct Decimal<'a> {
    negative: bool,
    /// The digits before the point.
    whole: &'a str,
    /// The digits after the point.
    fraction: &'a str,
    exponent: i64,
}

impl<'a> Decimal<'a> {
    /// Reads a number in JSON's syntax. Leading zeros are accepted, too: in a string or a URL they are unambiguous.
    fn read(text: &'a str) -> Option<Self> {
        let unsigned = text.strip_prefix('-');
        let negative = unsigned.is_some();
        let (mantissa, exponent) = match unsigned.unwrap_or(text).split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, power(exponent)?),
            None => (unsigned.unwrap_or(text), 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (mantissa, None),
        };
        let fits = is_digits(whole) && fraction.is_none_or(is_digits);
        fits.then(|| Self { negative, whole, fraction: fraction.unwrap_or_default(), exponent })
    }

    /// The number as an integer. `None` if it is not whole, or larger than any integer of protobuf.
    fn integer(&self) -> Option<i128> {
        /// The number of digits of `u64::MAX`.
        const MOST: usize = 20;
        let whole = self.whole.trim_start_matches('0');
        let fraction = self.fraction.trim_end_matches('0');
        // If there are no digits before the point, zeros after it are not significant.
        let leading = if whole.is_empty() { fraction.len() - fraction.trim_start_matches('0').len() } else { 0 };
        let significant = whole.len() + fraction.len() - leading;
        if significant == 0 {
            return Some(0);
        }
        let trailing = if fraction.is_empty() { whole.len() - whole.trim_end_matches('0').len() } else { 0 };
        let places = i64::try_from(fraction.len()).ok()?;
        // The power of ten of the last digit that is not zero, and the number of significant digits.
        let lowest = self.exponent.saturating_sub(places).saturating_add(i64::try_from(trailing).ok()?);
        let kept = significant - trailing;
        let zeros = usize::try_from(lowest).ok().filter(|zeros| zeros.saturating_add(kept) <= MOST)?;
        let digits = whole.bytes().chain(fraction.bytes().skip(leading)).take(kept);
        let digits = digits.chain(std::iter::repeat_n(b'0', zeros));
        let magnitude = digits.fold(0_i128, |number, digit| number * 10 + i128::from(digit - b'0'));
        Some(if self.negative { -magnitude } else { magnitude })
    }
}

/// Reads an exponent. An exponent that is too large is replaced by the largest one.
fn power(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !is_digits(digits) {
        return None;
    }
    let power = digits.parse::<i64>().unwrap_or(i64::MAX);
    Some(if text.starts_with('-') { -power } else { power })
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The whole number in a text, if it is one and fits the type: `5`, `-0`, `5.0`, `1e3`.
pub fn integer<T: TryFrom<i128>>(text: &str) -> Option<T> {
    T::try_from(Decimal::read(text)?.integer()?).ok()
}

/// The double nearest to the number in a text; `None` if it is no number, or is larger than the largest double.
pub fn double(text: &str) -> Option<f64> {
    Decimal::read(text)?;
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

/// The float nearest to the number in a text. It is rounded once, not through a double.
pub fn float(text: &str) -> Option<f32> {
    Decimal::read(text)?;
    text.parse().ok().filter(|value: &f32| value.is_finite())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_are_parsed_exactly() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("0e999999999999999999999", 0),
            ("0.000", 0),
            ("007", 7),
            ("5.0", 5),
            ("1e3", 1000),
            ("1E+3", 1000),
            ("1.5e1", 15),
            ("0.00005e5", 5),
            ("100e-2", 1),
            ("12000e-3", 12),
            ("9223372036854775807", i64::MAX),
            ("9223372036854775807.0", i64::MAX),
            ("922337203685477580700e-2", i64::MAX),
            ("0.9223372036854775807e19", i64::MAX),
            ("-9223372036854775808.000", i64::MIN),
            ("9007199254740993.0", 9_007_199_254_740_993),
            ("9007199254740993", 9_007_199_254_740_993),
        ] {
            assert_eq!(integer::<i64>(text), Some(value), "{text}");
        }
        assert_eq!(integer::<u64>("18446744073709551615.0"), Some(u64::MAX));
        assert_eq!(integer::<u64>("1844674407370955161.5e1"), Some(u64::MAX));
    }

    #[test]
    fn texts_that_are_no_integer_in_range_are_refused() {
        for text in [
            "9223372036854775808",
            "-9223372036854775809",
            "9223372036854775807.5",
            "9223372036854775807.00000000001",
            "1e19",
            "-1e19",
            "1e999999999999999999999",
            "1e-1",
            "15e-1",
            "1e-999999999999999999999",
            "0.5",
            "1.000001",
        ] {
            assert_eq!(integer::<i64>(text), None, "{text}");
        }
        for text in
            ["", "-", "+5", " 5", "5 ", "1.", ".5", "1e", "1e+", "e5", "1.e5", "0x1", "1_000", "--1", "٣", "NaN"]
        {
            assert_eq!(integer::<i64>(text), None, "{text}");
            assert_eq!(double(text), None, "{text}");
        }
        assert_eq!(integer::<u64>("18446744073709551616"), None);
        assert_eq!(integer::<u64>("-1"), None);
        assert_eq!(integer::<i32>("2147483648"), None);
    }

    #[test]
    fn floats_are_rounded_once() {
        // Through a double this would become the float above, because the double is exactly between two floats.
        let text = "1.000000178813934326171874999999999999";
        assert_eq!(float(text), Some(1.000_000_1));
        assert_ne!(Some(double(text).unwrap() as f32), float(text));
        assert_eq!(float("3.5e38"), None);
        assert_eq!(double("1e309"), None);
        assert_eq!(double("-0").map(f64::is_sign_negative), Some(true));
    }

    /// A spelling of a whole number: with the point moved, extra zeros, and an exponent.
    fn spelled(value: i128, shift: usize, before: usize, behind: usize) -> String {
        let sign = if value < 0 { "-" } else { "" };
        let digits = value.unsigned_abs().to_string();
        let digits = format!("{}{digits}", "0".repeat(shift + 1));
        let (whole, fraction) = digits.split_at(digits.len() - shift);
        let point = if fraction.is_empty() && behind == 0 { "" } else { "." };
        format!("{sign}{}{whole}{point}{fraction}{}e{shift}", "0".repeat(before), "0".repeat(behind))
    }

    proptest! {
        #![proptest_config(crate::fuzz::cases())]

        #[test]
        fn every_i64_is_parsed_exactly(value: i64, shift in 0_usize..30, before in 0_usize..3, behind in 0_usize..3) {
            prop_assert_eq!(integer(&value.to_string()), Some(value));
            let text = spelled(value.into(), shift, before, behind);
            prop_assert_eq!(integer(&text), Some(value), "{}", text);
        }

        #[test]
        fn every_u64_is_parsed_exactly(value: u64, shift in 0_usize..30, before in 0_usize..3, behind in 0_usize..3) {
            prop_assert_eq!(integer(&value.to_string()), Some(value));
            let text = spelled(value.into(), shift, before, behind);
            prop_assert_eq!(integer(&text), Some(value), "{}", text);
        }

        #[test]
        fn numbers_out_of_range_are_refused(value in any::<i128>().prop_map(|value| value >> 32), shift in 0_usize..30) {
            let text = spelled(value, shift, 0, 0);
            prop_assert_eq!(integer::<i64>(&text), i64::try_from(value).ok(), "{}", text);
            prop_assert_eq!(integer::<u64>(&text), u64::try_from(value).ok(), "{}", text);
            prop_assert_eq!(integer::<i32>(&text), i32::try_from(value).ok(), "{}", text);
        }

        #[test]
        fn numbers_with_a_fraction_are_refused(whole: i64, fraction in "[0-9]{0,20}[1-9]0{0,3}", smaller in 0_u32..40) {
            let text = format!("{whole}.{fraction}");
            prop_assert_eq!(integer::<i64>(&text), None, "{}", text);
            let text = format!("{whole}.{fraction}e-{smaller}");
            prop_assert_eq!(integer::<i64>(&text), None, "{}", text);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in prop_oneof!["[0-9.eE+-]{0,30}", ".{0,10}"]) {
            if let Some(value) = integer::<i64>(&text) {
                prop_assert_eq!(double(&text), Some(value as f64), "{}", text);
            }
            let _ = float(&text);
        }
    }
}
