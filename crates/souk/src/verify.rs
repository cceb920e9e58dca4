//! `souk verify`: checks the promises on live databases.
//!
//! Each service checks the promises about its own database. This module checks the promises about two databases, in
//! pages. The order of reads makes the result correct while orders are being placed: a reservation is read after the
//! order that needs it, and an order after the reservation that belongs to it.

use std::{collections::HashSet, time::Duration};

use anyhow::bail;
use souk_common::{config::Settings, ids::OrderId};
use souk_inventory::{Reservations, Reserved};
use souk_order::{
    domain::State,
    store::{
        Store,
        verify::{SoldOrder, known_orders, sold_orders},
    },
};
use souk_store::verify::{Check, LIMIT};

use crate::settings;

/// Orders per page.
const PAGE: i64 = 1000;

/// Checks all promises and prints the results.
pub async fn run(settings: &Settings) -> anyhow::Result<()> {
    report(&checks(settings).await?)
}

/// Checks all promises.
pub async fn checks(settings: &Settings) -> anyhow::Result<Vec<Check>> {
    there_is_something(settings)?;
    let mut inventory = souk_inventory::Config::from_settings(settings)?;
    let mut order = souk_order::Config::from_settings(settings)?;
    // Zero means no timeout. The services' timeout is for requests of customers, but a check reads all data.
    for database in [&mut inventory.settings.database, &mut order.settings.database] {
        database.statement_timeout = Duration::ZERO;
    }
    let mut checks = souk_inventory::verify(&inventory).await?;
    checks.extend(souk_order::verify(&order).await?);
    checks.extend(together(&inventory, &order).await?);
    Ok(checks)
}

/// Prints the results. A broken promise is an error.
pub fn report(checks: &[Check]) -> anyhow::Result<()> {
    let mut broken = 0;
    for check in checks {
        println!("{:<4}  {:>9}  {}", if check.holds() { "ok" } else { "FAIL" }, check.counted, check.name);
        for row in &check.broken {
            println!("                 {row}");
        }
        broken += usize::from(!check.holds());
    }
    if broken > 0 {
        bail!("{broken} of {} promises are broken; at most {LIMIT} rows of each are shown", checks.len());
    }
    println!("\nAll {} promises hold.", checks.len());
    Ok(())
}

/// Fails if there are no databases, because opening missing SQLite files would create them.
fn there_is_something(settings: &Settings) -> anyhow::Result<()> {
    let data_dir = settings::data_dir(settings)?;
    for store in ["inventory", "order"] {
        let url: String = settings.section(&format!("{store}.database.url"))?;
        let file = data_dir.path().join(format!("{store}.db"));
        if url.is_empty() && !file.exists() {
            bail!("there is no {}: give the --data-dir of a souk, or --database-url", file.display());
        }
    }
    Ok(())
}

/// Checks the promises about orders and their reservations.
async fn together(inventory: &souk_inventory::Config, order: &souk_order::Config) -> anyhow::Result<[Check; 2]> {
    let stock = Reservations::open(inventory).await?;
    let orders = Store::connect(&order.settings.database, &order.common.data_dir).await?;

    let mut forward =
        Check { name: "every order has the reservation that its state needs", counted: 0, broken: Vec::new() };
    let mut after = None;
    loop {
        let page = sold_orders(&orders, after, PAGE).await?;
        let ids: Vec<OrderId> = page.iter().map(|order| order.id).collect();
        let Some(last) = ids.last().copied() else { break };
        let reservations = stock.of(&ids).await?;
        forward.counted += page.len() as i64;
        note(&mut forward, page.iter().filter_map(|order| mismatch(order, reservations.get(&order.id))));
        after = Some(last);
    }

    let mut backward =
        Check { name: "every committed reservation belongs to an order", counted: 0, broken: Vec::new() };
    let mut after = None;
    loop {
        let page = stock.committed_after(after, PAGE).await?;
        let Some(last) = page.last().copied() else { break };
        let known: HashSet<OrderId> = known_orders(&orders, &page).await?.into_iter().collect();
        backward.counted += page.len() as i64;
        note(
            &mut backward,
            page.into_iter()
                .filter(|id| !known.contains(id))
                .map(|id| format!("{}: stock was sold for it, but there is no such order", id.name())),
        );
        after = Some(last);
    }
    Ok([forward, backward])
}

fn note(check: &mut Check, broken: impl Iterator<Item = String>) {
    let room = (LIMIT as usize).saturating_sub(check.broken.len());
    check.broken.extend(broken.take(room));
}

/// The mismatch between an order and its reservation, which was read later.
fn mismatch(order: &SoldOrder, reserved: Option<&Reserved>) -> Option<String> {
    let state = reserved.map_or("none", |reserved| reserved.state.as_str());
    let all_back = reserved.is_some_and(|reserved| reserved.returned == reserved.pieces);
    let right = match order.state {
        // The states other than `Pending` are those of adjustments, never of an order.
        State::Pending | State::Returning | State::CancellingItems | State::Refunding | State::Completed => true,
        State::Confirmed | State::Cancelling => !order.tracked || state == "COMMITTED",
        State::Cancelled => !order.tracked || (state == "COMMITTED" && all_back),
        // A rejected order has no sold goods: its reservation is not committed, or all its goods are back.
        State::Rejected => state != "COMMITTED" || all_back,
    };
    (!right).then(|| format!("{}: {:?}, but its reservation is {state}", order.id.name(), order.state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserved(state: &str, pieces: i64, returned: i64) -> Option<Reserved> {
        Some(Reserved { state: state.into(), pieces, returned })
    }

    #[test]
    fn orders_and_reservations_must_match() {
        for (state, tracked, reservation, right) in [
            (State::Confirmed, true, reserved("COMMITTED", 3, 0), true),
            (State::Confirmed, true, reserved("OPEN", 3, 0), false),
            (State::Confirmed, true, None, false),
            (State::Confirmed, false, None, true),
            (State::Cancelled, true, reserved("COMMITTED", 3, 3), true),
            (State::Cancelled, true, reserved("COMMITTED", 3, 2), false),
            (State::Rejected, true, None, true),
            (State::Rejected, true, reserved("RELEASED", 3, 0), true),
            (State::Rejected, true, reserved("COMMITTED", 3, 0), false),
            (State::Rejected, true, reserved("COMMITTED", 3, 3), true),
            (State::Pending, true, reserved("OPEN", 3, 0), true),
        ] {
            let order = SoldOrder { id: OrderId::new(), state, tracked };
            assert_eq!(mismatch(&order, reservation.as_ref()).is_none(), right, "{order:?} {reservation:?}");
        }
    }
}
