//! Records exchanges with a running souk. Placeholders replace what differs between runs, such as ids, times and
//! tokens.

use std::fmt::Write;

use bytes::{Buf, BufMut};
use http::{HeaderMap, uri::PathAndQuery};
use prost_reflect::{DynamicMessage, MessageDescriptor, prost::Message};
use regex::{Captures, Regex};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use souk_common::{contract::Contract, error::Problem};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use crate::rest::Rest;

/// Headers that depend on the time or the connection.
const LEFT_OUT: [&str; 6] = ["date", "content-length", "transfer-encoding", "connection", "age", "x-request-id"];

/// A caller, and the caller's name in the record.
pub struct Caller {
    pub name: &'static str,
    pub rest: Rest,
}

/// A request over REST or a similar protocol.
pub struct Call<'c> {
    pub caller: &'c Caller,
    pub method: Method,
    pub path: &'c str,
    pub headers: &'c [(&'c str, &'c str)],
    pub body: Option<Value>,
}

/// The record.
pub struct Tape {
    text: String,
    mask: Mask,
}

impl Tape {
    /// A record of the souk at this address.
    pub fn new(gateway: &str) -> Self {
        Self { text: String::new(), mask: Mask::new(gateway) }
    }

    pub fn text(self) -> String {
        self.text
    }

    /// Begins a section.
    pub fn part(&mut self, title: &str) {
        writeln!(self.text, "# {title}\n").unwrap();
    }

    /// Sends a request. Returns the body of the response if it is JSON.
    pub async fn send(&mut self, call: Call<'_>) -> Value {
        let response = self.request(&call).send().await.unwrap();
        self.head(&response);
        let is_json =
            response.headers().get("content-type").is_some_and(|kind| kind.to_str().unwrap().contains("json"));
        let bytes = response.bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        match (is_json, bytes.is_empty()) {
            (true, false) => self.json(&body),
            (false, false) => self.lines("(a body)"),
            (_, true) => {}
        }
        self.text.push('\n');
        body
    }

    /// The same, but records only the status and the headers.
    pub async fn head_of(&mut self, call: Call<'_>) {
        let response = self.request(&call).send().await.unwrap();
        self.head(&response);
        self.text.push('\n');
    }

