//! A batch of commands: it reads, locks, decides and writes, all in one transaction.
//!
//! Every batch of every replica of the service takes its locks in the same order: stock by product and location, then
//! reservations by id, then new rows by key. So batches can wait for each other, but cannot deadlock. A first read
//! finds the rows to lock. If more rows are needed after locking, the batch begins again.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use diesel::{prelude::*, sql_query};
use diesel_async::RunQueryDsl;
use souk_common::ids::{OrderId, ProductId};
use souk_store::db::Keep as _;

use super::{
    super::{
        Any, Conn, clock, padded,
        schema::{Time, ledger, requests},
        write,
    },
    CHUNK, locations, products, reservations, stock,
};
use crate::{
    domain::{
        book::{Answer, Book, Known, Spent, StockRow, low::Watched},
        command::Command,
        product::State,
    },
    error::Error,
    events,
    store::{BatchOutcome, collided},
};

/// Runs a batch. `also` has products that an earlier try found it must lock as well.
pub async fn run(conn: &mut Conn, commands: &[Command], also: &BTreeSet<ProductId>) -> Result<BatchOutcome, Error> {
    let orders: BTreeSet<OrderId> = commands.iter().filter_map(|command| command.action.order()).collect();
    let named: BTreeSet<ProductId> = commands.iter().flat_map(|command| command.action.products()).collect();
    let orders_named = sorted(&orders);
    let keys: BTreeSet<_> = commands.iter().filter_map(|command| command.action.key()).map(|key| &key.id).collect();
    let keys: Vec<_> = keys.into_iter().cloned().collect();

    // First read: the products of the commands, those of the orders' reservations, and those of expired reservations of
    // the commands' products. The process's own clock only estimates which ones have expired. Everything is read again
    // below.
    let mut touched = &named | also;
    let (now, reserved, lapsed) = at_once!(
        conn,
        clock(),
        reservations::products_of(&orders_named),
        reservations::lapsed_of(&sorted(&touched), Utc::now()),
    )?;
    touched.extend(reserved);
    let mut locked = touched.clone();
    locked.extend(reservations::products_of(conn, &lapsed).await?);

    // Lock the rows and read them again, because they may have changed before they were locked.
    let (levels, locations, facts, spent) = at_once!(
        conn,
        stock::lock(&sorted(&locked)),
        locations::filling_order(),
        products::facts(&sorted(&locked)),
        spent(&keys),
    )?;
    // Transactions get their locks in another order than they begin in. The ledger's times must still never decrease at
    // a place, so that the last entry up to a time is the latest one of that time.
    let posted_at = levels.iter().map(|line| line.updated_at).fold(now, DateTime::max);
    let mut wanted = orders;
    wanted.extend(lapsed);
    // A transaction that changes a reservation with lines holds the lock of their stock, as this batch does now. So
    // these three queries can run in any order, and no transaction that holds stock waits for their locks.
    let ids = sorted(&wanted);
    let (lapsed, mut rows, mut lines) = at_once!(
        conn,
        reservations::lapsed_of(&sorted(&touched), now),
        reservations::lock(&ids),
        reservations::lines(&ids),
    )?;
    let more: Vec<_> = lapsed.into_iter().filter(|order| !wanted.contains(order)).collect();
    if !more.is_empty() {
        rows.extend(reservations::lock(conn, &more).await?);
        lines.extend(reservations::lines(conn, &more).await?);
    }
    let known = Known {
        now,
        posted_at,
        locations,
        products: facts,
        stock: levels.into_iter().map(StockRow::from).collect(),
        reservations: reservations::with_lines(rows, lines)?,
        spent,
    };
    let more = known.unlocked(&locked);
    if !more.is_empty() {
        return Ok(BatchOutcome::Widen(more));
    }
    if !known.is_whole() {
        return Err(collided());
    }

    let watched = Watched::of(&known.products, &known.stock);
    let archived: HashSet<_> =
        known.products.iter().filter(|(_, facts)| facts.state == State::Archived).map(|(id, _)| *id).collect();
    let mut book = Book::open(known);
    let answers = book.decide(commands);
    let changes = book.into_changes();
    let mut drafts = events::stock(changes.stock_added.iter().chain(&changes.stock_changed), &archived, posted_at);
    let low = watched.made_low(&changes);
    if !low.is_empty() {
        let products = products::by_id(conn, &low.keys().copied().collect::<Vec<_>>()).await?;
        drafts.extend(products.iter().filter_map(|product| events::low(product, *low.get(&product.id)?, posted_at)));
    }
    write(conn, now, posted_at, changes, drafts).await?;
    Ok(BatchOutcome::Decided(answers))
}

fn sorted<T: Copy>(set: &BTreeSet<T>) -> Vec<T> {
    set.iter().copied().collect()
}

/// Earlier uses of the commands' idempotency keys.
async fn spent(conn: &mut impl Any, keys: &[Vec<u8>]) -> Result<HashMap<Vec<u8>, Spent>, Error> {
    let mut spent = HashMap::new();
    for chunk in keys.chunks(CHUNK) {
        let in_ledger = ledger::table
            .filter(ledger::request.eq_any(padded(chunk)))
            .filter(ledger::item.eq(0))
            .select(ledger::request.assume_not_null());
        for id in in_ledger.kept().load::<Vec<u8>>(conn).await? {
            spent.insert(id, Spent::Forgotten);
        }
        let answered = requests::table.filter(requests::id.eq_any(padded(chunk))).select((
            requests::id,
            requests::hash,
            requests::answer,
        ));
        for (id, hash, answer) in answered.kept().load::<(Vec<u8>, Vec<u8>, String)>(conn).await? {
            if answer.is_empty() {
                spent.insert(id, Spent::Forgotten);
                continue;
            }
            let reply = serde_json::from_str(&answer)
                .map_err(|error| Error::Corrupt(format!("an answer that cannot be read: {error}")))?;
            spent.insert(id, Spent::Answered(Answer { hash, reply }));
        }
    }
    Ok(spent)
}

/// Deletes responses from before a time. Returns their number. A key without a ledger entry is kept without its
/// response: a count that found no difference must not set the stock later.
pub async fn forget(conn: &mut Conn, before: DateTime<Utc>) -> Result<u64, Error> {
    let emptied = sql_query(
        "UPDATE requests SET answer = '' WHERE answer <> '' AND created_at < $1
         AND NOT EXISTS (SELECT 1 FROM ledger WHERE ledger.request = requests.id)",
    );
    let emptied = emptied.bind::<Time, _>(before).execute(conn).await?;
    let old = sql_query("DELETE FROM requests WHERE answer <> '' AND created_at < $1");
    Ok((emptied + old.bind::<Time, _>(before).execute(conn).await?) as u64)
}
