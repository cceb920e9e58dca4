//! The characters that a text in a request may have: one rule for every text, in addition to the rules of its contract.
//!
//! PostgreSQL cannot store U+0000, but SQLite can. Without the rule, the same request would fail on one and succeed on
//! the other. Characters that reorder the text around them make a name look like another one (Unicode TR36, "Trojan
//! Source"). docs/adr/0018 explains the rule.

use prost_reflect::{ExtensionDescriptor, FieldDescriptor, Kind};

/// The option that marks a field as free text.
pub(super) const FREE_TEXT: &str = "souk.options.v1.free_text";

/// The kind of text in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// A name, an id or a token: one line, without characters that reorder text.
    Line,
    /// Longer prose (`(souk.options.v1.free_text) = true`): with line breaks and tabs, in any direction.
    Free,
}

impl Text {
    /// The kind of text in a field; `None` if neither the field nor its items, keys or values are texts.
    pub fn of(field: &FieldDescriptor) -> Option<Self> {
        Self::by(field, field.parent_file().parent_pool().get_extension_by_name(FREE_TEXT).as_ref())
    }

    /// Like [`Text::of`], with the option's extension already looked up.
    pub(super) fn by(field: &FieldDescriptor, free_text: Option<&ExtensionDescriptor>) -> Option<Self> {
        let is_text = match field.kind() {
            Kind::Message(entry) if field.is_map() => [entry.map_entry_key_field(), entry.map_entry_value_field()]
                .iter()
                .any(|field| field.kind() == Kind::String),
            kind => kind == Kind::String,
        };
        let options = field.options();
        let free = free_text.is_some_and(|option| options.get_extension(option).as_bool() == Some(true));
        is_text.then_some(if free { Self::Free } else { Self::Line })
    }

    /// A regular expression for the valid texts, in the syntax that ECMAScript, Python, Java and Rust share.
    pub const fn pattern(self) -> &'static str {
        match self {
            Self::Line => r"^[^\x00-\x1F\x7F-\x9F\u2028-\u202E\u2066-\u2069]*$",
            Self::Free => r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F]*$",
        }
    }

    /// If a text is invalid: what would be valid, as the rest of a sentence that begins with the field, and which
    /// character is wrong. `None` if the text is valid.
    pub fn fault(self, text: &str) -> Option<String> {
        // Nearly every text is valid. A quick look at the bytes finds those that may contain a refused character.
        let suspect = |byte: u8| byte < b' ' || matches!(byte, 0x7F | 0xC2 | 0xE2);
        if !text.bytes().any(suspect) {
            return None;
        }
        let (at, odd) = text.chars().enumerate().find(|(_, character)| !self.admits(*character))?;
        let right = match (self, odd.is_control()) {
            (Self::Free, _) => "must have no control characters but tabs and line breaks",
            (Self::Line, true) => "must be one line without control characters",
            (Self::Line, false) => "must have no line breaks and no characters that change the direction of text",
        };
        Some(format!("{right}, but its character {} is U+{:04X}", at + 1, u32::from(odd)))
    }

    fn admits(self, character: char) -> bool {
        match self {
            Self::Free => !character.is_control() || matches!(character, '\t' | '\n' | '\r'),
            // Line and paragraph separators; embeddings, overrides and isolates. The marks U+200E, U+200F and U+061C do
            // not reorder other characters, and right-to-left names need them.
            Self::Line => {
                !character.is_control() && !matches!(character, '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    #[test]
    fn the_check_of_characters_equals_the_pattern() {
        for kind in [Text::Line, Text::Free] {
            let pattern = Regex::new(kind.pattern()).unwrap();
            // All characters below the CJK block, and a sample of the rest.
            for character in ('\0'..'\u{3000}').chain(('\u{3000}'..=char::MAX).step_by(997)) {
                let text = character.to_string();
                assert_eq!(kind.fault(&text).is_none(), pattern.is_match(&text), "{kind:?} {character:?}");
            }
        }
    }

    #[test]
    fn names_in_any_script_pass_and_disguising_characters_do_not() {
        let names = ["", "Ann", "übergröße £5", "灯", "שלום C++\u{200F}", "العربية\u{061C}", "👩‍👩‍👧", "a — b"];
        for name in names {
            assert_eq!((Text::Line.fault(name), Text::Free.fault(name)), (None, None), "{name:?}");
        }
        for odd in ["\0", "\n", "\t", "\u{7F}", "\u{85}", "\u{2028}", "\u{202A}", "\u{202E}", "\u{2066}", "\u{2069}"] {
            assert!(Text::Line.fault(&format!("a{odd}b")).is_some(), "{odd:?}");
        }
        for free in ["a\n\tb\r\n", "\u{202B}a\u{202C}", "\u{2067}a\u{2069}"] {
            assert_eq!(Text::Free.fault(free), None, "{free:?}");
        }
        for odd in ["\0", "\u{B}", "\u{1B}[31m", "\u{9B}"] {
            assert!(Text::Free.fault(odd).is_some(), "{odd:?}");
        }
    }

    #[test]
    fn the_error_names_the_wrong_character() {
        let table = [
            (Text::Line, "aé\0", "must be one line without control characters, but its character 3 is U+0000"),
            (
                Text::Line,
                "\u{202E}",
                "must have no line breaks and no characters that change the direction of text, but its character 1 is U+202E",
            ),
            (
                Text::Free,
                "a\u{1B}",
                "must have no control characters but tabs and line breaks, but its character 2 is U+001B",
            ),
        ];
        for (kind, text, expected) in table {
            assert_eq!(kind.fault(text).as_deref(), Some(expected));
        }
    }
}
