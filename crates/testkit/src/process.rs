//! The `souk` binary as a child process, which can be started, killed and restarted.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use crate::find;
use crate::wait;

/// A program, how to start it, and the text that it prints when it is ready.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    ready: String,
    deadline: Duration,
}

impl Program {
    /// The program at `path`, ready when it prints a line that contains `ready`.
    pub fn new(path: impl Into<PathBuf>, ready: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            folder: None,
            ready: ready.into(),
            deadline: Duration::from_secs(60),
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().into());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    /// Sets an environment variable. The child inherits the others except `SOUK_*`, so that the settings of the person
    /// who runs the tests have no effect.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Sets the working directory.
    pub fn current_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Sets how long the program may take to become ready. The default is one minute.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Starts the program and waits until it is ready.
    ///
    /// # Panics
    /// If it cannot be started, ends early, or is not ready in time; the message has its log.
    pub async fn start(self) -> Process {
        let log = Log::default();
        let child = spawn(&self, &log);
        let mut process = Process { program: self, child, log, ready_line: String::new() };
        process.await_ready(0).await;
        process
    }

    /// Runs the program to its end, ready or not, and returns its exit status and all its output.
    ///
    /// # Panics
    /// If it cannot be started or is still running at the deadline.
    pub async fn run(self) -> (ExitStatus, String) {
        let log = Log::default();
        let child = spawn(&self, &log);
        let deadline = self.deadline;
        let mut process = Process { program: self, child, log, ready_line: String::new() };
        let status = process.ended(deadline).await;
        (status, process.log())
    }
}

/// The path of the `souk` binary that cargo has built next to the running test.
///
/// # Panics
/// If it has not been built.
pub fn souk_binary() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    // The path is like target/debug/deps/test-0123 or target/debug/with-servers.
    let found = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(format!("souk{}", std::env::consts::EXE_SUFFIX)))
        .find(|file| file.is_file());
    match found {
        Some(file) => file,
        None => panic!("no souk binary near {}: run `cargo build -p souk` first", test.display()),
    }
}

/// A running program. Dropping it kills it, and so does the end of the test process on Linux.
#[derive(Debug)]
pub struct Process {
    program: Program,
    child: Child,
    log: Log,
    ready_line: String,
}

impl Process {
    /// The line that the program printed when it was ready. It contains the addresses.
    pub fn ready_line(&self) -> &str {
        &self.ready_line
    }

    /// All lines that the program has printed so far to stdout and stderr, including those from before restarts.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// The process id.
    ///
    /// # Panics
    /// If it has ended.
    pub fn pid(&self) -> u32 {
        match self.child.id() {
            Some(pid) => pid,
            None => panic!("{} has ended; log:\n{}", self.program.path.display(), self.log()),
        }
    }

    /// Waits until a line contains `text`, and returns the first such line.
    ///
    /// # Panics
    /// If there is no such line at the deadline.
    pub async fn line_with(&self, text: &str, deadline: Duration) -> String {
        wait::value(deadline, &format!("a line with {text:?}"), async || self.log.find(0, text)).await
    }

    /// Kills the process (SIGKILL) and waits until it has ended.
    ///
    /// # Panics
    /// If it had already ended.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended(Duration::from_secs(30)).await;
    }

    /// Stops the process with SIGTERM and waits until it has ended.
    ///
    /// # Panics
    /// When it had already ended, or has not ended at the deadline.
    pub async fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended(deadline).await
    }

    /// Stops the process with SIGINT, as Ctrl-C does, and waits until it has ended.
    ///
    /// # Panics
    /// When it had already ended, or has not ended at the deadline.
    pub async fn interrupt(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::INT);
        self.ended(deadline).await
    }

    /// Starts the ended program again, as it was started before, and waits until it is ready.
    ///
    /// # Panics
    /// If it still runs, or as [`Program::start`] does.
    pub async fn restart(&mut self) {
        assert!(self.child.id().is_none(), "{} still runs", self.program.path.display());
        let seen = self.log.len();
        self.child = spawn(&self.program, &self.log);
        self.await_ready(seen).await;
    }

    /// Waits until the process has ended.
    ///
    /// # Panics
    /// If it still runs at the deadline; the message has its log.
    pub async fn ended(&mut self, deadline: Duration) -> ExitStatus {
        match tokio::time::timeout(deadline, self.child.wait()).await {
            Ok(Ok(status)) => {
                self.log.complete().await;
                status
            }
            Ok(Err(error)) => panic!("cannot wait for {}: {error}", self.program.path.display()),
            Err(_) => panic!("{} still runs after {deadline:?}; log:\n{}", self.program.path.display(), self.log()),
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let sent = pid.map(|pid| rustix::process::kill_process(pid, signal));
        assert!(matches!(sent, Some(Ok(()))), "cannot send {signal:?} to {pid:?}: {sent:?}");
    }

    async fn await_ready(&mut self, seen: usize) {
        let start = std::time::Instant::now();
        loop {
            if let Some(line) = self.log.find(seen, &self.program.ready) {
                self.ready_line = line;
                return;
            }
            let path = self.program.path.display();
            if let Ok(Some(status)) = self.child.try_wait() {
                self.log.complete().await;
                panic!("{path} ended before it was ready ({status}); log:\n{}", self.log());
            }
            if start.elapsed() > self.program.deadline {
                let ready = &self.program.ready;
                panic!("{path} printed no line with {ready:?}; log:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn spawn(program: &Program, log: &Log) -> Child {
    let mut command = dying_with_us(&program.path);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SOUK_") {
            command.env_remove(name);
        }
    }
    command.args(&program.args).envs(program.env.iter().map(|(name, value)| (name, value)));
    if let Some(folder) = &program.folder {
        command.current_dir(folder);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => panic!("cannot start {}: {error}", program.path.display()),
    };
    log.follow(child.stdout.take());
    log.follow(child.stderr.take());
    child
}

/// A command that the kernel kills when this process ends. `setpriv` replaces itself with the program, so the process
/// id is that of the program. Without `setpriv`, only `kill_on_drop` remains.
fn dying_with_us(path: &Path) -> Command {
    match find::binary("setpriv") {
        Some(setpriv) if cfg!(target_os = "linux") => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(path);
            command
        }
        _ => Command::new(path),
    }
}

/// The lines that were printed, and the tasks that collect them.
#[derive(Debug, Default, Clone)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    readers: tokio_util::task::TaskTracker,
}

impl Log {
    fn follow(&self, stream: Option<impl AsyncRead + Unpin + Send + 'static>) {
        let Some(stream) = stream else { return };
        let lines = self.lines.clone();
        self.readers.spawn(async move {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while let Ok(1..) = reader.read_until(b'\n', &mut line).await {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                line.clear();
            }
        });
    }

    /// Waits until all output of an ended process has been read. A grandchild may keep the stream open, so there is a
    /// time limit.
    async fn complete(&self) {
        self.readers.close();
        let _ = tokio::time::timeout(Duration::from_secs(5), self.readers.wait()).await;
        self.readers.reopen();
    }

    fn len(&self) -> usize {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn find(&self, from: usize, text: &str) -> Option<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().skip(from).find(|line| line.contains(text)).cloned()
    }

    fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}
