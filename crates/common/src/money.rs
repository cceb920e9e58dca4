//! Money: integer minor units and a currency inside, `google.type.Money` outside.
//!
//! A price of 12.50 GBP is `Money { minor: 1250, currency: GBP }`. The number of decimals comes from ISO 4217: JPY has
//! none, KWD has three. Nothing is ever rounded: an amount that is finer than the currency's minor unit is an error,
//! and so is a sum that is too large.

use std::fmt;
use std::str::FromStr;

use souk_proto::google::r#type::Money as Proto;

/// A currency of ISO 4217 that can be used for payments. It must have a minor unit, which excludes gold (`XAU`) and
/// `XXX`.
///
/// Stored as its code, in a text column on both engines.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "columns",
    derive(diesel::expression::AsExpression, diesel::deserialize::FromSqlRow),
    diesel(sql_type = diesel::sql_types::Text)
)]
pub struct Currency(iso_currency::Currency);

/// The text is not the code of a [`Currency`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be the three capital letters of an ISO 4217 currency in use, such as `GBP`")]
pub struct CurrencyError;

impl Currency {
    /// Pounds sterling, two decimals.
    pub const GBP: Self = Self(iso_currency::Currency::GBP);
    /// Euro, two decimals.
    pub const EUR: Self = Self(iso_currency::Currency::EUR);
    /// United States dollars, two decimals.
    pub const USD: Self = Self(iso_currency::Currency::USD);
    /// Yen, no decimals.
    pub const JPY: Self = Self(iso_currency::Currency::JPY);

    /// The three-letter code, for example `GBP`.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// The number of decimals of the minor unit: 2 for GBP, 0 for JPY, at most 4.
    #[must_use]
    pub fn exponent(self) -> u32 {
        // `from_str` refuses currencies without an exponent, so the default is never used.
        self.0.exponent().map_or(0, u32::from)
    }

    /// The number of minor units in one unit: 100 for GBP, 1 for JPY.
    #[must_use]
    pub fn minor_per_unit(self) -> i64 {
        10_i64.pow(self.exponent())
    }
}

impl FromStr for Currency {
    type Err = CurrencyError;

    /// Parses an ISO 4217 code in capital letters.
    fn from_str(code: &str) -> Result<Self, CurrencyError> {
        match iso_currency::Currency::from_code(code) {
            // `google.type.Money` has nine decimals. No currency of ISO 4217 has more than four.
            Some(currency) if currency.code() == code && currency.exponent().is_some_and(|e| e <= 9) => {
                Ok(Self(currency))
            }
            _ => Err(CurrencyError),
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl serde::Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> serde::Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An exact amount of money. Negative amounts are debts or refunds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Money {
    /// The amount in minor units of the currency, for example in pence for GBP.
    pub minor: i64,
    /// The currency.
    pub currency: Currency,
}

/// The reason why an amount is invalid or two amounts cannot be combined. Its message may be shown to clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MoneyError {
    /// The currency cannot be used for payments.
    #[error("currency_code {0}")]
    Currency(#[from] CurrencyError),
    /// `nanos` is one unit or more.
    #[error("nanos must be between -999,999,999 and 999,999,999")]
    NanosRange,
    /// `units` and `nanos` have opposite signs.
    #[error("units and nanos must have the same sign")]
    MixedSigns,
    /// The amount is finer than the currency's minor unit.
    #[error("{currency} has {} decimals: nanos must be a multiple of {}", .currency.exponent(), nanos_per_minor(*.currency))]
    TooFine {
        /// The amount's currency.
        currency: Currency,
    },
    /// The amount in minor units does not fit into 64 bits.
    #[error("the amount is too large")]
    Overflow,
    /// The two amounts have different currencies.
    #[error("{0} and {1} cannot be added: the currencies differ")]
    CurrencyMismatch(Currency, Currency),
}

fn nanos_per_minor(currency: Currency) -> i32 {
    10_i32.pow(9_u32.saturating_sub(currency.exponent()))
}

impl Money {
    /// Creates an amount of minor units.
    #[must_use]
    pub const fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// A zero amount of a currency.
    #[must_use]
    pub const fn zero(currency: Currency) -> Self {
        Self { minor: 0, currency }
    }

    /// Adds two amounts.
    ///
    /// # Errors
    /// [`MoneyError::CurrencyMismatch`] or [`MoneyError::Overflow`].
    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        self.with(other, i64::checked_add)
    }

    /// Subtracts an amount.
    ///
    /// # Errors
    /// [`MoneyError::CurrencyMismatch`] or [`MoneyError::Overflow`].
    pub fn checked_sub(self, other: Self) -> Result<Self, MoneyError> {
        self.with(other, i64::checked_sub)
    }

    /// Multiplies the amount by `times`.
    ///
    /// # Errors
    /// [`MoneyError::Overflow`].
    pub fn checked_mul(self, times: i64) -> Result<Self, MoneyError> {
        let minor = self.minor.checked_mul(times).ok_or(MoneyError::Overflow)?;
        Ok(Self::new(minor, self.currency))
    }

    fn with(self, other: Self, op: fn(i64, i64) -> Option<i64>) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::CurrencyMismatch(self.currency, other.currency));
        }
        let minor = op(self.minor, other.minor).ok_or(MoneyError::Overflow)?;
        Ok(Self::new(minor, self.currency))
    }
}

