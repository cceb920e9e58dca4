//! The tables as SQLite has them.

diesel::table! {
    users (id) {
        id -> Binary,
        email -> Text,
        display_name -> Text,
        external_id -> Nullable<Text>,
        password_hash -> Nullable<Text>,
        is_staff -> Bool,
        is_admin -> Bool,
        state -> Text,
        revision -> BigInt,
        create_time -> TimestamptzSqlite,
        update_time -> TimestamptzSqlite,
    }
}

diesel::table! {
    sessions (id) {
        id -> Binary,
        user_id -> Binary,
        create_time -> TimestamptzSqlite,
        expire_time -> TimestamptzSqlite,
        end_time -> Nullable<TimestamptzSqlite>,
        end_reason -> Nullable<Text>,
        scope -> Nullable<Text>,
    }
}

diesel::table! {
    refresh_tokens (hash) {
        hash -> Binary,
        session_id -> Binary,
        create_time -> TimestamptzSqlite,
        use_time -> Nullable<TimestamptzSqlite>,
        successor_salt -> Nullable<Binary>,
    }
}

diesel::table! {
    signing_keys (kid) {
        kid -> Text,
        private_key -> Binary,
        public_key -> Binary,
        create_time -> TimestamptzSqlite,
        sign_time -> TimestamptzSqlite,
        retire_time -> Nullable<TimestamptzSqlite>,
    }
}

diesel::joinable!(sessions -> users (user_id));
diesel::allow_tables_to_appear_in_same_query!(users, sessions, refresh_tokens);
