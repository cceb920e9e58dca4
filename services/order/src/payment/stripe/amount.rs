//! Amounts in Stripe's units, which mostly are the minor units of ISO 4217.

use souk_common::money::Money;

/// Currencies that Stripe counts in whole units.
const WHOLE: [&str; 15] =
    ["BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"];
/// Currencies with three decimals. Stripe requires that the last one is zero.
const THREE_DECIMALS: [&str; 5] = ["BHD", "JOD", "KWD", "OMR", "TND"];
/// Currencies that Stripe counts in hundredths although it accepts only whole units.
const HUNDREDTHS_OF_WHOLE: [&str; 2] = ["ISK", "UGX"];

/// An amount in Stripe's smallest units; `None` if Stripe cannot take it exactly.
pub fn smallest_units(amount: Money) -> Option<i64> {
    let code = amount.currency.code();
    let (exponent, step) = match code {
        _ if WHOLE.contains(&code) => (0, 1),
        _ if THREE_DECIMALS.contains(&code) => (3, 10),
        _ if HUNDREDTHS_OF_WHOLE.contains(&code) => (2, 100),
        _ => (2, 1),
    };
    let ours = amount.currency.exponent();
    let units = if exponent >= ours {
        amount.minor.checked_mul(10_i64.checked_pow(exponent - ours)?)?
    } else {
        let divisor = 10_i64.checked_pow(ours - exponent)?;
        (amount.minor % divisor == 0).then_some(amount.minor / divisor)?
    };
    (units >= 0 && units % step == 0).then_some(units)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn amounts_are_converted_as_stripe_counts_them() {
        for (minor, currency, expected) in [
            (1250, "GBP", Some(1250)),
            (1250, "JPY", Some(1250)),
            // Two decimals by ISO 4217, none by Stripe.
            (1200, "MGA", Some(12)),
            (1250, "MGA", None),
            // None by ISO 4217, two by Stripe.
            (12, "UGX", Some(1200)),
            (12, "ISK", Some(1200)),
            (1250, "KWD", Some(1250)),
            (1255, "KWD", None),
            (i64::MAX, "UGX", None),
            (-1, "GBP", None),
            (1250, "HUF", Some(1250)),
        ] {
            let amount = Money::new(minor, currency.parse().unwrap());
            assert_eq!(smallest_units(amount), expected, "{minor} {currency}");
        }
    }
}
