//! A primary PostgreSQL and its standby, for failovers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::NoTls;

use super::{Server, cluster, start_on_free_port, user};

/// How long the standby may take to be where it shall be.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Two servers that replicate synchronously: what the primary has committed, the standby has on its disk.
#[derive(Debug)]
pub struct Pair {
    /// Takes writes, until it is killed or told not to.
    pub primary: Server,
    /// Follows it, until it is promoted.
    pub standby: Server,
}

impl Pair {
    /// Starts both, which takes some seconds.
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
        // Only now: without a standby, a commit would wait for one.
        execute(&pair.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'").await?;
        execute(&pair.primary, "SELECT pg_reload_conf()").await?;
        pair.replication("EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')").await?;
        Ok(pair)
    }

    /// The URL of a database that names both servers: `postgres://postgres@127.0.0.1:1,127.0.0.1:2/name`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{database}", self.primary.port(), self.standby.port())
    }

    /// Kills the primary without warning, as when its machine dies.
    ///
    /// # Errors
    /// If it has ended already.
    pub fn kill_primary(&self) -> Result<()> {
        let pid = i32::try_from(self.primary.pid()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::KILL).context("the primary has ended already")
    }

    /// Has the primary refuse every write from now on, and stay up.
    ///
    /// # Errors
    /// If it cannot be told.
    pub async fn make_primary_read_only(&self) -> Result<()> {
        execute(&self.primary, "ALTER SYSTEM SET default_transaction_read_only = on").await?;
        execute(&self.primary, "SELECT pg_reload_conf()").await
    }

    /// Makes the standby the primary (what `pg_ctl promote` does), and waits until it takes writes.
    ///
    /// # Errors
    /// If it does not become one.
    pub async fn promote(&self) -> Result<()> {
        execute(&self.standby, "SELECT pg_promote(true, 60)").await?;
        execute(&self.standby, "CREATE TABLE promoted (); DROP TABLE promoted").await
    }

    /// Waits until the primary finds this to be true.
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

/// Starts a server as a standby of another: a backup of its files that follows its log.
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
