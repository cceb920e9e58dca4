//! Passwords and their argon2id hashes. Hashing is slow on purpose: call it through [`crate::hasher`].
//!
//! One password can be typed in several ways: a Mac sends `ü` as two code points, but Windows sends one. So passwords
//! are hashed and compared in the form of RFC 8265 (OpaqueString): every space becomes U+0020, and the text is composed
//! (NFC). Letter case, width and all other differences count. Of the characters that the RFC forbids, only control
//! characters are refused in new passwords. Code points that are newer than the RFC's tables, and those that join
//! emoji, are allowed, because people's passwords contain them.

use std::{borrow::Cow, fmt};

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};
use souk_common::config::Secret;
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// The minimum and maximum length of a password in characters, after normalization.
const LENGTH: std::ops::RangeInclusive<usize> = 10..=256;

/// A password in its normalized form, which is hashed.
#[derive(Debug, Clone)]
pub struct Password {
    normalized: Secret,
    /// The password as it was typed, if it differs from the normalized form.
    typed: Option<Secret>,
}

/// Why a text is not a valid password. May be shown to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// The password has too few or too many characters.
    #[error("must have from {} to {} characters, counted once it is composed (NFC)", LENGTH.start(), LENGTH.end())]
    Length,
    /// The password contains a control character.
    #[error("must have no control characters")]
    Control,
}

impl Password {
    /// A password that a user typed, to be checked.
    pub fn typed(text: String) -> Self {
        match normalize(&text) {
            Cow::Borrowed(_) => Self { normalized: Secret::new(text), typed: None },
            Cow::Owned(normalized) => Self { normalized: Secret::new(normalized), typed: Some(Secret::new(text)) },
        }
    }

    /// A new password that a user chose.
    ///
    /// # Errors
    /// If the password is invalid.
    pub fn chosen(text: String) -> Result<Self, PasswordError> {
        let password = Self::typed(text);
        let text = password.normalized.expose();
        if text.contains(char::is_control) {
            return Err(PasswordError::Control);
        }
        if LENGTH.contains(&text.chars().count()) { Ok(password) } else { Err(PasswordError::Length) }
    }
}

/// Normalizes a text by OpaqueString of RFC 8265, section 4.2.2, without its checks. Borrowed if nothing changes.
fn normalize(text: &str) -> Cow<'_, str> {
    if !text.contains(is_other_space) && is_nfc(text) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|character| if is_other_space(character) { ' ' } else { character }).nfc().collect())
}

/// True for a space (general category Zs) outside of ASCII.
fn is_other_space(character: char) -> bool {
    matches!(character, '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}')
}

/// A hash in PHC form, `$argon2id$v=19$m=…`.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash(String);

impl Hash {
    /// A hash from the database.
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    /// The text of the hash, for the database.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash([redacted])")
    }
}

/// A hash cannot be created or parsed, because of a bug.
#[derive(Debug, thiserror::Error)]
#[error("a password hash cannot be made or read: {0}")]
pub struct HashError(String);

impl HashError {
    fn new(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// The result of a check of a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The password is wrong.
    Wrong,
    /// The password is right.
    Right,
    /// The password is right, but its hash has another cost than new ones, or is of the text as it was typed. Hash it
    /// again.
    RightButOld,
}

/// Hashes and checks passwords at one cost.
#[derive(Debug, Clone)]
pub struct Cost(Params);

impl Cost {
    /// Creates a cost: memory in KiB, passes over the memory, and lanes.
    ///
    /// # Errors
    /// If argon2 does not allow it; the message says why.
    pub fn new(memory_kib: u32, iterations: u32, parallelism: u32) -> Result<Self, HashError> {
        Params::new(memory_kib, iterations, parallelism, None).map(Self).map_err(HashError::new)
    }

    fn context(&self) -> Argon2<'static> {
        Argon2::new(Algorithm::Argon2id, Version::V0x13, self.0.clone())
    }

