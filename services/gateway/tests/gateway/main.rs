//! The gateway as clients meet it, before a real gRPC server of the test contract.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod added;
mod backend;
mod boot;
mod cache;
mod connection;
mod docs;
mod echo;
mod edge;
mod foreign;
mod grpc;
mod limits;
mod manners;
mod onward;
mod openapi;
mod raw;
mod rest;
mod showcase;
mod start;
mod stream;
mod tls;
mod web;
mod wire;
