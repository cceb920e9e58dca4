//! Sessions: refresh, reuse, expiry and end.

use chrono::{TimeDelta, Utc};
use souk_common::{auth::Role, error::Reason};
use souk_proto::user::v1::{GetMeRequest, LogInRequest, LogOutRequest, UpdateUserRequest, User};
use souk_user::{
    admin,
    domain::{
        self,
        token::{RefreshToken, Salt},
        user::State,
    },
    error::Error,
    jobs,
    store::Exchange,
};
use tonic::Code;

use crate::harness::{MONTHS, PASSWORD, Service, both, both_with, name, refused};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_contains_what_a_client_needs() {
    for souk in both().await {
        let session = souk.customer("ann@example.com").await;
        assert_eq!(session.token_type, "Bearer");
        assert_eq!(session.expires_in.unwrap().seconds, 15 * 60);
        assert_eq!(session.refresh_token.len(), 43);
        souk.users_as(&session.access_token).get_me(GetMeRequest {}).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refresh_gives_the_next_token() {
    for souk in both().await {
        let mut session = souk.customer("ann@example.com").await;
        let owner = name(&session);
        let mut seen = vec![session.refresh_token.clone()];
        for _ in 0..5 {
            session = souk.refresh(&session.refresh_token).await.unwrap();
            assert_eq!(name(&session), owner);
            assert!(!seen.contains(&session.refresh_token));
            seen.push(session.refresh_token.clone());
            souk.users_as(&session.access_token).get_me(GetMeRequest {}).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_response_was_lost_gets_the_same_token_again() {
    for souk in both().await {
        let replica = Service::start(&souk.database, &[]).await;
        let first = souk.customer("ann@example.com").await;
        let lost = souk.refresh(&first.refresh_token).await.unwrap();
        for service in [&souk.service, &replica, &souk.service] {
            let again = service.refresh(&first.refresh_token).await.unwrap();
            assert_eq!((&again.refresh_token, name(&again)), (&lost.refresh_token, name(&first)));
            souk.users_as(&again.access_token).get_me(GetMeRequest {}).await.unwrap();
        }
        // The client continues with that token.
        let third = souk.refresh(&lost.refresh_token).await.unwrap();
        assert_ne!(third.refresh_token, lost.refresh_token);
        // A token whose successor is in use gets no further token, but ends nothing: the request may just be late.
        let problem = refused(souk.refresh(&first.refresh_token).await, Reason::Conflict);
        assert_eq!(problem.code(), Code::Aborted);
        souk.refresh(&third.refresh_token).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_reused_after_the_grace_time_counts_as_stolen() {
    for souk in both().await {
        let ann = souk.customer("ann@example.com").await;
        let (token, begin) = (RefreshToken::sent(ann.refresh_token), domain::now());
        let refresh = async |seconds| {
            let exchange = Exchange {
                salt: Salt::random().unwrap(),
                now: begin + TimeDelta::seconds(seconds),
                lifetime: MONTHS,
                grace: TimeDelta::seconds(30),
                client_address: None,
            };
            souk.store.refresh_session(&token, &exchange).await
        };
        let next = refresh(0).await.unwrap().token.expose();
        assert_eq!(refresh(30).await.unwrap().token.expose(), next);
        refused::<()>(Err(refresh(31).await.unwrap_err().into()), Reason::TokenInvalid);
        // Also with the token that the thief or the owner got for it.
        refused(souk.refresh(&next).await, Reason::TokenInvalid);
        refused::<()>(Err(refresh(5).await.unwrap_err().into()), Reason::TokenInvalid);
        refused(souk.users_as(&ann.access_token).get_me(GetMeRequest {}).await, Reason::TokenInvalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_salt_of_a_successor_is_deleted_after_the_grace_time() {
    for souk in both().await {
        let ann = souk.customer("ann@example.com").await;
        let lost = souk.refresh(&ann.refresh_token).await.unwrap();
        let month = TimeDelta::days(30);
        jobs::clean_sessions(souk.store.clone(), month, TimeDelta::minutes(1)).await.unwrap();
        assert_eq!(souk.refresh(&ann.refresh_token).await.unwrap().refresh_token, lost.refresh_token);
        jobs::clean_sessions(souk.store.clone(), month, TimeDelta::seconds(-1)).await.unwrap();
        refused(souk.refresh(&ann.refresh_token).await, Reason::Conflict);
        souk.refresh(&lost.refresh_token).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reused_token_ends_only_its_own_session() {
    for souk in both_with(&[("REFRESH_GRACE", "0s")]).await {
        let first = souk.customer("ann@example.com").await;
        let elsewhere = souk.log_in("ann@example.com", PASSWORD).await.unwrap();
        let second = souk.refresh(&first.refresh_token).await.unwrap();
        let problem = refused(souk.refresh(&first.refresh_token).await, Reason::TokenInvalid);
        assert_eq!(problem.code(), Code::Unauthenticated);
        assert!(problem.message().contains("used before"), "{problem}");
        for token in [&second.refresh_token, &first.refresh_token] {
            refused(souk.refresh(token).await, Reason::TokenInvalid);
        }
        souk.refresh(&elsewhere.refresh_token).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_refresh_token_is_refused() {
    for souk in both().await {
        for token in ["x", "é", &"x".repeat(256)] {
            refused(souk.refresh(token).await, Reason::TokenInvalid);
        }
        for token in ["", "a\0b", &"x".repeat(257)] {
            refused(souk.refresh(token).await, Reason::FieldInvalid);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_out_ends_the_session_whatever_token_of_it_is_sent() {
    for souk in both().await {
        let first = souk.customer("ann@example.com").await;
        let other = souk.log_in("ann@example.com", PASSWORD).await.unwrap();
        let second = souk.refresh(&first.refresh_token).await.unwrap();
        let log_out = |token: &str| {
            let request = LogOutRequest { refresh_token: token.to_owned() };
            let mut sessions = souk.sessions();
            async move { sessions.log_out(request).await }
        };
        // With a used token of the same session, and repeatedly.
        for token in [&first.refresh_token, &first.refresh_token, &"unknown".to_owned()] {
            log_out(token).await.unwrap();
        }
        refused(souk.refresh(&second.refresh_token).await, Reason::TokenInvalid);
        souk.refresh(&other.refresh_token).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_session_expires() {
    for souk in both().await {
        let ann = souk.customer("ann@example.com").await;
        let token = RefreshToken::sent(ann.refresh_token);
        let refresh = async |token: &RefreshToken, days| {
            let (salt, now) = (Salt::random().unwrap(), Utc::now() + TimeDelta::days(days));
            let exchange = Exchange { salt, now, lifetime: MONTHS, grace: TimeDelta::zero(), client_address: None };
            souk.store.refresh_session(token, &exchange).await
        };
        // After a use on day 29, it is valid for 30 more days.
        let next = refresh(&token, 29).await.unwrap().token;
        let last = refresh(&next, 58).await.unwrap().token;
        let error = refresh(&last, 89).await.unwrap_err();
        let problem = refused::<()>(Err(error.into()), Reason::TokenExpired);
        assert_eq!(problem.code(), Code::Unauthenticated);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_account_has_no_sessions_and_cannot_log_in() {
    for souk in both().await {
        let ann = souk.customer("ann@example.com").await;
        admin::set_state(&souk.config, "Ann@example.com", State::Disabled).await.unwrap().unwrap();
        refused(souk.refresh(&ann.refresh_token).await, Reason::TokenInvalid);
        let wrong = refused(souk.log_in("ann@example.com", "not the password").await, Reason::CredentialsInvalid);
        let right = refused(souk.log_in("ann@example.com", PASSWORD).await, Reason::CredentialsInvalid);
        assert_eq!(right.message(), wrong.message());
        admin::set_state(&souk.config, "ann@example.com", State::Active).await.unwrap().unwrap();
        souk.log_in("ann@example.com", PASSWORD).await.unwrap();
        refused(souk.refresh(&ann.refresh_token).await, Reason::TokenInvalid);

        assert!(admin::set_state(&souk.config, "nobody@example.com", State::Disabled).await.unwrap().is_none());
        souk.staff("admin@example.com", Role::Admin).await;
        let last = admin::set_state(&souk.config, "admin@example.com", State::Disabled).await;
        assert!(matches!(last, Err(Error::LastAdmin(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clean_up_deletes_only_ended_sessions() {
    for souk in both().await {
        let alive = souk.customer("ann@example.com").await;
        let next = souk.refresh(&alive.refresh_token).await.unwrap();
        let over = souk.log_in("ann@example.com", PASSWORD).await.unwrap();
        let request = LogOutRequest { refresh_token: over.refresh_token };
        souk.sessions().log_out(request).await.unwrap();
        assert_eq!(
            jobs::clean_sessions(souk.store.clone(), TimeDelta::days(30), TimeDelta::minutes(1)).await.unwrap(),
            0
        );

        let later = Utc::now() + TimeDelta::seconds(1);
        assert_eq!(souk.store.clean_sessions(later, later).await.unwrap(), 2);
        souk.refresh(&next.refresh_token).await.unwrap();
        // The used token was deleted, so it counts as unknown.
        refused(souk.refresh(&alive.refresh_token).await, Reason::TokenInvalid);
        souk.log_in("ann@example.com", PASSWORD).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_can_be_limited_to_scopes() {
    for souk in both().await {
        souk.register("ann@example.com").await;
        let log_in = async |scopes: &[&str]| {
            let request = LogInRequest {
                email: "ann@example.com".into(),
                password: PASSWORD.into(),
                scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            };
            souk.sessions().log_in(request).await.map(tonic::Response::into_inner)
        };
        let session = log_in(&["users.read", "orders.read"]).await.unwrap();
        assert_eq!(session.scopes, ["users.read", "orders.read"]);
        // The next token has the same scopes.
        let next = souk.refresh(&session.refresh_token).await.unwrap();
        assert_eq!(next.scopes, session.scopes);
        for token in [&session.access_token, &next.access_token] {
            souk.users_as(token).get_me(GetMeRequest {}).await.unwrap();
            let user = User { name: name(&session), display_name: "New".into(), ..User::default() };
            let update = UpdateUserRequest { user: Some(user), update_mask: None };
            let problem = refused(souk.users_as(token).update_user(update).await, Reason::ScopeMissing);
            assert_eq!(problem.code(), Code::PermissionDenied);
        }
        for scopes in [&["users.read", "users.read"][..], &["Users"], &["users read"], &[""]] {
            refused(log_in(scopes).await, Reason::FieldInvalid);
        }
        assert!(souk.log_in("ann@example.com", PASSWORD).await.unwrap().scopes.is_empty());
    }
}
