//! How much of a text a problem repeats.
//!
//! Part of most problems is the client's own words: a field's name, a path, a value. They may be as large as a request,
//! and come back several times over, so every text of a problem is bounded here, wherever it comes from.
use std::{borrow::Cow, fmt};

/// The most bytes of a problem's message, and of what describes one fault in it.
pub const MESSAGE_BYTES: usize = 1024;

/// The most bytes of a name in a problem: a field's path, a resource's name, a key.
pub const NAME_BYTES: usize = 256;

/// What stands for the part that is left out.
const GAP: &str = "…";

/// A text of at most `most` bytes. Of a longer one the beginning and the end are kept: the one says what it is, the
/// other, in a problem's message, what is wrong with it.
pub fn shorten(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let room = most.saturating_sub(GAP.len());
    let head = text.floor_char_boundary(room.div_ceil(2));
    let tail = text.ceil_char_boundary(text.len() - room / 2);
    Cow::Owned(format!("{}{GAP}{}", &text[..head], &text[tail..]))
}

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn beginning_and_end_are_kept() {
        assert_eq!(shorten("short", 5), "short");
        let long = format!("{} is not a field of Request", "x".repeat(4_000_000));
        let short = shorten(&long, 100);
        assert!(short.starts_with("xxxx") && short.ends_with("xx is not a field of Request"), "{short}");
        assert!(short.len() <= 100, "{}", short.len());
        assert_eq!(shorten("€€€€", 3), "…");
        assert_eq!(shorten("abcdef", 0), "…");
    }

    proptest! {
        #[test]
        fn no_text_is_longer_than_it_may_be(text in ".{0,60}", most in 3_usize..80) {
            let short = shorten(&text, most);
            prop_assert!(short.len() <= most);
            prop_assert_eq!(short == text, text.len() <= most);
        }
    }
}
