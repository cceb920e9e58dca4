//! Secret text, which is redacted wherever it is printed.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// The text that is printed instead of a secret.
pub const REDACTED: &str = "***";

/// A secret setting. `Debug`, `Display` and `Serialize` write [`REDACTED`], or nothing if the secret is empty.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Creates a secret from a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text of the secret. Keep it out of logs and errors.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True if no secret is set.
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

/// True if a setting of this name is a secret. The program prints some settings of which it only knows the name
/// (`souk check-config`, errors), so the name decides: `secret`, `password`, `token`, `private_key`, `api_key`, alone
/// or after an underscore.
pub fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    ["secret", "password", "token", "private_key", "api_key"]
        .iter()
        .any(|word| name.strip_suffix(word).is_some_and(|rest| rest.is_empty() || rest.ends_with('_')))
}

/// The text of a setting for display: a secret is redacted, and so is the password in a URL.
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

/// Converts `postgres://user:password@host` to `postgres://user:***@host`. The userinfo ends at the last `@`, so that a
/// password with an unescaped `/` or `@` is hidden, too. This may hide too much, which is safe.
fn redact_userinfo(url: &str, start: usize) -> String {
    let rest = &url[start..];
    match rest.rfind('@').and_then(|at| Some((rest[..at].find(':')?, at))) {
        Some((colon, at)) => {
            format!("{}{}:{REDACTED}{}", &url[..start], &rest[..colon], &rest[at..])
        }
        None => url.to_owned(),
    }
}

/// Redacts the value of a `password=` parameter, which PostgreSQL URLs and key-value strings may contain.
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
    fn secret_settings_are_recognised_by_their_names() {
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
