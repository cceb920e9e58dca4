//! Reads the `buf.validate` options of a message and compiles them to a plan.
use std::{cell::RefCell, collections::HashSet};

use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor,
    Value,
};

use super::{
    Fault, Text, Unsupported,
    plan::{FieldPlan, Group, Index, Plan, Shape, Size, ValuePlan},
    rules::{self, Rules, Source, unsupported},
    strings::{at_least, at_most},
    text::FREE_TEXT,
};

/// The extensions of validate.proto and of souk, if the contracts use them.
struct Options {
    message: Option<ExtensionDescriptor>,
    oneof: Option<ExtensionDescriptor>,
    field: Option<ExtensionDescriptor>,
    free_text: Option<ExtensionDescriptor>,
}

impl Options {
    fn of(pool: &DescriptorPool) -> Self {
        let named = |name| pool.get_extension_by_name(name);
        Self {
            message: named("buf.validate.message"),
            oneof: named("buf.validate.oneof"),
            field: named("buf.validate.field"),
            free_text: named(FREE_TEXT),
        }
    }
}

/// The value of an option, if it is set.
fn option(options: &DynamicMessage, extension: Option<&ExtensionDescriptor>) -> Option<DynamicMessage> {
    let extension = extension.filter(|extension| options.has_extension(extension))?;
    options.get_extension(extension).as_message().cloned()
}

/// When a field's rules are ignored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ignore {
    Unspecified,
    IfZero,
    Always,
}

/// `FieldRules` without the rules of its type.
struct Common {
    required: bool,
    ignore: Ignore,
}

pub(super) struct Compiler<'a> {
    options: Options,
    index: &'a Index,
    /// Collects rules that are not supported. `None`: such rules are errors.
    left_out: Option<&'a RefCell<Vec<Unsupported>>>,
}

impl<'a> Compiler<'a> {
    pub fn new(pool: &DescriptorPool, index: &'a Index, left_out: Option<&'a RefCell<Vec<Unsupported>>>) -> Self {
        Self { options: Options::of(pool), index, left_out }
    }

    /// The result of reading; if reading failed and rules may be left out, the value without the rules.
    fn or_without<T>(
        &self,
        read: Result<T, Unsupported>,
        without: impl FnOnce() -> Result<T, Unsupported>,
    ) -> Result<T, Unsupported> {
        match (read, self.left_out) {
            (Err(unsupported), Some(left_out)) => {
                left_out.borrow_mut().push(unsupported);
                without()
            }
            (read, _) => read,
        }
    }

