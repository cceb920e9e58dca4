//! Email addresses.

/// What an email address is, in words that follow "must be".
pub(super) const WORDS: &str = "an email address (for example name@example.com)";

/// True if a text is an email address as HTML defines it for `<input type="email">`. protovalidate uses the same
/// definition.
pub(super) fn is_email(text: &str) -> bool {
    const SPECIAL: &[u8] = b".!#$%&'*+/=?^_`{|}~-";
    let Some((local, domain)) = text.split_once('@') else {
        return false;
    };
    let local_fits =
        !local.is_empty() && local.bytes().all(|byte| byte.is_ascii_alphanumeric() || SPECIAL.contains(&byte));
    local_fits && domain.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_and_invalid_addresses() {
        for text in ["a@b", "first.last+tag@example.co.uk", "o'neil@x-y.com", "a..b@c.d"] {
            assert!(is_email(text), "{text:?}");
        }
        let long = format!("a@{}.com", "b".repeat(64));
        for text in
            ["", "a", "@b.c", "a@", "a@b.", "a@-b.c", "a b@c.d", "é@b.c", "a@b@c", "Name <a@b.c>", "a@b.c\n", &long]
        {
            assert!(!is_email(text), "{text:?}");
        }
        let (_, example) = WORDS.trim_end_matches(')').split_once("(for example ").unwrap();
        assert!(is_email(example));
    }
}
