//! Rules of numbers of every kind, and of durations, which are checked as numbers.
use std::ops::Bound;

use prost_reflect::Value;

use super::{
    Unsupported,
    rules::{Rule, Source, Test, one_of},
    time,
};

/// The test of a number.
#[derive(Debug)]
pub(super) enum NumberTest<T> {
    Range(Range<T>),
    In(Vec<T>),
    NotIn(Vec<T>),
    Finite,
}

/// Lower and upper limit. If the upper limit is below the lower one, a value must be outside the gap between them.
#[derive(Debug)]
pub(super) struct Range<T> {
    lower: Bound<T>,
    upper: Bound<T>,
}

/// A number type that can have rules.
pub(super) trait Number: Copy + PartialOrd {
    /// Converts the value of a rule.
    fn of(value: &Value) -> Option<Self>;
    fn is_finite(self) -> bool {
        true
    }
}

impl Number for i64 {
    fn of(value: &Value) -> Option<Self> {
        value.as_i64().or_else(|| value.as_i32().map(Self::from))
    }
}

impl Number for u64 {
    fn of(value: &Value) -> Option<Self> {
        value.as_u64().or_else(|| value.as_u32().map(Self::from))
    }
}

impl Number for f64 {
    fn of(value: &Value) -> Option<Self> {
        value.as_f64().or_else(|| value.as_f32().map(Self::from))
    }

    fn is_finite(self) -> bool {
        f64::is_finite(self)
    }
}

/// Nanoseconds of a duration or a timestamp.
impl Number for i128 {
    fn of(value: &Value) -> Option<Self> {
        value.as_message().map(time::nanoseconds)
    }
}

impl<T: Number> Test<T> for NumberTest<T> {
    fn admits(&self, value: T) -> bool {
        match self {
            Self::Range(range) => range.admits(value),
            Self::In(allowed) => allowed.contains(&value),
            Self::NotIn(denied) => !denied.contains(&value),
            Self::Finite => value.is_finite(),
        }
    }
}

impl<T: Number> Range<T> {
    fn admits(&self, value: T) -> bool {
        // Written so that a NaN violates every limit.
        let above = match self.lower {
            Bound::Unbounded => true,
            Bound::Included(lower) => value >= lower,
            Bound::Excluded(lower) => value > lower,
        };
        let below = match self.upper {
            Bound::Unbounded => true,
            Bound::Included(upper) => value <= upper,
            Bound::Excluded(upper) => value < upper,
        };
        if self.is_inverted() { above || below } else { above && below }
    }

    fn is_inverted(&self) -> bool {
        match (limit(&self.lower), limit(&self.upper)) {
            (Some(lower), Some(upper)) => upper < lower,
            _ => false,
        }
    }

    /// The rule's id and the message. The id follows protovalidate: `gte_lt`, `gt_lte_exclusive`.
    fn describe(&self, show: impl Fn(T) -> String) -> (String, String) {
        let lower = match self.lower {
            Bound::Unbounded => None,
            Bound::Included(lower) => Some(("gte", format!("at least {}", show(lower)))),
            Bound::Excluded(lower) => Some(("gt", format!("greater than {}", show(lower)))),
        };
        let upper = match self.upper {
            Bound::Unbounded => None,
            Bound::Included(upper) => Some(("lte", format!("at most {}", show(upper)))),
            Bound::Excluded(upper) => Some(("lt", format!("less than {}", show(upper)))),
        };
        match (lower, upper) {
            (Some((low, lower)), Some((high, upper))) if self.is_inverted() => {
                (format!("{low}_{high}_exclusive"), format!("must be {lower} or {upper}"))
            }
            (Some((low, lower)), Some((high, upper))) => {
                (format!("{low}_{high}"), format!("must be {lower} and {upper}"))
            }
            (Some((id, text)), None) | (None, Some((id, text))) => (id.to_owned(), format!("must be {text}")),
            (None, None) => Default::default(),
        }
    }
}

fn limit<T: Copy>(bound: &Bound<T>) -> Option<T> {
    match bound {
        Bound::Unbounded => None,
        Bound::Included(limit) | Bound::Excluded(limit) => Some(*limit),
    }
}