    /// Reads a stream until `parts` parts have arrived. Each part ends with `mark`.
    pub async fn stream(&mut self, call: Call<'_>, mark: &str, parts: usize) {
        let mut response = self.request(&call).send().await.unwrap();
        self.head(&response);
        let mut text = String::new();
        while text.matches(mark).count() < parts {
            let chunk = response.chunk().await.unwrap().expect("the stream ended");
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        let taken: Vec<_> = text.split(mark).take(parts).collect();
        self.lines(&taken.join(mark));
        self.text.push('\n');
    }

    /// Sends a message in the streaming form of gRPC-Web or Connect. Reads at most `messages` messages of the response.
    pub async fn framed(&mut self, caller: &Caller, path: &str, content_type: &str, body: Value, messages: usize) {
        let method = Contract::souk().unwrap().method(path).unwrap().descriptor.clone();
        let is_json = content_type.ends_with("json");
        let payload = if is_json { body.to_string().into_bytes() } else { encode(method.input(), &body) };
        let mut frame = vec![0];
        frame.put_u32(u32::try_from(payload.len()).unwrap());
        frame.extend(payload);
        let call = Call { caller, method: Method::POST, path, headers: &[("content-type", content_type)], body: None };
        let request = self.request(&call).body(frame);
        self.lines(&body.to_string());
        let mut response = request.send().await.unwrap();
        self.head(&response);
        let (mut bytes, mut seen) = (Vec::new(), 0);
        while seen < messages {
            let Some(chunk) = response.chunk().await.unwrap() else { break };
            bytes.extend(chunk);
            while let Some((flags, frame)) = take_frame(&mut bytes) {
                seen += 1;
                match flags {
                    0 if is_json => self.json(&serde_json::from_slice(&frame).unwrap()),
                    0 => self.json(&decode(method.output(), &frame)),
                    _ => {
                        let mut lines: Vec<_> = std::str::from_utf8(&frame).unwrap().lines().collect();
                        lines.sort_unstable();
                        self.lines(&format!("end {flags}: {}", lines.join("\n")));
                    }
                }
            }
        }
        self.text.push('\n');
    }

    /// Sends a gRPC call. Reads at most `messages` messages of a stream.
    pub async fn grpc(&mut self, channel: &Channel, caller: &Caller, path: &str, body: Value, messages: usize) {
        let method = Contract::souk().unwrap().method(path).unwrap().descriptor.clone();
        let asked = format!("{} gRPC {path}\n{body}", caller.name);
        self.lines(&asked);
        let mut request = Request::new(encode(method.input(), &body));
        caller.rest.sign(request.metadata_mut());
        let mut client = Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let (path, codec) = (PathAndQuery::try_from(path).unwrap(), Dynamic(method.output()));
        match client.server_streaming(request, path, codec).await {
            Ok(response) => {
                self.text.push_str("-> 200\n");
                self.headers(&response.metadata().clone().into_headers());
                let mut stream = response.into_inner();
                for _ in 0..messages {
                    match stream.message().await {
                        Ok(Some(message)) => self.json(&serde_json::to_value(&message).unwrap()),
                        Ok(None) => break,
                        Err(status) => self.status(&status),
                    }
                }
            }
            Err(status) => self.status(&status),
        }
        self.text.push('\n');
    }

    fn status(&mut self, status: &Status) {
        let problem = Problem::from_status(status);
        let reason = format!("-> {:?} {}: {}", status.code(), problem.reason_name(), status.message());
        self.lines(&reason);
        for field in problem.field_violations() {
            self.lines(&format!("field {}", field.path));
        }
        self.headers(&status.metadata().clone().into_headers());
    }

    fn request(&mut self, call: &Call<'_>) -> RequestBuilder {
        let line = format!("{} {} {}", call.caller.name, call.method, call.path);
        self.lines(&line);
        let mut request = call.caller.rest.request(call.method.clone(), call.path);
        for (name, value) in call.headers {
            self.lines(&format!("{name}: {value}"));
            request = request.header(*name, *value);
        }
        if let Some(body) = &call.body {
            self.lines(&body.to_string());
            request = request.json(body);
        }
        request
    }

    fn head(&mut self, response: &Response) {
        writeln!(self.text, "-> {}", response.status().as_u16()).unwrap();
        self.headers(response.headers());
    }

    fn headers(&mut self, headers: &HeaderMap) {
        let mut lines = Vec::new();
        for (name, value) in headers {
            if !LEFT_OUT.contains(&name.as_str()) {
                let value = match name.as_str() {
                    "etag" => "<etag>",
                    // Whether the response is cached already depends on timing.
                    "cache-status" => "<cache>",
                    "grpc-status-details-bin" => "<details>",
                    _ => value.to_str().unwrap(),
                };
                lines.push(format!("{name}: {value}"));
            }
        }
        lines.sort();
        if !lines.is_empty() {
            self.lines(&lines.join("\n"));
        }
    }

    fn json(&mut self, value: &Value) {
        self.lines(&format!("{value:#}"));
    }

    fn lines(&mut self, text: &str) {
        let masked = self.mask.apply(text);
        writeln!(self.text, "{masked}").unwrap();
    }
}

/// Replaces what differs between runs.
struct Mask {
    gateway: String,
    /// The ids in the order of their first appearance.
    ids: Vec<String>,
    id: Regex,
    others: Vec<(Regex, &'static str)>,
}

impl Mask {
    fn new(gateway: &str) -> Self {
        let rules = [
            (r"eyJ[\w-]+\.[\w-]+\.[\w-]+", "<token>"),
            (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<uuid>"),
            (r"\bsim_[0-9a-f]{32}\b", "sim_<reference>"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z", "<time>"),
            (
                r#""(etag|cursor|nextPageToken|next_page_token|accessToken|refreshToken|signingSecrets?|secret|kid|x|request_id)": ?"[^"]+""#,
                r#""$1": "<$1>""#,
            ),
            // Details of an error contain the request id.
            (r#""value": "[\w+/=]{20,}""#, r#""value": "<details>""#),
            (r"grpc-status-details-bin: .*", "grpc-status-details-bin: <details>"),
            (r"(?m)^id: .*$", "id: <cursor>"),
            (r"(pageToken|cursor)=[\w.~%-]+", "$1=<$1>"),
            (r"(?m)^(if-match|if-none-match|last-event-id): .*$", "$1: <$1>"),
        ];
        Self {
            gateway: gateway.to_owned(),
            ids: Vec::new(),
            id: Regex::new(r"([a-z]{3})_([0-7][0-9a-hjkmnp-tv-z]{25})\b").unwrap(),
            others: rules.map(|(pattern, with)| (Regex::new(pattern).unwrap(), with)).into(),
        }
    }

    fn apply(&mut self, text: &str) -> String {
        let text = text.replace(&self.gateway, "<gateway>");
        let ids = &mut self.ids;
        // The ids of an order's reservation and payment have the same digits as the order's id.
        let numbered = self.id.replace_all(&text, |found: &Captures<'_>| {
            let number = ids.iter().position(|id| *id == found[2]).unwrap_or_else(|| {
                ids.push(found[2].to_owned());
                ids.len() - 1
            });
            format!("{}_<{}>", &found[1], number + 1)
        });
        self.others.iter().fold(numbered.into_owned(), |text, (rule, with)| rule.replace_all(&text, *with).into_owned())
    }
}

fn encode(descriptor: MessageDescriptor, body: &Value) -> Vec<u8> {
    DynamicMessage::deserialize(descriptor, body.clone()).unwrap().encode_to_vec()
}

fn decode(descriptor: MessageDescriptor, bytes: &[u8]) -> Value {
    serde_json::to_value(DynamicMessage::decode(descriptor, bytes).unwrap()).unwrap_or(json!(null))
}

/// Removes the first complete frame from the bytes.
fn take_frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let length = u32::from_be_bytes(bytes.get(1..5)?.try_into().unwrap()) as usize;
    let whole = bytes.get(..5 + length)?.to_vec();
    bytes.drain(..5 + length);
    Some((whole[0], whole[5..].to_vec()))
}

/// Sends encoded messages, and reads responses of this type.
struct Dynamic(MessageDescriptor);

impl Codec for Dynamic {
    type Encode = Vec<u8>;
    type Decode = DynamicMessage;
    type Encoder = Bytes;
    type Decoder = Self;

    fn encoder(&mut self) -> Bytes {
        Bytes
    }

    fn decoder(&mut self) -> Self {
        Self(self.0.clone())
    }
}

struct Bytes;

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        Ok(Some(DynamicMessage::decode(self.0.clone(), bytes).unwrap()))
    }
}
