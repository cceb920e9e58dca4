//! The contracts of `proto/` as Rust: messages, clients, server traits, and the descriptors they came from.
#![allow(missing_docs, clippy::all, rustdoc::all)]

include!(concat!(env!("OUT_DIR"), "/souk.rs"));

/// Every contract with its options, as an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/souk.binpb"));

pub use souk::{common, inventory, options, order, user};

/// Debug without the values, for messages that hold a password or a token: a stray `{:?}` must not leak one.
macro_rules! redact {
    ($($message:path),* $(,)?) => {$(
        impl std::fmt::Debug for $message {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($message), " { [redacted] }"))
            }
        }
    )*};
}
redact!(
    user::v1::RegisterRequest,
    user::v1::ChangePasswordRequest,
    user::v1::LogInRequest,
    user::v1::RefreshSessionRequest,
    user::v1::LogOutRequest,
    user::v1::Session,
    order::v1::ReceiveWebhookRequest,
    order::v1::WebhookEndpoint,
);
