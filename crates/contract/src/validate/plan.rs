//! The compiled rules of a message, and the check of a message by them.
use std::collections::{HashMap, HashSet};

use prost_reflect::{DynamicMessage, FieldDescriptor, MapKey, OneofDescriptor, Value};

use super::{Fault, Path, Report, Text, rules::Rules};

/// The index of each message's plan, by its full name.
pub(super) type Index = HashMap<String, usize>;

/// All checks of one message type, without checks that cannot fail.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub fields: Vec<FieldPlan>,
    /// Oneofs in which one field must be set.
    pub oneofs: Vec<(OneofDescriptor, Fault)>,
    /// Groups of fields that exclude each other.
    pub groups: Vec<Group>,
}

/// Fields of which at most one may be set.
#[derive(Debug)]
pub(super) struct Group {
    pub fields: Vec<FieldDescriptor>,
    pub too_many: Fault,
    /// The fault if none is set; `None` if all may be unset.
    pub none: Option<Fault>,
}

#[derive(Debug)]
pub(super) struct FieldPlan {
    pub field: FieldDescriptor,
    /// The fault if the field is not set; `None` if it may be unset.
    pub required: Option<Fault>,
    /// True if the rules apply only when the field is set.
    pub only_if_set: bool,
    pub shape: Shape,
}

#[derive(Debug)]
pub(super) enum Shape {
    One(ValuePlan),
    List { size: Size, unique: Option<Fault>, items: ValuePlan },
    Map { size: Size, keys: ValuePlan, values: ValuePlan },
}

/// Limits of the number of items.
#[derive(Debug, Default)]
pub(super) struct Size {
    pub least: Option<(usize, Fault)>,
    pub most: Option<(usize, Fault)>,
}

/// The checks of a single value: of a field, an item or a key.
#[derive(Debug, Default)]
pub(super) struct ValuePlan {
    pub rules: Rules,
    /// The kind of text, if the value is a text.
    pub text: Option<Text>,
    /// For items: true if the rules do not apply to a zero value.
    pub skip_zero: bool,
    /// If the value is a message: the plan of its type.
    pub message: Option<usize>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.oneofs.is_empty() && self.groups.is_empty()
    }
}

impl FieldPlan {
    /// True if the field has rules of its own, apart from those of messages inside it.
    pub fn has_own_rules(&self) -> bool {
        self.required.is_some()
            || match &self.shape {
                Shape::One(value) => value.has_own_rules(),
                Shape::List { size, unique, items } => size.is_limited() || unique.is_some() || items.has_own_rules(),
                Shape::Map { size, keys, values } => {
                    size.is_limited() || keys.has_own_rules() || values.has_own_rules()
                }
            }
    }

    /// True if an empty field is always valid, so that it can be skipped.
    pub fn passes_empty(&self) -> bool {
        self.required.is_none()
            && match &self.shape {
                Shape::One(value) => value.passes_empty(),
                Shape::List { size, .. } | Shape::Map { size, .. } => size.least.is_none(),
            }
    }

    /// The plan of the messages inside the field, if it has messages.
    pub fn nested(&mut self) -> &mut Option<usize> {
        match &mut self.shape {
            Shape::One(value) | Shape::List { items: value, .. } | Shape::Map { values: value, .. } => {
                &mut value.message
            }
        }
    }
}

impl Size {
    fn is_limited(&self) -> bool {
        self.least.is_some() || self.most.is_some()
    }

    fn check(&self, size: usize, path: &Path<'_>, report: &mut Report) {
        if let Some((least, fault)) = &self.least
            && size < *least
        {
            report.add(path, fault);
        }
        if let Some((most, fault)) = &self.most
            && size > *most
        {
            report.add(path, fault);
        }
    }
}

impl ValuePlan {
    fn has_own_rules(&self) -> bool {
        !self.rules.is_empty() || self.text.is_some()
    }

    fn is_empty(&self) -> bool {
        !self.has_own_rules() && self.message.is_none()
    }

    /// True if an empty value is always valid.
    fn passes_empty(&self) -> bool {
        self.rules.is_empty() && self.message.is_none()
    }
}

/// The state of one check of a message.
pub(super) struct Check<'a> {
    pub plans: &'a [Plan],
    pub report: &'a mut Report,
}

