//! Shortens texts of clients: they may be as large as a request, and a response may repeat them several times.
use std::borrow::Cow;

/// Replaces the part that is left out.
const GAP: &str = "…";

/// Shortens a text to at most `most` bytes. Keeps the beginning, which says what the text is, and the end, which in a
/// problem's message says what is wrong.
pub fn shorten(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let room = most.saturating_sub(GAP.len());
    let head = text.floor_char_boundary(room.div_ceil(2));
    let tail = text.ceil_char_boundary(text.len() - room / 2);
    Cow::Owned(format!("{}{GAP}{}", &text[..head], &text[tail..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_beginning_and_the_end_of_a_text_are_kept() {
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
        fn no_shortened_text_exceeds_the_limit(text in ".{0,60}", most in 3_usize..80) {
            let short = shorten(&text, most);
            prop_assert!(short.len() <= most);
            prop_assert_eq!(short == text, text.len() <= most);
        }
    }
}