impl TryFrom<&Proto> for Money {
    type Error = MoneyError;

    fn try_from(proto: &Proto) -> Result<Self, MoneyError> {
        let currency: Currency = proto.currency_code.parse()?;
        let (units, nanos) = (proto.units, proto.nanos);
        if !(-999_999_999..=999_999_999).contains(&nanos) {
            return Err(MoneyError::NanosRange);
        }
        if (units > 0 && nanos < 0) || (units < 0 && nanos > 0) {
            return Err(MoneyError::MixedSigns);
        }
        if nanos % nanos_per_minor(currency) != 0 {
            return Err(MoneyError::TooFine { currency });
        }
        // Computed with 128 bits: the sum may fit into 64 bits even if the product of the units does not.
        let minor =
            i128::from(units) * i128::from(currency.minor_per_unit()) + i128::from(nanos / nanos_per_minor(currency));
        let minor = i64::try_from(minor).map_err(|_| MoneyError::Overflow)?;
        Ok(Self { minor, currency })
    }
}

impl TryFrom<Proto> for Money {
    type Error = MoneyError;

    fn try_from(proto: Proto) -> Result<Self, MoneyError> {
        Self::try_from(&proto)
    }
}

impl From<Money> for Proto {
    fn from(money: Money) -> Self {
        let per_unit = money.currency.minor_per_unit();
        // The remainder is less than one unit, so its nanos fit into 32 bits.
        let rest = i32::try_from(money.minor % per_unit).unwrap_or_default();
        Self {
            currency_code: money.currency.code().to_owned(),
            units: money.minor / per_unit,
            nanos: rest * nanos_per_minor(money.currency),
        }
    }
}

