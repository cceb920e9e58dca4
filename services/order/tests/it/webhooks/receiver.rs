//! A merchant's receiver: a real HTTP server that records every request and responds as the test says.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use souk_testkit::wait;
use tokio::net::TcpListener;

use crate::harness::SOON;

/// How it responds.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// With 204.
    Take,
    /// With this status and a body.
    Fail(u16),
    /// Not at all, for longer than the service waits.
    Hang,
    /// With 302 and this `Location`.
    Redirect(String),
    /// With 503 and `Retry-After: 1`.
    Busy,
}

/// A received request.
#[derive(Clone, Debug)]
pub struct Got {
    pub at: Instant,
    pub id: String,
    pub headers: Vec<(String, String)>,
    pub text: String,
    pub body: Value,
}

impl Got {
    pub fn kind(&self) -> &str {
        self.body["type"].as_str().unwrap()
    }

    /// The resource name of the order in the event.
    pub fn order(&self) -> &str {
        self.body["data"]["name"].as_str().unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value).unwrap()
    }

    /// The input of verify.py.
    pub fn to_json(&self, secret: &str) -> Value {
        let headers: serde_json::Map<_, _> =
            self.headers.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        json!({"secret": secret, "headers": headers, "body": self.text})
    }
}

#[derive(Default)]
struct Notes {
    got: Vec<Got>,
    manner: Option<Behaviour>,
    now: usize,
    most: usize,
}

pub struct Receiver {
    pub port: u16,
    notes: Arc<Mutex<Notes>>,
}

impl Receiver {
    pub async fn start(manner: Behaviour) -> Self {
        let notes = Arc::new(Mutex::new(Notes { manner: Some(manner), ..Notes::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = notes.clone();
        let router =
            Router::new().fallback(move |headers: HeaderMap, body: Bytes| answer(shared.clone(), headers, body));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { port, notes }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hooks?shop=1", self.port)
    }

    pub fn answer_by(&self, manner: Behaviour) {
        self.notes.lock().unwrap().manner = Some(manner);
    }

    pub fn got(&self) -> Vec<Got> {
        self.notes.lock().unwrap().got.clone()
    }

    /// The largest number of concurrent requests so far.
    pub fn most_at_a_time(&self) -> usize {
        self.notes.lock().unwrap().most
    }

    /// Waits until `count` requests have arrived.
    pub async fn after(&self, count: usize) -> Vec<Got> {
        wait::value(SOON, &format!("{count} requests"), async || {
            let got = self.got();
            (got.len() >= count).then_some(got)
        })
        .await
    }
}

async fn answer(notes: Arc<Mutex<Notes>>, headers: HeaderMap, body: Bytes) -> Response {
    let text = String::from_utf8(body.to_vec()).unwrap();
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    let id = headers.iter().find(|(name, _)| name == "webhook-id").map(|(_, id)| id.clone()).unwrap();
    let got = Got { at: Instant::now(), id, headers, body: serde_json::from_str(&text).unwrap(), text };
    let place = Place::take(notes);
    let manner = {
        let mut notes = place.0.lock().unwrap();
        notes.got.push(got);
        notes.manner.clone().unwrap()
    };
    match manner {
        Behaviour::Take => StatusCode::NO_CONTENT.into_response(),
        Behaviour::Fail(code) => (StatusCode::from_u16(code).unwrap(), "out of\u{0} order").into_response(),
        Behaviour::Redirect(to) => (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
        Behaviour::Busy => (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")]).into_response(),
        Behaviour::Hang => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            drop(place);
            StatusCode::OK.into_response()
        }
    }
}

/// Counts a request until it is answered or the sender has cancelled it.
struct Place(Arc<Mutex<Notes>>);

impl Place {
    fn take(notes: Arc<Mutex<Notes>>) -> Self {
        let place = Self(notes);
        {
            let mut notes = place.0.lock().unwrap();
            notes.now += 1;
            notes.most = notes.most.max(notes.now);
        }
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lock().unwrap().now -= 1;
    }
}
