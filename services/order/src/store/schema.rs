//! The tables, written once for both engines. The types of ids, times and JSON values are parameters.

/// Declares the tables with an engine's own types.
macro_rules! tables {
    ($id:ident, $time:ident, $json:ident) => {
        diesel::table! {
            use diesel::sql_types::*;
            orders (id) {
                id -> $id,
                customer_id -> $id,
                state -> Text,
                step -> Nullable<Text>,
                currency -> Text,
                total_minor -> BigInt,
                refunded_minor -> BigInt,
                shipping_address -> $json,
                external_id -> Nullable<Text>,
                rejection -> Nullable<$json>,
                payment_provider -> Nullable<Text>,
                payment_reference -> Nullable<Text>,
                payment_state -> Nullable<Text>,
                payment_token -> Nullable<Text>,
                placed_at -> $time,
                created_at -> $time,
                updated_at -> $time,
                version -> BigInt,
                entries -> Integer,
                pending_returns -> Integer,
                lease -> Nullable<BigInt>,
                due_at -> Nullable<$time>,
                attempts -> Integer,
                last_error -> Nullable<Text>,
                refunding_minor -> BigInt,
                payment_settled_manually -> Bool,
                refunded_manually_minor -> BigInt,
            }
        }
        diesel::table! {
            use diesel::sql_types::*;
            order_lines (order_id, number) {
                order_id -> $id,
                number -> Integer,
                product_id -> $id,
                sku -> Text,
                title -> Text,
                quantity -> BigInt,
                unit_price_minor -> BigInt,
                total_minor -> BigInt,
                returned -> BigInt,
                tracked -> Bool,
                shipped -> BigInt,
                returned_shipped -> BigInt,
                cancelled -> BigInt,
            }
        }
        diesel::table! {
            use diesel::sql_types::*;
            timeline_entries (order_id, number) {
                order_id -> $id,
                number -> Integer,
                kind -> Text,
                actor -> Text,
                detail -> Text,
                created_at -> $time,
                internal -> Bool,
            }
        }
        diesel::table! {
            use diesel::sql_types::*;
            returns (id) {
                id -> $id,
                order_id -> $id,
                state -> Text,
                step -> Nullable<Text>,
                refund_minor -> BigInt,
                reason -> Text,
                returned_at -> $time,
                created_at -> $time,
                updated_at -> $time,
                lease -> Nullable<BigInt>,
                due_at -> Nullable<$time>,
                attempts -> Integer,
                last_error -> Nullable<Text>,
                cause -> Text,
                settled_manually -> Bool,
            }
        }
        diesel::table! {
            use diesel::sql_types::*;
            return_lines (return_id, line_number) {
                return_id -> $id,
                line_number -> Integer,
                quantity -> BigInt,
            }
        }
        diesel::table! {
            use diesel::sql_types::*;
            shipments (id) {
                id -> $id,
                order_id -> $id,
                carrier -> Text,
                tracking_number -> Text,
                tracking_url -> Text,
                shipped_at -> $time,
                created_at -> $time,
            }
        }
        diesel::table! {
            use diesel::sql_types::*;
            shipment_lines (shipment_id, line_number) {
                shipment_id -> $id,
                line_number -> Integer,
                quantity -> BigInt,
            }
        }
        diesel::table! {
            use diesel::sql_types::*;
            idempotency_keys (caller, method, key) {
                caller -> Text,
                method -> Text,
                key -> Text,
                request_hash -> Binary,
                order_id -> $id,
                return_id -> Nullable<$id>,
                response -> Nullable<Binary>,
                created_at -> $time,
            }
        }
        diesel::table! {
            use diesel::sql_types::*;
            simulated_payments (key) {
                key -> Text,
                reference -> Text,
                behaviour -> Text,
                state -> Text,
                currency -> Text,
                amount_minor -> BigInt,
                refunded_minor -> BigInt,
                message -> Text,
                expires_at -> $time,
                authorize_calls -> Integer,
                capture_calls -> Integer,
            }
        }
        diesel::table! {
            use diesel::sql_types::*;
            simulated_refunds (key) {
                key -> Text,
                payment -> Text,
                amount_minor -> BigInt,
            }
        }
        diesel::table! {
            use diesel::sql_types::*;
            stripe_payments (key) {
                key -> Text,
                intent -> Nullable<Text>,
                message -> Text,
                created_at -> $time,
            }
        }
        diesel::table! {
            use diesel::sql_types::*;
            payment_notices (id) {
                id -> Text,
                received_at -> $time,
            }
        }
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
        diesel::allow_tables_to_appear_in_same_query!(
            orders,
            order_lines,
            timeline_entries,
            returns,
            return_lines,
            shipments,
            shipment_lines,
            idempotency_keys
        );
        diesel::allow_tables_to_appear_in_same_query!(webhook_endpoints, webhook_deliveries);
    };
}

pub(super) use tables;
