//! Creating and reading accounts.

use souk_common::{auth::Role, error::Reason, ids::UserId};
use souk_proto::user::v1::{CreateUserRequest, GetMeRequest, GetUserRequest, RegisterRequest, User, user::State};
use tonic::Code;

use crate::harness::{PASSWORD, both, fields, id, name, refused};

fn register(email: &str, password: &str) -> RegisterRequest {
    RegisterRequest { email: email.into(), password: password.into(), display_name: "Ann".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_creates_an_active_customer() {
    for souk in both().await {
        let user = souk.users().register(register("Ann@Example.com", PASSWORD)).await.unwrap().into_inner();
        assert_eq!(user.email, "ann@example.com");
        assert_eq!(user.display_name, "Ann");
        assert_eq!(user.state(), State::Active);
        assert!(user.roles.is_empty() && user.external_id.is_empty() && !user.etag.is_empty());
        assert_eq!(user.create_time, user.update_time);
        id(&user);

        let session = souk.log_in(" ANN@example.com ", PASSWORD).await.unwrap();
        let me = souk.users_as(&session.access_token).get_me(GetMeRequest {}).await.unwrap().into_inner();
        assert_eq!(me, user);
        assert_eq!(session.user.unwrap(), user);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_email_is_taken_in_any_letter_case() {
    for souk in both().await {
        souk.register("ann@example.com").await;
        for email in ["ann@example.com", "ANN@EXAMPLE.COM"] {
            let problem = refused(souk.users().register(register(email, PASSWORD)).await, Reason::ResourceExists);
            assert_eq!(problem.code(), Code::AlreadyExists);
            assert!(problem.message().contains("email"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_registrations_are_refused_with_the_field() {
    for souk in both().await {
        for (request, field) in [
            (register("", PASSWORD), "email"),
            (register("ann", PASSWORD), "email"),
            (register(&format!("{}@example.com", "a".repeat(250)), PASSWORD), "email"),
            (register("ann@example.com", "short"), "password"),
            (register("ann@example.com", &"x".repeat(257)), "password"),
            (
                RegisterRequest { display_name: "x".repeat(201), ..register("ann@example.com", PASSWORD) },
                "display_name",
            ),
            (RegisterRequest { display_name: "a\0b".into(), ..register("ann@example.com", PASSWORD) }, "display_name"),
        ] {
            let problem = refused(souk.users().register(request).await, Reason::FieldInvalid);
            assert!(fields(&problem).contains(&field), "{problem}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_created_by_an_administrator_has_no_password() {
    for souk in both().await {
        let admin = souk.staff("admin@example.com", Role::Admin).await;
        let mut users = souk.users_as(&admin.access_token);
        let wanted = User {
            email: "Bo@Example.com".into(),
            display_name: "Bo".into(),
            external_id: "17850".into(),
            ..User::default()
        };
        let made = users.create_user(CreateUserRequest { user: Some(wanted.clone()) }).await.unwrap().into_inner();
        assert_eq!((made.email.as_str(), made.external_id.as_str()), ("bo@example.com", "17850"));
        for password in ["", PASSWORD] {
            let reason = if password.is_empty() { Reason::FieldInvalid } else { Reason::CredentialsInvalid };
            refused(souk.log_in("bo@example.com", password).await, reason);
        }

        let same_id = User { email: "other@example.com".into(), ..wanted.clone() };
        let again = users.create_user(CreateUserRequest { user: Some(same_id) }).await;
        assert!(refused(again, Reason::ResourceExists).message().contains("external_id"));
        let again = users.create_user(CreateUserRequest { user: Some(wanted.clone()) }).await;
        refused(again, Reason::ResourceExists);

        let no_email = User { email: String::new(), external_id: "1".into(), ..wanted.clone() };
        let problem =
            refused(users.create_user(CreateUserRequest { user: Some(no_email) }).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["user.email"]);
        let problem = refused(users.create_user(CreateUserRequest { user: None }).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["user"]);
        let odd = User { external_id: "a\0".into(), ..wanted };
        let problem = refused(users.create_user(CreateUserRequest { user: Some(odd) }).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["user.external_id"]);

        // Accounts without an external id do not conflict.
        for email in ["c@example.com", "d@example.com"] {
            let user = User { email: email.into(), ..User::default() };
            users.create_user(CreateUserRequest { user: Some(user) }).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_only_fields_of_a_new_account_are_ignored() {
    for souk in both().await {
        let admin = souk.staff("admin@example.com", Role::Admin).await;
        let wanted = User {
            email: "eve@example.com".into(),
            roles: vec![2],
            state: State::Disabled.into(),
            name: name(&admin),
            ..User::default()
        };
        let request = CreateUserRequest { user: Some(wanted) };
        let made = souk.users_as(&admin.access_token).create_user(request).await.unwrap().into_inner();
        assert_ne!(made.name, name(&admin));
        assert_eq!(made.state(), State::Active);
        assert!(made.roles.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_account_is_read_by_its_name() {
    for souk in both().await {
        let ann = souk.customer("ann@example.com").await;
        let staff = souk.staff("staff@example.com", Role::Staff).await;
        let get = |token: String, name: String| {
            let mut users = souk.users_as(&token);
            async move { users.get_user(GetUserRequest { name }).await }
        };
        for token in [&ann.access_token, &staff.access_token] {
            let read = get(token.clone(), name(&ann)).await.unwrap().into_inner();
            assert_eq!(Some(read), ann.user);
        }
        let missing = UserId::new().name();
        let problem = refused(get(staff.access_token.clone(), missing.clone()).await, Reason::ResourceNotFound);
        assert!(problem.message().contains(&missing));
        for wrong in
            ["", "users/", "users/me", "users/ord_01k9zzzzzzzzzzzzzzzzzzzzzz", "users/usr_zzzzzzzzzzzzzzzzzzzzzzzzzz"]
        {
            let problem = refused(get(staff.access_token.clone(), wrong.into()).await, Reason::FieldInvalid);
            assert_eq!(fields(&problem), ["name"], "{wrong}");
        }
    }
}
