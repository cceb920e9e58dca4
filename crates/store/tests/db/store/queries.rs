//! The SQL, written once and compiled for each engine.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_common::ids::UserId;
use souk_common::money::Currency;

use super::Conn;
use super::schema::{accounts, entries, events};
use crate::db::store::Account;

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = accounts)]
struct AccountRow {
    id: UserId,
    email: String,
    balance: i64,
    currency: Currency,
    created_at: chrono::DateTime<chrono::Utc>,
}

#[derive(Insertable)]
#[diesel(table_name = entries)]
pub struct EntryRow {
    account_id: UserId,
    number: i32,
    amount: i64,
}

impl From<AccountRow> for Account {
    fn from(row: AccountRow) -> Self {
        let AccountRow { id, email, balance, currency, created_at } = row;
        Self { id, email, balance, currency, created_at }
    }
}

pub async fn create(conn: &mut Conn, account: &Account) -> QueryResult<Account> {
    let row = AccountRow {
        id: account.id,
        email: account.email.clone(),
        balance: account.balance,
        currency: account.currency,
        created_at: account.created_at,
    };
    diesel::insert_into(accounts::table)
        .values(&row)
        .returning(AccountRow::as_returning())
        .get_result(conn)
        .await
        .map(Account::from)
}

pub async fn account(conn: &mut Conn, id: UserId) -> QueryResult<Option<Account>> {
    let row = accounts::table.find(id).select(AccountRow::as_select()).first(conn).await.optional()?;
    Ok(row.map(Account::from))
}

pub async fn count(conn: &mut Conn) -> QueryResult<i64> {
    accounts::table.count().get_result(conn).await
}

pub async fn emails(conn: &mut Conn, among: &[String]) -> QueryResult<Vec<String>> {
    accounts::table
        .filter(accounts::email.eq_any(among))
        .order(accounts::email)
        .select(accounts::email)
        .load(conn)
        .await
}

pub async fn total(conn: &mut Conn) -> QueryResult<i64> {
    let balances: Vec<i64> = accounts::table.select(accounts::balance).load(conn).await?;
    Ok(balances.iter().sum())
}

pub async fn set_balance(conn: &mut Conn, id: UserId, balance: i64) -> QueryResult<()> {
    let changed = diesel::update(accounts::table.find(id)).set(accounts::balance.eq(balance)).execute(conn).await?;
    if changed == 1 { Ok(()) } else { Err(diesel::NotFound) }
}

pub async fn last_number(conn: &mut Conn, id: UserId) -> QueryResult<i32> {
    let last: Option<i32> =
        entries::table.filter(entries::account_id.eq(id)).select(diesel::dsl::max(entries::number)).first(conn).await?;
    Ok(last.unwrap_or(0))
}

pub async fn entries(conn: &mut Conn, id: UserId) -> QueryResult<Vec<(i32, i64)>> {
    entries::table
        .filter(entries::account_id.eq(id))
        .order(entries::number)
        .select((entries::number, entries::amount))
        .load(conn)
        .await
}

pub async fn add_entries(conn: &mut Conn, id: UserId, new: Vec<(i32, i64)>) -> QueryResult<usize> {
    super::insert_entries(conn, rows(id, new)).await
}

pub fn rows(account_id: UserId, new: Vec<(i32, i64)>) -> Vec<EntryRow> {
    new.into_iter().map(|(number, amount)| EntryRow { account_id, number, amount }).collect()
}

/// Sets the time of events up to a position.
pub async fn age_events(
    conn: &mut Conn,
    up_to: i64,
    time: chrono::DateTime<chrono::Utc>,
) -> Result<(), crate::db::store::Error> {
    let old = events::table.filter(events::position.le(up_to));
    diesel::update(old).set(events::created_at.eq(time)).execute(conn).await?;
    Ok(())
}

/// Adds 1 to a balance. Returns the new balance.
pub async fn count_up(conn: &mut Conn, id: UserId) -> QueryResult<i64> {
    let account = accounts::table.find(id);
    let balance = diesel::update(account).set(accounts::balance.eq(accounts::balance + 1));
    balance.returning(accounts::balance).get_result(conn).await
}

/// Cuts all connections to the database.
pub async fn cut_connections(conn: &mut Conn) -> Result<(), crate::db::store::Error> {
    super::cut_connections(conn).await?;
    Ok(())
}