impl Check<'_> {
    pub fn message(&mut self, plan: usize, message: &DynamicMessage, parent: &Path<'_>) {
        let plan = &self.plans[plan];
        for field in &plan.fields {
            let path = Path::Field(parent, field.field.name());
            if (field.only_if_set || field.required.is_some()) && !message.has_field(&field.field) {
                if let Some(fault) = &field.required {
                    self.report.add(&path, fault);
                    continue;
                }
                if field.only_if_set {
                    continue;
                }
            }
            let value = message.get_field(&field.field);
            match (&field.shape, &*value) {
                (Shape::List { size, unique, items }, Value::List(values)) => {
                    size.check(values.len(), &path, self.report);
                    self.items(items, values, &path);
                    if let Some(fault) = unique
                        && has_twins(values)
                    {
                        self.report.add(&path, fault);
                    }
                }
                (Shape::Map { size, keys, values }, Value::Map(entries)) => {
                    size.check(entries.len(), &path, self.report);
                    self.entries(keys, values, entries, &path);
                }
                (Shape::One(plan), value) => self.value(plan, value, &path),
                // A repeated field always holds a list, and a map field a map.
                (Shape::List { .. } | Shape::Map { .. }, _) => {}
            }
        }
        for (oneof, fault) in &plan.oneofs {
            if !oneof.fields().any(|field| message.has_field(&field)) {
                self.report.add(&Path::Field(parent, oneof.name()), fault);
            }
        }
        for group in &plan.groups {
            let set = group.fields.iter().filter(|field| message.has_field(field)).count();
            match &group.none {
                Some(fault) if set == 0 => self.report.add(parent, fault),
                _ if set > 1 => self.report.add(parent, &group.too_many),
                _ => {}
            }
        }
    }

    fn items(&mut self, plan: &ValuePlan, values: &[Value], parent: &Path<'_>) {
        if plan.is_empty() {
            return;
        }
        for (index, value) in values.iter().enumerate() {
            if self.report.is_full() {
                return;
            }
            self.value(plan, value, &Path::Index(parent, index));
        }
    }

    fn entries(&mut self, keys: &ValuePlan, values: &ValuePlan, entries: &HashMap<MapKey, Value>, parent: &Path<'_>) {
        if keys.is_empty() && values.is_empty() {
            return;
        }
        // Sorted by key, so that the same request always gets the same response.
        let mut ordered: Vec<_> = entries.iter().collect();
        ordered.sort_unstable_by(|(one, _), (other, _)| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
        for (key, value) in ordered {
            if self.report.is_full() {
                return;
            }
            let path = Path::Key(parent, key);
            if !keys.is_empty() {
                self.value(keys, &Value::from(key.clone()), &path);
            }
            self.value(values, value, &path);
        }
    }

    fn value(&mut self, plan: &ValuePlan, value: &Value, path: &Path<'_>) {
        if plan.skip_zero && is_zero(value) {
            return;
        }
        if let (Some(text), Value::String(value)) = (plan.text, value)
            && let Some(message) = text.fault(value)
        {
            // Other rules are skipped, because the same character may be the cause of their violations, too.
            return self.report.tell(path, "souk.text", &message);
        }
        plan.rules.check(value, path, self.report);
        if let (Some(plan), Value::Message(message)) = (plan.message, value) {
            self.message(plan, message, path);
        }
    }
}

/// True if a single value is the zero of its type. A message has no zero.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::I32(value) | Value::EnumNumber(value) => *value == 0,
        Value::I64(value) => *value == 0,
        Value::U32(value) => *value == 0,
        Value::U64(value) => *value == 0,
        Value::F32(value) => *value == 0.0,
        Value::F64(value) => *value == 0.0,
        Value::String(value) => value.is_empty(),
        Value::Bytes(value) => value.is_empty(),
        Value::Message(_) | Value::List(_) | Value::Map(_) => false,
    }
}

/// True if a list has a value twice. For scalars and enums.
fn has_twins(values: &[Value]) -> bool {
    #[derive(PartialEq, Eq, Hash)]
    enum Key<'a> {
        Signed(i64),
        Unsigned(u64),
        Float(u64),
        Text(&'a str),
        Bytes(&'a [u8]),
    }
    let mut seen = HashSet::with_capacity(values.len());
    values.iter().any(|value| {
        // Adding zero makes -0 and 0 equal. A NaN equals nothing.
        let float = |value: f64| (!value.is_nan()).then(|| Key::Float((value + 0.0).to_bits()));
        let key = match value {
            Value::Bool(value) => Some(Key::Unsigned((*value).into())),
            Value::I32(value) | Value::EnumNumber(value) => Some(Key::Signed((*value).into())),
            Value::I64(value) => Some(Key::Signed(*value)),
            Value::U32(value) => Some(Key::Unsigned((*value).into())),
            Value::U64(value) => Some(Key::Unsigned(*value)),
            Value::F32(value) => float((*value).into()),
            Value::F64(value) => float(*value),
            Value::String(value) => Some(Key::Text(value)),
            Value::Bytes(value) => Some(Key::Bytes(value)),
            Value::Message(_) | Value::List(_) | Value::Map(_) => None,
        };
        key.is_some_and(|key| !seen.insert(key))
    })
}
