//! A child process whose output is read, and which is killed and restarted.

use std::time::Duration;

use rustix::process::{Pid, test_kill_process};
use souk_testkit::process::Program;

const LONG: Duration = Duration::from_secs(30);

/// Prints its process id as its ready line and waits until it is killed.
fn program() -> Program {
    let script = r#"echo "waking"; echo "$NAME ready as $$"; while :; do sleep 1 & wait; done"#;
    Program::new("/bin/sh", "ready as").args(["-c", script]).env("NAME", "child")
}

#[tokio::test]
async fn a_process_reports_ready_and_survives_kill_and_restart() {
    let mut process = program().start().await;
    assert_eq!(process.ready_line(), format!("child ready as {}", process.pid()));
    let first = process.pid();
    process.kill().await;
    assert!(test_kill_process(Pid::from_raw(first.try_into().unwrap()).unwrap()).is_err());
    process.restart().await;
    assert_ne!(process.pid(), first);
    assert_eq!(process.ready_line(), format!("child ready as {}", process.pid()));
    assert_eq!(process.log().lines().filter(|line| *line == "waking").count(), 2);
    let status = process.terminate(LONG).await;
    assert!(!status.success());
}

#[tokio::test]
#[should_panic(expected = "ended before it was ready (exit status: 3); log:\nno such setting")]
async fn an_early_exit_is_reported_with_its_log() {
    Program::new("/bin/sh", "ready").args(["-c", "echo no such setting >&2; exit 3"]).start().await;
}

#[tokio::test]
async fn a_process_runs_to_its_end() {
    let (status, log) = Program::new("/bin/sh", "").args(["-c", "echo done"]).run().await;
    assert!(status.success());
    assert_eq!(log, "done");
}
