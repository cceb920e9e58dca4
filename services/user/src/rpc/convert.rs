//! Conversions between the contract's messages and the domain's types.

use chrono::{DateTime, TimeDelta, Utc};
use prost_types::{Duration, Timestamp};
use souk_common::ids::SessionId;
use souk_proto::{common::v1::Role, user::v1};

use crate::{
    domain::{
        session::Listed,
        token::SigningKey,
        user::{State, User},
    },
    error::session_name,
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

/// `current` is the session of the caller.
pub(super) fn session(listed: Listed, current: Option<SessionId>) -> v1::UserSession {
    let Listed { session, user, last_use_time, user_agent, client_address } = listed;
    v1::UserSession {
        name: session_name(user, session.id),
        current: current == Some(session.id),
        create_time: Some(timestamp(session.create_time)),
        last_use_time: Some(timestamp(last_use_time)),
        expire_time: Some(timestamp(session.expire_time)),
        user_agent,
        client_address: client_address.unwrap_or_default(),
        scopes: scopes(session.scope.as_deref()),
    }
}

pub(super) fn scopes(scope: Option<&str>) -> Vec<String> {
    scope.into_iter().flat_map(|scope| scope.split(' ')).map(str::to_owned).collect()
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
