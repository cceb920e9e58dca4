//! Parses ListProducts requests.

use souk_common::{
    error::Problem,
    page::{
        self,
        filter::{Decimal, Field, Kind, Op, Term, Value},
        order::OrderBy,
    },
};
use souk_proto::inventory::v1::ListProductsRequest;

use crate::{
    domain::product::{
        RANK_DECIMALS, State, Tracking, code_key,
        list::{Condition, Key, Listing, Sort},
        search::words,
        title_key,
    },
    rpc::bad_token,
};

// Both the names of the contract and their short forms.
const STATES: &[&str] = &["ACTIVE", "ARCHIVED", "STATE_ACTIVE", "STATE_ARCHIVED"];
const TRACKINGS: &[&str] = &["TRACKED", "UNTRACKED", "STOCK_TRACKING_TRACKED", "STOCK_TRACKING_UNTRACKED"];

const FIELDS: &[Field] = &[
    Field::new("sku", Kind::Text),
    Field::new("title", Kind::Text),
    Field::new("price", Kind::Money),
    Field::new("state", Kind::Enum(STATES)),
    Field::new("stock_tracking", Kind::Enum(TRACKINGS)),
    Field::new("create_time", Kind::Time),
];

const ORDERS: &[(&str, Sort)] =
    &[("create_time", Sort::CreateTime), ("sku", Sort::Sku), ("title", Sort::Title), ("price", Sort::Price)];

/// The most words of a search query.
const MAX_WORDS: usize = 20;

/// The parameters of a list. Page tokens are valid only for the same parameters.
pub type Query = (&'static str, String, String, OrderBy);

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    /// The parameters that the page tokens are bound to.
    pub query: Query,
    /// The most products of the page.
    pub size: i64,
    /// The products to read: one more than the page has, to find out if there is a next page.
    pub listing: Listing,
}

/// Reads a request.
pub fn read(request: ListProductsRequest) -> Result<Page, Problem> {
    let names: Vec<_> = ORDERS.iter().map(|(name, _)| *name).collect();
    let order = page::order::parse(&request.order_by, &names, OrderBy::descending("create_time"))
        .map_err(|error| Problem::invalid("order_by", error.to_string()))?;
    let terms =
        page::filter::parse(&request.filter, FIELDS).map_err(|error| Problem::invalid("filter", error.to_string()))?;
    let conditions = terms.iter().filter_map(condition).collect();
    let sort = ORDERS.iter().find(|(name, _)| *name == order.field).map_or(Sort::CreateTime, |(_, sort)| *sort);
    let size = page::size(request.page_size);
    let words = (!request.query.trim().is_empty()).then(|| words(&request.query));
    if words.as_ref().is_some_and(|words| words.len() > MAX_WORDS) {
        return Err(Problem::invalid("query", format!("must have at most {MAX_WORDS} words")));
    }
    let query = ("inventory.products", request.filter, request.query, order);
    let after: Option<Key> = page::decode(&request.page_token, &query).map_err(bad_token)?;
    let state = state(&terms);
    let listing = Listing { state, conditions, words, sort, descending: order.descending, after, limit: size + 1 };
    Ok(Page { query, size, listing })
}

/// The state that fits all terms; `None` if no state does. Without a term about the state, it is the active one.
fn state(terms: &[Term]) -> Option<State> {
    let mut asked = terms.iter().filter_map(|term| match &term.value {
        Value::Enum(word) if term.field == "state" => Some(word.ends_with("ARCHIVED") == (term.op == Op::Equal)),
        _ => None,
    });
    let archived = asked.next().unwrap_or_default();
    asked.all(|other| other == archived).then_some(if archived { State::Archived } else { State::Active })
}

/// The condition of a filter term. [`FIELDS`] guarantees that the field and the kind of value match.
fn condition(term: &Term) -> Option<Condition> {
    let op = term.op;
    Some(match (term.field, &term.value) {
        ("sku", Value::Text(text)) => Condition::Sku(op, code_key(text)),
        ("title", Value::Text(text)) => Condition::Title(op, title_key(text)),
        ("price", Value::Money(amount)) => price(op, *amount),
        ("create_time", Value::Time(time)) => Condition::CreateTime(op, *time),
        ("stock_tracking", Value::Enum(word)) => {
            let untracked = word.ends_with("UNTRACKED");
            Condition::Tracking(op, if untracked { Tracking::Untracked } else { Tracking::Tracked })
        }
        _ => return None,
    })
}

