//! The tables, written once for both engines. The types of ids and times are parameters.

/// Declares the tables with an engine's own types.
macro_rules! tables {
    ($id:ident, $time:ident) => {
        /// The SQL type of an id.
        pub type Id = diesel::sql_types::$id;

        /// The SQL type of a time.
        pub type Time = diesel::sql_types::$time;

        diesel::table! {
            use diesel::sql_types::*;
            products (id) {
                id -> $id,
                sku -> Text,
                sku_key -> Text,
                title -> Text,
                title_key -> Text,
                description -> Text,
                price_minor -> BigInt,
                price_currency -> Text,
                price_rank -> BigInt,
                tracking -> Text,
                state -> Text,
                version -> BigInt,
                created_at -> $time,
                updated_at -> $time,
                words -> Text,
                words_version -> BigInt,
                low_stock_threshold -> Nullable<BigInt>,
            }
        }

        diesel::table! {
            use diesel::sql_types::*;
            locations (id) {
                id -> $id,
                code -> Text,
                code_key -> Text,
                display_name -> Text,
                priority -> Integer,
                created_at -> $time,
            }
        }

        diesel::table! {
            use diesel::sql_types::*;
            stock (product_id, location_id) {
                product_id -> $id,
                location_id -> $id,
                on_hand -> BigInt,
                reserved -> BigInt,
                updated_at -> $time,
            }
        }

        diesel::table! {
            use diesel::sql_types::*;
            ledger (seq) {
                seq -> BigInt,
                id -> $id,
                product_id -> $id,
                location_id -> $id,
                quantity -> BigInt,
                on_hand_after -> BigInt,
                reason -> Text,
                reference -> Text,
                note -> Text,
                actor -> Text,
                request -> Nullable<Binary>,
                item -> Integer,
                created_at -> $time,
            }
        }

        diesel::table! {
            use diesel::sql_types::*;
            reservations (id) {
                id -> $id,
                state -> Text,
                items_hash -> Binary,
                expires_at -> $time,
                created_at -> $time,
                updated_at -> $time,
            }
        }

        diesel::table! {
            use diesel::sql_types::*;
            reservation_lines (reservation_id, product_id, location_id) {
                reservation_id -> $id,
                product_id -> $id,
                location_id -> $id,
                quantity -> BigInt,
                returned -> BigInt,
                held_until -> Nullable<$time>,
            }
        }

        diesel::table! {
            use diesel::sql_types::*;
            requests (id) {
                id -> Binary,
                hash -> Binary,
                answer -> Text,
                created_at -> $time,
            }
        }

        diesel::allow_tables_to_appear_in_same_query!(
            products,
            locations,
            stock,
            ledger,
            reservations,
            reservation_lines
        );
    };
}
pub(super) use tables;
