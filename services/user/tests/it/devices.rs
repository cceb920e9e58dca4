//! The list of an account's open sessions: what it shows, who sees it, and how sessions are ended from it.

use chrono::{DateTime, TimeDelta, Utc};
use souk_common::{
    auth::Role,
    client_details::ClientDetails,
    error::Reason,
    ids::{SessionId, UserId},
};
use souk_proto::user::v1::{
    EndSessionRequest, EndSessionsRequest, GetMeRequest, ListSessionsRequest, LogInRequest, RefreshSessionRequest,
    Session, UserSession,
};
use souk_user::{
    domain::{session::Lifetime, token::RefreshToken},
    store::Opening,
};
use tonic::{Code, Request, Status};

use crate::harness::{MONTHS, PASSWORD, Service, both, both_with, fields, id, name, refused};

/// Puts the headers on a request that a gateway puts there.
fn from<T>(message: T, address: &str, agent: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-souk-client-address", address.parse().unwrap());
    request.metadata_mut().insert("x-souk-client-agent", agent.parse().unwrap());
    request
}

async fn log_in_from(service: &Service, email: &str, address: &str, agent: &str) -> Session {
    let message = LogInRequest { email: email.into(), password: PASSWORD.into(), ..LogInRequest::default() };
    service.sessions().log_in(from(message, address, agent)).await.unwrap().into_inner()
}

/// All open sessions of an account, read in pages of this size.
async fn list(service: &Service, token: &str, parent: &str, page_size: i32) -> Result<Vec<UserSession>, Status> {
    let (mut sessions, mut listed) = (service.sessions_as(token), Vec::new());
    let mut request = ListSessionsRequest { parent: parent.to_owned(), page_size, page_token: String::new() };
    loop {
        let page = sessions.list_sessions(request.clone()).await?.into_inner();
        assert!(page_size == 0 || page.sessions.len() <= page_size as usize);
        listed.extend(page.sessions);
        if page.next_page_token.is_empty() {
            return Ok(listed);
        }
        request.page_token = page.next_page_token;
    }
}

async fn end(service: &Service, token: &str, name: &str) -> Result<(), Status> {
    service.sessions_as(token).end_session(EndSessionRequest { name: name.to_owned() }).await.map(drop)
}

async fn end_all(service: &Service, token: &str, parent: &str, keep_current: bool) -> Result<i64, Status> {
    let request = EndSessionsRequest { parent: parent.to_owned(), keep_current };
    Ok(service.sessions_as(token).end_sessions(request).await?.into_inner().ended_count)
}

async fn works(service: &Service, session: &Session) -> bool {
    let known = service.users_as(&session.access_token).get_me(GetMeRequest {}).await;
    let refreshed = service.refresh(&session.refresh_token).await;
    match (known, refreshed) {
        (Ok(_), Ok(_)) => true,
        (known, refreshed) => {
            refused(known, Reason::TokenInvalid);
            refused(refreshed, Reason::TokenInvalid);
            false
        }
    }
}

fn time(timestamp: Option<prost_types::Timestamp>) -> DateTime<Utc> {
    let timestamp = timestamp.unwrap();
    DateTime::from_timestamp(timestamp.seconds, timestamp.nanos as u32).unwrap()
}

