//! Checks of the promises on live data, for `souk verify`.

use souk_store::{
    db::{self, Db},
    verify::Check,
};

use super::{postgres, sqlite};
use crate::error::Error;

/// Checks what must hold at every commit, all at one moment.
///
/// # Errors
/// If the database fails; a broken promise is no error but a [`Check`] that does not hold.
pub async fn verify(db: &Db) -> Result<Vec<Check>, Error> {
    db::snapshot!(db, |conn, q| -> Result<Vec<Check>, Error> { q::verify::all(conn).await })
}
