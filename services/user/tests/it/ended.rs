//! Ended sessions: their access tokens are refused, and services that check tokens can list them.

use std::str::FromStr;

use chrono::{TimeDelta, Utc};
use souk_common::{
    auth::{Role, ServiceTokens},
    config::Secret,
    error::Reason,
    ids::SessionId,
};
use souk_proto::user::v1::{
    ChangePasswordRequest, GetMeRequest, ListEndedSessionsRequest, ListEndedSessionsResponse, LogOutRequest, Session,
    SetUserRolesRequest, session_service_client::SessionServiceClient,
};
use souk_user::{admin, domain::user::State, store::Exchange};
use tonic::{Request, Status};

use crate::harness::{MONTHS, PASSWORD, Service, both, claims, fields, id, name, refused};

/// The id of the session in its access token.
fn sid(session: &Session) -> String {
    claims(&session.access_token)["sid"].as_str().unwrap().to_owned()
}

/// Lists ended sessions as another service.
async fn list(service: &Service, cursor: &str, page_size: i32) -> Result<ListEndedSessionsResponse, Status> {
    let tokens = ServiceTokens::new(&Secret::new("0123456789abcdef0123456789abcdef"), "order");
    let mut request = Request::new(ListEndedSessionsRequest { cursor: cursor.to_owned(), page_size });
    let bearer = tokens.bearer("souk.user.v1.SessionService").unwrap().to_str().unwrap().parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    Ok(SessionServiceClient::new(service.channel()).list_ended_sessions(request).await?.into_inner())
}

fn ids(response: &ListEndedSessionsResponse) -> Vec<&str> {
    response.sessions.iter().map(|ended| ended.session_id.as_str()).collect()
}