    /// Hashes a password with a new salt.
    ///
    /// # Errors
    /// If the system has no randomness or memory.
    pub fn hash(&self, password: &Password) -> Result<Hash, HashError> {
        let password = password.normalized.expose();
        let hash = self.context().hash_password(password.as_bytes()).map_err(HashError::new)?;
        Ok(Hash(hash.to_string()))
    }

    /// Checks a password. First checks the normalized text and then, if it differs, the text as it was typed, because
    /// hashes from before the normalization are of that text. It takes the same time if there is no hash to check
    /// against.
    ///
    /// # Errors
    /// If the stored hash cannot be read.
    pub fn verify(&self, password: &Password, hash: Option<&Hash>) -> Result<Verdict, HashError> {
        let verdict = self.verify_text(password.normalized.expose(), hash)?;
        match &password.typed {
            Some(typed) if verdict == Verdict::Wrong => Ok(match self.verify_text(typed.expose(), hash)? {
                Verdict::Wrong => Verdict::Wrong,
                Verdict::Right | Verdict::RightButOld => Verdict::RightButOld,
            }),
            _ => Ok(verdict),
        }
    }

    fn verify_text(&self, password: &str, hash: Option<&Hash>) -> Result<Verdict, HashError> {
        let stored = match hash {
            Some(hash) => PasswordHash::new(&hash.0).map_err(HashError::new)?,
            None => self.hash_of_nothing()?,
        };
        match self.context().verify_password(password.as_bytes(), &stored) {
            Ok(()) if hash.is_none() => Ok(Verdict::Wrong),
            Ok(()) if self.made(&stored) => Ok(Verdict::Right),
            Ok(()) => Ok(Verdict::RightButOld),
            Err(argon2::password_hash::Error::PasswordInvalid) => Ok(Verdict::Wrong),
            Err(error) => Err(HashError::new(error)),
        }
    }

    /// True if the hash has this cost.
    fn made(&self, hash: &PasswordHash) -> bool {
        let same = |params: Params| {
            (params.m_cost(), params.t_cost(), params.p_cost()) == (self.0.m_cost(), self.0.t_cost(), self.0.p_cost())
        };
        hash.algorithm == argon2::ARGON2ID_IDENT && Params::try_from(hash).is_ok_and(same)
    }

