//! Finds products that become low through a batch.

use std::collections::{BTreeMap, HashMap};

use souk_common::ids::ProductId;

use super::{Changes, Facts, StockRow};
use crate::domain::stock::{Place, became_low};

/// The available pieces before a batch, by place, of products with a threshold.
#[derive(Debug)]
pub struct Watched {
    thresholds: HashMap<ProductId, i64>,
    available: HashMap<Place, i64>,
}

impl Watched {
    /// The levels of the products whose stock the batch may change. Archived products, and those whose stock is not
    /// tracked, are never low.
    pub fn of(products: &HashMap<ProductId, Facts>, stock: &[StockRow]) -> Self {
        let counted = products.iter().filter(|(_, facts)| facts.is_stocked());
        let thresholds: HashMap<_, _> =
            counted.filter_map(|(id, facts)| Some((*id, facts.low_stock_threshold?))).collect();
        let rows = stock.iter().filter(|row| thresholds.contains_key(&row.place.0));
        Self { available: rows.map(|row| (row.place, row.level.available())).collect(), thresholds }
    }

    /// The products that these changes make low, with the available pieces of each.
    pub fn made_low(self, changes: &Changes) -> BTreeMap<ProductId, i64> {
        if self.thresholds.is_empty() {
            return BTreeMap::new();
        }
        let mut after = self.available.clone();
        for row in changes.stock_added.iter().chain(&changes.stock_changed) {
            after.insert(row.place, row.level.available());
        }
        let sum = |places: &HashMap<Place, i64>, product| -> i64 {
            places.iter().filter(|(place, _)| place.0 == product).map(|(_, available)| available).sum()
        };
        let thresholds = self.thresholds.iter();
        thresholds
            .filter_map(|(&product, &threshold)| {
                let (before, after) = (sum(&self.available, product), sum(&after, product));
                became_low(before, after, Some(threshold)).then_some((product, after))
            })
            .collect()
    }
}
