//! Tests of valid filters, and of the errors of invalid ones.

use proptest::prelude::*;

use super::*;

const FIELDS: &[Field] = &[
    Field::new("title", Kind::Text),
    Field::new("state", Kind::Enum(&["ACTIVE", "ARCHIVED"])),
    Field::new("quantity", Kind::Int),
    Field::new("price", Kind::Money),
    Field::new("create_time", Kind::Time),
];

fn one(text: &str) -> Term {
    let mut terms = parse(text, FIELDS).unwrap();
    assert_eq!(terms.len(), 1, "{text}");
    terms.remove(0)
}

fn text(field: &'static str, op: Op, value: &str) -> Term {
    Term { field, op, value: Value::Text(value.into()) }
}

fn error(text: &str) -> String {
    parse(text, FIELDS).unwrap_err().to_string()
}

#[test]
fn an_empty_filter_has_no_condition() {
    assert_eq!(parse("", FIELDS), Ok(vec![]));
    assert_eq!(parse(" \t", FIELDS), Ok(vec![]));
}

#[test]
fn text_values_are_quoted_or_bare() {
    assert_eq!(one("title = lamp"), text("title", Op::Equal, "lamp"));
    assert_eq!(one("title=lamp"), text("title", Op::Equal, "lamp"));
    assert_eq!(one("title:\"red lamp\""), text("title", Op::Contains, "red lamp"));
    assert_eq!(one("title != 'it\\'s'"), text("title", Op::NotEqual, "it's"));
    assert_eq!(one(r#"title = "a\"b\\c""#), text("title", Op::Equal, r#"a"b\c"#));
    assert_eq!(one("title = \"\""), text("title", Op::Equal, ""));
    assert_eq!(one("title = \"x AND y\""), text("title", Op::Equal, "x AND y"));
    assert_eq!(one("title = ann@example.com"), text("title", Op::Equal, "ann@example.com"));
    assert_eq!(one("title = grün-42/7:b"), text("title", Op::Equal, "grün-42/7:b"));
}

#[test]
fn a_value_must_have_the_type_of_its_field() {
    assert_eq!(one("state = ACTIVE").value, Value::Enum("ACTIVE"));
    assert_eq!(one("state != \"ARCHIVED\"").value, Value::Enum("ARCHIVED"));
    assert_eq!(one("quantity >= -12").value, Value::Int(-12));
    let Value::Money(price) = one("price <= 5.00").value else { panic!("not money") };
    assert_eq!(price.minor(Currency::GBP), Some(500));
    assert_eq!(price.minor(Currency::JPY), Some(5));
    let noon = "2026-01-31T12:00:00Z".parse().unwrap();
    assert_eq!(one("create_time > 2026-01-31T12:00:00Z").value, Value::Time(noon));
    assert_eq!(one("create_time < \"2026-01-31T13:00:00+01:00\"").value, Value::Time(noon));
    let midnight = "2026-01-31T00:00:00Z".parse().unwrap();
    assert_eq!(one("create_time = 2026-01-31").value, Value::Time(midnight));
}

#[test]
fn terms_are_joined_by_and() {
    let terms = parse("  price<=5.00 AND title:\"lantern\" AND state=ACTIVE ", FIELDS).unwrap();
    let fields: Vec<_> = terms.iter().map(|term| (term.field, term.op)).collect();
    assert_eq!(fields, [("price", Op::LessOrEqual), ("title", Op::Contains), ("state", Op::Equal)]);
}

#[test]
fn errors_name_the_position_and_what_was_expected() {
    for (filter, message) in [
        (
            "titel = x",
            "at character 1: `titel` is no field to filter by: did you mean `title`? It may be `title`, `state`, `quantity`, `price` or `create_time`",
        ),
        (
            "title = é AND state = ACTIV",
            "at character 23: the value of `state` is not `ACTIV`: did you mean `ACTIVE`? It may be `ACTIVE` or `ARCHIVED`",
        ),
        ("title", "at character 6: after `title` must follow `=`, `!=` or `:`"),
        ("title < x", "at character 7: `<` does not go with `title`, but `=`, `!=` or `:` does"),
        ("state : ACTIVE", "at character 7: `:` does not go with `state`, but `=` or `!=` does"),
        ("title =", "at character 8: a value must follow `title =`; an empty text is \"\""),
        ("title = AND state = ACTIVE", "at character 9: a value must follow `title =`; an empty text is \"\""),
        ("title = \"x", "at character 9: the closing `\"` is missing"),
        ("title = \"x\\", "at character 9: the closing `\"` is missing"),
        ("title = \"x\"y", "at character 12: a space must follow the closing quote"),
        ("title = a=b", "at character 10: `=` cannot stand in a value without quotes"),
        ("title == x", "at character 8: `=` cannot stand in a value without quotes"),
        ("title = red lamp", "at character 13: terms must be joined by `AND`, and a value with spaces be in quotes"),
        ("title = x OR title = y", "at character 11: `OR` is not supported: terms are joined by `AND` alone"),
        ("title = x and title = y", "at character 11: write `AND` in capital letters"),
        ("title = x AND ", "at character 15: a term must follow `AND`"),
        ("NOT title = x", "at character 1: negation is not supported: use `!=`"),
        ("-title = x", "at character 1: negation is not supported: use `!=`"),
        ("(title = x)", "at character 1: parentheses are not supported: join terms by `AND`"),
        ("title:*", "at character 7: `:*` is not supported: compare with \"\" to ask whether a text is there"),
        ("quantity > 1.5", "at character 12: the value of `quantity` must be a whole number such as `12`"),
        (
            "quantity > 9223372036854775808",
            "at character 12: the value of `quantity` must be a whole number such as `12`",
        ),
        (
            "price > 5.",
            "at character 9: the value of `price` must be an amount with at most nine decimals such as `5.00`",
        ),
        (
            "create_time > yesterday",
            "at character 15: the value of `create_time` must be an RFC 3339 time such as `2026-01-31T12:00:00Z`, or a date",
        ),
        (
            "create_time > 2016-12-31T23:59:60Z",
            "at character 15: the value of `create_time` must be an RFC 3339 time such as `2026-01-31T12:00:00Z`, or a date",
        ),
        ("= x", "at character 1: a field must stand here: `title`, `state`, `quantity`, `price` or `create_time`"),
    ] {
        assert_eq!(error(filter), message, "{filter}");
    }
}

#[test]
fn money_is_exact() {
    let minor = |text: &str| Decimal::parse(text).unwrap().minor(Currency::GBP);
    assert_eq!(minor("-0.05"), Some(-5));
    assert_eq!(minor("5.005"), None);
    assert_eq!(minor("5.000000000"), Some(500));
    assert_eq!(minor("92233720368547758.07"), Some(i64::MAX));
    assert_eq!(minor("92233720368547758.08"), None);
    assert_eq!(minor("9999999999999999999"), None);
    for bad in ["", "-", ".5", "5.", "1e3", "1,000", "+1", "--1", "1.1.1", "0.0000000001", "١"] {
        assert_eq!(Decimal::parse(bad), None, "{bad}");
    }
}

#[test]
fn a_filter_has_a_limited_number_of_terms() {
    let filter = |terms: usize| vec!["price > 1"; terms].join(" AND ");
    assert_eq!(parse(&filter(MAX_TERMS), FIELDS).unwrap().len(), MAX_TERMS);
    let error = parse(&filter(MAX_TERMS + 1), FIELDS).unwrap_err();
    assert!(error.to_string().ends_with("a filter has at most 20 terms"), "{error}");
}

proptest! {
    #[test]
    fn any_quoted_text_is_parsed_unchanged(value: String) {
        let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
        prop_assert_eq!(one(&format!("title = \"{quoted}\"")), text("title", Op::Equal, &value));
    }

    #[test]
    fn no_filter_panics(filter in "((title|state|price|create_time|AND|OR|[ =<>:!'\"().\\\\é-]|[0-9]){0,3}){0,8}") {
        if let Err(error) = parse(&filter, FIELDS) {
            prop_assert!(error.position <= filter.chars().count() + 1);
        }
    }
}
