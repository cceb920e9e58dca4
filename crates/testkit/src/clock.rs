//! The wall clock of programs under test, which a test sets while they run: libfaketime. Their steady clock continues
//! as the machine's does, as where a host's clock is set, or where it slept.

use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::process::Program;
use crate::servers::install;

/// Where distributions put the library: below one of these, in a folder `faketime` or in one of the machine's kind.
const FOLDERS: [&str; 4] = ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt/homebrew/lib"];
const LIBRARY: &str = "libfaketimeMT.so.1";

/// A clock that differs from the machine's by what it is set to.
#[derive(Debug)]
pub struct Clock {
    folder: TempDir,
    library: PathBuf,
}

impl Clock {
    /// A clock that is right. Installs libfaketime where it is missing and that can be done.
    ///
    /// # Panics
    /// When it cannot be had; the message says how to get it.
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

    /// Sets it to so many seconds ahead of the machine's, or behind it. Programs see it at once.
    ///
    /// # Panics
    /// When its file cannot be written.
    pub fn set(&self, ahead: i64) {
        // Put in place whole, so that nobody reads half of it.
        let written = tempfile::NamedTempFile::new_in(self.folder.path()).and_then(|mut file| {
            write!(file, "{ahead:+}")?;
            file.persist(self.file()).map_err(|error| error.error)
        });
        if let Err(error) = written {
            panic!("the clock cannot be set: {error}");
        }
    }

    /// A program that lives by this clock.
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
