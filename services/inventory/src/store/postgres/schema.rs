//! The tables as PostgreSQL has them.

use diesel::{allow_tables_to_appear_in_same_query, table};

/// What an id is here.
pub type Id = diesel::sql_types::Uuid;

/// What a time is here.
pub type Time = diesel::sql_types::Timestamptz;

table! {
    products (id) {
        id -> Uuid,
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
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        words -> Text,
        words_version -> BigInt,
        low_stock_threshold -> Nullable<BigInt>,
    }
}

table! {
    locations (id) {
        id -> Uuid,
        code -> Text,
        code_key -> Text,
        display_name -> Text,
        priority -> Integer,
        created_at -> Timestamptz,
    }
}

table! {
    stock (product_id, location_id) {
        product_id -> Uuid,
        location_id -> Uuid,
        on_hand -> BigInt,
        reserved -> BigInt,
        updated_at -> Timestamptz,
    }
}

table! {
    ledger (seq) {
        seq -> BigInt,
        id -> Uuid,
        product_id -> Uuid,
        location_id -> Uuid,
        quantity -> BigInt,
        on_hand_after -> BigInt,
        reason -> Text,
        reference -> Text,
        note -> Text,
        actor -> Text,
        request -> Nullable<Binary>,
        item -> Integer,
        created_at -> Timestamptz,
    }
}

table! {
    reservations (id) {
        id -> Uuid,
        state -> Text,
        items_hash -> Binary,
        expires_at -> Timestamptz,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

table! {
    reservation_lines (reservation_id, product_id, location_id) {
        reservation_id -> Uuid,
        product_id -> Uuid,
        location_id -> Uuid,
        quantity -> BigInt,
        returned -> BigInt,
        held_until -> Nullable<Timestamptz>,
    }
}

table! {
    requests (id) {
        id -> Binary,
        hash -> Binary,
        answer -> Text,
        created_at -> Timestamptz,
    }
}

allow_tables_to_appear_in_same_query!(products, locations, stock, ledger, reservations, reservation_lines);
