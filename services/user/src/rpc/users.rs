//! UserService: accounts.

use chrono::{DateTime, Utc};
use souk_common::{
    auth::{Caller, Role, Roles},
    error::{Problem, Reason},
    ids::UserId,
    page::{
        self,
        filter::{self, Field, Kind, Op, Value},
    },
};
use souk_proto::user::v1::{
    ChangePasswordRequest, CreateUserRequest, GetMeRequest, GetUserRequest, ListUsersRequest, ListUsersResponse,
    RegisterRequest, SetUserRolesRequest, UpdateUserRequest, User as UserMessage, user::State as StateMessage,
    user_service_server::UserService,
};
use tonic::{Request, Response, Status};

use super::{Rpc, actor, convert, named, reached};
use crate::{
    domain::{
        email::Email,
        filter::{Term, Text},
        now,
        password::{Password, Verdict},
        update::{Change, Rights, Values},
        user::{State, User},
    },
    error::Error,
    store::Actor,
};

/// The states that accounts can be filtered by.
const STATES: &[&str] = &["STATE_ACTIVE", "STATE_DISABLED"];
const FIELDS: &[Field] =
    &[Field::new("email", Kind::Text), Field::new("external_id", Kind::Text), Field::new("state", Kind::Enum(STATES))];

type Reply = Result<Response<UserMessage>, Status>;

fn reply(user: User) -> Reply {
    Ok(Response::new(convert::user(user)))
}

#[tonic::async_trait]
impl UserService for Rpc {
    async fn register(&self, request: Request<RegisterRequest>) -> Reply {
        let request = request.into_inner();
        let email = email("email", &request.email)?;
        let password = chosen("password", request.password)?;
        // Done before the email is looked up, so that the response time does not reveal which emails are registered.
        let hash = self.0.hasher.hash(password).await?;
        let user = User::new(email, request.display_name, String::new(), now());
        self.0.store.create_user(Actor::Owner, &user, Some(&hash)).await?;
        reply(user)
    }

    async fn create_user(&self, request: Request<CreateUserRequest>) -> Reply {
        let actor = actor(&Caller::of(&request)?, Role::Admin)?;
        let user = request.into_inner().user.ok_or_else(|| Problem::invalid("user", "must be set"))?;
        let email = email("user.email", &user.email)?;
        let user = User::new(email, user.display_name, user.external_id, now());
        self.0.store.create_user(actor, &user, None).await?;
        reply(user)
    }

    async fn get_me(&self, request: Request<GetMeRequest>) -> Reply {
        let id = Caller::of(&request)?.user()?;
        reply(self.0.store.user(id).await?)
    }

    async fn get_user(&self, request: Request<GetUserRequest>) -> Reply {
        let id = reached(&Caller::of(&request)?, "name", &request.get_ref().name)?;
        reply(self.0.store.user(id).await?)
    }

    async fn list_users(&self, request: Request<ListUsersRequest>) -> Result<Response<ListUsersResponse>, Status> {
        let request = request.into_inner();
        let terms = filter::parse(&request.filter, FIELDS)
            .map_err(|error| Problem::invalid("filter", error.to_string()))?
            .into_iter()
            .map(term)
            .collect::<Result<Vec<_>, _>>()?;
        let query = ("users.list", &request.filter);
        let size = page::size(request.page_size);
        let after: Option<(DateTime<Utc>, UserId)> = page::decode(&request.page_token, &query)
            .map_err(|error| Problem::new(Reason::PageTokenInvalid, format!("page_token {error}")))?;
        let rows = self.0.store.list_users(&terms, after, size + 1).await?;
        let key = |user: &User| (user.create_time, user.id);
        let (users, next_page_token) = page::cut(rows, size, &query, key, convert::user);
        Ok(Response::new(ListUsersResponse { users, next_page_token }))
    }

    async fn update_user(&self, request: Request<UpdateUserRequest>) -> Reply {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let user = request.user.ok_or_else(|| Problem::invalid("user", "must be set"))?;
        let id = reached(&caller, "user.name", &user.name)?;
        let actor = actor(&caller, Role::Admin)?;
        let rights = Rights { staff: caller.has_role(Role::Staff), recent_log_in: caller.recent_log_in };
        let mask = request.update_mask.unwrap_or_default().paths;
        let values = Values { email: user.email, display_name: user.display_name, external_id: user.external_id };
        let change = Change::read(&mask, values, rights.staff).map_err(Error::from)?;
        reply(self.0.store.update_user(actor, id, &user.etag, &change, rights, now()).await?)
    }

    async fn set_user_roles(&self, request: Request<SetUserRolesRequest>) -> Reply {
        let actor = actor(&Caller::of(&request)?, Role::Admin)?;
        let request = request.into_inner();
        let id = named("name", &request.name)?;
        let roles = request.roles.into_iter().enumerate().map(|(at, number)| {
            Role::try_from(number).map_err(|_| Problem::invalid(format!("roles[{at}]"), "must be a role"))
        });
        let roles = roles.collect::<Result<Roles, Problem>>()?;
        reply(self.0.store.set_roles(actor, id, &request.etag, roles, now()).await?)
    }

    async fn change_password(&self, request: Request<ChangePasswordRequest>) -> Reply {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let id = reached(&caller, "name", &request.name)?;
        let new = chosen("new_password", request.new_password)?;
        let current = self.0.store.password_hash(id).await?;
        let verdict = self.0.hasher.verify(Password::typed(request.current_password), current.clone()).await?;
        let Some(current) = current.filter(|_| verdict != Verdict::Wrong) else {
            return Err(Error::CurrentPassword.into());
        };
        let new = self.0.hasher.hash(new).await?;
        reply(self.0.store.change_password(id, &current, &new, now()).await?)
    }
}

fn email(field: &str, text: &str) -> Result<Email, Problem> {
    Email::parse(text).map_err(|error| Problem::invalid(field, error.to_string()))
}

fn chosen(field: &str, password: String) -> Result<Password, Problem> {
    Password::chosen(password).map_err(|error| Problem::invalid(field, error.to_string()))
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
