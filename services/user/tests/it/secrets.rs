//! Passwords and tokens appear in no log and in no Debug text, and are not stored in clear.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use souk_common::error::Reason;
use souk_proto::user::v1::{
    ChangePasswordRequest, GetMeRequest, LogInRequest, LogOutRequest, RefreshSessionRequest, RegisterRequest,
};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::harness::{PASSWORD, both, name, refused};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_reaches_the_log() {
    let log = Log::default();
    // Everything that souk logs. Libraries below HTTP would log the bytes themselves.
    let filter = EnvFilter::new("trace,h2=warn,hyper=warn,hyper_util=warn,tower=warn,tonic=debug");
    tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).with_env_filter(filter).init();
    for souk in both().await {
        let secrets = ["sesame-sesame-1", "sesame-sesame-2", "sesame-sesame-3"].map(str::to_owned);
        let [password, wrong, new] = secrets.clone();
        let register =
            RegisterRequest { email: "ann@example.com".into(), password: password.clone(), display_name: "Ann".into() };
        souk.users().register(register.clone()).await.unwrap();
        refused(souk.users().register(register).await, Reason::ResourceExists);
        refused(souk.log_in("ann@example.com", &wrong).await, Reason::CredentialsInvalid);
        let session = souk.log_in("ann@example.com", &password).await.unwrap();
        let next = souk.refresh(&session.refresh_token).await.unwrap();
        assert_eq!(souk.refresh(&session.refresh_token).await.unwrap().refresh_token, next.refresh_token);
        let mut users = souk.users_as(&next.access_token);
        users.get_me(GetMeRequest {}).await.unwrap();
        let change = ChangePasswordRequest { name: name(&session), current_password: wrong, new_password: new.clone() };
        refused(users.change_password(change.clone()).await, Reason::CredentialsInvalid);
        users.change_password(ChangePasswordRequest { current_password: password, ..change }).await.unwrap();
        souk.sessions().log_out(LogOutRequest { refresh_token: next.refresh_token.clone() }).await.unwrap();

        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("created the first signing key"), "the log is empty: {text}");
        let tokens = [session.access_token, session.refresh_token, next.access_token, next.refresh_token];
        for secret in secrets.iter().chain(&tokens) {
            assert!(!text.contains(secret.as_str()), "{secret} is in the log");
        }
        assert!(!text.contains("$argon2id$"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_a_debug_text() {
    for souk in both().await {
        let session = souk.customer("ann@example.com").await;
        let text = |message: &dyn std::fmt::Debug| format!("{message:?} {message:#?}");
        let secret = "sesame-sesame".to_owned();
        let shown = [
            text(&session),
            text(&RegisterRequest { password: secret.clone(), ..Default::default() }),
            text(&LogInRequest { password: secret.clone(), ..Default::default() }),
            text(&RefreshSessionRequest { refresh_token: secret.clone() }),
            text(&LogOutRequest { refresh_token: secret.clone() }),
            text(&ChangePasswordRequest {
                current_password: secret.clone(),
                new_password: secret.clone(),
                ..Default::default()
            }),
            text(&tonic::Request::new(LogInRequest { password: secret.clone(), ..Default::default() })),
        ]
        .concat();
        for hidden in [&secret, &session.access_token, &session.refresh_token] {
            assert!(!shown.contains(hidden.as_str()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_database_contains_no_usable_password_or_token() {
    for souk in both().await {
        let session = souk.customer("ann@example.com").await;
        if souk.database.engine == souk_testkit::db::Engine::Postgres {
            continue;
        }
        // All files of the database, byte by byte.
        let mut stored = Vec::new();
        for entry in std::fs::read_dir(souk.database.data_dir()).unwrap() {
            stored.extend(std::fs::read(entry.unwrap().path()).unwrap());
        }
        let has = |text: &str| stored.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(has("ann@example.com") && has("$argon2id$"));
        assert!(!has(PASSWORD) && !has(&session.refresh_token) && !has(&session.access_token));
    }
}
