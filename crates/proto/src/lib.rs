//! The contracts of `proto/` as Rust: messages, clients, server traits, and the descriptors they came from.
#![allow(missing_docs, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/souk.rs"));

/// Every contract with its options, as an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/souk.binpb"));

pub use souk::{common, inventory, options, order, user};
