//! Accounts. Compiled once for each engine.

use diesel::{
    BoolExpressionMethods, ExpressionMethods, NullableExpressionMethods, QueryDsl, QueryResult, dsl::exists,
    result::OptionalExtension,
};
use diesel_async::RunQueryDsl;
use souk_common::{
    auth::Role,
    ids::UserId,
    page::{self, Scan},
};

use super::super::{Conn, position, schema::users};
pub use crate::store::rows::UserRow as Row;
use crate::{
    domain::{
        filter::{Term, Text},
        user::User,
    },
    store::rows::Key,
};

type Columns = (
    users::id,
    users::email,
    users::display_name,
    users::external_id,
    users::is_staff,
    users::is_admin,
    users::state,
    users::revision,
    users::create_time,
    users::update_time,
);

/// The columns of a [`Row`].
pub const COLUMNS: Columns = (
    users::id,
    users::email,
    users::display_name,
    users::external_id,
    users::is_staff,
    users::is_admin,
    users::state,
    users::revision,
    users::create_time,
    users::update_time,
);

/// One account.
pub async fn user(conn: &mut Conn, id: UserId) -> QueryResult<Option<Row>> {
    users::table.find(id).select(COLUMNS).first(conn).await.optional()
}

/// The account of an email, with its password hash.
pub async fn user_by_email(conn: &mut Conn, email: &str) -> QueryResult<Option<(Row, Option<String>)>> {
    let account = users::table.filter(users::email.eq(email));
    account.select((COLUMNS, users::password_hash)).first(conn).await.optional()
}

/// An account's password hash.
pub async fn password_hash(conn: &mut Conn, id: UserId) -> QueryResult<Option<Option<String>>> {
    users::table.find(id).select(users::password_hash).first(conn).await.optional()
}

/// Adds an account.
pub async fn insert_user(conn: &mut Conn, user: &User, password_hash: Option<&str>) -> QueryResult<()> {
    let row = (
        users::id.eq(user.id),
        users::email.eq(&user.email),
        users::display_name.eq(&user.display_name),
        users::external_id.eq(&user.external_id),
        users::password_hash.eq(password_hash),
        users::is_staff.eq(user.roles.has(Role::Staff)),
        users::is_admin.eq(user.roles.has(Role::Admin)),
        users::state.eq(user.state.as_str()),
        users::revision.eq(user.revision),
        users::create_time.eq(user.create_time),
        users::update_time.eq(user.update_time),
    );
    diesel::insert_into(users::table).values(row).execute(conn).await.map(drop)
}

/// Updates an account that was locked in this transaction.
pub async fn update_user(conn: &mut Conn, user: &User) -> QueryResult<()> {
    let row = (
        users::email.eq(&user.email),
        users::display_name.eq(&user.display_name),
        users::external_id.eq(&user.external_id),
        users::is_staff.eq(user.roles.has(Role::Staff)),
        users::is_admin.eq(user.roles.has(Role::Admin)),
        users::state.eq(user.state.as_str()),
        users::revision.eq(user.revision),
        users::update_time.eq(user.update_time),
    );
    diesel::update(users::table.find(user.id)).set(row).execute(conn).await.map(drop)
}

/// Replaces an account's password hash if it is still the one that a password was checked against. Returns true if it
/// was.
pub async fn replace_password_hash(conn: &mut Conn, id: UserId, checked: &str, new: &str) -> QueryResult<bool> {
    let unchanged = users::table.find(id).filter(users::password_hash.eq(checked));
    let rows = diesel::update(unchanged).set(users::password_hash.eq(new)).execute(conn).await?;
    Ok(rows == 1)
}

/// True if any account is an active administrator.
pub async fn admin_exists(conn: &mut Conn) -> QueryResult<bool> {
    diesel::select(exists(users::table.filter(users::is_admin))).get_result(conn).await
}

/// Accounts that meet all terms, newest first, after the last account of the previous page. If no index finds the
/// matching accounts, a limited number of accounts is read.
pub async fn list_users(
    conn: &mut Conn,
    terms: &[Term],
    after: Option<Key>,
    limit: i64,
) -> QueryResult<Scan<Row, Key>> {
    if terms.is_empty() || terms.iter().any(Term::finds_one) {
        return read_page(conn, terms, after, None, limit).await;
    }
    let mut scan = Scan::all(Vec::new());
    for scanned in page::scans(limit) {
        // Found before the page is read, so that the page also covers accounts that are inserted in between.
        let end = end_of_scan(conn, after, scanned).await?;
        scan = read_page(conn, terms, after, end, limit).await?;
        if scan.is_enough(limit) {
            break;
        }
    }
    Ok(scan)
}

/// The accounts of a page, up to the end of a scan.
async fn read_page(
    conn: &mut Conn,
    terms: &[Term],
    after: Option<Key>,
    end: Option<Key>,
    limit: i64,
) -> QueryResult<Scan<Row, Key>> {
    let mut query = users::table.select(COLUMNS).into_boxed();
    for term in terms {
        query = match term {
            Term::Email(Text::Is(email)) => query.filter(users::email.eq(email)),
            Term::Email(Text::IsNot(email)) => query.filter(users::email.ne(email)),
            Term::Email(Text::Has(part)) => query.filter(position(users::email.nullable(), part).gt(0)),
            Term::ExternalId(Text::Is(id)) if id.is_empty() => query.filter(users::external_id.is_null()),
            Term::ExternalId(Text::Is(id)) => query.filter(users::external_id.eq(id)),
            Term::ExternalId(Text::IsNot(id)) if id.is_empty() => query.filter(users::external_id.is_not_null()),
            Term::ExternalId(Text::IsNot(id)) => {
                query.filter(users::external_id.is_null().or(users::external_id.ne(id)))
            }
            Term::ExternalId(Text::Has(part)) => query.filter(position(users::external_id, part).gt(0)),
            Term::State { is: true, state } => query.filter(users::state.eq(state.as_str())),
            Term::State { is: false, state } => query.filter(users::state.ne(state.as_str())),
        };
    }
    if let Some((time, id)) = after {
        // The first condition finds the place in the index, the second one the place among equal times.
        query = query.filter(users::create_time.le(time)).filter(users::create_time.lt(time).or(users::id.lt(id)));
    }
    if let Some((time, id)) = end {
        query = query.filter(users::create_time.ge(time)).filter(users::create_time.gt(time).or(users::id.ge(id)));
    }
    let rows = query.order((users::create_time.desc(), users::id.desc())).limit(limit).load(conn).await?;
    Ok(Scan { rows, end })
}

/// The sort key of the last of so many scanned accounts; `None` if the list ends before.
async fn end_of_scan(conn: &mut Conn, after: Option<Key>, scanned: i64) -> QueryResult<Option<Key>> {
    let mut query = users::table.select((users::create_time, users::id)).into_boxed();
    if let Some((time, id)) = after {
        query = query.filter(users::create_time.le(time)).filter(users::create_time.lt(time).or(users::id.lt(id)));
    }
    let last = query.order((users::create_time.desc(), users::id.desc())).offset(scanned - 1).limit(1);
    last.get_result(conn).await.optional()
}