/// The condition on the price's rank. If the amount lies between two ranks or beyond the last one, it is replaced by a
/// neighbouring rank that gives the same result.
fn price(op: Op, amount: Decimal) -> Condition {
    let nanos_per_rank = 10_i128.pow(9 - RANK_DECIMALS);
    let (rank, exact) = (amount.nanos().div_euclid(nanos_per_rank), amount.nanos().rem_euclid(nanos_per_rank) == 0);
    let clamped = i64::try_from(rank).unwrap_or(if rank < 0 { -1 } else { i64::MAX });
    match op {
        // No price has this rank, because ranks are never negative.
        Op::Equal | Op::NotEqual if !exact || i128::from(clamped) != rank => Condition::Price(op, -1),
        Op::Less if !exact => Condition::Price(Op::LessOrEqual, clamped),
        Op::GreaterOrEqual if !exact => Condition::Price(Op::Greater, clamped),
        op => Condition::Price(op, clamped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(filter: &str) -> Vec<Condition> {
        let request = ListProductsRequest { filter: filter.to_owned(), ..ListProductsRequest::default() };
        read(request).unwrap().listing.conditions
    }

    #[test]
    fn a_filter_without_a_state_lists_only_active_products() {
        for (filter, expected) in [
            ("", Some(State::Active)),
            ("state = STATE_ARCHIVED", Some(State::Archived)),
            ("state != ARCHIVED", Some(State::Active)),
            ("state != ACTIVE AND state = ARCHIVED", Some(State::Archived)),
            ("state = ACTIVE AND state = ARCHIVED", None),
        ] {
            let request = ListProductsRequest { filter: filter.to_owned(), ..ListProductsRequest::default() };
            assert_eq!(read(request).unwrap().listing.state, expected, "{filter}");
        }
    }

    #[test]
    fn filters_without_an_index_scan() {
        for (filter, order_by, scans) in [
            ("", "", false),
            ("state = ARCHIVED", "price", false),
            ("price > 5 AND price < 9", "price", false),
            ("price > 5 AND price < 9", "price desc", false),
            ("price > 5", "", true),
            ("price != 5", "price", true),
            ("create_time > 2026-01-01", "", false),
            ("sku = a AND title:b", "price", false),
            ("title = a", "", true),
            ("title:a", "title", true),
            ("sku != a", "sku", true),
            ("stock_tracking = TRACKED", "", true),
        ] {
            let (filter, order_by) = (filter.to_owned(), order_by.to_owned());
            let request = ListProductsRequest { filter, order_by, ..ListProductsRequest::default() };
            let listing = read(request.clone()).unwrap().listing;
            assert_eq!(listing.scans(), scans, "{request:?}");
        }
    }

    #[test]
    fn a_query_has_a_limited_number_of_words() {
        let read = |words: usize| read(ListProductsRequest { query: "a ".repeat(words), ..Default::default() });
        assert!(read(MAX_WORDS).is_ok());
        let problem = read(MAX_WORDS + 1).unwrap_err();
        assert_eq!(problem.field_violations()[0].path, "query");
    }

    #[test]
    fn prices_between_two_stored_values_are_compared_correctly() {
        for (filter, op, rank) in [
            ("price <= 5.00", Op::LessOrEqual, 50_000),
            ("price < 5.00001", Op::LessOrEqual, 50_000),
            ("price >= 5.00001", Op::Greater, 50_000),
            ("price > 5.00001", Op::Greater, 50_000),
            ("price = 5.00001", Op::Equal, -1),
            ("price != 5.00001", Op::NotEqual, -1),
            ("price > -0.00001", Op::Greater, -1),
            ("price < -3", Op::Less, -30_000),
            ("price < 9999999999999999999", Op::Less, i64::MAX),
            ("price = 9999999999999999999", Op::Equal, -1),
        ] {
            assert_eq!(of(filter)[0], Condition::Price(op, rank), "{filter}");
        }
    }

    #[test]
    fn text_comparison_ignores_letter_case() {
        assert_eq!(of("sku = 85123a")[0], Condition::Sku(Op::Equal, "85123A".to_owned()));
        assert_eq!(of("title:LANTERN")[0], Condition::Title(Op::Contains, "lantern".to_owned()));
    }
}