/// Formats the amount for people: `12.50 GBP`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_unit = self.currency.minor_per_unit().unsigned_abs();
        let sign = if self.minor < 0 { "-" } else { "" };
        let minor = self.minor.unsigned_abs();
        write!(f, "{sign}{}", minor / per_unit)?;
        if per_unit > 1 {
            let width = self.currency.exponent() as usize;
            write!(f, ".{:0width$}", minor % per_unit)?;
        }
        write!(f, " {}", self.currency)
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn proto(code: &str, units: i64, nanos: i32) -> Proto {
        Proto { currency_code: code.into(), units, nanos }
    }

    fn read(code: &str, units: i64, nanos: i32) -> Result<i64, MoneyError> {
        Money::try_from(&proto(code, units, nanos)).map(|money| money.minor)
    }

    #[test]
    fn an_amount_is_parsed_in_the_minor_unit_of_its_currency() {
        assert_eq!(read("GBP", 12, 500_000_000), Ok(1250));
        assert_eq!(read("USD", -1, -750_000_000), Ok(-175));
        assert_eq!(read("USD", 0, -750_000_000), Ok(-75));
        assert_eq!(read("JPY", 500, 0), Ok(500));
        assert_eq!(read("KWD", 1, 1_000_000), Ok(1001));
        assert_eq!(read("CLF", 1, 100_000), Ok(10_001));
    }

    #[test]
    fn invalid_amounts_are_refused() {
        assert_eq!(read("GBP", 1, -1), Err(MoneyError::MixedSigns));
        assert_eq!(read("GBP", -1, 10_000_000), Err(MoneyError::MixedSigns));
        assert_eq!(read("GBP", 0, 1_000_000_000), Err(MoneyError::NanosRange));
        assert_eq!(read("GBP", 0, i32::MIN), Err(MoneyError::NanosRange));
        for code in ["", "gbp", "GBp", "XXX", "XAU", "ZZZ", "GBPX", " GBP", "£"] {
            assert_eq!(read(code, 1, 0), Err(MoneyError::Currency(CurrencyError)), "{code}");
        }
        assert_eq!(read("GBP", 0, 5_000_000), Err(MoneyError::TooFine { currency: Currency::GBP }));
        let message = read("JPY", 0, 500_000_000).unwrap_err().to_string();
        assert_eq!(message, "JPY has 0 decimals: nanos must be a multiple of 1000000000");
        assert_eq!(read("GBP", i64::MAX, 0), Err(MoneyError::Overflow));
        assert_eq!(read("GBP", i64::MIN, 0), Err(MoneyError::Overflow));
        assert_eq!(read("JPY", i64::MIN, 0), Ok(i64::MIN));
    }

    #[test]
    fn every_i64_of_minor_units_can_be_parsed() {
        assert_eq!(read("GBP", 92_233_720_368_547_758, 70_000_000), Ok(i64::MAX));
        assert_eq!(read("GBP", 92_233_720_368_547_758, 80_000_000), Err(MoneyError::Overflow));
        assert_eq!(read("GBP", -92_233_720_368_547_758, -80_000_000), Ok(i64::MIN));
    }

    #[test]
    fn arithmetic_is_checked() {
        let one = Money::new(1, Currency::GBP);
        assert_eq!(one.checked_add(one), Ok(Money::new(2, Currency::GBP)));
        assert_eq!(one.checked_sub(one), Ok(Money::zero(Currency::GBP)));
        assert_eq!(one.checked_mul(-3), Ok(Money::new(-3, Currency::GBP)));
        assert_eq!(one.checked_add(Money::new(i64::MAX, Currency::GBP)), Err(MoneyError::Overflow));
        assert_eq!(Money::new(i64::MIN, Currency::GBP).checked_mul(-1), Err(MoneyError::Overflow));
        assert_eq!(
            one.checked_sub(Money::new(1, Currency::EUR)),
            Err(MoneyError::CurrencyMismatch(Currency::GBP, Currency::EUR))
        );
    }

    #[test]
    fn an_amount_is_displayed_with_the_decimals_of_its_currency() {
        assert_eq!(Money::new(1250, Currency::GBP).to_string(), "12.50 GBP");
        assert_eq!(Money::new(-5, Currency::GBP).to_string(), "-0.05 GBP");
        assert_eq!(Money::new(500, Currency::JPY).to_string(), "500 JPY");
        assert_eq!(Money::new(i64::MIN, Currency::JPY).to_string(), "-9223372036854775808 JPY");
    }

    proptest! {
        #[test]
        fn every_amount_survives_a_message(
            minor: i64,
            code in prop::sample::select(vec!["GBP", "JPY", "KWD", "CLF", "USD", "EUR"]),
        ) {
            let money = Money::new(minor, code.parse().unwrap());
            let proto = Proto::from(money);
            prop_assert!(proto.nanos.abs() <= 999_999_999);
            prop_assert!(proto.units.signum() * i64::from(proto.nanos.signum()) >= 0);
            prop_assert_eq!(Money::try_from(&proto), Ok(money));
        }

        #[test]
        fn every_message_is_parsed_exactly_or_refused(units: i64, nanos: i32) {
            let given = proto("GBP", units, nanos);
            if let Ok(money) = Money::try_from(&given) {
                prop_assert_eq!(Proto::from(money), given);
            }
        }
    }
}
