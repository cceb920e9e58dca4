//! A primary PostgreSQL and its standby, for failovers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::NoTls;

use super::{Server, cluster, start_on_free_port, user};

/// How long the standby may take to reach an expected state.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Two servers with synchronous replication: every commit of the primary is on the standby's disk.
#[derive(Debug)]
pub struct Pair {
    /// Accepts writes, until it is killed or made read-only.
    pub primary: Server,
    /// Replicates the primary, until it is promoted.
    pub standby: Server,
}

impl Pair {
    /// Starts both servers, which takes some seconds.
    ///
    /// # Errors
    /// If no PostgreSQL is installed, or it does not start.
    pub async fn start() -> Result<Self> {
        let started = tokio::task::spawn_blocking(|| {
            let primary = super::postgres()?;
            let standby = standby(&primary)?;
            anyhow::Ok(Self { primary, standby })
        });
        let pair = started.await.context("starting PostgreSQL panicked")??;
        // This is set only now, because without a standby every commit would wait.
        execute(&pair.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'").await?;
        execute(&pair.primary, "SELECT pg_reload_conf()").await?;
        pair.replication("EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')").await?;
        Ok(pair)
    }

    /// The URL of a database that names both servers: `postgres://postgres@127.0.0.1:1,127.0.0.1:2/name`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{database}", self.primary.port(), self.standby.port())
    }

    /// Kills the primary (SIGKILL), as when its machine fails.
    ///
    /// # Errors
    /// If the primary has ended already.
    pub fn kill_primary(&self) -> Result<()> {
        let pid = i32::try_from(self.primary.pid()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::KILL).context("the primary has ended already")
    }

    /// Makes the primary read-only from now on. It keeps running.
    ///
    /// # Errors
    /// If the setting cannot be changed.
    pub async fn make_primary_read_only(&self) -> Result<()> {
        execute(&self.primary, "ALTER SYSTEM SET default_transaction_read_only = on").await?;
        execute(&self.primary, "SELECT pg_reload_conf()").await
    }

    /// Promotes the standby to primary, as `pg_ctl promote` does, and waits until it accepts writes.
    ///
    /// # Errors
    /// If the promotion fails.
    pub async fn promote(&self) -> Result<()> {
        execute(&self.standby, "SELECT pg_promote(true, 60)").await?;
        execute(&self.standby, "CREATE TABLE promoted (); DROP TABLE promoted").await
    }

    /// Waits until this SQL condition is true on the primary.
    async fn replication(&self, condition: &str) -> Result<()> {
        let (began, check) = (Instant::now(), format!("DO $$ BEGIN ASSERT {condition}; END $$"));
        while let Err(error) = execute(&self.primary, &check).await {
            if began.elapsed() > TIMEOUT {
                bail!("the replication is not as expected: {error:#}; the standby's log:\n{}", self.standby.log());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// Starts a standby of a server: from a base backup, with streaming replication.
fn standby(primary: &Server) -> Result<Server> {
    let run_as = user::unprivileged()?;
    let from = primary.url().to_owned();
    let ready = "database system is ready to accept read";
    let (port, process) = start_on_free_port("standby", ready, |folder, port| {
        let make = "\"$1\" --dbname=\"$3\" --pgdata=\"$2\" --write-recovery-conf --checkpoint=fast --no-sync";
        Ok(cluster(make, "pg_basebackup", from.as_ref(), (folder, port))?.run_as(run_as.clone()))
    })?;
    Ok(Server { url: format!("postgres://postgres@127.0.0.1:{port}/postgres"), port, process })
}

async fn execute(server: &Server, statement: &str) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(server.url(), NoTls).await?;
    let connection = tokio::spawn(connection);
    client.batch_execute(statement).await?;
    drop(client);
    Ok(connection.await??)
}