    /// A hash of this cost that no known password matches.
    fn hash_of_nothing(&self) -> Result<PasswordHash, HashError> {
        Ok(PasswordHash {
            algorithm: argon2::ARGON2ID_IDENT,
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&self.0).map_err(HashError::new)?,
            salt: Some(Salt::new(&[0; argon2::RECOMMENDED_SALT_LEN]).map_err(HashError::new)?),
            hash: Some(Output::new(&[0; Params::DEFAULT_OUTPUT_LEN]).map_err(HashError::new)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(iterations: u32) -> Cost {
        Cost::new(64, iterations, 1).unwrap()
    }

    fn typed(text: &str) -> Password {
        Password::typed(text.to_owned())
    }

    /// A hash from before passwords were normalized.
    fn raw_hash(text: &str) -> Hash {
        Hash(cost(1).context().hash_password(text.as_bytes()).unwrap().to_string())
    }

    /// "grüße aus köln", composed and decomposed.
    const COMPOSED: &str = "gr\u{fc}\u{df}e aus k\u{f6}ln";
    const DECOMPOSED: &str = "gru\u{308}\u{df}e aus ko\u{308}ln";

    #[test]
    fn a_password_is_the_same_in_every_unicode_form() {
        let spaces = COMPOSED.replace(' ', "\u{a0}");
        for chosen in [COMPOSED, DECOMPOSED, &spaces] {
            let hash = cost(1).hash(&Password::chosen(chosen.to_owned()).unwrap()).unwrap();
            for text in [COMPOSED, DECOMPOSED, &spaces, &DECOMPOSED.replace(' ', "\u{3000}")] {
                assert_eq!(cost(1).verify(&typed(text), Some(&hash)).unwrap(), Verdict::Right, "{chosen} {text}");
            }
            // All other differences count: letter case, width, compatibility forms, the number of spaces.
            for text in ["Gr\u{fc}\u{df}e aus k\u{f6}ln", "gr\u{fc}sse aus k\u{f6}ln", "gr\u{fc}\u{df}e  aus k\u{f6}ln"]
            {
                assert_eq!(cost(1).verify(&typed(text), Some(&hash)).unwrap(), Verdict::Wrong, "{chosen} {text}");
            }
        }
        for (text, normalized) in [("\u{ff21}", "\u{ff21}"), ("\u{fb01}", "\u{fb01}"), ("\u{212b}", "\u{c5}")] {
            assert_eq!(normalize(text), normalized);
        }
    }

    #[test]
    fn a_hash_of_an_unnormalised_password_is_valid_and_replaced() {
        for text in [DECOMPOSED, "tab\u{a0}and more", COMPOSED] {
            let verdict = cost(1).verify(&typed(text), Some(&raw_hash(text))).unwrap();
            assert_eq!(verdict, if text == COMPOSED { Verdict::Right } else { Verdict::RightButOld });
        }
        assert_eq!(cost(1).verify(&typed(DECOMPOSED), Some(&raw_hash("something else"))).unwrap(), Verdict::Wrong);
        assert_eq!(cost(1).verify(&typed(DECOMPOSED), None).unwrap(), Verdict::Wrong);
    }

    #[test]
    fn the_length_of_a_new_password_is_counted_after_normalisation() {
        let chosen = |text: &str| Password::chosen(text.to_owned()).map(drop);
        let decomposed = "u\u{308}";
        assert_eq!(chosen(&decomposed.repeat(9)), Err(PasswordError::Length));
        assert_eq!(chosen(&decomposed.repeat(10)), Ok(()));
        assert_eq!(chosen(&decomposed.repeat(256)), Ok(()));
        assert_eq!(chosen(&decomposed.repeat(257)), Err(PasswordError::Length));
        for control in ['\0', '\t', '\n', '\u{7f}', '\u{85}'] {
            assert_eq!(chosen(&format!("correct{control}horse")), Err(PasswordError::Control));
        }
        // The emoji of a family of four, and an emoji that is newer than the RFC.
        assert_eq!(chosen("family \u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} \u{1fae0}"), Ok(()));
        let shown = format!("{:?}", Password::chosen(DECOMPOSED.to_owned()).unwrap());
        assert!(!shown.contains("aus"), "{shown}");
    }

    #[test]
    fn only_the_right_password_is_accepted() {
        let hash = cost(1).hash(&typed("correct horse")).unwrap();
        assert_eq!(cost(1).verify(&typed("correct horse"), Some(&hash)).unwrap(), Verdict::Right);
        assert_eq!(cost(1).verify(&typed("correct horsf"), Some(&hash)).unwrap(), Verdict::Wrong);
        assert_eq!(cost(1).verify(&typed(""), Some(&hash)).unwrap(), Verdict::Wrong);
        assert_eq!(cost(1).verify(&typed("correct horse"), None).unwrap(), Verdict::Wrong);
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{}", hash.as_str());
        assert_ne!(cost(1).hash(&typed("correct horse")).unwrap(), hash);
    }

    #[test]
    fn a_hash_with_another_cost_is_outdated() {
        let hash = cost(1).hash(&typed("correct horse")).unwrap();
        assert_eq!(cost(2).verify(&typed("correct horse"), Some(&hash)).unwrap(), Verdict::RightButOld);
        assert_eq!(cost(2).verify(&typed("wrong horse"), Some(&hash)).unwrap(), Verdict::Wrong);
    }

    #[test]
    fn a_broken_hash_is_an_error_that_does_not_show_it() {
        let error = cost(1).verify(&typed("correct horse"), Some(&Hash::stored("$argon2id$zzz".into()))).unwrap_err();
        assert!(!error.to_string().contains("zzz"), "{error}");
        assert_eq!(format!("{:?}", Hash::stored("x".into())), "Hash([redacted])");
    }

    #[test]
    fn an_impossible_cost_is_refused() {
        assert!(Cost::new(1, 1, 1).is_err());
        assert!(Cost::new(64, 0, 1).is_err());
    }
}
