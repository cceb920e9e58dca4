//! Path templates of `google.api.http`, parsed once: atoms to match, variables to capture.

use http_path_template::{Grammar, ParseError, PathTemplate, Segment};

use crate::percent::{self, DecodeError, Mode};

/// A template such as `/v1/{name=orders/*}:cancel`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The template as written, which is the route's name in logs and metrics.
    pub text: String,
    /// The pattern of each path segment.
    pub atoms: Vec<Atom>,
    /// The segments of each variable, and its field.
    pub variables: Vec<Variable>,
    /// The text after the last `:`.
    pub verb: Option<String>,
}

/// The pattern of a path segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Atom {
    /// Exactly this text, decoded.
    Literal(String),
    /// `*`: any one segment that is not empty.
    Single,
    /// `**`: all remaining segments, or none.
    Rest,
}

/// A range of segments that sets a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Dotted path of the field.
    pub field: String,
    /// Index of the variable's first atom.
    pub start: usize,
    /// Index after the variable's last atom.
    pub end: usize,
}

/// Why a template is invalid.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The syntax is invalid.
    #[error("`{template}` is not a path template")]
    Syntax {
        /// The template, as written.
        template: String,
        /// The cause.
        #[source]
        source: ParseError,
    },
    /// A literal cannot be decoded.
    #[error("the literal `{literal}` {source}")]
    Literal {
        /// The literal, as written.
        literal: String,
        /// The cause.
        #[source]
        source: DecodeError,
    },
}

impl Template {
    /// Parses a template as `google.api.http` defines it.
    ///
    /// # Errors
    /// Why the template is invalid.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let parsed = PathTemplate::parse(text, Grammar::default())
            .map_err(|source| TemplateError::Syntax { template: text.to_owned(), source })?;
        let mut atoms = Vec::new();
        let mut variables = Vec::new();
        for segment in parsed.segments() {
            match segment {
                Segment::Variable(variable) => {
                    let start = atoms.len();
                    for inner in variable.segments() {
                        atoms.push(atom(&inner)?);
                    }
                    variables.push(Variable { field: variable.field_path().to_owned(), start, end: atoms.len() });
                }
                other => atoms.push(atom(other)?),
            }
        }
        let verb = parsed.verb().map(literal).transpose()?;
        Ok(Self { text: text.to_owned(), atoms, variables, verb })
    }

    /// The value of each variable in a path that matched: the decoded segments, joined by `/`.
    ///
    /// # Errors
    /// If the path is not UTF-8, or has an invalid escape.
    pub fn captures(&self, segments: &[&str]) -> Result<Vec<String>, DecodeError> {
        self.variables
            .iter()
            .map(|variable| {
                let rest =
                    self.atoms.get(variable.start..variable.end).is_some_and(|atoms| atoms.contains(&Atom::Rest));
                let end = if rest { segments.len() } else { variable.end };
                let own = segments.get(variable.start..end).unwrap_or_default();
                // `{x}` and `{x=*}` are decoded completely. In longer variables `%2F` stays encoded; otherwise it would
                // look like a `/`.
                let single = variable.end - variable.start == 1 && !rest;
                let mode = if single { Mode::Segment } else { Mode::SegmentOfMany };
                let decoded: Result<Vec<_>, _> = own.iter().map(|segment| percent::decode(segment, mode)).collect();
                Ok(decoded?.join("/"))
            })
            .collect()
    }
}

fn atom(segment: &Segment<'_>) -> Result<Atom, TemplateError> {
    match segment {
        Segment::Single => Ok(Atom::Single),
        Segment::Rest => Ok(Atom::Rest),
        Segment::Literal(text) => literal(text).map(Atom::Literal),
        // The strict grammar has no other segments, and the parser refuses a variable inside a variable.
        other => literal(&format!("{other:?}")).map(Atom::Literal),
    }
}

fn literal(text: &str) -> Result<String, TemplateError> {
    percent::decode(text, Mode::Segment)
        .map(std::borrow::Cow::into_owned)
        .map_err(|source| TemplateError::Literal { literal: text.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn templates_with_segments_variables_and_verbs_are_parsed() {
        let template = Template::parse("/v1/{parent=shelves/*}/books/{book.name=**}:move").unwrap();
        let literal = |text: &str| Atom::Literal(text.to_owned());
        assert_eq!(template.atoms, [literal("v1"), literal("shelves"), Atom::Single, literal("books"), Atom::Rest]);
        assert_eq!(template.verb.as_deref(), Some("move"));
        let captured = template.captures(&["v1", "shelves", "a%2Fb%20c", "books", "x", "y%2Fz"]).unwrap();
        assert_eq!(captured, ["shelves/a%2Fb c", "x/y%2Fz"]);
        let nothing = template.captures(&["v1", "shelves", "a", "books"]).unwrap();
        assert_eq!(nothing, ["shelves/a", ""]);
    }

    #[test]
    fn a_single_segment_is_decoded_whole() {
        let template = Template::parse("/v1/files/{file}").unwrap();
        assert_eq!(template.captures(&["v1", "files", "a%2Fb"]).unwrap(), ["a/b"]);
    }

    #[test]
    fn invalid_templates_are_refused() {
        for bad in ["", "v1", "/v1/{", "/v1/{a=b", "/v1/**/x", "/v1/{a={b}}", "/v1//x", "/v1:", "/v1/%zz"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(crate::fuzz::cases())]

        #[test]
        fn no_template_panics(text in "[/{}=*:.a-c%0-9]{0,30}", path in proptest::collection::vec("[a-c%0-9]{0,4}", 0..8)) {
            if let Ok(template) = Template::parse(&text) {
                let segments: Vec<_> = path.iter().map(String::as_str).collect();
                let _ = template.captures(&segments);
            }
        }
    }
}
