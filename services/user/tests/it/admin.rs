//! What the command line does with accounts.

use souk_common::error::Reason;
use souk_proto::user::v1::ListUsersRequest;
use souk_testkit::db::{Engine, database};
use souk_user::{admin, error::Error};

use crate::harness::{PASSWORD, Service, both, config, refused};

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_is_created_with_a_given_or_a_generated_password() {
    for souk in both().await {
        let made = admin::create_admin(&souk.config, " Root@Example.com", None).await.unwrap();
        let password = made.password.clone().unwrap();
        assert!(!format!("{made:?}").contains(&password));
        assert_eq!(password.len(), 24);
        let session = souk.log_in("root@example.com", &password).await.unwrap();
        souk.users_as(&session.access_token).list_users(ListUsersRequest::default()).await.unwrap();

        let chosen = Some(PASSWORD.to_owned());
        let made = admin::create_admin(&souk.config, "second@example.com", chosen).await.unwrap();
        assert!(made.password.is_none());
        let session = souk.log_in("second@example.com", PASSWORD).await.unwrap();
        assert_eq!(session.user.unwrap().name, made.user.name());

        let taken = admin::create_admin(&souk.config, "second@example.com", None).await;
        assert!(matches!(taken, Err(Error::EmailTaken)));
        let short = admin::create_admin(&souk.config, "third@example.com", Some("short".to_owned())).await;
        assert!(matches!(short, Err(Error::Invalid { path, .. }) if path == "password"));
        let nonsense = admin::create_admin(&souk.config, "nonsense", None).await;
        assert!(matches!(nonsense, Err(Error::Invalid { path, .. }) if path == "email"));
        refused(souk.log_in("third@example.com", "short").await, Reason::CredentialsInvalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_administrator_is_created_once() {
    for souk in both().await {
        souk.register("customer@example.com").await;
        let made = admin::ensure_admin(&souk.config, "admin@souk.example").await.unwrap().unwrap();
        souk.log_in("admin@souk.example", &made).await.unwrap();
        for email in ["admin@souk.example", "other@souk.example"] {
            assert!(admin::ensure_admin(&souk.config, email).await.unwrap().is_none());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_migrates_a_fresh_database() {
    for engine in Engine::ALL {
        let database = database(engine, "user").await;
        let config = config(&database, &[]);
        let kid = souk_user::rotate_key(&config).await.unwrap();
        assert_ne!(souk_user::rotate_key(&config).await.unwrap(), kid);
        souk_user::migrate(&config).await.unwrap();
        let password = souk_user::ensure_admin(&config, "admin@souk.example").await.unwrap().unwrap();
        let service = Service::start(&database, &[]).await;
        service.log_in("admin@souk.example", &password).await.unwrap();
    }
}
