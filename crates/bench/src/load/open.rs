//! Open-loop load: requests are sent on a schedule, which does not depend on responses.
//!
//! A closed loop that waits for a slow response does not send the requests that would have come meanwhile, so it does
//! not measure them (coordinated omission). Here the latency of a request begins when the request is due, so it
//! includes the wait for a free connection.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use hdrhistogram::Histogram;
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use super::{Answer, Connection, Target};

/// The schedule of requests, and the maximum number in flight.
#[derive(Debug, Clone, Copy)]
pub struct Arrivals {
    /// Requests per second, at equal intervals.
    pub rate: f64,
    /// Duration of the arrivals.
    pub duration: Duration,
    /// The maximum number of requests in flight, each on its own connection. Further requests that are due wait.
    pub in_flight: usize,
}

/// The results of the requests. Times are in microseconds from when a request was due, accurate to a millisecond.
#[derive(Debug)]
pub struct Flow {
    /// Requests that were due and sent.
    pub sent: u64,
    /// Requests that waited for a connection until the time was over, and were never sent.
    pub unsent: u64,
    /// Times to good responses.
    pub answered: Histogram<u64>,
    /// Times to refusals that say when to retry.
    pub refused: Histogram<u64>,
    /// Requests with any other result.
    pub failed: u64,
    /// The first failure.
    pub failure: Option<String>,
    /// Time to the last good response.
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

/// Idle connections. The last used one is used first, so that a low rate needs few connections.
#[derive(Default)]
struct Idle(Mutex<Vec<Connection>>);

impl Idle {
    async fn take(&self, target: &Target) -> Result<Connection> {
        loop {
            let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match last {
                // The server may have closed an idle connection.
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

/// Sends requests when they are due, and waits for the responses to all that were sent.
///
/// # Errors
/// If the load cannot be generated. Failed requests are not errors; they are counted.
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
        // Remove the tasks that have ended.
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

/// A quantile of times in microseconds, in milliseconds; NaN if there are no times.
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

    /// Answers the requests of a connection in sequence: the first with a good response, all others with a refusal.
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
    async fn requests_that_wait_for_a_connection_are_timed_from_when_they_were_due() {
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

        // The rate is ten times what one connection can do.
        let arrivals = Arrivals { rate: 500.0, duration: Duration::from_millis(400), in_flight: 1 };
        let flow = run(&target, arrivals).await.unwrap();
        assert_eq!((flow.answered.len(), flow.failed), (1, 0), "{:?}", flow.failure);
        assert_eq!(flow.sent, flow.answered.len() + flow.refused.len());
        assert!(flow.unsent > flow.sent, "{} sent, {} not", flow.sent, flow.unsent);
        // The last request was sent long after it was due.
        assert!(flow.refused.max() > 5 * SERVED.as_micros() as u64, "{} µs", flow.refused.max());

        let low = Arrivals { rate: 10.0, duration: Duration::from_millis(300), in_flight: 1 };
        let flow = run(&target, low).await.unwrap();
        assert_eq!((flow.sent, flow.unsent), (3, 0));
    }
}
