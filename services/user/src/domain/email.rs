//! An email address as it is stored and compared: trimmed, in lower case.

use std::fmt;

/// The longest address that mail can be sent to, in bytes (RFC 5321).
const MAX_LEN: usize = 254;

/// A fault of an email address. May be shown to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an email address such as ann@example.com, of at most {MAX_LEN} characters")]
pub struct EmailError;

/// A normalised email address.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Email(String);

impl Email {
    /// Parses an email address.
    ///
    /// # Errors
    /// If the text does not look like an email address. The contract's check is stricter. This one is for input that
    /// does not pass through the contract, such as the command line.
    pub fn parse(text: &str) -> Result<Self, EmailError> {
        let email = Self::normalize(text);
        let looks_right = email
            .split_once('@')
            .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty() && !domain.contains('@'));
        let odd = |character: char| character.is_whitespace() || character.is_control();
        if !looks_right || email.len() > MAX_LEN || email.contains(odd) {
            return Err(EmailError);
        }
        Ok(Self(email))
    }

    /// The normalised form of any text, in which addresses are compared.
    pub fn normalize(text: &str) -> String {
        text.trim().to_lowercase()
    }

    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_addresses_have_one_normal_form() {
        assert_eq!(Email::parse(" Ann@Example.COM\n").unwrap().as_str(), "ann@example.com");
    }

    #[test]
    fn invalid_addresses_are_refused() {
        let long = format!("{}@example.com", "a".repeat(250));
        for text in ["", "ann", "@example.com", "ann@", "a@b@c", "a b@example.com", "a\0@example.com", &long] {
            assert_eq!(Email::parse(text), Err(EmailError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn normalising_again_changes_nothing(text in ".{0,60}@.{0,60}") {
            if let Ok(email) = Email::parse(&text) {
                prop_assert_eq!(Email::parse(email.as_str()), Ok(email));
            }
        }
    }
}
