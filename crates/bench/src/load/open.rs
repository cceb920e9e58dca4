//! Open-loop load: requests come at their times, whether those before them were answered or not.
//!
//! A closed loop waits for a slow answer and does not count those who would have come meanwhile (coordinated omission).
//! Here a request's time runs from the moment it was due, so that waiting for a free connection counts.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use hdrhistogram::Histogram;
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use super::{Answer, Connection, Target};

/// When requests come, and how many may be under way.
#[derive(Debug, Clone, Copy)]
pub struct Arrivals {
    /// Requests a second, at even distances.
    pub rate: f64,
    /// For how long they come.
    pub duration: Duration,
    /// Requests under way at a time, each on a connection of its own. One that is due while there are so many waits.
    pub in_flight: usize,
}

/// What became of the requests. Times are in microseconds from when each was due, good to a millisecond.
#[derive(Debug)]
pub struct Flow {
    /// Requests that were due and sent.
    pub sent: u64,
    /// Requests that were still waiting for a connection when the time was over, and never sent.
    pub unsent: u64,
    /// Times to good answers.
    pub answered: Histogram<u64>,
    /// Times to refusals that say when to try again.
    pub refused: Histogram<u64>,
    /// All that ended otherwise.
    pub failed: u64,
    /// The first of them.
    pub failure: Option<String>,
    /// How long it took, to the last good answer.
    pub elapsed: Duration,
}

impl Flow {
    fn empty() -> Result<Self> {
        let (answered, refused) = (Histogram::new(3)?, Histogram::new(3)?);
        let elapsed = Duration::ZERO;
        Ok(Self { sent: 0, unsent: 0, answered, refused, failed: 0, failure: None, elapsed })
    }

    fn count(&mut self, answer: Result<Answer>, due: Instant, started: Instant) -> Result<()> {
        let time = u64::try_from(due.elapsed().as_micros())?;
        match answer {
            Ok(Answer::Good(_)) => {
                self.answered.record(time)?;
                self.elapsed = started.elapsed();
            }
            Ok(Answer::Refused) => self.refused.record(time)?,
            Ok(Answer::Bad(failure)) => self.fail(failure),
            Err(error) => self.fail(format!("{error:#}")),
        }
        Ok(())
    }

    fn fail(&mut self, failure: String) {
        self.failed += 1;
        self.failure.get_or_insert(failure);
    }
}

/// Connections that wait for a request, the last used one first: a low rate needs few.
#[derive(Default)]
struct Idle(Mutex<Vec<Connection>>);

impl Idle {
    async fn take(&self, target: &Target) -> Result<Connection> {
        loop {
            let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match last {
                // The server may close what is not used.
                Some(connection) if connection.is_closed() => {}
                Some(connection) => return Ok(connection),
                None => return Connection::open(target).await,
            }
        }
    }

    fn give_back(&self, connection: Connection) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

/// Sends requests as they are due, and waits until all that were sent are answered.
///
/// # Errors
/// If the load cannot be made; what requests end in is counted.
pub async fn run(target: &Target, arrivals: Arrivals) -> Result<Flow> {
    let total = (arrivals.rate * arrivals.duration.as_secs_f64()) as u64;
    let (target, idle) = (Arc::new(target.clone()), Arc::new(Idle::default()));
    let slots = Arc::new(Semaphore::new(arrivals.in_flight));
    let flow = Arc::new(Mutex::new(Flow::empty()?));
    let started = Instant::now();
    let mut under_way = JoinSet::new();
    let mut sent = 0;
    while sent < total {
        let due = started + Duration::from_secs_f64(sent as f64 / arrivals.rate);
        tokio::time::sleep_until(due).await;
        let slot = tokio::time::timeout_at(started + arrivals.duration, slots.clone().acquire_owned());
        let Ok(slot) = slot.await else { break };
        sent += 1;
        let (target, idle, flow) = (target.clone(), idle.clone(), flow.clone());
        under_way.spawn(async move {
            let answer = match idle.take(&target).await {
                Ok(mut connection) => {
                    let answer = connection.ask(&target).await;
                    idle.give_back(connection);
                    answer
                }
                Err(error) => Err(error),
            };
            drop(slot);
            flow.lock().unwrap_or_else(PoisonError::into_inner).count(answer, due, started)
        });
        // What has ended is let go of.
        while let Some(ended) = under_way.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = under_way.join_next().await {
        ended??;
    }
    let mut flow = flow.lock().unwrap_or_else(PoisonError::into_inner);
    let mut flow = std::mem::replace(&mut *flow, Flow::empty()?);
    flow.sent = sent;
    flow.unsent = total - sent;
    Ok(flow)
}

/// Of times in microseconds; not a number where there is none.
pub fn milliseconds(times: &Histogram<u64>, quantile: f64) -> f64 {
    if times.is_empty() { f64::NAN } else { times.value_at_quantile(quantile) as f64 / 1000.0 }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::{super::Call, *};

    const SERVED: Duration = Duration::from_millis(20);

    /// Answers one request after the other, the first one of a connection well and all others with a refusal.
    async fn serve(mut stream: TcpStream) {
        let mut buffer = [0; 4096];
        let refusal = "{\"reason\":\"OVERLOADED\"}";
        let refusal = format!("HTTP/1.1 503 x\r\nretry-after: 1\r\ncontent-length: {}\r\n\r\n{refusal}", refusal.len());
        let mut answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned();
        while let Ok(1..) = stream.read(&mut buffer).await {
            tokio::time::sleep(SERVED).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            answer.clone_from(&refusal);
        }
    }

    #[tokio::test]
    async fn who_waits_for_a_connection_is_counted_from_when_they_were_due() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        let check = Arc::new(|answer: &bytes::Bytes| answer == "ok");
        let call = Call::Get(Arc::new(|| "/".to_owned()));
        let target = Target { address, call, token: String::new(), check };

        // Ten times what one connection can do.
        let arrivals = Arrivals { rate: 500.0, duration: Duration::from_millis(400), in_flight: 1 };
        let flow = run(&target, arrivals).await.unwrap();
        assert_eq!((flow.answered.len(), flow.failed), (1, 0), "{:?}", flow.failure);
        assert_eq!(flow.sent, flow.answered.len() + flow.refused.len());
        assert!(flow.unsent > flow.sent, "{} sent, {} not", flow.sent, flow.unsent);
        // The last one sent was due long before.
        assert!(flow.refused.max() > 5 * SERVED.as_micros() as u64, "{} µs", flow.refused.max());

        let low = Arrivals { rate: 10.0, duration: Duration::from_millis(300), in_flight: 1 };
        let flow = run(&target, low).await.unwrap();
        assert_eq!((flow.sent, flow.unsent), (3, 0));
    }
}
