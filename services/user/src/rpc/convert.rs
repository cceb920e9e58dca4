//! Conversions between the contract's messages and the domain's types.

use chrono::{DateTime, TimeDelta, Utc};
use prost_types::{Duration, Timestamp};
use souk_proto::{common::v1::Role, user::v1};

use crate::domain::{
    token::SigningKey,
    user::{State, User},
};

pub(super) fn user(user: User) -> v1::User {
    v1::User {
        name: user.id.name(),
        etag: user.etag(),
        email: user.email,
        display_name: user.display_name,
        roles: user.roles.iter().map(|role| Role::from(role).into()).collect(),
        state: state(user.state).into(),
        create_time: Some(timestamp(user.create_time)),
        update_time: Some(timestamp(user.update_time)),
        external_id: user.external_id.unwrap_or_default(),
    }
}

fn state(state: State) -> v1::user::State {
    match state {
        State::Active => v1::user::State::Active,
        State::Disabled => v1::user::State::Disabled,
    }
}

pub(super) fn key(key: SigningKey) -> v1::JsonWebKey {
    v1::JsonWebKey {
        kty: "OKP".into(),
        crv: "Ed25519".into(),
        x: key.x(),
        kid: key.kid,
        alg: "EdDSA".into(),
        r#use: "sig".into(),
    }
}

pub(super) fn duration(delta: TimeDelta) -> Duration {
    Duration { seconds: delta.num_seconds(), nanos: delta.subsec_nanos() }
}

pub(super) fn timestamp(time: DateTime<Utc>) -> Timestamp {
    Timestamp { seconds: time.timestamp(), nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default() }
}
