//! Passwords and their argon2id hashes. Slow by intent: call it through [`crate::hasher`].

use std::fmt;

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};

/// A hash in PHC form, `$argon2id$v=19$m=…`.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash(String);

impl Hash {
    /// A hash that was stored.
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    /// For the store.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash([redacted])")
    }
}

/// A hash that cannot be made or read: a fault of ours.
#[derive(Debug, thiserror::Error)]
#[error("a password hash cannot be made or read: {0}")]
pub struct HashError(String);

impl HashError {
    fn new(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// Whether a password is the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is not.
    Wrong,
    /// It is.
    Right,
    /// It is, but its hash is of another cost than new ones: make it anew.
    RightButOld,
}

/// Hashes and checks at one cost.
#[derive(Debug, Clone)]
pub struct Cost(Params);

impl Cost {
    /// A cost: memory in KiB, passes over it, lanes.
    ///
    /// # Errors
    /// Where argon2 does not allow it; the message says why.
    pub fn new(memory_kib: u32, iterations: u32, parallelism: u32) -> Result<Self, HashError> {
        Params::new(memory_kib, iterations, parallelism, None).map(Self).map_err(HashError::new)
    }

    fn context(&self) -> Argon2<'static> {
        Argon2::new(Algorithm::Argon2id, Version::V0x13, self.0.clone())
    }

    /// Hashes a password with a salt of its own.
    ///
    /// # Errors
    /// Where the system has no randomness or memory to give.
    pub fn hash(&self, password: &str) -> Result<Hash, HashError> {
        let hash = self.context().hash_password(password.as_bytes()).map_err(HashError::new)?;
        Ok(Hash(hash.to_string()))
    }

    /// Checks a password. Takes as long where there is no hash to check against.
    ///
    /// # Errors
    /// Where the stored hash cannot be read.
    pub fn verify(&self, password: &str, hash: Option<&Hash>) -> Result<Verdict, HashError> {
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

    /// Whether the hash is one that this cost makes.
    fn made(&self, hash: &PasswordHash) -> bool {
        let same = |params: Params| {
            (params.m_cost(), params.t_cost(), params.p_cost()) == (self.0.m_cost(), self.0.t_cost(), self.0.p_cost())
        };
        hash.algorithm == argon2::ARGON2ID_IDENT && Params::try_from(hash).is_ok_and(same)
    }

    /// A hash of this cost that no known password has.
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

    #[test]
    fn the_right_password_is_right_and_no_other() {
        let hash = cost(1).hash("correct horse").unwrap();
        assert_eq!(cost(1).verify("correct horse", Some(&hash)).unwrap(), Verdict::Right);
        assert_eq!(cost(1).verify("correct horsf", Some(&hash)).unwrap(), Verdict::Wrong);
        assert_eq!(cost(1).verify("", Some(&hash)).unwrap(), Verdict::Wrong);
        assert_eq!(cost(1).verify("correct horse", None).unwrap(), Verdict::Wrong);
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{}", hash.as_str());
        assert_ne!(cost(1).hash("correct horse").unwrap(), hash);
    }

    #[test]
    fn a_hash_of_another_cost_is_old() {
        let hash = cost(1).hash("correct horse").unwrap();
        assert_eq!(cost(2).verify("correct horse", Some(&hash)).unwrap(), Verdict::RightButOld);
        assert_eq!(cost(2).verify("wrong horse", Some(&hash)).unwrap(), Verdict::Wrong);
    }

    #[test]
    fn a_broken_hash_is_an_error_that_does_not_show_it() {
        let error = cost(1).verify("correct horse", Some(&Hash::stored("$argon2id$zzz".into()))).unwrap_err();
        assert!(!error.to_string().contains("zzz"), "{error}");
        assert_eq!(format!("{:?}", Hash::stored("x".into())), "Hash([redacted])");
    }

    #[test]
    fn an_impossible_cost_is_refused() {
        assert!(Cost::new(1, 1, 1).is_err());
        assert!(Cost::new(64, 0, 1).is_err());
    }
}
