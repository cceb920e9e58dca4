//! Selects the messages to check, and compiles their plans.
use std::{cell::RefCell, collections::HashSet};

use prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor};

use super::{
    Unsupported,
    compile::Compiler,
    plan::{FieldPlan, Index, Plan},
};

/// The plans of every message in package souk and its subpackages.
pub(super) fn compile(pool: &DescriptorPool) -> Result<(Index, Vec<Plan>), Unsupported> {
    let of_souk = |message: &MessageDescriptor| {
        let package = message.package_name();
        package == "souk" || package.starts_with("souk.")
    };
    let messages = pool.all_messages().filter(of_souk).filter(|message| !message.is_map_entry()).collect();
    plans(pool, messages, None)
}

/// The plans of every message that a method takes, and the rules that are left out because they are not supported.
pub(super) fn compile_leniently(pool: &DescriptorPool) -> (Index, Vec<Plan>, Vec<Unsupported>) {
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let mut inputs: Vec<_> = methods.map(|method| method.input()).collect();
    inputs.sort_by(|one, other| one.full_name().cmp(other.full_name()));
    inputs.dedup();
    let left_out = RefCell::default();
    let (index, plans) = plans(pool, inputs, Some(&left_out)).unwrap_or_default();
    (index, plans, left_out.into_inner())
}

/// The plans of these messages, and of every message inside them.
fn plans(
    pool: &DescriptorPool,
    messages: Vec<MessageDescriptor>,
    left_out: Option<&RefCell<Vec<Unsupported>>>,
) -> Result<(Index, Vec<Plan>), Unsupported> {
    let messages = reachable(messages);
    let index: Index = messages.iter().enumerate().map(|(at, message)| (message.full_name().to_owned(), at)).collect();
    let compiler = Compiler::new(pool, &index, left_out);
    let mut plans = messages.iter().map(|message| compiler.message(message)).collect::<Result<Vec<_>, _>>()?;
    prune(&mut plans);
    Ok((index, plans))
}

/// These messages, and every message inside them.
fn reachable(mut messages: Vec<MessageDescriptor>) -> Vec<MessageDescriptor> {
    let mut known: HashSet<_> = messages.iter().map(|message| message.full_name().to_owned()).collect();
    let mut at = 0;
    while at < messages.len() {
        for field in messages[at].clone().fields() {
            if let Some(message) = message_of(&field)
                && known.insert(message.full_name().to_owned())
            {
                messages.push(message);
            }
        }
        at += 1;
    }
    messages
}

/// The type of the messages in a field: of its value, its items or its map values.
fn message_of(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let kind = field.kind();
    let message = kind.as_message()?;
    if !message.is_map_entry() {
        return Some(message.clone());
    }
    message.map_entry_value_field().kind().as_message().cloned()
}

/// Removes plans that cannot fail: of messages without rules, and of fields with only such messages.
fn prune(plans: &mut [Plan]) {
    // A plan can fail if a plan inside it can. Plans may contain each other in cycles, so repeat until nothing changes.
    let mut can_fail: Vec<_> = plans
        .iter()
        .map(|plan| {
            !plan.oneofs.is_empty() || !plan.groups.is_empty() || plan.fields.iter().any(FieldPlan::has_own_rules)
        })
        .collect();
    loop {
        let mut settled = true;
        for (at, plan) in plans.iter_mut().enumerate() {
            let within = |field: &mut FieldPlan| field.nested().is_some_and(|nested| can_fail[nested]);
            if !can_fail[at] && plan.fields.iter_mut().any(within) {
                can_fail[at] = true;
                settled = false;
            }
        }
        if settled {
            break;
        }
    }
    for plan in plans {
        for field in &mut plan.fields {
            let nested = field.nested();
            *nested = nested.filter(|nested| can_fail[*nested]);
        }
        plan.fields.retain_mut(|field| field.has_own_rules() || field.nested().is_some());
    }
}
