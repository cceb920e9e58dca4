//! Values that are made from files and reloaded when the files change: certificates are renewed while a process runs.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

use super::TlsError;
use crate::error::chain;

/// The minimum time between two checks of the files. A check happens when a connection is made.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A value made from files.
pub(super) struct Reloaded<T>(Arc<Inner<T>>);

struct Inner<T> {
    files: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: T,
    /// Hash of the files at the last check, whether they were valid or not.
    seen: [u8; 32],
    looked: Instant,
}

impl<T> Clone for Reloaded<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Clone + Send + 'static> Reloaded<T> {
    /// Makes the value from these files.
    ///
    /// # Errors
    /// The errors of `make`.
    pub fn load(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        // The hash is computed first: if the files change while the value is made, the next check reads them again.
        let seen = hash(&files);
        let state = Mutex::new(State { value: make()?, seen, looked: Instant::now() });
        Ok(Self(Arc::new(Inner { files, make: Box::new(make), state })))
    }

    /// The value of the current files or, if they are invalid, the last valid one.
    pub async fn current(&self) -> T {
        let is_fresh = {
            let mut state = self.0.lock();
            let is_fresh = state.looked.elapsed() < LOOK_EVERY;
            if !is_fresh {
                state.looked = Instant::now();
            }
            is_fresh
        };
        if !is_fresh {
            let inner = self.0.clone();
            // The task fails to run only if the process is ending.
            match tokio::task::spawn_blocking(move || inner.look()).await {
                Ok(Some(Ok(()))) => tracing::info!(files = ?self.0.files, "new TLS files loaded"),
                Ok(Some(Err(error))) => {
                    let (setting, error) = (error.setting(), chain(&error));
                    tracing::error!(setting, error, "cannot load the new TLS files: the old ones stay in use");
                }
                Ok(None) | Err(_) => {}
            }
        }
        self.0.lock().value.clone()
    }
}

impl<T> Inner<T> {
    /// Makes the value again if the files have changed since the last check. `None`: no change.
    fn look(&self) -> Option<Result<(), TlsError>> {
        let seen = hash(&self.files);
        if std::mem::replace(&mut self.lock().seen, seen) == seen {
            return None;
        }
        Some((self.make)().map(|value| self.lock().value = value))
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hash of the contents of the files. A file that cannot be read counts as empty.
fn hash(files: &[PathBuf]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for file in files {
        let content = std::fs::read(file).unwrap_or_default();
        hash.update(content.len().to_le_bytes());
        hash.update(content);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use souk_testkit::tls::Authority;

    use super::{
        super::{GRPC, ServerSettings, Version},
        *,
    };

    #[test]
    fn a_bad_certificate_never_replaces_a_good_one() {
        let authority = Authority::new();
        let own = authority.sign("own");
        let settings = ServerSettings {
            certificate: own.certificate.clone(),
            key: own.key.clone(),
            client_ca: authority.certificate(),
            min_version: Version::V13,
        };
        let acceptor = settings.load(GRPC).unwrap().unwrap();
        let inner = acceptor.0.0;
        let in_force = || Arc::as_ptr(inner.lock().value.config());
        let first = in_force();
        let look = || inner.look().map(|outcome| outcome.map_err(|error| chain(&error)));
        assert_eq!(look(), None);

        std::fs::write(&own.certificate, "no certificate").unwrap();
        assert!(look().unwrap().unwrap_err().contains("does not hold it in PEM"));
        assert_eq!(look(), None, "it is logged once");
        std::fs::remove_file(&own.certificate).unwrap();
        assert!(look().unwrap().unwrap_err().contains("cannot be read"));
        assert_eq!(look(), None);
        let other = authority.sign("other");
        std::fs::copy(&other.certificate, &own.certificate).unwrap();
        assert!(look().unwrap().unwrap_err().contains("cannot be used"), "the key is of another certificate");
        assert_eq!(in_force(), first);

        std::fs::copy(&other.key, &own.key).unwrap();
        assert_eq!(look(), Some(Ok(())));
        assert_ne!(in_force(), first);

        std::fs::write(&own.key, "").unwrap();
        assert!(settings.load(GRPC).is_err_and(|error| error.setting() == "key"));
    }
}
