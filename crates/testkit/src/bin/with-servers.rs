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

/// Run a command with a private PostgreSQL (and more servers, if asked), which is removed when the command ends.
///
/// The command finds PostgreSQL in SOUK_TEST_DATABASE_URL, PgBouncer in SOUK_TEST_POOLER_URL, NATS in
/// SOUK_TEST_NATS_URL and Redis in SOUK_TEST_REDIS_URL. This program exits with the exit code of the command.
#[derive(Debug, Parser)]
struct Args {
    /// The default isolation level of transactions, such as "serializable".
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
    // Killed tests leave temporary files. They are in this folder, which is always removed.
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
    // Signal handlers are installed before the command starts, so that no signal is missed.
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

/// Warns here of tests that will be left out: nobody sees the output of a test that passes.
#[expect(clippy::print_stderr, reason = "for the person who started the tests")]
fn warn_of_left_out_tests() {
    if let Err(why) = SmallDisk::new(1) {
        eprintln!("\n!! Tests of a full disk are left out ({why:#}).\n!! They need root or user namespaces.\n");
    }
}

/// Waits for the command to end, and forwards signals to it.
async fn follow(mut child: Child, (mut interrupt, mut terminate): (Signals, Signals)) -> Result<ExitCode> {
    use std::os::unix::process::ExitStatusExt;

    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    // A terminal sends SIGINT to the command as well. Forwarding it too would mean "stop at once".
    let pass_interrupt = !std::io::stdin().is_terminal();
    loop {
        let sent = tokio::select! {
            status = child.wait() => {
                let status = status?;
                // As in a shell, a signal gives the exit code 128 plus its number.
                let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
                return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1).into());
            }
            _ = interrupt.recv() => pass_interrupt.then_some(Signal::INT),
            _ = terminate.recv() => Some(Signal::TERM),
        };
        if let (Some(pid), Some(signal)) = (pid, sent) {
            // The command may have ended just now. The next iteration notices that.
            let _ = kill_process(pid, signal);
        }
    }
}
