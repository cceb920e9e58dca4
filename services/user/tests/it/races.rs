//! Concurrent requests at two replicas of the service.

use std::sync::Arc;

use futures::future::join_all;
use souk_common::{
    auth::{Role, Roles},
    error::{Problem, Reason},
};
use souk_proto::user::v1::{
    ChangePasswordRequest, CreateUserRequest, GetJsonWebKeySetRequest, GetMeRequest, ListUsersRequest, LogOutRequest,
    RegisterRequest, SetUserRolesRequest, UpdateUserRequest, User,
};
use souk_testkit::db::{Engine, database};
use souk_user::{
    domain::{
        self,
        email::Email,
        now,
        update::{Change, Rights, Values},
    },
    error::Error,
    store::Actor,
};
use tokio::sync::Barrier;
use tonic::Status;

use crate::harness::{PASSWORD, Service, both, id, name, refused};

/// Starts all futures at the same moment. Returns their results.
async fn together<T, F>(work: impl IntoIterator<Item = F>) -> Vec<Result<T, Status>>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Status>> + Send + 'static,
{
    let work: Vec<_> = work.into_iter().collect();
    let barrier = Arc::new(Barrier::new(work.len()));
    let tasks = work.into_iter().map(|work| {
        let barrier = barrier.clone();
        tokio::spawn(async move {
            barrier.wait().await;
            work.await
        })
    });
    join_all(tasks).await.into_iter().map(Result::unwrap).collect()
}

