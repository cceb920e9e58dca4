//! The handlers: each answers the requests of one protocol that passed all layers of the stack.

pub mod connect;
pub mod grpc;
pub mod pages;
pub mod rest;
pub mod stream;
