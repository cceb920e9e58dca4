//! Runs a command with private servers: starts them, gives the command their addresses, and stops them when it
//! ends.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use souk_testkit::db::{POOLER_VARIABLE, URL_VARIABLE};
use souk_testkit::servers::{self, Postgres, Scratch, SmallDisk, install};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

/// Run a command with a private PostgreSQL (and more, if asked), gone when the command ends.
///
/// The command finds PostgreSQL in SOUK_TEST_DATABASE_URL, PgBouncer in SOUK_TEST_POOLER_URL, NATS in
/// SOUK_TEST_NATS_URL and Redis in SOUK_TEST_REDIS_URL. Its exit code becomes ours.
#[derive(Debug, Parser)]
struct Args {
    /// The isolation that transactions get which ask for none, such as "serializable".
    #[arg(long)]
    isolation: Option<String>,
    /// Start NATS with JetStream, too.
    #[arg(long)]
    nats: bool,
    /// Start PgBouncer in transaction mode as well, in front of PostgreSQL: test databases are reached through it.
    #[arg(long)]
    pgbouncer: bool,
    /// Start Redis, too.
    #[arg(long)]
    redis: bool,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let mut running = Vec::new();
    // Tests that are killed leave their temporary files; this takes them along.
    let scratch = Scratch::new()?;

    warn_of_left_out_tests();
    install::ensure("PostgreSQL", "postgres", "postgresql")?;
    let postgres = Postgres { isolation: args.isolation, ..Postgres::default() }.start()?;
    if args.pgbouncer {
        install::ensure("PgBouncer", "pgbouncer", "pgbouncer")?;
        running.push((POOLER_VARIABLE, servers::pgbouncer(postgres.port())?));
    }
    running.push((URL_VARIABLE, postgres));
    if args.nats {
        install::ensure("NATS", "nats-server", "nats-server")?;
        running.push(("SOUK_TEST_NATS_URL", servers::nats()?));
    }
    if args.redis {
        install::ensure("Redis", "redis-server", "redis-server")?;
        running.push(("SOUK_TEST_REDIS_URL", servers::redis()?));
    }

    let (program, rest) = args.command.split_first().context("no command given")?;
    // Before the command starts: from its first moment on, what we are told is passed on to it.
    let signals = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let child = Command::new(program)
        .args(rest)
        .env("TMPDIR", scratch.path())
        .envs(running.iter().map(|(variable, server)| (variable, server.url())))
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let code = follow(child, signals).await?;
    drop(running);
    drop(scratch);
    Ok(code)
}

/// What a test prints that passes, nobody sees.
#[expect(clippy::print_stderr, reason = "for the person who started the tests")]
fn warn_of_left_out_tests() {
    if let Err(why) = SmallDisk::new(1) {
        eprintln!("\n!! Tests of a full disk are left out ({why:#}).\n!! They need root or user namespaces.\n");
    }
}

/// Waits for the command and passes on to it what we are asked to do.
async fn follow(mut child: Child, (mut interrupt, mut terminate): (Signals, Signals)) -> Result<ExitCode> {
    use std::os::unix::process::ExitStatusExt;

    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    // A terminal sends Ctrl-C to the command as well; twice would mean "at once".
    let pass_interrupt = !std::io::stdin().is_terminal();
    loop {
        let sent = tokio::select! {
            status = child.wait() => {
                let status = status?;
                // As a shell has it: 128 and the signal's number.
                let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
                return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1).into());
            }
            _ = interrupt.recv() => pass_interrupt.then_some(Signal::INT),
            _ = terminate.recv() => Some(Signal::TERM),
        };
        if let (Some(pid), Some(signal)) = (pid, sent) {
            // It may just have ended; the next turn sees that.
            let _ = kill_process(pid, signal);
        }
    }
}
