//! How much of a text a problem repeats.
//!
//! Part of most problems is the client's own words: a field's name, a path, a value. They may be as large as a request,
//! and come back several times over, so every text of a problem is bounded here, wherever it comes from.
use std::{borrow::Cow, fmt};

pub use souk_contract::shorten;

/// The most bytes of a problem's message, and of what describes one fault in it.
pub const MESSAGE_BYTES: usize = 1024;

/// The most bytes of a name in a problem: a field's path, a resource's name, a key.
pub const NAME_BYTES: usize = 256;

/// The same for a text that is owned.
pub(super) fn bounded(text: impl Into<String>, most: usize) -> String {
    let text = text.into();
    match shorten(&text, most) {
        Cow::Borrowed(_) => text,
        Cow::Owned(short) => short,
    }
}

/// A value as a text that is no longer than a message may be.
pub(super) fn shown(value: impl fmt::Display) -> String {
    bounded(value.to_string(), MESSAGE_BYTES)
}
