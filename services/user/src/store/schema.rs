//! The tables, written once for both engines. The types of ids and times are parameters.

/// Declares the tables with an engine's own types.
macro_rules! tables {
    ($id:ident, $time:ident) => {
        diesel::table! {
            use diesel::sql_types::*;
            users (id) {
                id -> $id,
                email -> Text,
                display_name -> Text,
                external_id -> Nullable<Text>,
                password_hash -> Nullable<Text>,
                is_staff -> Bool,
                is_admin -> Bool,
                state -> Text,
                revision -> BigInt,
                create_time -> $time,
                update_time -> $time,
            }
        }

        diesel::table! {
            use diesel::sql_types::*;
            sessions (id) {
                id -> $id,
                user_id -> $id,
                create_time -> $time,
                expire_time -> $time,
                end_time -> Nullable<$time>,
                end_reason -> Nullable<Text>,
                scope -> Nullable<Text>,
                last_use_time -> Nullable<$time>,
                user_agent -> Text,
                client_address -> Nullable<Text>,
                ended_by -> Nullable<$id>,
            }
        }

        diesel::table! {
            use diesel::sql_types::*;
            refresh_tokens (hash) {
                hash -> Binary,
                session_id -> $id,
                create_time -> $time,
                use_time -> Nullable<$time>,
                successor_salt -> Nullable<Binary>,
            }
        }

        diesel::table! {
            use diesel::sql_types::*;
            signing_keys (kid) {
                kid -> Text,
                private_key -> Binary,
                public_key -> Binary,
                create_time -> $time,
                sign_time -> $time,
                retire_time -> Nullable<$time>,
            }
        }

        diesel::joinable!(sessions -> users (user_id));
        diesel::allow_tables_to_appear_in_same_query!(users, sessions, refresh_tokens);
    };
}
pub(super) use tables;
