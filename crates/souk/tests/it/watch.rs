//! Watches orders over Server-Sent Events, as a web page does.

use std::{collections::VecDeque, time::Duration};

use serde_json::Value;

use super::{
    cluster::Up,
    rest::{Rest, order},
};

const LONG: Duration = Duration::from_secs(30);

/// An open event stream.
struct EventSource {
    response: reqwest::Response,
    text: String,
    events: VecDeque<(String, Value)>,
}

impl EventSource {
    /// Reconnects after the last id, as `EventSource` does.
    async fn open(client: &Rest, path: &str, last_id: Option<&str>) -> Self {
        let mut request = client.request(reqwest::Method::GET, path).header("accept", "text/event-stream");
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        Self { response, text: String::new(), events: VecDeque::new() }
    }

    /// The id and the data of the next event.
    async fn next(&mut self) -> (String, Value) {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let chunk = tokio::time::timeout(LONG, self.response.chunk()).await.unwrap().unwrap().unwrap();
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                if let (Some(id), Some(data)) = (field("id:"), field("data:")) {
                    self.events.push_back((id.to_owned(), serde_json::from_str(data).unwrap()));
                }
                self.text = rest.to_owned();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_broken_a_hundred_times_misses_and_repeats_nothing() {
    const ORDERS: usize = 100;
    let up = Up::start().await;
    let product = up.admin().await.product("LANTERN", 1000).await;
    let ann = Rest::anonymous(&up.gateway).customer("ann").await;
    let bob = Rest::anonymous(&up.gateway).customer("bob").await;
    let (mut id, _) = EventSource::open(&ann, "/v1/orders:watch", None).await.next().await;
    let (mut placed, mut seen) = (Vec::new(), Vec::new());
    let event = |(id, data): (String, Value)| {
        let what = (data["eventType"].as_str().unwrap().to_owned(), data["order"]["name"].clone());
        (id, what)
    };
    for number in 0..ORDERS {
        let answer = ann.post("/v1/orders", order(&format!("a{number}"), &[(&product, 1)], "tok_approved")).await;
        placed.push(answer.ok()["name"].clone());
        bob.post("/v1/orders", order(&format!("b{number}"), &[(&product, 1)], "tok_declined")).await.ok();
        let mut stream = EventSource::open(&ann, "/v1/orders:watch", Some(&id)).await;
        // The first event is the beginning of the stream. The cursor of one position has a different text each time.
        stream.next().await;
        for _ in 0..number % 4 {
            if seen.len() < 2 * placed.len() {
                let (next, what) = event(stream.next().await);
                id = next;
                seen.push(what);
            }
        }
    }
    let mut stream = EventSource::open(&ann, "/v1/orders:watch", Some(&id)).await;
    stream.next().await;
    while seen.len() < 2 * ORDERS {
        seen.push(event(stream.next().await).1);
    }
    let expected = placed
        .iter()
        .flat_map(|order| ["order.placed", "order.confirmed"].map(|event| (event.to_owned(), order.clone())));
    assert_eq!(seen, expected.collect::<Vec<_>>());
}
