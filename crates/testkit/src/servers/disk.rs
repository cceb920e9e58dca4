//! A small disk, which a test can fill up.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::supervisor::{Plan, Supervised};
use super::{START_DEADLINE, pause, user};
use crate::process::Program;

/// A file system in memory (tmpfs) in a mount namespace of its own, so that it always disappears with its processes.
/// Programs outside the namespace reach it through `/proc`, by the process that holds it.
#[derive(Debug)]
pub struct SmallDisk {
    holder: Supervised,
    is_root: bool,
}

impl SmallDisk {
    /// Mounts a disk of this size in MiB.
    ///
    /// # Errors
    /// If mounting is not permitted. It needs root or user namespaces; a plain container has neither.
    pub fn new(mebibytes: u32) -> Result<Self> {
        let is_root = rustix::process::geteuid().is_root();
        // The user that the servers run as needs access to the process that holds the disk.
        let (own, become_user) = match user::unprivileged()? {
            Some(user) => (
                format!(",uid={},gid={}", user.uid, user.gid),
                format!("setpriv --reuid {} --regid {} --clear-groups", user.uid, user.gid),
            ),
            None => Default::default(),
        };
        let script = format!(
            "mkdir disk && mount -t tmpfs -o size={mebibytes}m,mode=0777{own} souk disk && echo mounted \
             && exec {become_user} sleep 2147483647"
        );
        let holder = Supervised::start("disk", |_| {
            let plan = Plan::new("unshare").args(["--mount", "--propagation", "private"]);
            let plan = if is_root { plan } else { plan.args(["--user", "--map-root-user"]) };
            Ok(plan.args(["sh", "-c", &script]))
        })?;
        // Other users need access through this folder.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(holder.folder(), std::fs::Permissions::from_mode(0o755))?;
        let began = Instant::now();
        // The disk is ready only when the shell has executed the program that holds it.
        while !holder.log().contains("mounted") || !comm(holder.pid()).contains("sleep") {
            if holder.exited() || began.elapsed() > START_DEADLINE {
                bail!("no private file system can be mounted here: {}", holder.log().trim());
            }
            pause();
        }
        Ok(Self { holder, is_root })
    }

    /// The path for programs of [`SmallDisk::program`].
    pub fn path(&self) -> PathBuf {
        self.holder.folder().join("disk")
    }

    /// The path for all other programs. It does not work for SQLite, which resolves the symbolic link by its text.
    pub fn from_outside(&self) -> PathBuf {
        let root = Path::new("/proc").join(self.holder.pid().to_string()).join("root");
        self.path().strip_prefix("/").map(|path| root.join(path)).unwrap_or(root)
    }

    /// A program that can use the disk; see [`Program::new`].
    pub fn program(&self, path: impl AsRef<Path>, ready: impl Into<String>) -> Program {
        let program = Program::new("nsenter", ready).arg("--target").arg(self.holder.pid().to_string());
        let program = if self.is_root { program } else { program.args(["--user", "--preserve-credentials"]) };
        program.args(["--mount", "--"]).arg(path.as_ref())
    }

    /// Fills the disk.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.filler()).context("cannot fill the disk")?;
        for size in [1 << 20, 4096, 1] {
            let block = vec![0x55; size];
            loop {
                match file.write(&block) {
                    Ok(1..) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    other => bail!("cannot fill the disk: {other:?}"),
                }
            }
        }
        Ok(())
    }

    /// Frees the space again.
    ///
    /// # Errors
    /// If the disk was not filled.
    pub fn make_room(&self) -> Result<()> {
        std::fs::remove_file(self.filler()).context("the disk was not filled")
    }

    fn filler(&self) -> PathBuf {
        self.from_outside().join("filler")
    }
}

fn comm(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}
