//! Log-in and changes of passwords.

use std::time::{Duration, Instant};

use souk_common::error::Reason;
use souk_proto::user::v1::{ChangePasswordRequest, RegisterRequest};
use souk_user::{
    admin,
    domain::{
        email::Email,
        now,
        password::{Cost, Hash, Password},
        user::User,
    },
    store::Actor,
};
use tonic::Code;

use crate::harness::{PASSWORD, Service, both, both_with, fields, id, name, refused};

const NEW: &str = "another horse battery";

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_an_unknown_email_and_an_invalid_email_have_the_same_error() {
    for souk in both().await {
        souk.register("ann@example.com").await;
        let mut answers = Vec::new();
        for (email, password) in
            [("ann@example.com", "not the password"), ("nobody@example.com", PASSWORD), ("nonsense", PASSWORD)]
        {
            let problem = refused(souk.log_in(email, password).await, Reason::CredentialsInvalid);
            assert_eq!(problem.code(), Code::Unauthenticated);
            answers.push(problem.message().to_owned());
        }
        answers.dedup();
        assert_eq!(answers.len(), 1);
    }
}

async fn log_in_time(souk: &Service, email: &str) -> Duration {
    let start = Instant::now();
    refused(souk.log_in(email, "not the password").await, Reason::CredentialsInvalid);
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_email_takes_as_long_as_a_wrong_password() {
    for souk in both_with(&[("HASHING__MEMORY", "32MiB"), ("HASHING__ITERATIONS", "3")]).await {
        souk.register("ann@example.com").await;
        let mut fastest = [Duration::MAX; 3];
        // The fastest of several tries is the time of the work itself. A busy machine needs more tries.
        let alike = loop_until(40, async || {
            for (at, email) in ["ann@example.com", "nobody@example.com", "nonsense"].into_iter().enumerate() {
                fastest[at] = fastest[at].min(log_in_time(&souk, email).await);
            }
            let known = fastest[0].as_secs_f64();
            fastest.iter().all(|time| (0.67..1.5).contains(&(time.as_secs_f64() / known)))
        })
        .await;
        assert!(alike, "known, unknown, nonsense: {fastest:?}");
    }
}

/// Repeats a check at least three times until it holds, and at most `most` times. Returns whether it held.
async fn loop_until(most: usize, mut holds: impl AsyncFnMut() -> bool) -> bool {
    for tries in 1..=most {
        if holds().await && tries >= 3 {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_of_another_cost_is_replaced_at_log_in() {
    for souk in both().await {
        let user = souk.register("ann@example.com").await;
        let stored = async || souk.store.password_hash(id(&user)).await.unwrap().unwrap();
        let before = stored().await;
        souk.log_in("ann@example.com", PASSWORD).await.unwrap();
        assert_eq!(stored().await, before);

        let dearer = Service::start(&souk.database, &[("HASHING__ITERATIONS", "2")]).await;
        refused(dearer.log_in("ann@example.com", "not the password").await, Reason::CredentialsInvalid);
        assert_eq!(stored().await, before);
        let session = dearer.log_in("ann@example.com", PASSWORD).await.unwrap();
        assert!(stored().await.as_str().contains(",t=2,"), "{}", stored().await.as_str());
        // The client sees no difference.
        assert_eq!(session.user.unwrap(), user);
        dearer.log_in("ann@example.com", PASSWORD).await.unwrap();
        assert!(Cost::new(64, 2, 1).unwrap().verify(&Password::typed(PASSWORD.into()), Some(&stored().await)).is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_replaces_the_old_one_and_ends_every_session() {
    for souk in both().await {
        let here = souk.customer("ann@example.com").await;
        let there = souk.log_in("ann@example.com", PASSWORD).await.unwrap();
        let bystander = souk.customer("bo@example.com").await;
        let request =
            ChangePasswordRequest { name: name(&here), current_password: PASSWORD.into(), new_password: NEW.into() };
        let mut users = souk.users_as(&here.access_token);
        let after = users.change_password(request.clone()).await.unwrap().into_inner();
        assert_ne!(after.etag, here.user.unwrap().etag);

        refused(souk.log_in("ann@example.com", PASSWORD).await, Reason::CredentialsInvalid);
        let again = souk.log_in("ann@example.com", NEW).await.unwrap();
        for token in [&here.refresh_token, &there.refresh_token] {
            refused(souk.refresh(token).await, Reason::TokenInvalid);
        }
        souk.refresh(&bystander.refresh_token).await.unwrap();

        refused(users.change_password(request.clone()).await, Reason::TokenInvalid);
        let mut users = souk.users_as(&again.access_token);
        let problem = refused(users.change_password(request.clone()).await, Reason::CredentialsInvalid);
        assert_eq!(fields(&problem), ["current_password"]);
        let short = ChangePasswordRequest { new_password: "short".into(), ..request };
        assert_eq!(fields(&refused(users.change_password(short).await, Reason::FieldInvalid)), ["new_password"]);
    }
}

/// "grüße aus köln" as Windows and Android send it, and as a Mac may send it.
const COMPOSED: &str = "gr\u{fc}\u{df}e aus k\u{f6}ln";
const DECOMPOSED: &str = "gru\u{308}\u{df}e aus ko\u{308}ln";
/// With the no-break space that a Mac types with the option key.
const SPACED: &str = "gr\u{fc}\u{df}e\u{a0}aus k\u{f6}ln";

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_the_same_in_every_unicode_form() {
    for souk in both().await {
        for (at, typed) in [COMPOSED, DECOMPOSED, SPACED].into_iter().enumerate() {
            let email = format!("ann-{at}@example.com");
            let request =
                RegisterRequest { email: email.clone(), password: typed.to_owned(), display_name: String::new() };
            souk.users().register(request).await.unwrap();
            for typed in [COMPOSED, DECOMPOSED, SPACED] {
                // Also in a change of the password, with another Unicode form.
                for (current_password, new_password) in [(typed, DECOMPOSED), (COMPOSED, COMPOSED)] {
                    let session = souk.log_in(&email, current_password).await.unwrap();
                    let request = ChangePasswordRequest {
                        name: name(&session),
                        current_password: current_password.into(),
                        new_password: new_password.into(),
                    };
                    souk.users_as(&session.access_token).change_password(request).await.unwrap();
                }
            }
            refused(souk.log_in(&email, &COMPOSED.to_uppercase()).await, Reason::CredentialsInvalid);
        }
        // Also for passwords from the command line.
        let made = admin::create_admin(&souk.config, "admin@example.com", Some(DECOMPOSED.into())).await.unwrap();
        assert!(made.password.is_none());
        souk.log_in("admin@example.com", COMPOSED).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_of_an_unnormalised_password_is_valid_and_replaced() {
    for souk in both().await {
        let user = User::new(Email::parse("ann@example.com").unwrap(), String::new(), String::new(), now());
        let params = argon2::Params::new(64, 1, 1, None).unwrap();
        let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let raw = argon2::PasswordHasher::hash_password(&argon2, DECOMPOSED.as_bytes()).unwrap().to_string();
        let raw = Hash::stored(raw);
        souk.store.create_user(Actor::Operator, &user, Some(&raw)).await.unwrap();
        let stored = async || souk.store.password_hash(user.id).await.unwrap().unwrap();

        refused(souk.log_in("ann@example.com", COMPOSED).await, Reason::CredentialsInvalid);
        assert_eq!(stored().await, raw);
        souk.log_in("ann@example.com", DECOMPOSED).await.unwrap();
        let anew = stored().await;
        assert_ne!(anew, raw);
        for typed in [COMPOSED, DECOMPOSED] {
            souk.log_in("ann@example.com", typed).await.unwrap();
        }
        assert_eq!(stored().await, anew);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_is_counted_and_checked_after_normalisation() {
    for souk in both().await {
        let ann = souk.customer("ann@example.com").await;
        let letter = "u\u{308}";
        for (password, fits) in [
            (letter.repeat(9), false),
            (letter.repeat(10), true),
            (letter.repeat(256), true),
            (letter.repeat(257), false),
            (format!("correct{}horse", '\u{7}'), false),
        ] {
            let email = format!("{}@example.com", souk_common::ids::UserId::new());
            let request = RegisterRequest { email, password: password.clone(), display_name: String::new() };
            let registered = souk.users().register(request).await;
            let operator = format!("{}@a.example", password.len());
            let created = admin::create_admin(&souk.config, &operator, Some(password.clone())).await;
            assert_eq!(created.is_ok(), fits, "{password:?}");
            if fits {
                registered.unwrap();
                continue;
            }
            assert_eq!(fields(&refused(registered, Reason::FieldInvalid)), ["password"], "{password:?}");
            let request =
                ChangePasswordRequest { name: name(&ann), current_password: PASSWORD.into(), new_password: password };
            let changed = souk.users_as(&ann.access_token).change_password(request).await;
            assert_eq!(fields(&refused(changed, Reason::FieldInvalid)), ["new_password"]);
        }
    }
}
