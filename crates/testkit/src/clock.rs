//! The wall clock of programs under test (libfaketime), which a test can set while they run. Their monotonic clock is
//! not changed, as when the clock of a host is set.

use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::process::Program;
use crate::servers::install;

/// Where distributions put the library: below one of these folders, in a subfolder `faketime` or one for the
/// architecture.
const FOLDERS: [&str; 4] = ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt/homebrew/lib"];
const LIBRARY: &str = "libfaketimeMT.so.1";

/// A clock that differs from the machine's clock by a number of seconds.
#[derive(Debug)]
pub struct Clock {
    folder: TempDir,
    library: PathBuf,
}

impl Clock {
    /// A clock with the right time. Installs libfaketime if it is missing and can be installed.
    ///
    /// # Panics
    /// If libfaketime is missing; the message says how to install it.
    pub fn new() -> Self {
        if let Err(error) = install::ensure("libfaketime", "faketime", "faketime") {
            panic!("{error:#}");
        }
        let Some(library) = library() else { panic!("faketime is installed, but {LIBRARY} is not to be found") };
        let folder = match tempfile::tempdir() {
            Ok(folder) => folder,
            Err(error) => panic!("no temporary folder for a clock: {error}"),
        };
        let clock = Self { folder, library };
        clock.set(0);
        clock
    }

    /// Sets the clock `ahead` seconds ahead of the machine's clock; a negative number sets it behind. Takes effect at
    /// once.
    ///
    /// # Panics
    /// If the file of the clock cannot be written.
    pub fn set(&self, ahead: i64) {
        // The file is replaced atomically, so that no program reads half of it.
        let written = tempfile::NamedTempFile::new_in(self.folder.path()).and_then(|mut file| {
            write!(file, "{ahead:+}")?;
            file.persist(self.file()).map_err(|error| error.error)
        });
        if let Err(error) = written {
            panic!("the clock cannot be set: {error}");
        }
    }

    /// The same program, with this clock.
    #[must_use]
    pub fn of(&self, program: Program) -> Program {
        program
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", self.file())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1")
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

fn library() -> Option<PathBuf> {
    let below = |folder: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let machines = entries.map(|entry| entry.path().join("faketime"));
        [Path::new(folder).join("faketime")].into_iter().chain(machines).collect()
    };
    FOLDERS.into_iter().flat_map(below).map(|folder| folder.join(LIBRARY)).find(|file| file.is_file())
}
