//! `order_by`: one field, with ` desc` for descending order (AIP-132).

use super::text::{any_of, instead, short};

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct OrderBy {
    /// The field, one of the allowed ones.
    pub field: &'static str,
    /// True if the largest value comes first.
    pub descending: bool,
}

impl OrderBy {
    /// Ascending order of a field.
    #[must_use]
    pub const fn ascending(field: &'static str) -> Self {
        Self { field, descending: false }
    }

    /// Descending order of a field.
    #[must_use]
    pub const fn descending(field: &'static str) -> Self {
        Self { field, descending: true }
    }
}

/// The reason why an order is invalid. Its message may be shown to clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OrderError(String);

/// Parses `field`, `field asc` or `field desc`. An empty text is the default order.
///
/// # Errors
/// [`OrderError`] with a message that says what would be right.
pub fn parse(text: &str, allowed: &[&'static str], default: OrderBy) -> Result<OrderBy, OrderError> {
    if text.contains(',') {
        return Err(OrderError(format!("takes one field: {}", any_of(allowed))));
    }
    let mut words = text.split_whitespace();
    let Some(given) = words.next() else {
        return Ok(default);
    };
    let Some(field) = allowed.iter().find(|field| **field == given) else {
        return Err(OrderError(format!("`{}` is no field to order by: {}", short(given), instead(given, allowed))));
    };
    let descending = match words.next() {
        None | Some("asc") => false,
        Some("desc") => true,
        Some(word) => {
            return Err(OrderError(format!("`{}` after `{field}` must be `asc` or `desc`", short(word))));
        }
    };
    match words.next() {
        None => Ok(OrderBy { field, descending }),
        Some(word) => Err(OrderError(format!("`{}` is too much: write a field and `asc` or `desc`", short(word)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: &[&str] = &["create_time", "sku", "price"];
    const DEFAULT: OrderBy = OrderBy::descending("create_time");

    #[test]
    fn an_order_is_a_field_and_a_direction() {
        for (text, order) in [
            ("", DEFAULT),
            ("  ", DEFAULT),
            ("sku", OrderBy::ascending("sku")),
            ("sku asc", OrderBy::ascending("sku")),
            ("  price   desc ", OrderBy::descending("price")),
        ] {
            assert_eq!(parse(text, ALLOWED, DEFAULT), Ok(order), "{text}");
        }
    }

    #[test]
    fn errors_name_the_allowed_orders() {
        for (text, message) in [
            (
                "prize",
                "`prize` is no field to order by: did you mean `price`? It may be `create_time`, `sku` or `price`",
            ),
            ("sku DESC", "`DESC` after `sku` must be `asc` or `desc`"),
            ("sku, price", "takes one field: `create_time`, `sku` or `price`"),
            ("sku desc desc", "`desc` is too much: write a field and `asc` or `desc`"),
        ] {
            assert_eq!(parse(text, ALLOWED, DEFAULT).unwrap_err().to_string(), message);
        }
    }
}
