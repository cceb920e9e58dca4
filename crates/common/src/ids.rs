//! Typed ids: a UUIDv7 inside, `ord_01k9…` outside, `orders/ord_01k9…` as a resource name.
//!
//! The text is a [TypeID](https://github.com/jetify-com/typeid): a prefix for the type of the id, `_`, and the UUID's
//! 128 bits as 26 characters of Crockford's base 32 in lower case. A UUIDv7 begins with the time, so newer ids sort
//! after older ones, both as text and in an index. Each id has exactly one valid text: upper case is refused, and so is
//! a first character above `7` (more than 128 bits).
//!
//! In a database an id is a `uuid` (PostgreSQL) or a 16-byte `blob` (SQLite). The same struct field works with both
//! schemas.

use std::fmt;

use chrono::{DateTime, Utc};
use ulid::Ulid;
use uuid::Uuid;

/// An invalid id or resource name. Its message may be shown to clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be `{form}` followed by 26 characters of 0-9 and a-z without i, l, o and u, the first of them 0 to 7: {fault}"
)]
pub struct IdError {
    /// The beginning of a valid text, for example `orders/ord_`.
    form: &'static str,
    fault: Fault,
}

impl IdError {
    /// The beginning of a valid text, for example `orders/ord_` or `ord_`.
    #[must_use]
    pub fn form(&self) -> &'static str {
        self.form
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("it is empty")]
    Empty,
    #[error("it does not begin so")]
    Prefix,
    #[error("{0} characters follow")]
    Length(usize),
    #[error("{0:?} at position {1} is not one of them")]
    Character(char, usize),
    #[error("it begins with {0:?}")]
    Overflow(char),
}

const LEN: usize = ulid::ULID_LEN;

/// Parses the part after the prefix. `form` is the beginning of a valid text, for the error.
fn decode(text: &str, form: &'static str) -> Result<Uuid, IdError> {
    let fail = |fault| Err(IdError { form, fault });
    if text.is_empty() {
        return fail(Fault::Empty);
    }
    let Some(rest) = text.strip_prefix(form) else {
        return fail(Fault::Prefix);
    };
    // Only the canonical text is accepted. The decoder would also accept upper case and ignore bits above 128.
    for (at, character) in rest.chars().enumerate() {
        if !matches!(character, '0'..='9' | 'a'..='z') || matches!(character, 'i' | 'l' | 'o' | 'u') {
            return fail(Fault::Character(character, form.len() + at + 1));
        }
    }
    if rest.len() != LEN {
        return fail(Fault::Length(rest.len()));
    }
    match rest.chars().next() {
        Some(first) if first > '7' => return fail(Fault::Overflow(first)),
        _ => {}
    }
    match Ulid::from_string(rest) {
        Ok(ulid) => Ok(Uuid::from_bytes(ulid.to_bytes())),
        Err(_) => fail(Fault::Length(rest.len())),
    }
}

/// Writes the part after the prefix.
fn encode(uuid: Uuid, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut buffer = [0; LEN];
    let text = Ulid::from_bytes(*uuid.as_bytes()).array_to_str(&mut buffer);
    text.make_ascii_lowercase();
    f.write_str(text)
}

