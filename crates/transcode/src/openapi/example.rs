//! Example values: from the contract's comments, or else made from its rules. They are the same each time.

use regex::Regex;
use regex_syntax::hir::{Class, Hir, HirKind};

/// The end of the ids in examples: letters and digits, as in real ids.
const ID: &str = "01k9xj6v3te2q8s4m5n7r0p1wz";

/// The example in a comment: "for example `orders/ord_01k9…`", with the `…` filled in.
pub fn from_comment(comment: &str) -> Option<String> {
    let flat = comment.replace('\n', " ");
    let (_, after) = flat.split_once("for example `").or_else(|| flat.split_once("For example `"))?;
    let (quoted, _) = after.split_once('`')?;
    Some(quoted.replace("01k9…", ID).replace('…', ID))
}

/// A text that matches a pattern; `None` if the pattern is not supported.
pub fn from_pattern(pattern: &str) -> Option<String> {
    let mut writer = Writer { text: String::new(), at: 0 };
    writer.write(&regex_syntax::parse(pattern).ok()?);
    // The writer ignores lookarounds, so the text is checked.
    matches(pattern, &writer.text).then_some(writer.text)
}

/// True if a text matches a pattern.
pub fn matches(pattern: &str, text: &str) -> bool {
    Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
}

struct Writer {
    text: String,
    /// Number of freely chosen characters since the last literal.
    at: usize,
}

impl Writer {
    fn write(&mut self, hir: &Hir) {
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => {}
            HirKind::Literal(literal) => {
                self.text.push_str(&String::from_utf8_lossy(&literal.0));
                self.at = 0;
            }
            HirKind::Class(class) => self.pick(class),
            HirKind::Capture(capture) => self.write(&capture.sub),
            HirKind::Concat(parts) => parts.iter().for_each(|part| self.write(part)),
            // The last alternative is rarely a special case.
            HirKind::Alternation(parts) => parts.last().into_iter().for_each(|part| self.write(part)),
            HirKind::Repetition(repetition) => {
                // A few repetitions, so that the example looks real.
                let count = repetition.min.max(repetition.max.unwrap_or(u32::MAX).min(6));
                (0..count).for_each(|_| self.write(&repetition.sub));
            }
        }
    }

    /// Writes the character of the id at this place if the class contains it, else the first of the class.
    fn pick(&mut self, class: &Class) {
        let wanted = ID.as_bytes().get(self.at % ID.len()).map(|byte| char::from(*byte));
        let Class::Unicode(class) = class else { return };
        let has = |wanted: &char| class.ranges().iter().any(|range| (range.start()..=range.end()).contains(wanted));
        self.text.extend(wanted.filter(has).or(class.ranges().first().map(|range| range.start())));
        self.at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_taken_from_comments() {
        let table = [
            ("Resource name, for example `orders/ord_01k9…`. Given by souk.", "orders/ord_01k9xj6v3te2q8s4m5n7r0p1wz"),
            ("A filter. For example\n`price <= 5.00`.", "price <= 5.00"),
        ];
        for (comment, expected) in table {
            assert_eq!(from_comment(comment).as_deref(), Some(expected));
        }
        assert_eq!(from_comment("For example, a delivery's number."), None);
    }

    #[test]
    fn examples_are_made_from_patterns() {
        for pattern in [
            "^users/usr_[0-7][0-9a-hjkmnp-tv-z]{25}$",
            "^[A-Z]{2}$",
            "^[A-Za-z0-9._:-]{1,128}$",
            "^[a-z]+([._-][a-z]+)*$",
            "^(a|b)$",
        ] {
            let text = from_pattern(pattern).unwrap();
            assert!(matches(pattern, &text), "{pattern}: {text}");
        }
        assert_eq!(
            from_pattern("^users/usr_[0-7][0-9a-hjkmnp-tv-z]{25}$").unwrap(),
            "users/usr_01k9xj6v3te2q8s4m5n7r0p1wz"
        );
        assert_eq!(from_pattern("("), None);
    }
}
