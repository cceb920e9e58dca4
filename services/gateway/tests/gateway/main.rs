//! Tests of the gateway as clients see it, with a real gRPC server of the test contract behind it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "tests")]

mod added;
mod backend;
mod boot;
mod cache;
mod caching;
mod connection;
mod connections;
mod docs;
mod echo;
mod edge;
mod foreign;
mod grpc;
mod limits;
mod onward;
mod openapi;
mod raw;
mod rest;
mod shares;
mod showcase;
mod start;
mod stream;
mod tls;
mod unsent;
mod web;
mod wire;
