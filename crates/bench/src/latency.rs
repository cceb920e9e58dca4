//! The latency of an order without other load, compared with the commits that it waits for.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result, ensure};
use souk_testkit::servers::{self, Server};

use crate::{
    Rounds,
    buyers::{Buyers, Demand},
    floor::{self, Floor},
    load::{self, Target},
    report::{Figures, Goal, Report},
    server_log::{Entry, Logging, entries},
    souk::{Place, Souk},
};

const FLOOR: &str = "pgbench, 1 client";
const REST: &str = "souk, REST, 1 buyer";

/// Tables that are written in the background, so that no order waits for them: positions of events, checkpoints of
/// consumers, leases of jobs.
const ASIDE: [&str; 3] = ["event_head", "event_readers", "jobs"];

/// Runs the case `latency`.
pub async fn run(rounds: &Rounds) -> Result<()> {
    let server = servers::postgres()?;
    let floor = Floor::prepare(&server)?;
    let souk = Souk::start(&rounds.souk()?, Place::Postgres(&server, "souk"), &[]).await?;
    let target = Buyers::of(&souk).await?.rest(Demand::Uniform);
    let commits = commits_of_an_order(&server, &souk, &target).await?;

    let mut report = Report::<Figures>::new();
    for _ in 0..rounds.rounds {
        report.add(FLOOR, floor.turn(floor::UNIFORM, souk.folder(), 1, rounds.seconds)?);
        report.add(REST, souk.orders(&target, 1, rounds.turn()).await.context(REST)?);
        souk.check().await?;
        report.show_round();
    }
    let p50 = |f: &Figures| f.p50_ms;
    report.figure("commits of an order, one after the other", Goal::Open, (REST, |_| commits));
    report.ratio("an order / one commit of pgbench, p50", Goal::Open, (REST, p50), (FLOOR, p50));
    let sum = |f: &Figures| f.p50_ms * commits;
    report.ratio("an order / the sum of its commits, p50", Goal::AtMost(2.0), (REST, p50), (FLOOR, sum));
    report.finish(rounds.json.as_deref())
}

/// The number of writing transactions that are committed for an order, from the server's log.
async fn commits_of_an_order(server: &Server, souk: &Souk<'_>, target: &Target) -> Result<f64> {
    let logging = Logging::begin(server, &[("log_statement", "all")])?;
    let turn = load::run(target, 1, Duration::from_secs(1)).await?;
    souk.answered(turn.count);
    let log = logging.end()?;
    let commits = commits(&entries(&log));
    ensure!(commits > 0, "no commit in the log of {} orders", turn.count);
    Ok(commits as f64 / turn.count as f64)
}

/// Counts the transactions that write, except those that write only to the tables in [`ASIDE`].
fn commits(log: &[Entry<'_>]) -> usize {
    // For each session with an open transaction: true if the transaction has written.
    let mut open: HashMap<&str, bool> = HashMap::new();
    let mut commits = 0;
    for entry in log {
        let text = entry.lines.join(" ");
        // The text is "statement: …", or "execute name: …" for a prepared statement.
        let Some((kind, statement)) = text.split_once(": ") else { continue };
        if kind != "statement" && !kind.starts_with("execute ") {
            continue;
        }
        // A connection test may precede the command, as in "SELECT 1; COMMIT".
        match statement.rsplit("; ").next() {
            Some("BEGIN") => {
                open.insert(entry.process, false);
            }
            Some("COMMIT") => commits += usize::from(open.remove(entry.process) == Some(true)),
            Some("ROLLBACK") => {
                open.remove(entry.process);
            }
            _ if writes(statement) => match open.get_mut(entry.process) {
                Some(written) => *written = true,
                // A statement outside a transaction commits by itself.
                None => commits += 1,
            },
            _ => {}
        }
    }
    commits
}

/// True if a statement writes to a table that is not in [`ASIDE`].
fn writes(statement: &str) -> bool {
    let plain = statement.replace('"', "");
    let writes = plain.contains("INSERT INTO ")
        || plain.contains("DELETE FROM ")
        || (plain.contains("UPDATE ") && plain.contains(" SET "));
    writes && !ASIDE.iter().any(|table| plain.contains(table))
}

#[cfg(test)]
mod tests {
    use super::commits;
    use crate::server_log::entries;

    #[test]
    fn commits_that_write_are_counted() {
        for (log, expected) in [
            (
                "1 d LOG:  statement: BEGIN\n1 d LOG:  execute s1: UPDATE \"stock\" SET a = 1\n1 d LOG:  statement: SELECT 1; COMMIT\n",
                1,
            ),
            ("1 d LOG:  statement: BEGIN\n1 d LOG:  execute s1: SELECT 1 FOR UPDATE\n1 d LOG:  statement: COMMIT\n", 0),
            ("1 d LOG:  statement: BEGIN\n2 d LOG:  execute s1: INSERT INTO \"a\"\n1 d LOG:  statement: COMMIT\n", 1),
            ("1 d LOG:  statement: BEGIN\n1 d LOG:  execute s1: INSERT INTO \"a\"\n1 d LOG:  statement: ROLLBACK\n", 0),
            ("1 d LOG:  execute s1: WITH x AS (\n\tUPDATE event_head\n\tSET last = 1) UPDATE events\n", 0),
            ("1 d LOG:  duration: 3 ms\n1 d LOG:  execute s1: SELECT 'INSERT'\n", 0),
        ] {
            assert_eq!(commits(&entries(log)), expected, "{log}");
        }
    }
}
