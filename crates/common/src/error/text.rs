//! Limits for the texts of a problem.
//!
//! Most problems contain words of the client: a field's name, a path, a value. They can be as long as the request and
//! can occur several times. So every text of a problem is limited here, whatever its source.
use std::{borrow::Cow, fmt};

pub use souk_contract::shorten;

/// The maximum size of a problem's message, and of the description of one violation, in bytes.
pub const MESSAGE_BYTES: usize = 1024;

/// The maximum size of a name in a problem, in bytes: a field's path, a resource name, a key.
pub const NAME_BYTES: usize = 256;

/// Shortens an owned text to at most `most` bytes.
pub(super) fn bounded(text: impl Into<String>, most: usize) -> String {
    let text = text.into();
    match shorten(&text, most) {
        Cow::Borrowed(_) => text,
        Cow::Owned(short) => short,
    }
}

/// Formats a value and shortens it to [`MESSAGE_BYTES`].
pub(super) fn shown(value: impl fmt::Display) -> String {
    bounded(value.to_string(), MESSAGE_BYTES)
}
