//! Prices come from the catalogue unless agreed otherwise, and each invalid field has a fault.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashMap;

use souk_common::money::Currency;

use super::*;

fn offer(minor: i64, currency: Currency) -> Offer {
    Offer {
        sku: "SKU".into(),
        title: "Title".into(),
        price: Money::new(minor, currency),
        tracked: true,
        archived: false,
    }
}

fn wanted(product: ProductId, quantity: i64) -> Wanted {
    Wanted { product, quantity, unit_price: None }
}

#[test]
fn lines_have_the_current_price_or_the_agreed_one() {
    let (first, second) = (ProductId::new(), ProductId::new());
    let offers = HashMap::from([(first, offer(250, Currency::GBP)), (second, offer(100, Currency::GBP))]);
    let agreed = Wanted { unit_price: Some(Money::new(90, Currency::GBP)), ..wanted(second, 3) };
    let priced = price(&[wanted(first, 2), agreed, wanted(first, 1)], &offers).unwrap();
    let lines: Vec<_> =
        priced.lines.iter().map(|line| (line.number, line.unit_price, line.quantity, line.total)).collect();
    assert_eq!(lines, [(1, 250, 2, 500), (2, 90, 3, 270), (3, 250, 1, 250)]);
    assert_eq!(priced.total, Money::new(1020, Currency::GBP));
}

#[test]
fn every_invalid_field_is_named() {
    let [known, euro, old, dear] = [(); 4].map(|()| ProductId::new());
    let archived = Offer { archived: true, ..offer(1, Currency::GBP) };
    let offers = HashMap::from([
        (known, offer(250, Currency::GBP)),
        (euro, offer(250, Currency::EUR)),
        (old, archived),
        (dear, offer(i64::MAX, Currency::GBP)),
    ]);
    let below_zero = Wanted { unit_price: Some(Money::new(-1, Currency::GBP)), ..wanted(known, 1) };
    let items =
        [wanted(known, 1), wanted(ProductId::new(), 1), wanted(old, 1), wanted(euro, 1), wanted(dear, 2), below_zero];
    let Err(Unpriced::Faults(faults)) = price(&items, &offers) else { panic!("priced") };
    let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(
        fields,
        ["items[1].product", "items[3].product", "items[4].quantity", "items[5].unit_price", "items[2].product"]
    );
    assert!(faults[1].message.contains("GBP") && faults[1].message.contains("EUR"));
    // Archived products are a separate error if there are no other faults.
    let Err(Unpriced::Archived(faults)) = price(&[items[0].clone(), items[2].clone()], &offers) else {
        panic!("priced")
    };
    assert_eq!(faults[0].field, "items[1].product");
}

#[test]
fn an_order_without_lines_is_refused() {
    let Err(Unpriced::Faults(faults)) = price(&[], &HashMap::new()) else { panic!("priced") };
    assert_eq!(faults[0].field, "items");
}
