//! Access to each method for each kind of caller.

use souk_common::{auth::Role, error::Reason, ids::UserId};
use souk_proto::user::v1::{
    ChangePasswordRequest, CreateUserRequest, GetJsonWebKeySetRequest, GetMeRequest, GetUserRequest, ListUsersRequest,
    SetUserRolesRequest, UpdateUserRequest, User,
};
use tonic::{Code, Status};

use crate::harness::{PASSWORD, Service, both, name, refused};

/// Calls a method on an account. Returns only whether the caller was admitted.
async fn call(service: &Service, token: Option<&str>, method: &str, name: &str) -> Result<(), Status> {
    let mut users = token.map_or_else(|| service.users(), |token| service.users_as(token));
    let name = name.to_owned();
    match method {
        "CreateUser" => {
            let user = User { email: format!("{}@example.com", UserId::new()), ..User::default() };
            users.create_user(CreateUserRequest { user: Some(user) }).await.map(drop)
        }
        "GetMe" => users.get_me(GetMeRequest {}).await.map(drop),
        "GetUser" => users.get_user(GetUserRequest { name }).await.map(drop),
        "ListUsers" => users.list_users(ListUsersRequest::default()).await.map(drop),
        "UpdateUser" => {
            let user = User { name, display_name: "New".into(), ..User::default() };
            users.update_user(UpdateUserRequest { user: Some(user), update_mask: None }).await.map(drop)
        }
        "SetUserRoles" => users.set_user_roles(SetUserRolesRequest { name, ..Default::default() }).await.map(drop),
        "ChangePassword" => {
            let request =
                ChangePasswordRequest { name, current_password: PASSWORD.into(), new_password: PASSWORD.into() };
            users.change_password(request).await.map(drop)
        }
        other => unreachable!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_method_admits_exactly_the_callers_of_its_access_rule() {
    const NOBODY: usize = 0;
    // Anonymous, the account's owner, another customer, staff, an administrator.
    let table = [
        ("CreateUser", [false, false, false, false, true]),
        ("GetMe", [false, true, true, true, true]),
        ("GetUser", [false, true, false, true, true]),
        ("ListUsers", [false, false, false, true, true]),
        ("UpdateUser", [false, true, false, false, true]),
        ("SetUserRoles", [false, false, false, false, true]),
        ("ChangePassword", [false, true, false, false, false]),
    ];
    for souk in both().await {
        let owner = souk.customer("owner@example.com").await;
        let other = souk.customer("other@example.com").await;
        let staff = souk.staff("staff@example.com", Role::Staff).await;
        let admin = souk.staff("admin@example.com", Role::Admin).await;
        let sessions = [&owner, &other, &staff, &admin].map(|session| Some(session.access_token.as_str()));
        let callers = [&[None][..], &sessions].concat();
        for (method, expected) in table {
            for (at, (token, let_in)) in callers.iter().zip(expected).enumerate() {
                let result = call(&souk, *token, method, &name(&owner)).await;
                if let_in {
                    result.unwrap_or_else(|status| panic!("{method} as caller {at}: {status}"));
                } else {
                    let reason = if at == NOBODY { Reason::TokenMissing } else { Reason::AccessDenied };
                    refused(result, reason);
                }
            }
        }
        souk.sessions().get_json_web_key_set(GetJsonWebKeySetRequest {}).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_account_and_a_missing_one_have_the_same_error() {
    for souk in both().await {
        let ann = souk.customer("ann@example.com").await;
        let bo = souk.customer("bo@example.com").await;
        for method in ["GetUser", "UpdateUser", "ChangePassword"] {
            let missing = UserId::new().name();
            let other = call(&souk, Some(&ann.access_token), method, &name(&bo)).await.unwrap_err();
            let none = call(&souk, Some(&ann.access_token), method, &missing).await.unwrap_err();
            assert_eq!(other.code(), Code::PermissionDenied);
            assert_eq!(other.code(), none.code());
            assert_eq!(other.message().replace(&name(&bo), ""), none.message().replace(&missing, ""), "{method}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_token_is_refused_everywhere() {
    for souk in both().await {
        let ann = souk.customer("ann@example.com").await;
        let (head, signature) = ann.access_token.rsplit_once('.').unwrap();
        let turned: String = signature.chars().rev().collect();
        for token in ["", "x", "a.b.c", &format!("{head}."), &format!("{head}.{turned}"), &ann.refresh_token] {
            refused(souk.users_as(token).get_me(GetMeRequest {}).await, Reason::TokenInvalid);
        }
        // Also for methods that need no token: a token that is sent must be valid.
        let request = souk_proto::user::v1::RegisterRequest {
            email: "new@example.com".into(),
            password: PASSWORD.into(),
            display_name: String::new(),
        };
        refused(souk.users_as("x").register(request).await, Reason::TokenInvalid);
    }
}
