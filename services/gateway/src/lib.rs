//! souk's gateway: serves a contract to clients as REST/JSON and gRPC, from its descriptors alone.
//!
//! The path of a request: `serve`, `connection` → the layers of `stack` → one of the `handlers`: `rest` (with `routes`
//! and `transcode`), `grpc` (forwarded without decoding; `web` for browsers) or `connect` → `upstream` (the service).

mod accept;
mod address;
mod admission;
mod adopt;
mod answer;
mod body;
mod cache;
mod caching;
pub mod config;
mod connection;
mod cors;
mod docs;
mod error;
mod etag;
mod foreign;
#[cfg(test)]
mod fuzz;
mod gateway;
mod handlers;
mod head;
mod health;
mod limits;
pub mod openapi;
mod own;
mod page;
mod record;
mod request;
mod resume;
pub mod routes;
mod serve;
mod shared;
mod stack;
mod streams;
mod target;
pub mod transcode;
mod upstream;
mod web;

pub use souk_transcode::percent;

pub use self::{
    adopt::{DescriptorError, ForeignError},
    config::{Backends, Config, DEFAULTS, Settings},
    error::ServeError,
    gateway::Gateway,
    serve::serve,
    upstream::UpstreamError,
};
