//! Prices an order: multiplies its items by the catalogue's prices.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use souk_common::{
    ids::{OrderId, ProductId, UserId},
    money::Money,
};

use super::{Address, Goods, Line, Rejection, RejectionReason, Shortage};

/// A requested item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The product.
    pub product: ProductId,
    /// Pieces, at least 1.
    pub quantity: i64,
    /// Price of one piece, if it differs from the catalogue's.
    pub unit_price: Option<Money>,
}

/// A product as the catalogue offers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The product's stock code.
    pub sku: String,
    /// The product's title.
    pub title: String,
    /// Price of one piece.
    pub price: Money,
    /// True if the product's stock is tracked.
    pub tracked: bool,
    /// True if the product is no longer sold.
    pub archived: bool,
}

/// A fault of one field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field, for example `items[2].product`.
    pub field: String,
    /// A description of a valid value.
    pub message: String,
}

impl Fault {
    pub(super) fn new(field: String, message: impl Into<String>) -> Self {
        Self { field, message: message.into() }
    }
}

/// Lines with their prices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Priced {
    /// The lines, numbered from 1.
    pub lines: Vec<Line>,
    /// The sum of the lines.
    pub total: Money,
}

/// The data of a new order.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The order's id.
    pub id: OrderId,
    /// The customer who owns the order.
    pub customer: UserId,
    /// The resource name of the user who places the order.
    pub actor: String,
    /// The lines and the total.
    pub priced: Priced,
    /// The delivery address.
    pub address: Address,
    /// The order's id in another system.
    pub external_id: Option<String>,
    /// The payment provider's token.
    pub payment_token: String,
    /// When the customer placed the order. `None`: now.
    pub place_time: Option<DateTime<Utc>>,
}

/// Why items could not be priced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unpriced {
    /// The invalid fields.
    Faults(Vec<Fault>),
    /// The only faults are products that are no longer sold.
    Archived(Vec<Fault>),
}

/// Prices the items of an order.
///
/// # Errors
/// Each faulty field: an unknown or archived product, a second currency, a sum that is too large.
pub fn price(items: &[Wanted], offers: &HashMap<ProductId, Offer>) -> Result<Priced, Unpriced> {
    let (mut faults, mut archived) = (Vec::new(), Vec::new());
    let mut lines = Vec::with_capacity(items.len());
    let mut total: Option<Money> = None;
    for (index, (item, number)) in items.iter().zip(1..).enumerate() {
        let field = |name: &str| format!("items[{index}].{name}");
        let Some(offer) = offers.get(&item.product) else {
            faults.push(Fault::new(field("product"), "must be a product that exists"));
            continue;
        };
        if offer.archived {
            let message = format!("must be a product on sale: {} is archived", offer.sku);
            archived.push(Fault::new(field("product"), message));
            continue;
        }
        let (unit_price, source) = match item.unit_price {
            Some(agreed) => (agreed, "unit_price"),
            None => (offer.price, "product"),
        };
        if unit_price.minor < 0 {
            faults.push(Fault::new(field(source), "must not be below zero"));
            continue;
        }
        if let Some(sum) = total
            && sum.currency != unit_price.currency
        {
            let message =
                format!("must be priced in {} as the items before it, not in {}", sum.currency, unit_price.currency);
            faults.push(Fault::new(field(source), message));
            continue;
        }
        let sum = total.unwrap_or(Money::zero(unit_price.currency));
        let (line, sum) =
            match unit_price.checked_mul(item.quantity).and_then(|line| Ok((line, sum.checked_add(line)?))) {
                Ok(fits) => fits,
                Err(_) => {
                    let message = "must leave the order's total below 2^63 minor units";
                    faults.push(Fault::new(field("quantity"), message));
                    continue;
                }
            };
        total = Some(sum);
        lines.push(Line {
            number,
            product: item.product,
            sku: offer.sku.clone(),
            title: offer.title.clone(),
            quantity: item.quantity,
            unit_price: unit_price.minor,
            total: line.minor,
            returned: 0,
            returned_shipped: 0,
            cancelled: 0,
            shipped: 0,
            tracked: offer.tracked,
        });
    }
    match total {
        _ if !faults.is_empty() => {
            faults.append(&mut archived);
            Err(Unpriced::Faults(faults))
        }
        _ if !archived.is_empty() => Err(Unpriced::Archived(archived)),
        Some(total) => Ok(Priced { lines, total }),
        None => Err(Unpriced::Faults(vec![Fault::new("items".into(), "must have an item")])),
    }
}

/// Why an order of these goods would be rejected, given the available pieces of each product.
#[must_use]
pub fn shortage(goods: &[Goods], available: &HashMap<ProductId, i64>) -> Option<Rejection> {
    let short = goods.iter().filter_map(|goods| {
        let available = available.get(&goods.product).copied().unwrap_or(0);
        let (product, wanted) = (goods.product, goods.quantity);
        (available < wanted).then_some(Shortage { product, wanted, available })
    });
    let items: Vec<_> = short.collect();
    (!items.is_empty()).then(|| Rejection {
        reason: RejectionReason::OutOfStock,
        message: "not enough stock".into(),
        items,
    })
}

#[cfg(test)]
mod tests;
