//! Boots a gateway in front of the echo server, with keys of the test.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use souk_common::{
    auth::{Claims, KeySource, PublishedKey, Verifier},
    config::Loader,
    contract::Contract,
    ids::{SessionId, UserId},
};
use souk_gateway::{Config, Gateway};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The test contract with all its imports, as bytes.
pub static DESCRIPTORS: LazyLock<Vec<u8>> = LazyLock::new(|| compile(None));

/// Compiles the test contract, or this text instead.
pub fn compile(text: Option<&str>) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    let mut includes = vec![root.into(), format!("{root}/third_party").into()];
    let name = match text {
        Some(text) => {
            std::fs::write(folder.path().join("other.proto"), text).unwrap();
            includes.push(folder.path().to_owned());
            "other.proto"
        }
        None => {
            includes.push(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proto").into());
            "souk/test/v1/echo.proto"
        }
    };
    let mut compiler = protox::Compiler::new(includes).unwrap();
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_file(name)
        .unwrap_or_else(|error| panic!("{error:?}"));
    compiler.encode_file_descriptor_set()
}

pub fn contract() -> Arc<Contract> {
    Arc::new(Contract::load(&DESCRIPTORS).unwrap())
}

/// The default settings with those of a test.
pub fn config(settings: &[(&str, &str)]) -> Config {
    let secret = ("SOUK_AUTH__INTERNAL_SECRET".to_owned(), SECRET.to_owned());
    let variables = settings
        .iter()
        .map(|(name, value)| (format!("SOUK_{}", name.replace('.', "__").to_uppercase()), (*value).to_owned()));
    let loader = Loader::new().defaults("gateway", souk_gateway::DEFAULTS);
    Config::from_settings(&loader.variables(variables.chain([secret])).load().unwrap()).unwrap()
}

pub const SECRET: &str = "a secret of the tests, long enough";

/// A key pair that signs tokens and publishes its public key.
pub struct Keys {
    signing: EncodingKey,
    published: PublishedKey,
}

#[tonic::async_trait]
impl KeySource for Published {
    async fn keys(&self) -> Result<Vec<PublishedKey>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(vec![self.0.clone()])
    }
}

struct Published(PublishedKey);

/// A key service without keys.
pub struct NoKeys;

#[tonic::async_trait]
impl KeySource for NoKeys {
    async fn keys(&self) -> Result<Vec<PublishedKey>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Vec::new())
    }
}

impl Keys {
    pub fn new() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let x = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        Self {
            signing: EncodingKey::from_ed_der(document.as_ref()),
            published: PublishedKey { kid: "test-key".into(), x },
        }
    }

    /// A token for a user with these roles that is valid for `seconds`.
    pub fn token(&self, roles: &[&str], seconds: i64) -> String {
        self.token_of(roles, seconds, Some(0))
    }

    /// The same, for a user who logged in so many seconds ago; `None`: it does not say when.
    pub fn token_of(&self, roles: &[&str], seconds: i64, logged_in: Option<i64>) -> String {
        let now = chrono::Utc::now().timestamp();
        let claims = Claims {
            iss: "souk".into(),
            aud: "souk".into(),
            sub: UserId::new().to_string(),
            sid: SessionId::new().to_string(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            scope: None,
            auth_time: logged_in.map(|ago| now - ago),
            iat: now,
            exp: now + seconds,
            jti: "jti".into(),
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.published.kid.clone());
        jsonwebtoken::encode(&header, &claims, &self.signing).unwrap()
    }
}

/// A running gateway and its backend.
pub struct Booted {
    /// `http://127.0.0.1:…`
    pub url: String,
    pub keys: Keys,
    pub health: tonic_health::server::HealthReporter,
    pub shutdown: CancellationToken,
    pub served: tokio::task::JoinHandle<()>,
    client: reqwest::Client,
    _stop: DropGuard,
}

/// Boots a gateway in front of a healthy echo server.
pub async fn boot() -> Booted {
    boot_with(&[], |address| address).await
}

/// The same with other settings. `between` may put something between the gateway and the echo server: it gets the echo
/// server's address and returns the address that the gateway calls.
pub async fn boot_with(settings: &[(&str, &str)], between: impl FnOnce(String) -> String) -> Booted {
    boot_contract(&DESCRIPTORS, settings, between).await
}

/// The same with another contract.
pub async fn boot_contract(
    descriptors: &[u8],
    settings: &[(&str, &str)],
    between: impl FnOnce(String) -> String,
) -> Booted {
    let contract = Arc::new(Contract::load(descriptors).unwrap());
    let (address, health) = crate::echo::serve(contract.clone()).await;
    let mut config = config(settings);
    config.settings.backends.set("souk.test.v1", between(address));
    let keys = Keys::new();
    let verifier = Arc::new(Verifier::new(&config.common.auth, Arc::new(Published(keys.published.clone()))));
    let gateway = Gateway::new(config, contract, descriptors, verifier).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(gateway.serve(listener, shutdown.clone()));
    let client = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
    Booted { url, keys, health, served, client, _stop: shutdown.clone().drop_guard(), shutdown }
}

/// A response with its body.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn read(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The JSON of a successful response.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        assert_eq!(self.header("content-type"), "application/json");
        self.json()
    }

    /// The problem of a failed response. Checks what all problems have in common.
    #[track_caller]
    pub fn problem(&self, status: u16, reason: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["reason"], reason, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("/errors/{reason}"));
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        assert!(!self.header("x-request-id").is_empty());
        assert!(!self.text.contains("secret inside"), "internals leak: {}", self.text);
        problem
    }
}

impl Booted {
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        Answer::read(request.send().await.unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path)).await
    }

    pub async fn json(&self, method: &str, path: &str, body: &str) -> Answer {
        self.send(self.request(method, path).header("content-type", "application/json").body(body.to_owned())).await
    }

    pub async fn get_as(&self, path: &str, token: &str) -> Answer {
        self.send(self.request("GET", path).bearer_auth(token)).await
    }

    /// A gRPC channel to the gateway.
    pub async fn channel(&self) -> tonic::transport::Channel {
        tonic::transport::Endpoint::from_shared(self.url.clone()).unwrap().connect().await.unwrap()
    }
}
