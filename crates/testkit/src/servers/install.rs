//! Installs a missing server from Debian, if this process runs as root.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::find;

/// Debian's hook that decides if a package may start its service. The exit code 101 forbids it.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs Debian's `package` if `binary` is missing. The error says what is missing and how to install it.
pub fn ensure(what: &str, binary: &str, package: &str) -> Result<()> {
    if find::binary(binary).is_some() {
        return Ok(());
    }
    let Some(apt) = find::binary("apt-get").filter(|_| rustix::process::geteuid().is_root()) else {
        bail!(find::missing(what, package));
    };
    let _one_at_a_time = one_at_a_time(&std::env::temp_dir().join("souk-install.lock"))?;
    if find::binary(binary).is_some() {
        return Ok(());
    }
    // Otherwise the package would start a server, which would stay on the default port.
    let _quiet = QuietServices::new()?;
    for args in [&["update"][..], &["install", "--yes", "--no-install-recommends", package][..]] {
        let status = Command::new(&apt)
            .arg("--quiet")
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(std::process::Stdio::null())
            .status()
            .context("cannot run apt-get")?;
        if !status.success() {
            bail!("apt-get {} failed ({status}). {}", args.join(" "), find::missing(what, package));
        }
    }
    if find::binary(binary).is_none() {
        bail!("package {package} was installed, but {binary} is still not to be found");
    }
    Ok(())
}

/// Locks a file, so that only one test at a time installs a program. The lock ends when the file is closed or the
/// process ends.
pub(crate) fn one_at_a_time(lock: &Path) -> Result<File> {
    let folder = lock.parent().map_or(Ok(()), std::fs::create_dir_all);
    let file = folder.and_then(|()| File::create(lock)).and_then(|file| file.lock().map(|()| file));
    file.with_context(|| format!("cannot lock {}", lock.display()))
}

/// While this exists, packages do not start their services. An existing policy is not changed.
struct QuietServices {
    ours: bool,
}

impl QuietServices {
    fn new() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let ours = !Path::new(POLICY).exists();
        if ours {
            std::fs::write(POLICY, "#!/bin/sh\nexit 101\n")
                .and_then(|()| std::fs::set_permissions(POLICY, std::fs::Permissions::from_mode(0o755)))
                .with_context(|| format!("cannot write {POLICY}"))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for QuietServices {
    fn drop(&mut self) {
        if self.ours {
            // If the file remains, it only prevents services from starting, so the error is ignored.
            let _ = std::fs::remove_file(POLICY);
        }
    }
}
