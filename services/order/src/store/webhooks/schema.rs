//! The tables of webhooks, written once; what an engine calls an id, a time and a JSON value is put in.

/// Makes the tables with an engine's own types.
macro_rules! tables {
    ($id:ident, $time:ident, $json:ident) => {
        diesel::table! {
            use diesel::sql_types::*;
            webhook_endpoints (id) {
                id -> $id,
                url -> Text,
                description -> Text,
                event_types -> $json,
                secret -> Text,
                previous_secret -> Nullable<Text>,
                previous_secret_until -> Nullable<$time>,
                disabled_at -> Nullable<$time>,
                disable_reason -> Nullable<Text>,
                failing_since -> Nullable<$time>,
                created_at -> $time,
                updated_at -> $time,
                version -> BigInt,
            }
        }
        diesel::table! {
            use diesel::sql_types::*;
            webhook_deliveries (id) {
                id -> $id,
                endpoint_id -> $id,
                event_id -> $id,
                kind -> Text,
                subject -> Text,
                position -> BigInt,
                body -> Text,
                state -> Text,
                attempt_count -> Integer,
                tries -> Integer,
                attempts -> $json,
                last_code -> Integer,
                lease -> Nullable<BigInt>,
                due_at -> Nullable<$time>,
                created_at -> $time,
                settled_at -> Nullable<$time>,
            }
        }
        diesel::allow_tables_to_appear_in_same_query!(webhook_endpoints, webhook_deliveries);
    };
}

pub(super) use tables;
