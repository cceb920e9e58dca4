//! A route's path in OpenAPI's form: `/v1/{name=orders/*}:cancel` is `/v1/orders/{order}:cancel`.

use prost_reflect::FieldDescriptor;
use serde_json::{Value as Json, json};

use super::{kinds::Side, schema::Schemas};
use crate::{
    message::fields::FieldPath,
    routes::{
        Route,
        template::{Atom, Variable},
    },
    rules::Rules,
};

/// A path and its parameters.
#[derive(Debug)]
pub struct Path {
    /// The path, with its parameters in braces.
    pub text: String,
    /// OpenAPI's parameter objects, in order.
    pub parameters: Vec<Json>,
}

impl Path {
    /// The path of a route.
    pub fn of<M>(route: &Route<M>, schemas: &mut Schemas<'_>) -> Self {
        let atoms = &route.template.atoms;
        let mut path = Self { text: String::new(), parameters: Vec::new() };
        for (at, atom) in atoms.iter().enumerate() {
            path.text.push('/');
            if let Atom::Literal(text) = atom {
                path.text.push_str(text);
                continue;
            }
            let variable =
                route.template.variables.iter().find(|variable| (variable.start..variable.end).contains(&at));
            let field =
                variable.and_then(|variable| FieldPath::resolve(&route.descriptor.input(), &variable.field).ok());
            let before = at.checked_sub(1).and_then(|before| match atoms.get(before)? {
                Atom::Literal(text) => Some(text.as_str()),
                _ => None,
            });
            let (name, mut schema) = match (variable, field) {
                (Some(variable), Some(field)) => wildcard(atoms, (variable, at), field.field(), before, schemas),
                _ => ("segment".to_owned(), json!({"type": "string", "pattern": "^[^/]+$"})),
            };
            let name = path.unique(name);
            let mut description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            if *atom == Atom::Rest {
                description = Some(json!("One or more segments of the path, with the slashes between them."));
            }
            path.text.push_str(&format!("{{{name}}}"));
            let mut parameter = json!({"name": name, "in": "path", "required": true, "schema": schema});
            if let Some(description) = description {
                parameter["description"] = description;
            }
            path.parameters.push(parameter);
        }
        if let Some(verb) = &route.template.verb {
            path.text.push(':');
            path.text.push_str(verb);
        }
        path
    }

    /// The path without the names of its parameters. OpenAPI treats two paths with the same shape as one.
    pub fn shape(&self) -> String {
        let mut shape = String::new();
        let mut inside = false;
        for character in self.text.chars() {
            inside = match character {
                '{' => true,
                '}' => false,
                _ => inside,
            };
            if !inside {
                shape.push(character);
            }
        }
        shape
    }

    /// Adopts the text and parameter names of a path with the same shape.
    pub fn rename_as(&mut self, text: &str) {
        let names = text.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name);
        for (parameter, name) in self.parameters.iter_mut().zip(names) {
            parameter["name"] = json!(name);
        }
        text.clone_into(&mut self.text);
    }

    fn unique(&self, name: String) -> String {
        let taken = |name: &str| self.parameters.iter().any(|parameter| parameter["name"] == name);
        if !taken(&name) {
            return name;
        }
        (2..).map(|number| format!("{name}{number}")).find(|name| !taken(name)).unwrap_or(name)
    }
}

/// Name and schema of the wildcard at this index, as a part of its variable.
fn wildcard(
    atoms: &[Atom],
    (variable, at): (&Variable, usize),
    field: &FieldDescriptor,
    before: Option<&str>,
    schemas: &mut Schemas<'_>,
) -> (String, Json) {
    let own = atoms.get(variable.start..variable.end).unwrap_or_default();
    if own.len() == 1 {
        let schema = schemas.field(field, Side::Parameter, true);
        return (field.json_name().to_owned(), Json::Object(schema));
    }
    let plural = before.unwrap_or_default();
    let resource = schemas.resources.plural(plural).cloned().unwrap_or_default();
    let name = match (resource.singular.is_empty(), plural) {
        (false, _) => resource.singular,
        (true, "") => field.json_name().to_owned(),
        (true, plural) => plural.strip_suffix('s').unwrap_or(plural).to_owned(),
    };
    // The part of the field's own pattern for this segment, if the pattern has equally many segments.
    let rule = Rules::of(field).pattern();
    let segments: Vec<&str> = rule
        .as_ref()
        .and_then(|rule| rule.strip_prefix('^')?.strip_suffix('$'))
        .into_iter()
        .flat_map(|rule| rule.split('/'))
        .collect();
    let ruled = segments.get(at - variable.start).filter(|_| segments.len() == own.len());
    let id = ruled.map(|rule| (*rule).to_owned()).or(resource.id);
    let pattern = id.map_or_else(|| "^[^/]+$".to_owned(), |id| format!("^{id}$"));
    let mut schema = json!({"type": "string", "pattern": pattern});
    if let Some(example) = super::example::from_pattern(&pattern) {
        schema["examples"] = json!([example]);
    }
    if let Some(comment) = schemas.comments.field(field) {
        schema["description"] = json!(comment);
    }
    (name, schema)
}
