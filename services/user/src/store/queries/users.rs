//! Accounts. Compiled once for each engine.

use diesel::{
    BoolExpressionMethods, ExpressionMethods, NullableExpressionMethods, QueryDsl, QueryResult,
    dsl::{exists, sql},
    result::OptionalExtension,
    sql_types::{Bool, Untyped},
};
use diesel_async::RunQueryDsl;
use souk_common::{
    auth::Role,
    ids::UserId,
    page::{self, MAX_SCANNED, Scan},
};
use souk_store::db::{Keep as _, Within, beyond};

use super::super::{Conn, STOPS_EARLY, position, schema::users};
pub use crate::store::rows::UserRow as Row;
use crate::{
    domain::{
        filter::{Term, Text, only_disabled},
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

/// The condition of the index of disabled accounts, word for word, so that the planner uses the index.
const DISABLED: &str = "users.state = 'DISABLED'";

/// The accounts after a page, newest first. With `disabled`, only disabled ones.
macro_rules! scanned {
    ($disabled:expr, $after:expr, $select:expr) => {{
        let mut query = users::table.select($select).into_boxed();
        if $disabled {
            query = query.filter(sql::<Bool>(DISABLED));
        }
        if let Some(after) = $after {
            query = query.filter(beyond!(users::create_time, users::id, "<", after));
        }
        query.order((users::create_time.desc(), users::id.desc()))
    }};
}

/// Accounts that meet all terms, newest first, after the last account of the previous page. If no index finds the
/// matching accounts, a limited number of accounts is read.
pub async fn list_users(
    conn: &mut Conn,
    terms: &[Term],
    after: Option<Key>,
    limit: i64,
) -> QueryResult<Scan<Row, Key>> {
    let mut scan = Scan { rows: Vec::new(), end: None };
    let disabled = only_disabled(terms);
    let is_served = |term: &Term| disabled && matches!(term, Term::State { .. });
    if terms.iter().all(is_served) || terms.iter().any(Term::finds_one) {
        scan.rows = read_page(conn, terms, after, End::List, limit).await?;
        return Ok(scan);
    }
    if STOPS_EARLY {
        scan.rows = read_page(conn, terms, after, End::Scanned(MAX_SCANNED), limit).await?;
        if scan.is_full(limit) {
            return Ok(scan);
        }
    }
    for scanned in page::scans(limit, STOPS_EARLY) {
        // Found before the page is read, so that the page also covers accounts that are inserted in between.
        let last = scanned!(disabled, after, (users::create_time, users::id)).offset(scanned - 1).limit(1);
        scan.end = last.varied().get_result(conn).await.optional()?;
        scan.rows = read_page(conn, terms, after, scan.end.map_or(End::List, End::At), limit).await?;
        if scan.is_enough(limit) {
            break;
        }
    }
    Ok(scan)
}

/// Where a page ends, if it is not full before.
enum End {
    /// At the end of the list.
    List,
    /// At the last one of so many scanned accounts. The engine must stop early.
    Scanned(i64),
    /// At this account.
    At(Key),
}

/// The accounts of a page.
async fn read_page(conn: &mut Conn, terms: &[Term], after: Option<Key>, end: End, limit: i64) -> QueryResult<Vec<Row>> {
    let disabled = only_disabled(terms);
    let mut query = scanned!(disabled, after, COLUMNS);
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
    if let End::At(end) = end {
        query = query.filter(beyond!(users::create_time, users::id, ">=", end));
    }
    let statement = query.limit(limit);
    match end {
        End::Scanned(rows) => {
            let rows = scanned!(disabled, after, sql::<Untyped>("users.*")).limit(rows);
            Within { table: "users", rows, statement }.varied().load(conn).await
        }
        End::List | End::At(_) => statement.varied().load(conn).await,
    }
}