/// Reads the rules of a number. `show` formats a number for messages.
pub(super) fn read<T: Number>(
    source: &Source<'_>,
    show: impl Fn(T) -> String,
) -> Result<Vec<Rule<NumberTest<T>>>, Unsupported> {
    let mut reader = Reader::new(source, show);
    for (field, value) in source.rules.fields() {
        if !reader.take(field.name(), value)? {
            return Err(source.unknown(field.name()));
        }
    }
    Ok(reader.finish())
}

/// Collects the rules of a number: several limits are combined into one rule.
pub(super) struct Reader<'a, T, S> {
    source: &'a Source<'a>,
    show: S,
    range: Range<T>,
    rules: Vec<Rule<NumberTest<T>>>,
}

impl<'a, T: Number, S: Fn(T) -> String> Reader<'a, T, S> {
    pub fn new(source: &'a Source<'a>, show: S) -> Self {
        let range = Range { lower: Bound::Unbounded, upper: Bound::Unbounded };
        Self { source, show, range, rules: Vec::new() }
    }

    /// Adds a rule. Returns false if it is not one that all numbers have.
    pub fn take(&mut self, name: &str, value: &Value) -> Result<bool, Unsupported> {
        let source = self.source;
        let number = || T::of(value).ok_or_else(|| source.unsupported(name, "is not a number of the field's type"));
        match name {
            "lt" => self.range.upper = Bound::Excluded(number()?),
            "lte" => self.range.upper = Bound::Included(number()?),
            "gt" => self.range.lower = Bound::Excluded(number()?),
            "gte" => self.range.lower = Bound::Included(number()?),
            "const" => {
                let number = number()?;
                let message = format!("must be {}", (self.show)(number));
                self.rules.push(source.rule("const", NumberTest::In(vec![number]), message));
            }
            "in" | "not_in" => {
                let numbers: Option<Vec<T>> = value.as_list().unwrap_or_default().iter().map(T::of).collect();
                let numbers = numbers.ok_or_else(|| source.unsupported(name, "is not a list of numbers"))?;
                let shown = one_of(numbers.iter().map(|number| (self.show)(*number)));
                self.rules.push(if name == "in" {
                    source.rule("in", NumberTest::In(numbers), format!("must be {shown}"))
                } else {
                    source.rule("not_in", NumberTest::NotIn(numbers), format!("must not be {shown}"))
                });
            }
            "finite" => {
                if value.as_bool() == Some(true) {
                    self.rules.push(source.rule("finite", NumberTest::Finite, "must be a finite number"));
                }
            }
            "example" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub fn finish(mut self) -> Vec<Rule<NumberTest<T>>> {
        let (rule, message) = self.range.describe(&self.show);
        if !rule.is_empty() {
            self.rules.push(self.source.rule(&rule, NumberTest::Range(self.range), message));
        }
        self.rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_is_in_no_range() {
        for (lower, upper) in [(1.0, 2.0), (2.0, 1.0)] {
            let range = Range { lower: Bound::Included(lower), upper: Bound::Excluded(upper) };
            assert!(!range.admits(f64::NAN), "{range:?}");
        }
        assert!(!NumberTest::In(vec![f64::NAN]).admits(f64::NAN));
    }

    #[test]
    fn ranges_are_described_in_words() {
        let show = |n: i64| n.to_string();
        let cases = [
            (Bound::Included(1), Bound::Unbounded, "gte", "must be at least 1"),
            (Bound::Unbounded, Bound::Excluded(9), "lt", "must be less than 9"),
            (Bound::Included(1), Bound::Included(9), "gte_lte", "must be at least 1 and at most 9"),
            (Bound::Excluded(9), Bound::Included(1), "gt_lte_exclusive", "must be greater than 9 or at most 1"),
            (Bound::Excluded(9), Bound::Excluded(9), "gt_lt", "must be greater than 9 and less than 9"),
        ];
        for (lower, upper, id, message) in cases {
            assert_eq!(Range { lower, upper }.describe(show), (id.to_owned(), message.to_owned()));
        }
    }
}
