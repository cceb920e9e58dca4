//! souk's gateway: serves a contract to clients as REST/JSON and gRPC, from its descriptors alone.
//!
//! A request's way: `serve`, `connection` → `gateway` (id, span, deadline, access) → `rest` (transcoding, with
//! `routes` and `transcode`) or `grpc` (passed on as it is) → `upstream` (the service).

mod accept;
mod access;
mod address;
mod admission;
mod answer;
mod cache;
pub mod config;
mod connect;
mod connection;
mod docs;
mod foreign;
#[cfg(test)]
mod fuzz;
mod gateway;
mod grpc;
mod head;
mod health;
mod limits;
mod manners;
pub mod openapi;
mod pages;
pub mod percent;
mod rest;
pub mod routes;
mod serve;
mod shared;
mod stream;
mod tls;
pub mod transcode;
mod upstream;
mod web;

pub use self::{
    config::{Backends, Config, DEFAULTS, Settings},
    foreign::{DescriptorError, ForeignError},
    gateway::Gateway,
    serve::{ServeError, serve},
    upstream::UpstreamError,
};
