//! The data folder: its locks, the secret that the services share, and the first administrator's credentials.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use rand::{RngExt, distr::Alphanumeric};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use souk_common::config::Secret;
use souk_import::api::Credentials;

const LOCK: &str = "souk.lock";
const SECRET: &str = "internal.secret";
const CREDENTIALS: &str = "admin.json";
const RUNNING: &str = "running.json";

/// A data folder.
#[derive(Debug, Clone)]
pub struct DataDir(PathBuf);

/// A lock on the folder, which is held until this is dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the file is locked while it is open")] File);

/// The process and the address of the souk that runs on this folder.
#[derive(Serialize, Deserialize)]
pub struct Running {
    /// The process id.
    pub pid: u32,
    /// The base URL of the gateway.
    pub gateway: String,
}

impl DataDir {
    /// Opens the folder. If it does not exist, it is created so that only its owner can read it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("the data folder {} cannot be made", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// The folder at this path, which does not need to exist.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Locks the folder exclusively for this souk.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        self.locked(LOCK, File::try_lock)
    }

    /// Locks the folder against `souk up`. Separate services share this lock.
    pub fn share(&self) -> anyhow::Result<Lock> {
        self.locked(LOCK, File::try_lock_shared)
    }

    /// Locks the service's SQLite file against other processes of the same service.
    pub fn lock_service(&self, service: &str) -> anyhow::Result<Lock> {
        self.locked(&format!("{service}.lock"), File::try_lock)
    }

    fn locked(&self, name: &str, lock: impl FnOnce(&File) -> Result<(), TryLockError>) -> anyhow::Result<Lock> {
        let path = self.0.join(name);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| format!("{} cannot be opened", path.display()))?;
        match lock(&file) {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => {
                let by = self.running().map_or_else(String::new, |by| format!(" (process {}, {})", by.pid, by.gateway));
                bail!(
                    "another souk runs on the data folder {}{by} and holds {name}: stop it, or give another --data-dir",
                    self.0.display()
                )
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("{} cannot be locked", path.display()))
            }
        }
    }

    /// The secret that the services share. It is made on first use.
    pub fn internal_secret(&self) -> anyhow::Result<Secret> {
        let path = self.0.join(SECRET);
        // The first process creates the file; all others read it.
        let text = random_secret();
        match private().create_new(true).open(&path) {
            Ok(mut file) => {
                file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(|| unwritable(&path))?;
                Ok(Secret::new(text))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let mut text = String::new();
                File::open(&path)
                    .and_then(|mut file| file.read_to_string(&mut text))
                    .with_context(|| format!("{} cannot be read", path.display()))?;
                if text.len() < 32 {
                    bail!("{} holds no secret of 32 characters or more: delete it to have one made", path.display());
                }
                Ok(Secret::new(text))
            }
            Err(error) => Err(error).with_context(|| unwritable(&path)),
        }
    }

    /// Stores the first administrator's credentials for `souk import`.
    pub fn keep_credentials(&self, credentials: &Credentials) -> anyhow::Result<()> {
        self.write(CREDENTIALS, credentials)
    }

    /// The file with the administrator's credentials.
    pub fn credentials_file(&self) -> PathBuf {
        self.0.join(CREDENTIALS)
    }

    /// The credentials that `souk up` stored here.
    pub fn credentials(&self) -> Option<Credentials> {
        self.read(CREDENTIALS)
    }

    /// Stores the address of the souk on this folder.
    pub fn keep_running(&self, running: &Running) -> anyhow::Result<()> {
        self.write(RUNNING, running)
    }

    /// The address of the souk on this folder, if it has written one.
    pub fn running(&self) -> Option<Running> {
        self.read(RUNNING)
    }

    /// Deletes the address of the souk on this folder.
    pub fn forget_running(&self) {
        let _ = fs::remove_file(self.0.join(RUNNING));
    }

    fn write(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        let path = self.0.join(name);
        let text = serde_json::to_vec_pretty(value)?;
        let mut file = private().create(true).truncate(true).open(&path).with_context(|| unwritable(&path))?;
        file.write_all(&text).and_then(|()| file.sync_all()).with_context(|| unwritable(&path))
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.0.join(name)).ok()?).ok()
    }
}

/// Options to open a file that only its owner can read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

fn unwritable(path: &Path) -> String {
    format!("{} cannot be written", path.display())
}

/// A random secret.
pub fn random_secret() -> String {
    rand::rng().sample_iter(Alphanumeric).take(48).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_secret_is_created_once_and_readable_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(&folder.path().join("a/b")).unwrap();
        let first = data.internal_secret().unwrap();
        assert!(first.expose().len() >= 32);
        assert_eq!(first.expose(), data.internal_secret().unwrap().expose());
        let mode = fs::metadata(data.path().join(SECRET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(data.path().join(SECRET), "short").unwrap();
        assert!(data.internal_secret().unwrap_err().to_string().contains("32 characters"));
    }

    #[test]
    fn a_second_lock_is_refused_and_the_error_names_the_holder() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let lock = data.lock().unwrap();
        data.keep_running(&Running { pid: 7, gateway: "http://127.0.0.1:8080".into() }).unwrap();
        let error = data.lock().unwrap_err().to_string();
        assert!(error.contains("another souk runs") && error.contains("process 7"), "{error}");
        assert!(data.share().is_err());
        drop(lock);
        data.lock().unwrap();
    }

    #[test]
    fn services_share_the_folder_and_up_needs_it_for_itself() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let (one, other) = (data.share().unwrap(), data.share().unwrap());
        drop(one);
        assert!(data.lock().unwrap_err().to_string().contains("another souk runs"));
        drop(other);
        data.lock().unwrap();
    }
}
