//! The search words of products. They are created here and not by the database, so that both engines find the same
//! products.

use std::collections::BTreeSet;

use unicode_normalization::{UnicodeNormalization as _, char::is_combining_mark};

/// The longest word, in characters. Longer words are cut: nobody types more, and engines have limits of their own.
const LONGEST: usize = 60;

/// The words of a text, in the text's order: in lower case, without accents, only letters and digits.
pub fn words(text: &str) -> Vec<String> {
    let plain: String = text.nfkd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase).collect();
    let words = plain.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| word.chars().take(LONGEST).collect()).collect()
}

/// A product's words, each once, separated by spaces.
pub fn words_of(sku: &str, title: &str, description: &str) -> String {
    let all: BTreeSet<String> = [sku, title, description].into_iter().flat_map(words).collect();
    all.into_iter().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_separated_by_other_characters_than_letters_and_digits() {
        for (text, expected) in [
            ("", &[][..]),
            (" -'\"*:&|!<>() ", &[]),
            ("Red LANTERN, 2-light", &["red", "lantern", "2", "light"]),
            ("Crème Brûlée", &["creme", "brulee"]),
            ("Cre\u{300}me ﬁne ½", &["creme", "fine", "1", "2"]),
            ("ÄRMEL straße İ", &["armel", "straße", "i"]),
            ("灯笼 85123A", &["灯笼", "85123a"]),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
        assert_eq!(words(&"x".repeat(100))[0].len(), LONGEST);
        assert_eq!(words_of("B-1", "b a", "a c"), "1 a b c");
    }

    proptest! {
        /// No word contains characters with a meaning in an engine's search syntax.
        #[test]
        fn words_contain_only_letters_and_digits(text in "\\PC*") {
            for word in words(&text) {
                prop_assert!(!word.is_empty() && word.chars().all(char::is_alphanumeric), "{word:?}");
                prop_assert!(!word.chars().any(|c| c.is_ascii_uppercase()), "{word:?}");
            }
        }
    }
}
