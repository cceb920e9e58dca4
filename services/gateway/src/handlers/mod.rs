//! The handlers. Each responds to the requests of one protocol after they passed all layers of the stack.

pub mod connect;
pub mod grpc;
pub mod pages;
pub mod rest;
pub mod stream;
