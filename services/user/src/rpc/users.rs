//! Accounts.

use souk_common::{
    auth::{Caller, Role, Roles},
    error::Problem,
};
use souk_proto::user::v1::{
    ChangePasswordRequest, CreateUserRequest, GetMeRequest, GetUserRequest, ListUsersRequest, ListUsersResponse,
    RegisterRequest, SetUserRolesRequest, UpdateUserRequest, User as UserMessage, user_service_server::UserService,
};
use tonic::{Request, Response, Status};

use super::{Rpc, actor, convert, list, named, reached};
use crate::{
    domain::{
        email::Email,
        now,
        password::{Password, Verdict},
        update::{Change, Values},
        user::User,
    },
    error::Error,
    store::{self, users::Actor},
};

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
        // Before the email is looked up, so that the response time does not reveal who is
        // registered.
        let hash = self.0.hasher.hash(password).await?;
        let user = User::new(email, request.display_name, String::new(), now());
        store::users::insert(&self.0.db, Actor::Owner, &user, Some(&hash)).await?;
        reply(user)
    }

    async fn create_user(&self, request: Request<CreateUserRequest>) -> Reply {
        let actor = actor(&Caller::of(&request)?, Role::Admin)?;
        let user = request.into_inner().user.ok_or_else(|| Problem::invalid("user", "must be set"))?;
        let email = email("user.email", &user.email)?;
        let user = User::new(email, user.display_name, user.external_id, now());
        store::users::insert(&self.0.db, actor, &user, None).await?;
        reply(user)
    }

    async fn get_me(&self, request: Request<GetMeRequest>) -> Reply {
        let id = Caller::of(&request)?.user()?;
        reply(store::users::get(&self.0.db, id).await?)
    }

    async fn get_user(&self, request: Request<GetUserRequest>) -> Reply {
        let id = reached(&Caller::of(&request)?, "name", &request.get_ref().name)?;
        reply(store::users::get(&self.0.db, id).await?)
    }

    async fn list_users(&self, request: Request<ListUsersRequest>) -> Result<Response<ListUsersResponse>, Status> {
        Ok(Response::new(list::users(&self.0.db, request.into_inner()).await?))
    }

    async fn update_user(&self, request: Request<UpdateUserRequest>) -> Reply {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let user = request.user.ok_or_else(|| Problem::invalid("user", "must be set"))?;
        let id = reached(&caller, "user.name", &user.name)?;
        let actor = actor(&caller, Role::Admin)?;
        let staff = caller.has_role(Role::Staff);
        let mask = request.update_mask.unwrap_or_default().paths;
        let values = Values { email: user.email, display_name: user.display_name, external_id: user.external_id };
        let change = Change::read(&mask, values, staff).map_err(Error::from)?;
        reply(store::users::update(&self.0.db, actor, id, &user.etag, &change, staff, now()).await?)
    }

    async fn set_user_roles(&self, request: Request<SetUserRolesRequest>) -> Reply {
        let actor = actor(&Caller::of(&request)?, Role::Admin)?;
        let request = request.into_inner();
        let id = named("name", &request.name)?;
        let roles = request.roles.into_iter().enumerate().map(|(at, number)| {
            Role::try_from(number).map_err(|_| Problem::invalid(format!("roles[{at}]"), "must be a role"))
        });
        let roles = roles.collect::<Result<Roles, Problem>>()?;
        reply(store::users::set_roles(&self.0.db, actor, id, &request.etag, roles, now()).await?)
    }

    async fn change_password(&self, request: Request<ChangePasswordRequest>) -> Reply {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let id = reached(&caller, "name", &request.name)?;
        let new = chosen("new_password", request.new_password)?;
        let current = store::users::password_hash(&self.0.db, id).await?;
        let verdict = self.0.hasher.verify(Password::typed(request.current_password), current.clone()).await?;
        let Some(current) = current.filter(|_| verdict != Verdict::Wrong) else {
            return Err(Error::CurrentPassword.into());
        };
        let new = self.0.hasher.hash(new).await?;
        reply(store::users::change_password(&self.0.db, id, &current, &new, now()).await?)
    }
}

fn email(field: &str, text: &str) -> Result<Email, Problem> {
    Email::parse(text).map_err(|error| Problem::invalid(field, error.to_string()))
}

fn chosen(field: &str, password: String) -> Result<Password, Problem> {
    Password::chosen(password).map_err(|error| Problem::invalid(field, error.to_string()))
}
