//! What needs a recent log-in, and what counts as one.

use chrono::TimeDelta;
use prost_types::FieldMask;
use souk_common::{auth::Role, client_details::ClientDetails, error::Reason};
use souk_proto::user::v1::{
    ChangePasswordRequest, EndSessionRequest, EndSessionsRequest, GetMeRequest, ListSessionsRequest, Session,
    SetUserRolesRequest, UpdateUserRequest, User,
};
use souk_user::{
    domain::{self, token::RefreshToken},
    store::Opening,
};
use tonic::Code;

use crate::harness::{MONTHS, PASSWORD, Service, both, both_with, claims, name, refused};

/// A session of this account whose user logged in an hour ago, refreshed just now.
async fn an_hour_later(service: &Service, email: &str) -> Session {
    let (user, hash) = service.store.user_by_email(email).await.unwrap().unwrap();
    let (token, hash) = (RefreshToken::random().unwrap(), hash.unwrap());
    let now = domain::now() - TimeDelta::hours(1);
    let opening = Opening { scope: None, token, now, lifetime: MONTHS, client: ClientDetails::default() };
    let opened = service.store.begin_session(&user, &hash, &hash, opening).await.unwrap();
    service.refresh(&opened.token.expose()).await.unwrap()
}

fn update(user: User, path: &str) -> UpdateUserRequest {
    UpdateUserRequest { user: Some(user), update_mask: Some(FieldMask { paths: vec![path.to_owned()] }) }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_have_the_time_of_the_log_in_whatever_is_refreshed() {
    for souk in both().await {
        let first = souk.customer("ann@example.com").await;
        let (was, now) = (claims(&first.access_token)["auth_time"].as_i64().unwrap(), domain::now().timestamp());
        assert!((now - was).abs() <= 60, "{was} and {now}");
        let next = souk.refresh(&first.refresh_token).await.unwrap();
        assert_eq!(claims(&next.access_token)["auth_time"].as_i64(), Some(was));
        let old = claims(&an_hour_later(&souk, "ann@example.com").await.access_token);
        let hour = old["iat"].as_i64().unwrap() - old["auth_time"].as_i64().unwrap();
        assert!((3600..=3660).contains(&hour), "{old}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_log_in_does_not_open_what_needs_a_recent_one() {
    for souk in both().await {
        let recent = souk.staff("admin@example.com", Role::Admin).await;
        let ann = souk.customer("ann@example.com").await;
        let old = an_hour_later(&souk, "admin@example.com").await;
        let (mut users, mut sessions) = (souk.users_as(&old.access_token), souk.sessions_as(&old.access_token));
        let me = User { name: name(&old), ..User::default() };

        let list = ListSessionsRequest { parent: me.name.clone(), ..ListSessionsRequest::default() };
        let listed = sessions.list_sessions(list).await.unwrap().into_inner().sessions;
        let end_one = EndSessionRequest { name: listed[0].name.clone() };
        let end_all = EndSessionsRequest { parent: me.name.clone(), keep_current: true };
        let roles = SetUserRolesRequest { name: name(&ann), roles: vec![1], etag: String::new() };
        let email = |email: &str| update(User { email: email.into(), ..me.clone() }, "email");
        for refusal in [
            refused(sessions.end_session(end_one.clone()).await, Reason::ReauthenticationRequired),
            refused(sessions.end_sessions(end_all.clone()).await, Reason::ReauthenticationRequired),
            refused(users.set_user_roles(roles.clone()).await, Reason::ReauthenticationRequired),
            refused(users.update_user(email("new@example.com")).await, Reason::ReauthenticationRequired),
        ] {
            assert_eq!(refusal.code(), Code::Unauthenticated);
            assert!(refusal.message().contains("log in again"), "{refusal}");
        }
        // Nothing came of it, and the rest is open: also the email as it is.
        souk.users_as(&recent.access_token).get_me(GetMeRequest {}).await.unwrap();
        users.update_user(email("admin@example.com")).await.unwrap();
        users.update_user(update(User { display_name: "New".into(), ..me.clone() }, "display_name")).await.unwrap();

        // A log-in is enough. The password is asked for anyway where it is changed.
        let again = souk.log_in("admin@example.com", PASSWORD).await.unwrap();
        let mut recently = souk.users_as(&again.access_token);
        recently.set_user_roles(roles).await.unwrap();
        assert_eq!(recently.update_user(email("new@example.com")).await.unwrap().into_inner().email, "new@example.com");
        souk.sessions_as(&again.access_token).end_session(end_one).await.unwrap();
        let password = ChangePasswordRequest {
            name: me.name.clone(),
            current_password: PASSWORD.into(),
            new_password: "another horse battery".into(),
        };
        users.change_password(password).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_decides_what_is_recent() {
    for (setting, open) in [("2h", true), ("0s", true), ("59m", false)] {
        for souk in both_with(&[("SOUK_AUTH__RECENT_LOG_IN", setting)]).await {
            souk.register("ann@example.com").await;
            let old = an_hour_later(&souk, "ann@example.com").await;
            let end_all = EndSessionsRequest { parent: name(&old), keep_current: false };
            let ended = souk.sessions_as(&old.access_token).end_sessions(end_all).await;
            match open {
                true => assert_eq!(ended.unwrap().into_inner().ended_count, 1, "{setting}"),
                false => drop(refused(ended, Reason::ReauthenticationRequired)),
            }
        }
    }
}
