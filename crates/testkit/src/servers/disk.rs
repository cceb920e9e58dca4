//! A disk with little room, to be filled up.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::supervisor::{Plan, Supervised};
use super::{START_DEADLINE, pause, user};
use crate::process::Program;

/// A file system in memory that only programs in its own mount namespace see, so nothing is left of it whatever happens.
/// From outside it is reached by way of the process that holds it.
#[derive(Debug)]
pub struct SmallDisk {
    holder: Supervised,
    is_root: bool,
}

impl SmallDisk {
    /// One with so many MiB.
    ///
    /// # Errors
    /// Where mounting is not permitted: it takes root, or user namespaces. A plain container has neither.
    pub fn new(mebibytes: u32) -> Result<Self> {
        let is_root = rustix::process::geteuid().is_root();
        // The user that the servers run as must be able to look at the process that holds it.
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
        // Others go through its folder.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(holder.folder(), std::fs::Permissions::from_mode(0o755))?;
        let began = Instant::now();
        // It is there only once the shell has become the program that holds it.
        while !holder.log().contains("mounted") || !comm(holder.pid()).contains("sleep") {
            if holder.exited() || began.elapsed() > START_DEADLINE {
                bail!("no private file system can be mounted here: {}", holder.log().trim());
            }
            pause();
        }
        Ok(Self { holder, is_root })
    }

    /// Where it is for programs of [`SmallDisk::program`].
    pub fn path(&self) -> PathBuf {
        self.holder.folder().join("disk")
    }

    /// Where it is for everyone else. Not for SQLite, which follows the symbolic link by its text.
    pub fn from_outside(&self) -> PathBuf {
        let root = Path::new("/proc").join(self.holder.pid().to_string()).join("root");
        self.path().strip_prefix("/").map(|path| root.join(path)).unwrap_or(root)
    }

    /// A program that sees it; see [`Program::new`].
    pub fn program(&self, path: impl AsRef<Path>, ready: impl Into<String>) -> Program {
        let program = Program::new("nsenter", ready).arg("--target").arg(self.holder.pid().to_string());
        let program = if self.is_root { program } else { program.args(["--user", "--preserve-credentials"]) };
        program.args(["--mount", "--"]).arg(path.as_ref())
    }

    /// Takes all the room there is.
    ///
    /// # Errors
    /// If it cannot be written.
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

    /// Makes the room free again.
    ///
    /// # Errors
    /// If it was not filled.
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
