//! Reads the product of a request, and reports all of its faults at once.

use prost_types::FieldMask;
use souk_common::{
    error::Problem,
    money::{Money, MoneyError},
};
use souk_proto::{
    google::r#type::Money as MoneyMessage,
    inventory::v1::{Product as ProductMessage, product::StockTracking},
};

use crate::domain::product::{Change, Draft, Price, Tracking};

/// The fields that an update may change.
const MUTABLE: [&str; 4] = ["title", "description", "price", "low_stock_threshold"];

/// The faults found so far: the field, and a description of a valid value.
type Faults = Vec<(&'static str, String)>;

/// Reads a new product.
pub fn draft(given: ProductMessage) -> Result<Draft, Problem> {
    let mut faults = Faults::new();
    if given.sku.is_empty() {
        faults.push(("product.sku", "must be set".to_owned()));
    }
    check_title(&given.title, &mut faults);
    match price(given.price.as_ref(), &mut faults) {
        Some(price) if faults.is_empty() => Ok(Draft {
            sku: given.sku,
            title: given.title,
            description: given.description,
            price,
            tracking: match StockTracking::try_from(given.stock_tracking) {
                Ok(StockTracking::Untracked) => Tracking::Untracked,
                _ => Tracking::Tracked,
            },
            low_stock_threshold: given.low_stock_threshold,
        }),
        _ => Err(Problem::fields(faults)),
    }
}

/// Reads a change. It has the fields that the mask names. An empty mask names the fields that are not empty; `*` names
/// all.
pub fn change(given: &ProductMessage, mask: Option<&FieldMask>) -> Result<Change, Problem> {
    let paths = mask.map_or(&[][..], |mask| &mask.paths);
    let mut faults = mask_faults(paths);
    let named = |field: &str| paths.iter().any(|path| path == "*" || path == field);
    let wanted = |field, set: bool| if paths.is_empty() { set } else { named(field) };
    let title = wanted("title", !given.title.is_empty());
    if title {
        check_title(&given.title, &mut faults);
    }
    let price = match wanted("price", given.price.is_some()) {
        true => price(given.price.as_ref(), &mut faults),
        false => None,
    };
    if !faults.is_empty() {
        return Err(Problem::fields(faults));
    }
    Ok(Change {
        title: title.then(|| given.title.clone()),
        description: wanted("description", !given.description.is_empty()).then(|| given.description.clone()),
        price,
        low_stock_threshold: wanted("low_stock_threshold", given.low_stock_threshold.is_some())
            .then_some(given.low_stock_threshold),
    })
}

/// Fails if the mask names fields that cannot be changed.
pub fn check_mask(paths: &[String]) -> Result<(), Problem> {
    let faults = mask_faults(paths);
    if faults.is_empty() { Ok(()) } else { Err(Problem::fields(faults)) }
}

fn mask_faults(paths: &[String]) -> Faults {
    let wrong = paths.iter().filter(|path| *path != "*" && !MUTABLE.contains(&path.as_str()));
    let told = |path: &String| {
        let fields = MUTABLE.map(|field| format!("`{field}`")).join(", ");
        let text = format!("names `{}`, but may name {fields}, or `*` for all", short(path));
        ("update_mask", text)
    };
    wrong.map(told).collect()
}

fn check_title(title: &str, faults: &mut Faults) {
    if title.trim().is_empty() {
        faults.push(("product.title", "must not be empty".to_owned()));
    }
}

fn price(given: Option<&MoneyMessage>, faults: &mut Faults) -> Option<Price> {
    let Some(given) = given else {
        faults.push(("product.price", "must be set".to_owned()));
        return None;
    };
    let fault = match Money::try_from(given) {
        Ok(money) => match Price::try_from(money) {
            Ok(price) => return Some(price),
            Err(error) => ("product.price", error.to_string()),
        },
        Err(MoneyError::Currency(error)) => ("product.price.currency_code", error.to_string()),
        Err(error @ MoneyError::TooFine { .. }) => ("product.price.nanos", format!("is too fine: {error}")),
        Err(error) => ("product.price", format!("is not an amount: {error}")),
    };
    faults.push(fault);
    None
}

/// The beginning of a client's text, so that an error stays readable.
fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(currency: &str, units: i64, nanos: i32) -> Option<MoneyMessage> {
        Some(MoneyMessage { currency_code: currency.to_owned(), units, nanos })
    }

    fn given() -> ProductMessage {
        ProductMessage {
            sku: "A".to_owned(),
            title: "Lamp".to_owned(),
            price: money("GBP", 1, 0),
            ..ProductMessage::default()
        }
    }

    fn paths(problem: &Problem) -> Vec<&str> {
        problem.field_violations().iter().map(|field| field.path.as_str()).collect()
    }

    #[test]
    fn all_errors_of_a_new_product_are_reported_at_once() {
        let problem = draft(ProductMessage { title: "  ".to_owned(), ..ProductMessage::default() }).unwrap_err();
        assert_eq!(paths(&problem), ["product.sku", "product.title", "product.price"]);
    }

    #[test]
    fn a_price_must_be_a_payable_amount() {
        for (price, path) in [
            (None, "product.price"),
            (money("GBP", -1, 0), "product.price"),
            (money("gbp", 1, 0), "product.price.currency_code"),
            (money("", 1, 0), "product.price.currency_code"),
            (money("XAU", 1, 0), "product.price.currency_code"),
            (money("GBP", 0, 5_000_000), "product.price.nanos"),
            (money("JPY", 0, 500_000_000), "product.price.nanos"),
            (money("GBP", 1, -1), "product.price"),
            (money("GBP", i64::MAX, 0), "product.price"),
            (money("JPY", i64::MAX, 0), "product.price"),
        ] {
            let problem = draft(ProductMessage { price: price.clone(), ..given() }).unwrap_err();
            assert_eq!(paths(&problem), [path], "{price:?}");
        }
        assert_eq!(draft(ProductMessage { price: money("GBP", 0, 0), ..given() }).unwrap().price.rank(), 0);
        let price = draft(given()).unwrap().price;
        assert_eq!((price.rank(), price.money().minor), (10_000, 100));
    }

    #[test]
    fn a_mask_names_the_fields_to_change() {
        let mask = |paths: &[&str]| Some(FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() });
        let sent = ProductMessage { title: "New".to_owned(), ..ProductMessage::default() };
        let changed = |mask: Option<FieldMask>| change(&sent, mask.as_ref());
        let title = Change { title: Some("New".to_owned()), ..Change::default() };
        assert_eq!(changed(None).unwrap(), title);
        assert_eq!(changed(mask(&[])).unwrap(), title);
        assert_eq!(changed(mask(&["title"])).unwrap(), title);
        let emptied = Change { description: Some(String::new()), ..Change::default() };
        assert_eq!(changed(mask(&["description"])).unwrap(), emptied);
        assert_eq!(paths(&changed(mask(&["*"])).unwrap_err()), ["product.price"]);
        for wrong in ["sku", "state", "name", "etag", "price.units", "Title", ""] {
            assert_eq!(paths(&changed(mask(&[wrong])).unwrap_err()), ["update_mask"], "{wrong}");
        }
    }
}
