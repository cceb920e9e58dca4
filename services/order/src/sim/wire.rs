//! A replica's connection to its peers. Here, requests and responses are lost, delayed or duplicated, and replicas die.

use std::{fmt::Debug, future::pending, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::world::{State, World, short};

/// Operations that run all the time.
const OFTEN: [&str; 6] =
    ["claim", "look for events", "read a checkpoint", "read events", "find the end", "find_record"];

/// The peer of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The order service's database.
    Journal,
    /// The inventory service.
    Stock,
    /// The payment provider.
    Bank,
    /// The stream that events are published to.
    Stream,
}

impl Peer {
    pub const ALL: [Self; 4] = [Self::Journal, Self::Stock, Self::Bank, Self::Stream];

    pub fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Stock => "stock",
            Self::Bank => "bank",
            Self::Stream => "stream",
        }
    }
}

/// The faults that a call can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request never arrives.
    RequestLost,
    /// The call takes effect, but the response is lost, or the peer dies right after its commit.
    ReplyLost,
    /// The peer is unreachable.
    Down,
    /// The request arrives after the caller has stopped waiting.
    Late,
    /// The request arrives twice: at once, and much later.
    Doubled,
    /// The call takes effect and is answered, but slowly.
    Slow,
    /// The replica dies before it sends the request.
    DiesBefore,
    /// The replica dies after the call took effect.
    DiesAfter,
}

impl Fault {
    pub const ALL: [Self; 8] = [
        Self::RequestLost,
        Self::ReplyLost,
        Self::Down,
        Self::Late,
        Self::Doubled,
        Self::Slow,
        Self::DiesBefore,
        Self::DiesAfter,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::RequestLost => "request lost",
            Self::ReplyLost => "reply lost",
            Self::Down => "peer down",
            Self::Late => "late replica",
            Self::Doubled => "doubled",
            Self::Slow => "slow",
            Self::DiesBefore => "dies before",
            Self::DiesAfter => "dies after",
        }
    }
}

/// The connection of one life of a replica.
#[derive(Clone)]
pub struct Wire {
    pub world: Arc<World>,
    pub replica: usize,
    pub life: u32,
}

impl Wire {
    pub fn is_alive(&self) -> bool {
        self.world.state().replicas[self.replica].life == self.life
    }

    /// Continues only while this replica lives. A killed replica never resumes here.
    async fn alive(&self) {
        if !self.is_alive() {
            pending::<()>().await;
        }
    }

    /// Calls a peer. The call takes effect at once, all of it or nothing. `None` if no response came: then it is
    /// unknown whether the call took effect, or still will.
    pub async fn call<T: Debug + Send>(
        &self,
        (peer, op): (Peer, &'static str),
        about: impl Debug + Send,
        effect: impl Fn(&mut State) -> T + Send + 'static,
    ) -> Option<T> {
        self.alive().await;
        let (fault, there, back, later, hangs) = {
            let mut state = self.world.state();
            let fault = state.fault(peer, op);
            let slow = fault == Some(Fault::Slow);
            let there = if slow { state.dice.millis(500..7_000) } else { state.dice.millis(1..4) };
            // The caller may notice only after some time that a response is lost.
            let back = if fault.is_some() { state.dice.millis(1..4_000) } else { state.dice.millis(1..4) };
            let later = match peer {
                // A commit whose connection was lost soon ends, either way.
                Peer::Journal => state.dice.millis(1..12_000),
                _ => state.dice.millis(1..40_000),
            };
            // The database has a timeout. Other peers may stay silent until the caller's own timeout.
            let hangs = peer != Peer::Journal && state.dice.percent(30);
            if let Some(fault) = fault {
                state.count(fault.name(), op);
                let replica = self.replica;
                state.tell(|| format!("replica {replica}: {op} {about:?}: {}", fault.name()));
            }
            (fault, there, back, later, hangs)
        };
        if fault == Some(Fault::DiesBefore) {
            return self.die().await;
        }
        sleep(there).await;
        match fault {
            Some(Fault::RequestLost | Fault::Down) => return self.nothing(back, hangs).await,
            Some(Fault::Late) => {
                self.happen_later(later, op, effect);
                return self.nothing(back, hangs).await;
            }
            _ => {}
        }
        let answer = self.happen(op, &effect);
        match fault {
            Some(Fault::Doubled) => self.happen_later(later, op, effect),
            Some(Fault::DiesAfter) => return self.die().await,
            Some(Fault::ReplyLost) => return self.nothing(back, hangs).await,
            _ => {}
        }
        // The pause of the way back is skipped for a frequent operation without a fault, because nothing can happen
        // meanwhile.
        if fault.is_some() || !OFTEN.contains(&op) {
            sleep(back).await;
        }
        self.alive().await;
        Some(answer)
    }

    async fn nothing<T>(&self, after: Duration, hangs: bool) -> Option<T> {
        if hangs {
            return pending().await;
        }
        sleep(after).await;
        self.alive().await;
        None
    }

    async fn die<T>(&self) -> Option<T> {
        if self.is_alive() {
            self.world.state().kill(self.replica);
        }
        pending().await
    }

    fn happen<T: Debug>(&self, op: &'static str, effect: &impl Fn(&mut State) -> T) -> T {
        let mut state = self.world.state();
        let answer = effect(&mut state);
        let replica = self.replica;
        state.tell(|| format!("replica {replica}: {op} → {}", short(&answer)));
        answer
    }

    fn happen_later<T: Debug + Send>(
        &self,
        after: Duration,
        op: &'static str,
        effect: impl Fn(&mut State) -> T + Send + 'static,
    ) {
        self.world.state().under_way += 1;
        let wire = self.clone();
        tokio::spawn(async move {
            sleep(after).await;
            let answer = wire.happen(op, &effect);
            let mut state = wire.world.state();
            state.tell(|| format!("  (that was a late {op}: {})", short(&answer)));
            state.under_way -= 1;
        });
    }
}

impl State {
    /// Draws the fault of a call to a peer, if it has one.
    fn fault(&mut self, peer: Peer, op: &str) -> Option<Fault> {
        if self.quiet {
            return None;
        }
        if self.down.get(peer.name()).is_some_and(|until| *until > Instant::now()) {
            return Some(Fault::Down);
        }
        // Frequent operations have faults less often.
        if !self.dice.percent(if OFTEN.contains(&op) { self.plan.faults.div_ceil(4) } else { self.plan.faults }) {
            return None;
        }
        if self.dice.percent(self.plan.crashes) {
            return Some(self.dice.pick(&[Fault::DiesBefore, Fault::DiesAfter]));
        }
        // A statement to a database is never sent twice.
        match peer {
            Peer::Journal => {
                let faults = [Fault::RequestLost, Fault::ReplyLost, Fault::Down, Fault::Late, Fault::Slow];
                Some(self.dice.pick(&faults))
            }
            _ => Some(self.dice.pick(&[
                Fault::RequestLost,
                Fault::ReplyLost,
                Fault::Late,
                Fault::Doubled,
                Fault::Doubled,
                Fault::Slow,
            ])),
        }
    }
}
