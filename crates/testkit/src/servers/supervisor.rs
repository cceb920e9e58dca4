//! Runs a server under a small shell, which cleans up after the test process has ended.
//!
//! A handle that only kills on drop leaves servers behind if the test is killed. So the server's parent is a shell that
//! reads its standard input. The test process has the other end of that pipe, and the kernel closes it when the process
//! ends, for whatever reason. Then the shell stops the server and removes its folder. Pipes of the standard library
//! close on exec, so no child of a test keeps one open.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::user::User;

/// `$1` is the folder, `$2` the signal that stops the server, the rest is its command. The pid file is written by the
/// process that executes the server, so it has the process id of the server.
const SCRIPT: &str = r#"
folder=$1 signal=$2
shift 2
(
    sh -c 'echo $$ >"$0/pid.new" && mv "$0/pid.new" "$0/pid" && exec "$@"' "$folder" "$@" \
        >"$folder/log" 2>&1
    echo $? >"$folder/exited"
) </dev/null &
cat >/dev/null
kill -s "$signal" "$(cat "$folder/pid")" 2>/dev/null
wait
cd /
for _ in 1 2 3 4 5; do
    rm -rf "$folder" && break
    sleep 1
done
"#;

/// A command and how to run it.
#[derive(Debug)]
pub(super) struct Plan {
    command: Vec<OsString>,
    run_as: Option<User>,
    stop_signal: &'static str,
}

impl Plan {
    pub(super) fn new(program: impl AsRef<OsStr>) -> Self {
        Self { command: vec![program.as_ref().into()], run_as: None, stop_signal: "TERM" }
    }

    pub(super) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.push(arg.as_ref().into());
        self
    }

    pub(super) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    /// Adds settings of PostgreSQL: `-c name=value`.
    pub(super) fn settings<'a>(self, of: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        of.into_iter().fold(self, |plan, (name, value)| plan.arg("-c").arg(format!("{name}={value}")))
    }

    pub(super) fn run_as(mut self, user: Option<User>) -> Self {
        self.run_as = user;
        self
    }

    /// Sets the signal that stops the server, by its name without `SIG`.
    pub(super) fn stop_signal(mut self, signal: &'static str) -> Self {
        self.stop_signal = signal;
        self
    }
}

/// A server and its supervising shell.
#[derive(Debug)]
pub(super) struct Supervised {
    folder: PathBuf,
    pid: u32,
    shell: Child,
    /// Closing this pipe makes the shell stop the server.
    stop: Option<ChildStdin>,
}

impl Supervised {
    pub(super) fn start(name: &str, plan: impl Fn(&Path) -> Result<Plan>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix(&format!("souk-{name}-")).tempdir()?;
        let plan = plan(folder.path())?;
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "supervisor"]).arg(folder.path()).arg(plan.stop_signal);
        command.args(&plan.command).current_dir(folder.path());
        // A separate process group, so that Ctrl-C at the terminal reaches the tests but not their servers.
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(user) = &plan.run_as {
            std::os::unix::fs::chown(folder.path(), Some(user.uid), Some(user.gid))
                .with_context(|| format!("cannot give {} to a server", folder.path().display()))?;
            command.uid(user.uid).gid(user.gid).env("HOME", folder.path());
        }
        let mut shell = command.spawn().context("cannot start a shell")?;
        let stop = shell.stdin.take();
        // From here on the shell removes the folder.
        let mut this = Self { folder: folder.keep(), pid: 0, shell, stop };
        this.pid = this.wait_pid()?;
        Ok(this)
    }

    fn wait_pid(&mut self) -> Result<u32> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            if let Ok(text) = std::fs::read_to_string(self.folder.join("pid")) {
                return text.trim().parse().context("the supervising shell wrote no process id");
            }
            if let Some(status) = self.shell.try_wait()? {
                bail!("the supervising shell ended early: {status}");
            }
            super::pause();
        }
        bail!("the supervising shell did not start its server; log:\n{}", self.log())
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn exited(&self) -> bool {
        self.folder.join("exited").exists()
    }

    pub(super) fn log(&self) -> String {
        std::fs::read(self.folder.join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Wait until the server has really stopped. If that fails, the shell still cleans up.
        let _ = self.shell.wait();
    }
}
