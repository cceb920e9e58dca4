//! The tables as PostgreSQL has them.

diesel::table! {
    users (id) {
        id -> Uuid,
        email -> Text,
        display_name -> Text,
        external_id -> Nullable<Text>,
        password_hash -> Nullable<Text>,
        is_staff -> Bool,
        is_admin -> Bool,
        state -> Text,
        revision -> BigInt,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
    }
}

diesel::table! {
    sessions (id) {
        id -> Uuid,
        user_id -> Uuid,
        create_time -> Timestamptz,
        expire_time -> Timestamptz,
        end_time -> Nullable<Timestamptz>,
        end_reason -> Nullable<Text>,
        scope -> Nullable<Text>,
    }
}

diesel::table! {
    refresh_tokens (hash) {
        hash -> Binary,
        session_id -> Uuid,
        create_time -> Timestamptz,
        use_time -> Nullable<Timestamptz>,
        successor_salt -> Nullable<Binary>,
    }
}

diesel::table! {
    signing_keys (kid) {
        kid -> Text,
        private_key -> Binary,
        public_key -> Binary,
        create_time -> Timestamptz,
        sign_time -> Timestamptz,
        retire_time -> Nullable<Timestamptz>,
    }
}

diesel::joinable!(sessions -> users (user_id));
diesel::allow_tables_to_appear_in_same_query!(users, sessions, refresh_tokens);