    /// The plan of a message.
    pub fn message(&self, message: &MessageDescriptor) -> Result<Plan, Unsupported> {
        let groups = match option(&message.options(), self.options.message.as_ref()) {
            Some(rules) => self.or_without(groups(message, &rules), || Ok(Vec::new()))?,
            None => Vec::new(),
        };
        let mut oneofs = Vec::new();
        for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
            if let Some(rules) = option(&oneof.options(), self.options.oneof.as_ref())
                && self.or_without(is_required(&oneof, &rules), || Ok(false))?
            {
                let names: Vec<_> = oneof.fields().map(|field| field.name().to_owned()).collect();
                let fault = Fault {
                    rule_id: "required".to_owned(),
                    message: format!("must be set: one of {}", names.join(", ")),
                };
                oneofs.push((oneof, fault));
            }
        }
        let grouped: HashSet<_> = groups.iter().flat_map(|group| &group.fields).map(|field| field.number()).collect();
        // In the order of the contract's text, not of the field numbers, because readers expect this order of
        // violations.
        let declared = message.descriptor_proto().field.iter();
        let fields = declared
            .filter_map(|field| message.get_field_by_name(field.name()))
            .map(|field| self.field(&field, grouped.contains(&field.number())))
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()?;
        Ok(Plan { fields, oneofs, groups })
    }

    /// The plan of a field; `None` if its rules are ignored.
    fn field(&self, field: &FieldDescriptor, grouped: bool) -> Result<Option<FieldPlan>, Unsupported> {
        let rules = option(&field.options(), self.options.field.as_ref());
        self.or_without(self.ruled(field, grouped, rules.as_ref()), || self.ruled(field, grouped, None))
    }

    fn ruled(
        &self,
        field: &FieldDescriptor,
        grouped: bool,
        rules: Option<&DynamicMessage>,
    ) -> Result<Option<FieldPlan>, Unsupported> {
        let mut common = Common { required: false, ignore: Ignore::Unspecified };
        if let Some(rules) = rules {
            common = read_common(field, rules)?;
        }
        if common.ignore == Ignore::Always {
            return Ok(self.ignored(field));
        }
        let written = rules.is_some_and(|rules| rules.has_field_by_name("ignore"));
        if grouped && !written {
            common.ignore = Ignore::IfZero;
        }
        let required =
            common.required.then(|| Fault { rule_id: "required".to_owned(), message: "must be set".to_owned() });
        let shape = if field.is_map() {
            self.map(field, rules)?
        } else if field.is_list() {
            self.list(field, rules)?
        } else {
            Shape::One(self.value(field, &field.kind(), rules)?)
        };
        let only_if_set = field.supports_presence() || common.ignore == Ignore::IfZero;
        let mut plan = FieldPlan { field: field.clone(), required, only_if_set, shape };
        plan.only_if_set |= plan.passes_empty();
        Ok(Some(plan))
    }

    /// The plan of a field whose rules are ignored. The rule for every text applies to it all the same.
    fn ignored(&self, field: &FieldDescriptor) -> Option<FieldPlan> {
        let plan = |kind: &Kind| ValuePlan { text: self.text(field, kind), ..ValuePlan::default() };
        let shape = match field.kind() {
            Kind::Message(entry) if field.is_map() => Shape::Map {
                size: Size::default(),
                keys: plan(&entry.map_entry_key_field().kind()),
                values: plan(&entry.map_entry_value_field().kind()),
            },
            kind if field.is_list() => Shape::List { size: Size::default(), unique: None, items: plan(&kind) },
            kind => Shape::One(plan(&kind)),
        };
        let plan = FieldPlan { field: field.clone(), required: None, only_if_set: true, shape };
        plan.has_own_rules().then_some(plan)
    }

    /// The kind of text of a field's value, item, key or map value of this kind.
    fn text(&self, field: &FieldDescriptor, kind: &Kind) -> Option<Text> {
        let text = Text::by(field, self.options.free_text.as_ref());
        text.filter(|_| *kind == Kind::String && self.left_out.is_none())
    }

    fn list(&self, field: &FieldDescriptor, rules: Option<&DynamicMessage>) -> Result<Shape, Unsupported> {
        let mut size = Size::default();
        let mut unique = None;
        let mut items = None;
        if let Some((name, rules)) = typed(rules) {
            if name != "repeated" {
                return Err(unsupported(field, &name, "does not fit a repeated field: use repeated.items"));
            }
            let source = Source { field, kind: &name, rules: &rules };
            for (rule, value) in rules.fields() {
                match (rule.name(), value) {
                    ("min_items", Value::U64(n)) => {
                        size.least = Some(limit(&source, "min_items", *n, at_least(*n, "item")))
                    }
                    ("max_items", Value::U64(n)) => {
                        size.most = Some(limit(&source, "max_items", *n, at_most(*n, "item")))
                    }
                    ("unique", Value::Bool(wanted)) => {
                        if field.kind().as_message().is_some() {
                            return Err(source.unsupported("unique", "is for scalars and enums"));
                        }
                        unique = wanted.then(|| source.fault("unique", "must not have the same item twice"));
                    }
                    ("items", Value::Message(rules)) => items = Some(rules.clone()),
                    (other, _) => return Err(source.unknown(other)),
                }
            }
            refuse_extensions(field, "repeated", &rules)?;
        }
        let items = self.element(field, &field.kind(), items.as_ref())?;
        Ok(Shape::List { size, unique, items })
    }

    fn map(&self, field: &FieldDescriptor, rules: Option<&DynamicMessage>) -> Result<Shape, Unsupported> {
        let mut size = Size::default();
        let mut keys = None;
        let mut values = None;
        if let Some((name, rules)) = typed(rules) {
            if name != "map" {
                return Err(unsupported(field, &name, "does not fit a map: use map.keys and map.values"));
            }
            let source = Source { field, kind: &name, rules: &rules };
            for (rule, value) in rules.fields() {
                match (rule.name(), value) {
                    ("min_pairs", Value::U64(1)) => {
                        size.least = Some(limit(&source, "min_pairs", 1, "must have at least 1 entry".to_owned()));
                    }
                    ("min_pairs", Value::U64(n)) => {
                        size.least = Some(limit(&source, "min_pairs", *n, format!("must have at least {n} entries")));
                    }
                    ("max_pairs", Value::U64(n)) => {
                        size.most = Some(limit(&source, "max_pairs", *n, format!("must have at most {n} entries")));
                    }
                    ("keys", Value::Message(rules)) => keys = Some(rules.clone()),
                    ("values", Value::Message(rules)) => values = Some(rules.clone()),
                    (other, _) => return Err(source.unknown(other)),
                }
            }
            refuse_extensions(field, "map", &rules)?;
        }
        let kind = field.kind();
        let Some(entry) = kind.as_message() else {
            return Err(unsupported(field, "map", "the field is not a map"));
        };
        Ok(Shape::Map {
            size,
            keys: self.element(field, &entry.map_entry_key_field().kind(), keys.as_ref())?,
            values: self.element(field, &entry.map_entry_value_field().kind(), values.as_ref())?,
        })
    }

    /// The plan of an item, a key or a map value, which has its own rules.
    fn element(
        &self,
        field: &FieldDescriptor,
        kind: &Kind,
        rules: Option<&DynamicMessage>,
    ) -> Result<ValuePlan, Unsupported> {
        let Some(rules) = rules else {
            return self.value(field, kind, None);
        };
        let common = read_common(field, rules)?;
        if common.required {
            return Err(unsupported(field, "required", "an item is always set: it is for fields"));
        }
        match common.ignore {
            Ignore::Always => Ok(ValuePlan { text: self.text(field, kind), ..ValuePlan::default() }),
            Ignore::IfZero => Ok(ValuePlan { skip_zero: true, ..self.value(field, kind, Some(rules))? }),
            Ignore::Unspecified => self.value(field, kind, Some(rules)),
        }
    }

    fn value(
        &self,
        field: &FieldDescriptor,
        kind: &Kind,
        rules: Option<&DynamicMessage>,
    ) -> Result<ValuePlan, Unsupported> {
        let message = kind.as_message().and_then(|message| self.index.get(message.full_name()));
        let rules = match typed(rules) {
            Some((name, rules)) => rules::read(&Source { field, kind: &name, rules: &rules }, kind)?,
            None => Rules::None,
        };
        Ok(ValuePlan { rules, text: self.text(field, kind), skip_zero: false, message: message.copied() })
    }
}