/// A session whose user logged in at this time.
async fn logged_in_at(service: &Service, email: &str, now: DateTime<Utc>, lifetime: Lifetime) -> RefreshToken {
    let (user, hash) = service.store.user_by_email(email).await.unwrap().unwrap();
    let (token, hash) = (RefreshToken::random().unwrap(), hash.unwrap());
    let opening = Opening { scope: None, token, now, lifetime, client: ClientDetails::default() };
    service.store.begin_session(&user, &hash, &hash, opening).await.unwrap().token
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_shows_each_open_session_with_its_device() {
    for souk in both().await {
        let user = souk.register("ann@example.com").await;
        let begin = Utc::now();
        let phone = log_in_from(&souk, "ann@example.com", "192.0.2.1", "Phone/1.0").await;
        let laptop = log_in_from(&souk, "ann@example.com", "2001:db8::5", &"x".repeat(300)).await;
        let gone = souk.log_in("ann@example.com", PASSWORD).await.unwrap();
        let program = LogInRequest {
            email: "ann@example.com".into(),
            password: PASSWORD.into(),
            scopes: vec!["users.read".into(), "sessions.read".into()],
        };
        let program = souk.sessions().log_in(program).await.unwrap().into_inner();
        souk.sessions()
            .log_out(souk_proto::user::v1::LogOutRequest { refresh_token: gone.refresh_token })
            .await
            .unwrap();
        // Neither the sessions of others nor those that have expired.
        souk.customer("bo@example.com").await;
        logged_in_at(&souk, "ann@example.com", begin - TimeDelta::days(31), MONTHS).await;

        for page_size in [0, 1, 2] {
            let listed = list(&souk, &laptop.access_token, &user.name, page_size).await.unwrap();
            let agents: Vec<_> = listed.iter().skip(1).map(|session| session.user_agent.clone()).collect();
            assert_eq!(agents, ["x".repeat(200), "Phone/1.0".to_owned()]);
            let addresses: Vec<_> = listed.iter().map(|session| session.client_address.as_str()).collect();
            // The test itself is the client that calls without a gateway.
            assert_eq!(addresses, ["127.0.0.1", "2001:db8::5", "192.0.2.1"]);
            assert!(listed[0].user_agent.starts_with("tonic/"), "{listed:?}");
            assert_eq!(listed.iter().map(|session| session.current).collect::<Vec<_>>(), [false, true, false]);
            assert_eq!(listed[0].scopes, ["users.read", "sessions.read"]);
            assert!(listed[1].scopes.is_empty());
            for session in &listed {
                let (created, expires) = (time(session.create_time), time(session.expire_time));
                assert!(created >= begin - TimeDelta::seconds(1) && created <= Utc::now());
                assert_eq!((time(session.last_use_time), expires - created), (created, TimeDelta::days(30)));
                assert!(session.name.starts_with(&format!("{}/sessions/ses_", user.name)));
            }
        }

        // A refresh is a use, from where it comes. The program that logged in stays the same.
        let refresh = RefreshSessionRequest { refresh_token: phone.refresh_token };
        souk.sessions().refresh_session(from(refresh, "198.51.100.9", "Other/2.0")).await.unwrap();
        let listed = list(&souk, &program.access_token, &user.name, 0).await.unwrap();
        let phone = listed.last().unwrap();
        assert_eq!((phone.client_address.as_str(), phone.user_agent.as_str()), ("198.51.100.9", "Phone/1.0"));
        assert!(time(phone.last_use_time) > time(phone.create_time));
        assert!(time(phone.expire_time) > time(phone.create_time) + TimeDelta::days(30));
        assert!(listed[0].current);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_stable_pages_and_refuses_others_tokens() {
    for souk in both().await {
        let ann = souk.customer("ann@example.com").await;
        for _ in 0..4 {
            souk.log_in("ann@example.com", PASSWORD).await.unwrap();
        }
        let request = ListSessionsRequest { parent: name(&ann), page_size: 2, page_token: String::new() };
        let mut sessions = souk.sessions_as(&ann.access_token);
        let page = sessions.list_sessions(request.clone()).await.unwrap().into_inner();
        // What is newer is on no later page, and what has ended meanwhile is not either.
        souk.log_in("ann@example.com", PASSWORD).await.unwrap();
        end(&souk, &ann.access_token, &page.sessions[0].name).await.unwrap();
        let next = ListSessionsRequest { page_token: page.next_page_token.clone(), page_size: 500, ..request.clone() };
        let rest = sessions.list_sessions(next).await.unwrap().into_inner();
        assert_eq!((rest.sessions.len(), rest.next_page_token.as_str()), (3, ""));
        assert!(rest.sessions[2].current);

        let admin = souk.staff("admin@example.com", Role::Admin).await;
        let mut of_admin = souk.sessions_as(&admin.access_token);
        let other = ListSessionsRequest { parent: name(&admin), page_token: page.next_page_token, page_size: 0 };
        refused(of_admin.list_sessions(other).await, Reason::PageTokenInvalid);
        let wrong = ListSessionsRequest { page_token: "x".into(), ..request.clone() };
        refused(sessions.list_sessions(wrong).await, Reason::PageTokenInvalid);
        let negative = ListSessionsRequest { page_size: -1, ..request };
        assert_eq!(fields(&refused(sessions.list_sessions(negative).await, Reason::FieldInvalid)), ["page_size"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staff_see_sessions_and_administrators_end_them() {
    for souk in both().await {
        let owner = souk.customer("owner@example.com").await;
        let other = souk.customer("other@example.com").await;
        let staff = souk.staff("staff@example.com", Role::Staff).await;
        let admin = souk.staff("admin@example.com", Role::Admin).await;
        let parent = name(&owner);
        let own = list(&souk, &owner.access_token, &parent, 0).await.unwrap().remove(0);
        let seen = UserSession { current: false, ..own.clone() };
        for caller in [&staff, &admin] {
            assert_eq!(list(&souk, &caller.access_token, &parent, 0).await.unwrap(), std::slice::from_ref(&seen));
        }
        refused(list(&souk, &other.access_token, &parent, 0).await, Reason::AccessDenied);
        let nobody = UserId::new().name();
        refused(list(&souk, &admin.access_token, &nobody, 0).await, Reason::ResourceNotFound);
        for caller in [&other, &staff] {
            refused(end(&souk, &caller.access_token, &own.name).await, Reason::AccessDenied);
            refused(end_all(&souk, &caller.access_token, &parent, false).await, Reason::AccessDenied);
        }
        assert!(works(&souk, &owner).await);
        // A session of another account than the name says is not found, and goes on.
        let id = own.name.rsplit('/').next().unwrap();
        let elsewhere = format!("{}/sessions/{id}", name(&other));
        refused(end(&souk, &other.access_token, &elsewhere).await, Reason::ResourceNotFound);
        refused(end(&souk, &admin.access_token, &elsewhere).await, Reason::ResourceNotFound);
        assert!(souk.users_as(&owner.access_token).get_me(GetMeRequest {}).await.is_ok());
        refused(end_all(&souk, &admin.access_token, &nobody, false).await, Reason::ResourceNotFound);

        end(&souk, &admin.access_token, &own.name).await.unwrap();
        assert!(!works(&souk, &owner).await);
        let again = [0, 1].map(|_| souk.log_in("owner@example.com", PASSWORD));
        let again = futures::future::try_join_all(again).await.unwrap();
        // Nobody's current session is among them.
        assert_eq!(end_all(&souk, &admin.access_token, &parent, true).await.unwrap(), 2);
        assert!(!works(&souk, &again[0]).await && !works(&souk, &again[1]).await);
        assert!(works(&souk, &admin).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_ends_one_session_the_others_or_all() {
    for souk in both().await {
        let replica = Service::start(&souk.database, &[]).await;
        let here = souk.customer("ann@example.com").await;
        let there = souk.log_in("ann@example.com", PASSWORD).await.unwrap();
        let elsewhere = souk.log_in("ann@example.com", PASSWORD).await.unwrap();
        let parent = name(&here);
        let listed = list(&souk, &here.access_token, &parent, 0).await.unwrap();
        // Newest first: `there` is the second one.
        for _ in 0..2 {
            end(&souk, &here.access_token, &listed[1].name).await.unwrap();
        }
        assert!(!works(&replica, &there).await && works(&replica, &elsewhere).await);
        let unknown = format!("{parent}/sessions/{}", SessionId::new());
        let problem = refused(end(&souk, &here.access_token, &unknown).await, Reason::ResourceNotFound);
        assert_eq!(problem.code(), Code::NotFound);
        refused(end(&souk, &here.access_token, &format!("{parent}/sessions/x")).await, Reason::FieldInvalid);

        let third = souk.log_in("ann@example.com", PASSWORD).await.unwrap();
        assert_eq!(end_all(&replica, &here.access_token, &parent, true).await.unwrap(), 2);
        assert_eq!(end_all(&replica, &here.access_token, &parent, true).await.unwrap(), 0);
        assert!(!works(&souk, &elsewhere).await && !works(&souk, &third).await);
        let here = souk.refresh(&here.refresh_token).await.unwrap();
        let left = list(&souk, &here.access_token, &parent, 0).await.unwrap();
        assert_eq!(left.iter().map(|session| session.current).collect::<Vec<_>>(), [true]);
        assert_eq!(left[0].name, listed[2].name);

        // Also one's own.
        assert_eq!(end_all(&souk, &here.access_token, &parent, false).await.unwrap(), 1);
        assert!(!works(&souk, &here).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_limit_who_may_see_and_end_sessions() {
    for souk in both().await {
        let ann = souk.customer("ann@example.com").await;
        let limited = async |scope: &str| {
            let request =
                LogInRequest { email: "ann@example.com".into(), password: PASSWORD.into(), scopes: vec![scope.into()] };
            souk.sessions().log_in(request).await.unwrap().into_inner().access_token
        };
        let (reads, writes) = (limited("sessions.read").await, limited("sessions.write").await);
        let users = limited("users.write").await;
        let parent = name(&ann);
        let listed = list(&souk, &reads, &parent, 0).await.unwrap();
        for token in [&writes, &users] {
            refused(list(&souk, token, &parent, 0).await, Reason::ScopeMissing);
        }
        for token in [&reads, &users] {
            refused(end(&souk, token, &listed[0].name).await, Reason::ScopeMissing);
            refused(end_all(&souk, token, &parent, true).await, Reason::ScopeMissing);
        }
        assert_eq!(end_all(&souk, &writes, &parent, true).await.unwrap(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_long_after_its_log_in_however_often_it_is_used() {
    for souk in both_with(&[("SESSION_MAX_AGE", "90days")]).await {
        let user = souk.register("ann@example.com").await;
        let refresh = async |token: &RefreshToken, now: DateTime<Utc>, lifetime| {
            let salt = souk_user::domain::token::Salt::random().unwrap();
            let grace = TimeDelta::zero();
            let exchange = souk_user::store::Exchange { salt, now, lifetime, grace, client_address: None };
            souk.store.refresh_session(token, &exchange).await
        };
        let begin = souk_user::domain::now();
        let mut token = logged_in_at(&souk, "ann@example.com", begin, MONTHS).await;
        for days in [29, 58, 87] {
            let opened = refresh(&token, begin + TimeDelta::days(days), MONTHS).await.unwrap();
            assert_eq!(opened.session.expire_time, begin + TimeDelta::days((days + 30).min(90)));
            token = opened.token;
        }
        let error = refresh(&token, begin + TimeDelta::days(90), MONTHS).await.unwrap_err();
        refused::<()>(Err(error.into()), Reason::TokenExpired);

        // A shorter setting also ends sessions that began before it.
        let token = logged_in_at(&souk, "ann@example.com", begin, MONTHS).await;
        let shorter = Lifetime { absolute: TimeDelta::days(7), ..MONTHS };
        let error = refresh(&token, begin + TimeDelta::days(8), shorter).await.unwrap_err();
        refused::<()>(Err(error.into()), Reason::TokenExpired);

        // The last access token ends with the session.
        let nearly = Utc::now() - TimeDelta::days(90) + TimeDelta::minutes(3);
        let token =
            logged_in_at(&souk, "ann@example.com", nearly, Lifetime { idle: TimeDelta::days(99), ..MONTHS }).await;
        let last = souk.refresh(&token.expose()).await.unwrap();
        let seconds = last.expires_in.unwrap().seconds;
        assert!((60..=180).contains(&seconds), "{seconds}");
        let claims = crate::harness::claims(&last.access_token);
        let exp = claims["exp"].as_i64().unwrap();
        assert!((exp - (nearly + TimeDelta::days(90)).timestamp()).abs() <= 1, "{claims}");
        assert_eq!(last.user.as_ref().map(id), Some(id(&user)));
    }
}
