//! The violations of a request, with their places. They are collected, so that one response reports all.

use std::fmt;

use crate::shorten::shorten;

/// The most violations that are listed.
const MOST: usize = 50;

/// The most bytes of a path.
const PATH_BYTES: usize = 256;

/// The most bytes of the detail of one violation.
const DETAIL_BYTES: usize = 1024;

/// The most bytes of one name or key in a path. A client may send a key as large as its request.
const STEP_BYTES: usize = 64;

/// A place in a request, in the names of the contract. It is on the stack, so that nothing is allocated unless there is
/// a violation.
#[derive(Debug, Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The place of the request itself.
    pub const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    /// A field of the message at this place.
    pub fn field(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(name) }
    }

    /// An element of the list at this place.
    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// An entry of the map at this place.
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

/// Written as in `google.rpc.BadRequest`: `items[0].quantity`, `labels["a"]`.
impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if self.parent.is_none_or(|parent| matches!(parent.step, Step::Root)) => {
                f.write_str(&shorten(name, STEP_BYTES))
            }
            Step::Field(name) => write!(f, ".{}", shorten(name, STEP_BYTES)),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{:?}]", shorten(key, STEP_BYTES)),
        }
    }
}

/// The part of the HTTP request that a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A variable of the path.
    Path,
    /// A query parameter.
    Query,
    /// A header that the method maps to a field.
    Header,
    /// The body.
    Body,
}

/// A violation of the contract in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field.
    pub path: String,
    /// What would be valid.
    pub detail: String,
    /// True if the field does not exist. If false, its value is wrong.
    pub unknown: bool,
}

/// All violations of a request.
#[derive(Debug, Default)]
pub struct Violations {
    list: Vec<Violation>,
    omitted: usize,
}

impl Violations {
    /// Adds a value that does not fit its field. `detail` says what would be valid: "must be a string".
    pub fn wrong(&mut self, path: impl fmt::Display, detail: impl Into<String>) {
        self.push(path, detail.into(), false);
    }

    /// Adds a field that does not exist. `detail` says so, and suggests a similar name.
    pub fn unknown(&mut self, path: impl fmt::Display, detail: impl Into<String>) {
        self.push(path, detail.into(), true);
    }

    fn push(&mut self, path: impl fmt::Display, detail: String, unknown: bool) {
        if self.list.len() < MOST {
            let path = shorten(&path.to_string(), PATH_BYTES).into_owned();
            let detail = shorten(&detail, DETAIL_BYTES).into_owned();
            self.list.push(Violation { path, detail, unknown });
        } else {
            self.omitted += 1;
        }
    }

    /// The violations found so far.
    pub fn list(&self) -> &[Violation] {
        &self.list
    }

    /// The number of further violations, which are not listed.
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// The most important violation: a field that does not exist explains more than a wrong value.
    pub fn first(&self) -> Option<&Violation> {
        self.list.iter().find(|violation| violation.unknown).or(self.list.first())
    }
}

/// The first violation in words, and the number of others: `items[0].quantity must be a whole number (and 2 more)`.
impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.first() else { return f.write_str("nothing is wrong") };
        let subject = if first.path.is_empty() { "the body" } else { &first.path };
        write!(f, "{subject} {}", first.detail)?;
        match self.list.len() + self.omitted - 1 {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

/// The known name that is most similar to an unknown name, if any is similar.
pub fn suggestion<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Nobody types longer names, and the cost of the comparison grows with the square of the length.
    if name.len() > 64 {
        return None;
    }
    let squeezed = squeeze(name);
    let allowed = (squeezed.len() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&squeezed, &squeeze(candidate)), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Removes the characters that differ between spellings of the same name.
fn squeeze(name: &str) -> String {
    name.chars().filter(|character| character.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_in_bad_request() {
        let items = Path::ROOT.field("items");
        let first = items.index(0);
        assert_eq!(first.field("quantity").to_string(), "items[0].quantity");
        assert_eq!(Path::ROOT.field("labels").key("a\"b").to_string(), r#"labels["a\"b"]"#);
        assert_eq!(Path::ROOT.to_string(), "");
        let long = "\0".repeat(4_000_000);
        let path = Path::ROOT.field("labels");
        assert!(path.key(&long).field(&long).to_string().len() < 1000);
    }

    #[test]
    fn suggestions_are_similar_names() {
        let known = ["email", "displayName", "password"];
        assert_eq!(suggestion("emial", known), Some("email"));
        assert_eq!(suggestion("display_nam", known), Some("displayName"));
        assert_eq!(suggestion("DISPLAYNAME", known), Some("displayName"));
        assert_eq!(suggestion("colour", known), None);
        assert_eq!(suggestion("x", known), None);
        assert_eq!(suggestion(&"e".repeat(100_000), known), None);
    }

    #[test]
    fn an_unknown_field_is_reported_first() {
        let mut violations = Violations::default();
        violations.wrong("a", "must be a string");
        violations.unknown("b", "is not a field");
        assert_eq!(violations.to_string(), "b is not a field (and 1 more)");
        assert!(violations.first().unwrap().unknown && violations.list().len() == 2);
        for _ in 0..MOST {
            violations.wrong("", "must be an object");
        }
        assert_eq!((violations.list().len(), violations.omitted()), (MOST, 2));
        assert!(Violations::default().first().is_none());
    }
}
