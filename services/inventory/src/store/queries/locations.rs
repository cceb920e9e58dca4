//! Locations.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_common::ids::LocationId;
use souk_store::db::DbError;

use super::super::{Any, Conn, clock, schema::locations};
use crate::{
    domain::{location::Location, product::code_key},
    error::Error,
};

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = locations)]
struct Row {
    id: LocationId,
    code: String,
    code_key: String,
    display_name: String,
    priority: i32,
    created_at: DateTime<Utc>,
}

impl From<Row> for Location {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            code: row.code,
            display_name: row.display_name,
            priority: row.priority,
            created_at: row.created_at,
        }
    }
}

pub async fn create(conn: &mut Conn, code: &str, display_name: &str, priority: i32) -> Result<Location, Error> {
    let row = Row {
        id: LocationId::new(),
        code: code.to_owned(),
        code_key: code_key(code),
        display_name: display_name.to_owned(),
        priority,
        created_at: clock(conn).await?,
    };
    let inserted = diesel::insert_into(locations::table).values(&row).execute(conn).await;
    match inserted.map_err(DbError::from) {
        Ok(_) => Ok(row.into()),
        Err(error) => match error.unique_violation() {
            Some("locations_code_key_key" | "locations.code_key") => Err(Error::LocationCodeTaken(code.to_owned())),
            _ => Err(error.into()),
        },
    }
}

pub async fn get(conn: &mut Conn, id: LocationId) -> Result<Location, Error> {
    let row: Option<Row> = locations::table.find(id).select(Row::as_select()).first(conn).await.optional()?;
    row.map(Location::from).ok_or(Error::NoLocation(id))
}

pub async fn list(conn: &mut Conn, after: Option<&(i32, String)>, limit: i64) -> Result<Vec<Location>, Error> {
    let mut query = locations::table
        .select(Row::as_select())
        .order((locations::priority, locations::code_key))
        .limit(limit)
        .into_boxed();
    if let Some((priority, key)) = after {
        let same = locations::priority.eq(*priority).and(locations::code_key.gt(key));
        query = query.filter(locations::priority.gt(*priority).or(same));
    }
    let rows: Vec<Row> = query.load(conn).await?;
    Ok(rows.into_iter().map(Location::from).collect())
}

/// All locations in filling order, that is, the order in which orders are filled from them.
pub async fn filling_order(conn: &mut impl Any) -> Result<Vec<LocationId>, Error> {
    let ids = locations::table.order((locations::priority, locations::code_key)).select(locations::id);
    Ok(ids.load(conn).await?)
}
