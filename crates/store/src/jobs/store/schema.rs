//! The table, written once; each engine gives its own type of a time.

/// Declares the table with an engine's own type.
macro_rules! tables {
    ($time:ident) => {
        diesel::table! {
            use diesel::sql_types::*;
            jobs (name) {
                name -> Text,
                holder -> Nullable<Text>,
                lease_until -> Nullable<$time>,
                triggered_at -> Nullable<$time>,
                last_run_at -> Nullable<$time>,
                last_success_at -> Nullable<$time>,
                last_duration_ms -> Nullable<BigInt>,
                last_error -> Nullable<Text>,
                runs -> BigInt,
                failures -> BigInt,
                items -> BigInt,
            }
        }
    };
}
pub(super) use tables;