fn reasons<T>(results: &[Result<T, Status>]) -> Vec<Reason> {
    results.iter().filter_map(|result| Some(Problem::from(result.as_ref().err()?.clone()).reason())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_registrations_with_one_email_one_succeeds() {
    for souk in both().await {
        let replica = Service::start(&souk.database, &[]).await;
        let attempts = (0..16).map(|at| {
            let mut users = if at % 2 == 0 { souk.users() } else { replica.users() };
            let email = if at % 3 == 0 { "ANN@example.com" } else { "ann@example.com" };
            let request =
                RegisterRequest { email: email.into(), password: PASSWORD.into(), display_name: at.to_string() };
            async move { users.register(request).await }
        });
        let results = together(attempts).await;
        assert_eq!(reasons(&results), [Reason::ResourceExists; 15], "{}", souk.database.engine);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_refreshes_with_one_token_get_the_same_next_token() {
    for souk in both().await {
        let replica = Service::start(&souk.database, &[]).await;
        let mut session = souk.customer("ann@example.com").await;
        for round in 0..3 {
            let attempts = (0..50).map(|at| {
                let mut sessions = if at % 2 == 0 { souk.sessions() } else { replica.sessions() };
                let request =
                    souk_proto::user::v1::RefreshSessionRequest { refresh_token: session.refresh_token.clone() };
                async move { sessions.refresh_session(request).await }
            });
            let results = together(attempts).await;
            assert_eq!(reasons(&results), [], "{} round {round}", souk.database.engine);
            let sessions: Vec<_> = results.into_iter().map(|result| result.unwrap().into_inner()).collect();
            assert!(sessions.iter().all(|one| one.refresh_token == sessions[0].refresh_token));
            assert_ne!(sessions[0].refresh_token, session.refresh_token);
            session = sessions[0].clone();
            souk.users_as(&session.access_token).get_me(GetMeRequest {}).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_during_a_refresh_has_ended() {
    for souk in both().await {
        for round in 0..10 {
            let session = souk.customer(&format!("ann-{round}@example.com")).await;
            let mut users = souk.users_as(&session.access_token);
            let mut sessions = souk.sessions();
            let request = ChangePasswordRequest {
                name: name(&session),
                current_password: PASSWORD.into(),
                new_password: "another horse battery".into(),
            };
            let log_out = LogOutRequest { refresh_token: session.refresh_token.clone() };
            let ended = tokio::spawn(async move {
                if round % 2 == 0 {
                    users.change_password(request).await.map(drop)
                } else {
                    sessions.log_out(log_out).await.map(drop)
                }
            });
            let refreshed = souk.refresh(&session.refresh_token).await;
            ended.await.unwrap().unwrap();
            if let Ok(next) = refreshed {
                refused(souk.refresh(&next.refresh_token).await, Reason::TokenInvalid);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_demotions_of_all_administrators_leave_one() {
    for souk in both().await {
        let replica = Service::start(&souk.database, &[]).await;
        let mut admins = vec![souk.staff("chief@example.com", Role::Admin).await.user.unwrap()];
        for round in 0..3 {
            for at in 0..7 {
                let session = souk.staff(&format!("admin-{round}-{at}@example.com"), Role::Admin).await;
                admins.push(session.user.unwrap());
            }
            let attempts = admins.iter().enumerate().map(|(at, admin)| {
                let store = if at % 2 == 0 { souk.store.clone() } else { replica.store.clone() };
                let id = id(admin);
                async move {
                    let gone = store.set_roles(Actor::Operator, id, "", Roles::default(), now()).await;
                    gone.map_err(Status::from)
                }
            });
            let results = together(attempts).await;
            assert_eq!(reasons(&results), [Reason::StateConflict], "{} round {round}", souk.database.engine);
            admins = vec![admins.swap_remove(results.iter().position(Result::is_err).unwrap())];
        }
    }
}

/// While an administrator is demoted, they try to restore their role in every possible way.
#[tokio::test(flavor = "multi_thread")]
async fn a_demoted_administrator_cannot_restore_the_role() {
    for souk in both().await {
        let replica = Service::start(&souk.database, &[]).await;
        let chief = souk.staff("chief@example.com", Role::Admin).await;
        for round in 0..8 {
            let mallory = souk.staff(&format!("mallory-{round}@example.com"), Role::Admin).await;
            let friend = souk.customer(&format!("friend-{round}@example.com")).await;
            let roles = |name: String, roles: Vec<i32>| SetUserRolesRequest { name, roles, etag: String::new() };
            let attempts = (0..9).map(|at| {
                let service = if at % 2 == 0 { &souk.service } else { &replica };
                let (who, request) = match at {
                    4 => (&chief, roles(name(&mallory), vec![])),
                    _ => (&mallory, roles(name(&mallory), vec![2])),
                };
                let mut users = service.users_as(&who.access_token);
                async move { users.set_user_roles(request).await }
            });
            let results = together(attempts).await;
            results[4].as_ref().unwrap();
            let after = souk.store.user(id(mallory.user.as_ref().unwrap())).await.unwrap();
            assert_eq!(after.roles, Roles::default(), "{} round {round}", souk.database.engine);
            // A request that was admitted before the roles changed, and reaches the database afterwards.
            let (user, store) = (id(mallory.user.as_ref().unwrap()), &souk.store);
            let late = Actor::Holder { user, role: Role::Admin };
            let admin = Roles::from_iter([Role::Admin]);
            let new = domain::user::User::new(Email::parse("x@example.com").unwrap(), "".into(), "".into(), now());
            let change = Change::read(&[], Values { display_name: "X".into(), ..Values::default() }, true).unwrap();
            let rights = Rights { staff: true, recent_log_in: true };
            let results = [
                store.set_roles(late, user, "", admin, now()).await.map(drop),
                store.create_user(late, &new, None).await,
                store.update_user(late, id(friend.user.as_ref().unwrap()), "", &change, rights, now()).await.map(drop),
            ];
            assert!(results.iter().all(|result| matches!(result, Err(Error::NoLonger(Role::Admin)))), "{results:?}");
            for service in [&souk.service, &replica] {
                let mut users = service.users_as(&mallory.access_token);
                let again = users.set_user_roles(roles(name(&mallory), vec![2])).await;
                refused(again, Reason::TokenInvalid);
                refused(users.set_user_roles(roles(name(&friend), vec![2])).await, Reason::TokenInvalid);
                let user = User { email: "another@example.com".into(), ..User::default() };
                refused(users.create_user(CreateUserRequest { user: Some(user) }).await, Reason::TokenInvalid);
                refused(users.list_users(ListUsersRequest::default()).await, Reason::TokenInvalid);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_updates_with_one_etag_one_succeeds() {
    for souk in both().await {
        let replica = Service::start(&souk.database, &[]).await;
        let ann = souk.customer("ann@example.com").await;
        let attempts = (0..12).map(|at| {
            let service = if at % 2 == 0 { &souk.service } else { &replica };
            let mut users = service.users_as(&ann.access_token);
            let user = User { display_name: at.to_string(), ..ann.user.clone().unwrap() };
            async move { users.update_user(UpdateUserRequest { user: Some(user), update_mask: None }).await }
        });
        let results = together(attempts).await;
        assert_eq!(reasons(&results), [Reason::EtagMismatch; 11], "{}", souk.database.engine);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_together_sign_with_one_key() {
    for engine in Engine::ALL {
        let database = database(engine, "user").await;
        let replicas = join_all((0..6).map(|_| Service::start(&database, &[]))).await;
        let mut keys = Vec::new();
        for replica in &replicas {
            let set = replica.sessions().get_json_web_key_set(GetJsonWebKeySetRequest {}).await.unwrap();
            keys.extend(set.into_inner().keys.into_iter().map(|key| key.kid));
        }
        assert_eq!(keys.len(), replicas.len());
        keys.dedup();
        assert_eq!(keys.len(), 1, "{engine}");
        for replica in replicas {
            replica.stop().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_attempts_create_one_first_administrator() {
    for souk in both().await {
        let made = join_all((0..6).map(|_| souk_user::ensure_admin(&souk.config, "admin@souk.example"))).await;
        let passwords: Vec<_> = made.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(passwords.len(), 1, "{}", souk.database.engine);
        souk.log_in("admin@souk.example", &passwords[0]).await.unwrap();
    }
}