/// However a session ends, its access tokens are refused: here at once, and the list has the session. Tokens of other
/// accounts, and tokens that were issued a moment later, stay valid.
#[tokio::test(flavor = "multi_thread")]
async fn access_tokens_are_refused_once_their_session_ended() {
    for souk in both().await {
        let replica = Service::start(&souk.database, &[]).await;
        let admin = souk.staff("admin@example.com", Role::Admin).await;
        let bystander = souk.customer("bo@example.com").await;
        souk.register("ann@example.com").await;
        let mut ended = Vec::new();
        for way in ["log out", "password", "roles", "state", "reuse"] {
            let here = souk.log_in("ann@example.com", PASSWORD).await.unwrap();
            let there = souk.log_in("ann@example.com", PASSWORD).await.unwrap();
            let mut gone = vec![&here, &there];
            match way {
                "log out" => {
                    gone.truncate(1);
                    let request = LogOutRequest { refresh_token: here.refresh_token.clone() };
                    souk.sessions().log_out(request).await.unwrap();
                    souk.users_as(&there.access_token).get_me(GetMeRequest {}).await.unwrap();
                }
                "password" => {
                    let request = ChangePasswordRequest {
                        name: name(&here),
                        current_password: PASSWORD.into(),
                        new_password: PASSWORD.into(),
                    };
                    souk.users_as(&here.access_token).change_password(request).await.unwrap();
                }
                "roles" => {
                    let request = SetUserRolesRequest { name: name(&here), roles: vec![1], etag: String::new() };
                    souk.users_as(&admin.access_token).set_user_roles(request).await.unwrap();
                }
                "state" => {
                    for state in [State::Disabled, State::Active] {
                        admin::set_state(&souk.config, "ann@example.com", state).await.unwrap().unwrap();
                    }
                }
                _ => {
                    gone.truncate(1);
                    let session = SessionId::from_str(&sid(&here)).unwrap();
                    let long_ago = Utc::now() - TimeDelta::hours(1);
                    // As if the token had been exchanged an hour ago.
                    let token = souk_user::domain::token::RefreshToken::sent(here.refresh_token.clone());
                    let exchange = Exchange {
                        salt: souk_user::domain::token::Salt::random().unwrap(),
                        now: long_ago,
                        lifetime: MONTHS,
                        grace: TimeDelta::zero(),
                        client_address: None,
                    };
                    let exchanged = souk.store.refresh_session(&token, &exchange).await.unwrap();
                    assert_eq!(exchanged.session.id, session);
                    refused(souk.refresh(&here.refresh_token).await, Reason::TokenInvalid);
                }
            }
            for session in gone {
                for service in [&souk.service, &replica] {
                    let result = service.users_as(&session.access_token).get_me(GetMeRequest {}).await;
                    let problem = refused(result, Reason::TokenInvalid);
                    assert!(problem.message().contains("session of this token has ended"), "{way}: {problem}");
                }
                ended.push(sid(session));
            }
            // In the same second.
            let next = souk.log_in("ann@example.com", PASSWORD).await.unwrap();
            souk.users_as(&next.access_token).get_me(GetMeRequest {}).await.unwrap();
            assert_eq!(next.user.as_ref().map(id), here.user.as_ref().map(id));
        }
        for service in [&souk.service, &replica] {
            let told = list(service, "", 0).await.unwrap();
            let (mut told, mut expected) = (ids(&told), ended.iter().map(String::as_str).collect::<Vec<_>>());
            told.sort_unstable();
            // The change of the password ended other sessions, too.
            expected.sort_unstable();
            let missing: Vec<_> = expected.iter().filter(|session| !told.contains(session)).collect();
            assert!(missing.is_empty(), "{missing:?} of {told:?}");
            assert!(!told.contains(&sid(&bystander).as_str()) && !told.contains(&sid(&admin).as_str()));
        }
        souk.users_as(&bystander.access_token).get_me(GetMeRequest {}).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_sessions_are_listed_in_pages_then_incrementally() {
    for souk in both().await {
        let log_out = async |session: &Session| {
            let request = LogOutRequest { refresh_token: session.refresh_token.clone() };
            souk.sessions().log_out(request).await.unwrap();
        };
        souk.register("ann@example.com").await;
        let mut expected = Vec::new();
        for _ in 0..5 {
            let session = souk.log_in("ann@example.com", PASSWORD).await.unwrap();
            log_out(&session).await;
            expected.push(sid(&session));
        }
        let (mut told, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = list(&souk, &cursor, 2).await.unwrap();
            told.extend(page.sessions.iter().map(|ended| ended.session_id.clone()));
            cursor = page.cursor;
            if !page.more {
                break;
            }
        }
        assert_eq!(told, expected);
        let expiry = list(&souk, "", 0).await.unwrap().sessions[0].token_expire_time.unwrap();
        // 15 minutes, and one minute for clocks that differ.
        assert!((expiry.seconds - Utc::now().timestamp() - 16 * 60).abs() < 60, "{expiry:?}");

        let next = souk.log_in("ann@example.com", PASSWORD).await.unwrap();
        log_out(&next).await;
        let page = list(&souk, &cursor, 0).await.unwrap();
        assert!(ids(&page).contains(&sid(&next).as_str()));
        // A session that ended so long ago that no access token of it is valid is not listed.
        let ago = Utc::now() - TimeDelta::minutes(17);
        let old = souk.log_in("ann@example.com", PASSWORD).await.unwrap();
        let token = souk_user::domain::token::RefreshToken::sent(old.refresh_token.clone());
        souk.store.end_session(&token, ago).await.unwrap();
        let page = list(&souk, "", 0).await.unwrap();
        assert!(!ids(&page).contains(&sid(&old).as_str()) && ids(&page).contains(&sid(&next).as_str()));

        let problem = refused(list(&souk, "nonsense", 0).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["cursor"]);
        // Only services may list them.
        let request = ListEndedSessionsRequest::default();
        refused(souk.sessions().list_ended_sessions(request).await, Reason::AccessDenied);
    }
}
