//! A replica's connection to everything outside: requests and responses are lost, late or doubled here, and replicas
//! die here.

use std::{fmt::Debug, future::pending, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::world::{State, World, short};

/// What is asked all the time.
const OFTEN: [&str; 6] =
    ["claim", "look for events", "read a checkpoint", "read events", "find the end", "find_record"];

/// Whom a replica calls.
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

/// What may go wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It never arrives.
    RequestLost,
    /// It takes effect; the answer is lost, or the other side dies right after its commit.
    ReplyLost,
    /// Nobody is there.
    Down,
    /// It arrives when nobody waits for the answer any more.
    Late,
    /// It arrives twice: at once, and much later.
    Doubled,
    /// It takes effect, slowly, and is answered.
    Slow,
    /// The replica dies before it is sent.
    DiesBefore,
    /// The replica dies after it took effect.
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

/// The line of one life of a replica.
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

    /// Continues only while this replica lives: what a killed process was about to do never happens.
    async fn alive(&self) {
        if !self.is_alive() {
            pending::<()>().await;
        }
    }

    /// Calls a peer; the call takes effect at once, all of it or nothing. `None` if no response came: then it is
    /// unknown whether it took effect or still will.
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
            // That an answer is lost may take its time to be seen.
            let back = if fault.is_some() { state.dice.millis(1..4_000) } else { state.dice.millis(1..4) };
            let later = match peer {
                // A commit whose connection is lost ends soon, one way or the other.
                Peer::Journal => state.dice.millis(1..12_000),
                _ => state.dice.millis(1..40_000),
            };
            // A database has a time limit; others may be silent for as long as one waits.
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
        // If nothing happened, nobody else could use the time of the way back.
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
    /// The fault of a call to a peer.
    fn fault(&mut self, peer: Peer, op: &str) -> Option<Fault> {
        if self.quiet {
            return None;
        }
        if self.down.get(peer.name()).is_some_and(|until| *until > Instant::now()) {
            return Some(Fault::Down);
        }
        // What is done all the time need not go wrong as often.
        if !self.dice.percent(if OFTEN.contains(&op) { self.plan.faults.div_ceil(4) } else { self.plan.faults }) {
            return None;
        }
        if self.dice.percent(self.plan.crashes) {
            return Some(self.dice.pick(&[Fault::DiesBefore, Fault::DiesAfter]));
        }
        // Nobody sends a statement to a database twice.
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
