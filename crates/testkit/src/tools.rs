//! Programs that tests need and that are not cargo packages: `.ci/tool` installs them from PyPI, under `target/tools`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::servers::install::one_at_a_time;

/// The path of the program of this name, which is installed if necessary. If it is in `PATH`, this is its name alone.
///
/// # Panics
/// If it cannot be installed.
pub async fn installed(name: &'static str) -> PathBuf {
    match tokio::task::spawn_blocking(move || install(name)).await {
        Ok(program) => program,
        Err(error) => panic!("{name} could not be installed: {error}"),
    }
}

/// Installs a program. Only one process at a time does so.
fn install(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let _one_at_a_time = match one_at_a_time(&target.join("tools.lock")) {
        Ok(file) => file,
        Err(error) => panic!("{error:#}"),
    };
    let output = match Command::new(root.join(".ci/tool")).args(["--path", name]).output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run .ci/tool: {error}"),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), ".ci/tool could not install {name} from PyPI:\n{said}");
    let own = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).join(name);
    // Otherwise .ci/tool found the program in PATH.
    if own.is_file() { own } else { PathBuf::from(name) }
}