macro_rules! id {
    ($(#[$doc:meta])* $id:ident, $prefix:literal, $collection:literal) => {
        $(#[$doc])*
        #[doc = concat!("\n\nText `", $prefix, "_…`, resource name `", $collection, "/", $prefix, "_…`.")]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(
            feature = "columns",
            derive(diesel::expression::AsExpression, diesel::deserialize::FromSqlRow),
            diesel(sql_type = diesel::sql_types::Uuid),
            diesel(sql_type = diesel::sql_types::Binary)
        )]
        pub struct $id(Uuid);

        impl $id {
            /// The prefix of the text, without the `_`.
            pub const PREFIX: &'static str = $prefix;
            /// The collection of the resource name, without the `/`.
            pub const COLLECTION: &'static str = $collection;

            /// Creates an id that is later than every id that this process created before.
            #[must_use]
            #[allow(clippy::new_without_default, reason = "a default should not differ from call to call")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The lowest id of this millisecond. All ids that were created before it are lower, so that the key of a
            /// table also finds its rows by age.
            #[must_use]
            pub fn first_at(time: DateTime<Utc>) -> Self {
                let millis = u128::try_from(time.timestamp_millis()).unwrap_or_default();
                Self(Uuid::from_u128(millis << 80))
            }

            /// The id with this UUID, which may be of any version.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID of the id.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            #[doc = concat!("The resource name: `", $collection, "/", $prefix, "_…`.")]
            #[must_use]
            pub fn name(self) -> String {
                format!(concat!($collection, "/{}"), self)
            }

            #[doc = concat!("Reads a resource name: `", $collection, "/", $prefix, "_…`.")]
            ///
            /// # Errors
            /// [`IdError`] with the beginning of a valid text.
            pub fn parse_name(name: &str) -> Result<Self, IdError> {
                decode(name, concat!($collection, "/", $prefix, "_")).map(Self)
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!($prefix, "_"))?;
                encode(self.0, f)
            }
        }

        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $id {
            type Err = IdError;

            #[doc = concat!("Reads `", $prefix, "_…`.")]
            fn from_str(text: &str) -> Result<Self, IdError> {
                decode(text, concat!($prefix, "_")).map(Self)
            }
        }

        impl From<$id> for Uuid {
            fn from(id: $id) -> Self {
                id.0
            }
        }

        impl serde::Serialize for $id {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $id {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        #[cfg(feature = "columns")]
        crate::columns::id!($id);
    };
}

id!(
    /// The id of a user.
    UserId, "usr", "users"
);
id!(
    /// The id of a session: a login with its family of refresh tokens.
    SessionId, "ses", "sessions"
);
id!(
    /// The id of a product.
    ProductId, "prd", "products"
);
id!(
    /// The id of a location where stock is kept.
    LocationId, "loc", "locations"
);
id!(
    /// The id of a ledger entry: a change of stock.
    LedgerEntryId, "led", "ledgerEntries"
);
id!(
    /// The id of a reservation of stock.
    ReservationId, "res", "reservations"
);
id!(
    /// The id of an order.
    OrderId, "ord", "orders"
);
id!(
    /// The id of a return: goods of an order that come back.
    ReturnId, "ret", "returns"
);
id!(
    /// The id of an event.
    EventId, "evt", "events"
);
id!(
    /// The id of a refund of an order.
    RefundId, "rfd", "refunds"
);
id!(
    /// The id of a shipment: goods of an order that were sent together.
    ShipmentId, "shp", "shipments"
);
id!(
    /// The id of an endpoint: a URL that receives events.
    WebhookEndpointId, "whe", "webhookEndpoints"
);
id!(
    /// The id of the delivery of an event to an endpoint.
    WebhookDeliveryId, "whd", "deliveries"
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UUID: Uuid = Uuid::from_u128(0x0199_f3a0_4c00_7abc_8def_0123_4567_89ab);

    #[test]
    fn the_text_of_an_id_is_a_typeid() {
        // From the file valid.yml of the TypeID specification.
        let uuid: Uuid = "0110c853-1d09-52d8-d73e-1194e95b5f19".parse().unwrap();
        assert_eq!(OrderId::from_uuid(uuid).to_string(), "ord_0123456789abcdefghjkmnpqrs");
        assert_eq!(OrderId::from_uuid(Uuid::max()).to_string(), "ord_7zzzzzzzzzzzzzzzzzzzzzzzzz");
        assert_eq!(OrderId::from_uuid(Uuid::nil()).name(), "orders/ord_00000000000000000000000000");
    }

    #[test]
    fn texts_that_are_not_canonical_are_refused() {
        let good = OrderId::from_uuid(UUID).to_string();
        for (bad, why) in [
            (String::new(), "empty"),
            (good.to_uppercase(), "does not begin so"),
            (format!("ord_{}", good[4..].to_uppercase()), "'K' at position 7"),
            ("ord_8zzzzzzzzzzzzzzzzzzzzzzzzz".into(), "it begins with '8'"),
            (good.replace("ord_", "usr_"), "does not begin so"),
            (good[..29].into(), "25 characters follow"),
            (format!("{good}0"), "27 characters follow"),
            (format!("{}l", &good[..29]), "'l' at position 30"),
            (format!("{}é", &good[..29]), "'é' at position 30"),
            (format!(" {good}"), "does not begin so"),
            ("ord_".into(), "0 characters follow"),
        ] {
            let error = bad.parse::<OrderId>().unwrap_err();
            let message = error.to_string();
            assert!(message.contains("`ord_` followed by 26"), "{message}");
            assert!(message.contains(why), "{bad}: {message}");
        }
    }

    #[test]
    fn a_resource_name_begins_with_its_collection() {
        let id = OrderId::new();
        assert_eq!(OrderId::parse_name(&id.name()), Ok(id));
        let error = OrderId::parse_name(&id.to_string()).unwrap_err();
        assert_eq!(error.form(), "orders/ord_");
        assert!(error.to_string().starts_with("must be `orders/ord_`"));
        assert!(OrderId::parse_name(&UserId::from_uuid(id.uuid()).name()).is_err());
        assert!(OrderId::parse_name(&format!("{}/lines", id.name())).is_err());
    }

    #[test]
    fn later_ids_sort_later() {
        let ids: Vec<_> = (0..1000).map(|_| OrderId::new()).collect();
        assert!(ids.is_sorted());
        assert!(ids.iter().map(ToString::to_string).is_sorted());
    }

    #[test]
    fn ids_are_serialised_as_text() {
        let id = UserId::from_uuid(UUID);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<UserId>(&json).unwrap(), id);
        assert!(serde_json::from_str::<UserId>("\"usr_\"").is_err());
        assert!(serde_json::from_str::<UserId>("7").is_err());
    }

    proptest! {
        #[test]
        fn every_uuid_survives_its_text_form(bits: u128) {
            let id = ProductId::from_uuid(Uuid::from_u128(bits));
            prop_assert_eq!(id.to_string().len(), 30);
            prop_assert_eq!(id.to_string().parse::<ProductId>().unwrap(), id);
            prop_assert_eq!(ProductId::parse_name(&id.name()).unwrap(), id);
        }

        #[test]
        fn no_text_panics_and_every_parsed_id_is_canonical(text in ".{0,40}|ord_[0-9a-zA-Z]{26}") {
            if let Ok(id) = text.parse::<OrderId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
