//! Finds the binary of a server in `PATH`, and in the folders outside `PATH` where distributions install PostgreSQL.

use std::path::{Path, PathBuf};

/// The folders of PostgreSQL's versions: the parent folder, the text before the version in a subfolder's name, and the
/// folder in that subfolder.
const VERSIONED: [(&str, &str, &str); 2] = [("/usr/lib/postgresql", "", "bin"), ("/usr", "pgsql-", "bin")];

/// The path of a program. If `PATH` has no PostgreSQL, this finds the newest version installed. It also searches the
/// folders that only root has in `PATH`, where Debian puts servers. Symbolic links are not resolved: Debian's
/// `redis-server` is one, and its target behaves according to the name it is called by.
pub fn binary(name: &str) -> Option<PathBuf> {
    let in_path =
        std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    in_path
        .chain(versioned())
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
        .and_then(|file| std::path::absolute(file).ok())
}

/// An error message that says how to install a missing server.
pub fn missing(what: &str, package: &str) -> String {
    format!(
        "{what} is not installed, and these tests run against the real one. \
         On Debian or Ubuntu: apt-get install {package}; on macOS: brew install {package}"
    )
}

fn versioned() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix, below) in VERSIONED {
        let Ok(entries) = std::fs::read_dir(parent) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
            if let Some(version) = version {
                found.push((version, entry.path().join(below)));
            }
        }
    }
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, folder)| folder).collect()
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
