//! The tables as SQLite has them.

use diesel::{allow_tables_to_appear_in_same_query, table};

/// What an id is here.
pub type Id = diesel::sql_types::Binary;

/// What a time is here.
pub type Time = diesel::sql_types::TimestamptzSqlite;

table! {
    products (id) {
        id -> Binary,
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
        created_at -> TimestamptzSqlite,
        updated_at -> TimestamptzSqlite,
        words -> Text,
        words_version -> BigInt,
        low_stock_threshold -> Nullable<BigInt>,
    }
}

table! {
    locations (id) {
        id -> Binary,
        code -> Text,
        code_key -> Text,
        display_name -> Text,
        priority -> Integer,
        created_at -> TimestamptzSqlite,
    }
}

table! {
    stock (product_id, location_id) {
        product_id -> Binary,
        location_id -> Binary,
        on_hand -> BigInt,
        reserved -> BigInt,
        updated_at -> TimestamptzSqlite,
    }
}

table! {
    ledger (seq) {
        seq -> BigInt,
        id -> Binary,
        product_id -> Binary,
        location_id -> Binary,
        quantity -> BigInt,
        on_hand_after -> BigInt,
        reason -> Text,
        reference -> Text,
        note -> Text,
        actor -> Text,
        request -> Nullable<Binary>,
        item -> Integer,
        created_at -> TimestamptzSqlite,
    }
}

table! {
    reservations (id) {
        id -> Binary,
        state -> Text,
        items_hash -> Binary,
        expires_at -> TimestamptzSqlite,
        created_at -> TimestamptzSqlite,
        updated_at -> TimestamptzSqlite,
    }
}

table! {
    reservation_lines (reservation_id, product_id, location_id) {
        reservation_id -> Binary,
        product_id -> Binary,
        location_id -> Binary,
        quantity -> BigInt,
        returned -> BigInt,
        held_until -> Nullable<TimestamptzSqlite>,
    }
}

table! {
    requests (id) {
        id -> Binary,
        hash -> Binary,
        answer -> Text,
        created_at -> TimestamptzSqlite,
    }
}

allow_tables_to_appear_in_same_query!(products, locations, stock, ledger, reservations, reservation_lines);
