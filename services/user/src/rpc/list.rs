//! Lists accounts, newest first.

use chrono::{DateTime, Utc};
use souk_common::{
    error::{Problem, Reason},
    ids::UserId,
    page::{
        self,
        filter::{self, Field, Kind, Op, Value},
    },
};
use souk_proto::user::v1::{ListUsersRequest, ListUsersResponse, user::State as StateMessage};
use souk_store::db::Db;

use super::convert;
use crate::{
    domain::{
        email::Email,
        filter::{Term, Text},
        user::{State, User},
    },
    store,
};

const STATES: &[&str] = &["STATE_ACTIVE", "STATE_DISABLED"];
const FIELDS: &[Field] =
    &[Field::new("email", Kind::Text), Field::new("external_id", Kind::Text), Field::new("state", Kind::Enum(STATES))];

pub(super) async fn users(db: &Db, request: ListUsersRequest) -> Result<ListUsersResponse, Problem> {
    let terms = filter::parse(&request.filter, FIELDS)
        .map_err(|error| Problem::invalid("filter", error.to_string()))?
        .into_iter()
        .map(term)
        .collect::<Result<Vec<_>, _>>()?;
    let query = ("users.list", &request.filter);
    let size = page::size(request.page_size);
    let after: Option<(DateTime<Utc>, UserId)> = page::decode(&request.page_token, &query)
        .map_err(|error| Problem::new(Reason::PageTokenInvalid, format!("page_token {error}")))?;
    let rows = store::users::list(db, &terms, after, size + 1).await?;
    let key = |user: &User| (user.create_time, user.id);
    let (users, next_page_token) = page::cut(rows, size, &query, key, convert::user);
    Ok(ListUsersResponse { users, next_page_token })
}

fn term(term: filter::Term) -> Result<Term, Problem> {
    match (term.field, term.value) {
        ("email", Value::Text(text)) => Ok(Term::Email(compare(term.op, Email::normalize(&text))?)),
        ("external_id", Value::Text(text)) => Ok(Term::ExternalId(compare(term.op, text)?)),
        ("state", Value::Enum(name)) => {
            let state = match StateMessage::from_str_name(name) {
                Some(StateMessage::Active) => State::Active,
                Some(StateMessage::Disabled) => State::Disabled,
                _ => return Err(Problem::internal().caused_by(format!("a filter has the state {name}"))),
            };
            Ok(Term::State { is: term.op == Op::Equal, state })
        }
        (field, value) => Err(Problem::internal().caused_by(format!("a filter has {field} {value:?}"))),
    }
}

fn compare(op: Op, text: String) -> Result<Text, Problem> {
    match op {
        Op::Equal => Ok(Text::Is(text)),
        Op::NotEqual => Ok(Text::IsNot(text)),
        Op::Contains => Ok(Text::Has(text)),
        op => Err(Problem::internal().caused_by(format!("a filter compares a text by {op}"))),
    }
}
