//! The import of a product feed: existing products are read once. New products are inserted by one statement, and
//! changed ones are updated by another.

use std::collections::HashMap;

use souk_common::ids::ProductId;

use super::{
    super::super::{Conn, append_events, change_products, clock, insert_products},
    Row, lock, row_of,
};
use crate::{
    domain::product::{
        code_key,
        upsert::{Fields, NotTaken, Offer, Outcome},
    },
    error::Error,
    events,
    store::collided,
};

/// Imports all valid offers. Returns one result each, in their order.
pub async fn run(conn: &mut Conn, offers: &[Offer], fields: Fields) -> Result<Vec<Result<Outcome, NotTaken>>, Error> {
    let now = clock(conn).await?;
    let mut first = HashMap::<String, usize>::new();
    let keys: Vec<_> = offers.iter().map(|offer| code_key(&offer.draft.sku)).collect();
    for (number, key) in keys.iter().enumerate() {
        first.entry(key.clone()).or_insert(number);
    }
    let mut sorted: Vec<_> = first.keys().cloned().collect();
    sorted.sort_unstable();
    let mut here = HashMap::new();
    for row in lock(conn, &sorted).await? {
        here.insert(row.sku_key.clone(), row);
    }

    let mut drafts = Vec::new();
    let (mut created, mut changed, mut answers) = (Vec::new(), Vec::new(), Vec::with_capacity(offers.len()));
    for (number, (offer, key)) in offers.iter().zip(&keys).enumerate() {
        if first[key] != number {
            answers.push(Err(NotTaken::Twice(first[key])));
            continue;
        }
        let Some(row) = here.remove(key) else {
            let row = row_of(ProductId::new(), &offer.draft, now);
            answers.push(Ok(Outcome::Created(row.id)));
            drafts.push(events::product("product.created", &row.clone().try_into()?));
            created.push(row);
            continue;
        };
        let id = row.id;
        answers.push(match offer.change_of(&row.clone().try_into()?, fields) {
            Ok(Some(change)) => {
                let row = row.with(change);
                drafts.push(events::product("product.updated", &row.clone().written(now)?));
                changed.push(row);
                Ok(Outcome::Updated(id))
            }
            Ok(None) => Ok(Outcome::Unchanged(id)),
            Err(why) => Err(why),
        });
    }
    // New rows in key order, so that two feeds with the same new products cannot deadlock.
    created.sort_unstable_by(|one: &Row, other| one.sku_key.cmp(&other.sku_key));
    let wanted = (created.len(), changed.len());
    if (insert_products(conn, created).await?, change_products(conn, now, changed).await?) != wanted {
        return Err(collided());
    }
    append_events(conn, &drafts).await?;
    Ok(answers)
}
