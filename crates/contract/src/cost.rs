//! The cost of a call: how many requests of its budget it counts as.

use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, ReflectMessage as _, Value};
use souk_proto::options::v1;

/// The cost of calls of a method.
#[derive(Debug, Clone)]
pub struct Cost {
    /// The cost of every call, whatever its message says; at least 1.
    pub base: u32,
    surcharges: Vec<v1::Surcharge>,
}

impl Default for Cost {
    fn default() -> Self {
        Self { base: 1, surcharges: Vec::new() }
    }
}

impl Cost {
    /// Reads the option. An error says what is wrong with it.
    pub(super) fn read(option: v1::Cost, input: &MessageDescriptor) -> Result<Self, String> {
        for v1::Surcharge { field, units, per, most } in &option.surcharges {
            let Some(found) = input.get_field_by_name(field) else {
                return Err(format!("names the field `{field}`, which {} does not have", input.full_name()));
            };
            if *units == 0 {
                return Err(format!("the surcharge of `{field}` needs `units`"));
            }
            let is_number = !found.is_list() && matches!(found.kind(), Kind::Int32 | Kind::Uint32);
            if *per > 0 && !found.is_list() && !is_number {
                return Err(format!("`per` is for repeated fields, int32 and uint32, and `{field}` is none of these"));
            }
            if *most > 0 && (*per == 0 || !is_number) {
                return Err(format!("`most` is for int32 and uint32 with `per`, and `{field}` is not such a field"));
            }
        }
        Ok(Self { base: option.base.max(1), surcharges: option.surcharges })
    }

    /// True if the cost of a call depends on its message.
    #[must_use]
    pub fn depends_on_the_message(&self) -> bool {
        !self.surcharges.is_empty()
    }

    /// The cost of a call with this message, in addition to the base.
    #[must_use]
    pub fn surcharge(&self, message: &DynamicMessage) -> u32 {
        let of = |surcharge: &v1::Surcharge| {
            let field = message.descriptor().get_field_by_name(&surcharge.field);
            let Some(field) = field.filter(|field| message.has_field(field)) else { return 0 };
            let amount = match &*message.get_field(&field) {
                Value::List(items) => u32::try_from(items.len()).unwrap_or(u32::MAX),
                // A negative number costs nothing, because the service refuses it.
                Value::I32(number) => u32::try_from(*number).unwrap_or(0),
                Value::U32(number) => *number,
                _ => return surcharge.units,
            };
            let counted = if surcharge.most > 0 { amount.min(surcharge.most) } else { amount };
            counted.checked_div(surcharge.per).map_or(surcharge.units, |times| surcharge.units.saturating_mul(times))
        };
        self.surcharges.iter().map(of).fold(0, u32::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Contract;
    use super::*;

    #[test]
    fn a_call_costs_more_if_it_asks_for_more() {
        let method = |path: &str| Contract::souk().unwrap().method(path).unwrap().clone();
        let list = method("/souk.inventory.v1.ProductService/ListProducts");
        let mut message = DynamicMessage::new(list.descriptor.input());
        assert_eq!((list.cost.base, list.cost.surcharge(&message)), (1, 0));
        for (size, cost) in [(24, 0), (25, 1), (50, 2), (500, 20), (i32::MAX, 20), (-1, 0)] {
            message.set_field_by_name("page_size", Value::I32(size));
            assert_eq!(list.cost.surcharge(&message), cost, "a page of {size}");
        }
        message.clear_field_by_name("page_size");
        message.set_field_by_name("filter", Value::String("price < 5".to_owned()));
        assert_eq!(list.cost.surcharge(&message), 9);
        message.set_field_by_name("query", Value::String("a".to_owned()));
        assert_eq!(list.cost.surcharge(&message), 18);

        let batch = method("/souk.inventory.v1.ProductService/BatchGetProducts");
        let mut message = DynamicMessage::new(batch.descriptor.input());
        for (count, cost) in [(0, 0), (49, 0), (50, 1), (1000, 20)] {
            let names = vec![Value::String("products/x".to_owned()); count];
            message.set_field_by_name("names", Value::List(names));
            assert_eq!(batch.cost.surcharge(&message), cost, "{count}");
        }

        let get = method("/souk.inventory.v1.ProductService/GetProduct");
        assert!(get.cost.base == 1 && !get.cost.depends_on_the_message());
    }
}
