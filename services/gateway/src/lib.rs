//! souk's gateway: serves a contract to clients as REST/JSON and gRPC, from its descriptors alone.
//!
//! A request's way: `serve`, `connection` → the layers of `gateway::Gateway::stack` → `rest` (with `routes` and
//! `transcode`), `grpc` (passed on as it is; `web` for browsers) or `connect` → `upstream` (the service).

mod accept;
mod address;
mod admission;
mod answer;
mod body;
mod cache;
mod caller;
mod compression;
pub mod config;
mod connect;
mod connection;
mod cors;
mod docs;
mod foreign;
#[cfg(test)]
mod fuzz;
mod gateway;
mod grpc;
mod head;
mod headers;
mod health;
mod layers;
mod limits;
mod observe;
pub mod openapi;
mod pages;
mod request;
mod respond;
mod rest;
pub mod routes;
mod serve;
mod shared;
mod stream;
mod target;
pub mod transcode;
mod upstream;
mod web;

pub use souk_transcode::percent;

pub use self::{
    config::{Backends, Config, DEFAULTS, Settings},
    foreign::{DescriptorError, ForeignError},
    gateway::Gateway,
    serve::{ServeError, serve},
    upstream::UpstreamError,
};
