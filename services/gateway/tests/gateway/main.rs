//! The gateway as clients meet it, before a real gRPC server of the test contract.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod boot;
mod cache;
mod echo;
mod edge;
mod grpc;
mod limits;
mod manners;
mod openapi;
mod rest;
mod start;
