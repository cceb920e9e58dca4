//! Example values: the contract's own where it has one, else made from its rules. The same each time.

use regex::Regex;
use regex_syntax::hir::{Class, Hir, HirKind};

/// What the ids in examples end in: a UUIDv7 as souk writes it.
const ID: &str = "01k9xj6v3te2q8s4m5n7r0p1wz";

/// The example that a comment gives: "for example `orders/ord_01k9…`", its `…` filled in.
pub fn from_comment(comment: &str) -> Option<String> {
    let flat = comment.replace('\n', " ");
    let (_, after) = flat.split_once("for example `").or_else(|| flat.split_once("For example `"))?;
    let (quoted, _) = after.split_once('`')?;
    Some(quoted.replace("01k9…", ID).replace('…', ID))
}

/// A text that matches a pattern; none where the pattern is none that can be followed.
pub fn from_pattern(pattern: &str) -> Option<String> {
    let mut text = String::new();
    write(&regex_syntax::parse(pattern).ok()?, &mut text);
    // What lookarounds ask for was not looked at.
    matches(pattern, &text).then_some(text)
}

/// Whether a text matches a pattern.
pub fn matches(pattern: &str, text: &str) -> bool {
    Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
}

fn write(hir: &Hir, text: &mut String) {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => text.push_str(&String::from_utf8_lossy(&literal.0)),
        HirKind::Class(class) => text.extend(pick(class, 0)),
        HirKind::Capture(capture) => write(&capture.sub, text),
        HirKind::Concat(parts) => parts.iter().for_each(|part| write(part, text)),
        // The last one is rarely the special case.
        HirKind::Alternation(parts) => parts.last().into_iter().for_each(|part| write(part, text)),
        HirKind::Repetition(repetition) => {
            // A few, so that it looks like something; an id where one fits.
            let most = repetition.max.unwrap_or(u32::MAX);
            let count = repetition.min.max(most.min(6));
            for at in 0..count as usize {
                match repetition.sub.kind() {
                    HirKind::Class(class) => text.extend(pick(class, at)),
                    _ => write(&repetition.sub, text),
                }
            }
        }
    }
}

/// The character of the id at this place, if the class has it, else the class's first.
fn pick(class: &Class, at: usize) -> Option<char> {
    let wanted = char::from(*ID.as_bytes().get(at % ID.len())?);
    let Class::Unicode(class) = class else { return None };
    let has = class.ranges().iter().any(|range| (range.start()..=range.end()).contains(&wanted));
    if has { Some(wanted) } else { class.ranges().first().map(|range| range.start()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_comments() {
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
    fn of_patterns() {
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
