//! Text that must not be seen: redacted wherever it is printed.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// What is printed in place of a secret.
pub const REDACTED: &str = "***";

/// A secret setting. `Debug`, `Display` and `Serialize` give [`REDACTED`], or nothing if it is empty.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Keep it out of logs and errors.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether no secret was set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { REDACTED }
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.shown())
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

/// Whether a setting of this name holds a secret. The program prints settings it knows only by name
/// (`souk check-config`, errors), so the name has to tell: `secret`, `password`, `token`, `private_key`,
/// `api_key`, alone or after an underscore.
pub fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    ["secret", "password", "token", "private_key", "api_key"]
        .iter()
        .any(|word| name.strip_suffix(word).is_some_and(|rest| rest.is_empty() || rest.ends_with('_')))
}

/// A setting's text as it may be shown: nothing of a secret, a URL without its password.
pub fn redact(key: &str, text: &str) -> String {
    if is_secret(key) {
        return Secret::new(text).shown().to_owned();
    }
    let text = match text.find("://") {
        Some(scheme) => redact_userinfo(text, scheme + 3),
        None => text.to_owned(),
    };
    redact_parameter(text)
}

/// `postgres://user:password@host` → `postgres://user:***@host`. Takes the last `@`, so a password with
/// an unescaped `/` or `@` is hidden too; hiding too much is the safe side.
fn redact_userinfo(url: &str, start: usize) -> String {
    let rest = &url[start..];
    match rest.rfind('@').and_then(|at| Some((rest[..at].find(':')?, at))) {
        Some((colon, at)) => {
            format!("{}{}:{REDACTED}{}", &url[..start], &rest[..colon], &rest[at..])
        }
        None => url.to_owned(),
    }
}

/// Hides the value of a `password=` parameter, as PostgreSQL URLs and key-value strings may carry one.
fn redact_parameter(text: String) -> String {
    const NAME: &str = "password=";
    match text.find(NAME) {
        Some(at) => {
            let value = at + NAME.len();
            let end = text[value..].find(['&', ' ']).map_or(text.len(), |end| value + end);
            format!("{}{REDACTED}{}", &text[..value], &text[end..])
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {secret}"), "Secret(***) ***");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"***\"");
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(serde_json::to_string(&Secret::default()).unwrap(), "\"\"");
        let read: Secret = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(read.expose(), "hunter2");
    }

    #[test]
    fn names_tell_what_is_secret() {
        for key in ["auth.internal_secret", "password", "a.b_password", "x.token", "x.private_key"] {
            assert!(is_secret(key), "{key}");
        }
        for key in ["auth.access_token_ttl", "auth.issuer", "user.password_hash_threads", "url"] {
            assert!(!is_secret(key), "{key}");
        }
    }

    #[test]
    fn urls_lose_their_password() {
        let cases = [
            ("postgres://souk:hunter2@db:5432/order", "postgres://souk:***@db:5432/order"),
            ("postgres://souk:a/b@c@db/order", "postgres://souk:***@db/order"),
            ("postgres://souk@db:5432/order", "postgres://souk@db:5432/order"),
            ("postgres://db/order?user=a&password=x&port=1", "postgres://db/order?user=a&password=***&port=1"),
            ("host=db password=x user=a", "host=db password=*** user=a"),
            ("http://127.0.0.1:4317", "http://127.0.0.1:4317"),
            ("sqlite:souk.db", "sqlite:souk.db"),
        ];
        for (text, shown) in cases {
            assert_eq!(redact("order.database.url", text), shown);
        }
    }
}