/// The rules of the field's type, and their name in `FieldRules`, for example `string`.
fn typed(rules: Option<&DynamicMessage>) -> Option<(String, DynamicMessage)> {
    rules?.fields().find_map(|(field, value)| {
        field.containing_oneof()?;
        Some((field.name().to_owned(), value.as_message()?.clone()))
    })
}

fn read_common(field: &FieldDescriptor, rules: &DynamicMessage) -> Result<Common, Unsupported> {
    let mut common = Common { required: false, ignore: Ignore::Unspecified };
    for (rule, value) in rules.fields() {
        match (rule.name(), value) {
            ("required", Value::Bool(required)) => common.required = *required,
            ("ignore", Value::EnumNumber(0)) => common.ignore = Ignore::Unspecified,
            ("ignore", Value::EnumNumber(1)) => common.ignore = Ignore::IfZero,
            ("ignore", Value::EnumNumber(3)) => common.ignore = Ignore::Always,
            _ if rule.containing_oneof().is_some() => {}
            (other, _) => {
                return Err(unsupported(field, other, "souk's validator does not implement it"));
            }
        }
    }
    refuse_extensions(field, "field", rules)?;
    Ok(common)
}

/// Refuses rules that the vendored validate.proto does not define.
fn refuse_extensions(field: &FieldDescriptor, kind: &str, rules: &DynamicMessage) -> Result<(), Unsupported> {
    match (rules.extensions().next(), rules.unknown_fields().next()) {
        (None, None) => Ok(()),
        _ => Err(unsupported(field, kind, "has a rule that souk's validator does not know")),
    }
}

/// A size limit and its fault. A limit beyond `usize` cannot be violated.
fn limit(source: &Source<'_>, rule: &str, number: u64, message: String) -> (usize, Fault) {
    (usize::try_from(number).unwrap_or(usize::MAX), source.fault(rule, message))
}

fn is_required(oneof: &OneofDescriptor, rules: &DynamicMessage) -> Result<bool, Unsupported> {
    let mut required = false;
    for (rule, value) in rules.fields() {
        match (rule.name(), value) {
            ("required", Value::Bool(value)) => required = *value,
            (other, _) => {
                return Err(Unsupported {
                    file: oneof.parent_message().parent_file().name().to_owned(),
                    element: oneof.full_name().to_owned(),
                    rule: other.to_owned(),
                    why: "souk's validator does not implement it".to_owned(),
                });
            }
        }
    }
    Ok(required)
}

/// The groups of fields that exclude each other.
fn groups(message: &MessageDescriptor, rules: &DynamicMessage) -> Result<Vec<Group>, Unsupported> {
    let error = |rule: &str, why: &str| Unsupported {
        file: message.parent_file().name().to_owned(),
        element: message.full_name().to_owned(),
        rule: rule.to_owned(),
        why: why.to_owned(),
    };
    let mut groups = Vec::new();
    for (rule, value) in rules.fields() {
        if rule.name() != "oneof" {
            return Err(error(rule.name(), "souk's validator does not implement it"));
        }
        for group in value.as_list().unwrap_or_default().iter().filter_map(Value::as_message) {
            let names = group.get_field_by_name("fields").as_deref().map(rules::texts).unwrap_or_default();
            let fields: Option<Vec<_>> = names.iter().map(|name| message.get_field_by_name(name)).collect();
            let fields = fields
                .filter(|fields| !fields.is_empty())
                .ok_or_else(|| error("message.oneof", "must name fields of the message"))?;
            let distinct: HashSet<_> = names.iter().collect();
            if distinct.len() < names.len() {
                return Err(error("message.oneof", "names a field twice"));
            }
            let names = names.join(", ");
            let fault = |message| Fault { rule_id: "message.oneof".to_owned(), message };
            let required = group.get_field_by_name("required").and_then(|value| value.as_bool());
            groups.push(Group {
                fields,
                too_many: fault(format!("only one of {names} can be set")),
                none: (required == Some(true)).then(|| fault(format!("one of {names} must be set"))),
            });
        }
    }
    if rules.extensions().next().is_some() || rules.unknown_fields().next().is_some() {
        return Err(error("message", "has a rule that souk's validator does not know"));
    }
    Ok(groups)
}
