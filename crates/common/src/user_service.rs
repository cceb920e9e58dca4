//! Reads from the user service what a token check needs: the published keys and the ended sessions.

use std::str::FromStr;

use chrono::DateTime;
use souk_proto::user::v1::{
    GetJsonWebKeySetRequest, ListEndedSessionsRequest, ListEndedSessionsResponse,
    session_service_client::SessionServiceClient,
};
use tonic::Status;

use crate::{
    auth::{EndedFeed, EndedSession, EndedSessions, KeySource, PublishedKey},
    client::Client,
    ids::SessionId,
};

/// Reads the published keys from the user service.
pub struct RemoteKeys(Client);

impl RemoteKeys {
    /// Reads the keys with this client.
    pub fn new(user_service: Client) -> Self {
        Self(user_service)
    }
}

#[tonic::async_trait]
impl KeySource for RemoteKeys {
    async fn keys(&self) -> Result<Vec<PublishedKey>, Box<dyn std::error::Error + Send + Sync>> {
        let mut client = SessionServiceClient::new(self.0.clone());
        let set = client.get_json_web_key_set(GetJsonWebKeySetRequest {}).await?.into_inner();
        let usable = set.keys.into_iter().filter(|key| key.kty == "OKP" && key.crv == "Ed25519");
        Ok(usable.map(|key| PublishedKey { kid: key.kid, x: key.x }).collect())
    }
}

/// Reads the list of ended sessions from the user service, which accepts only services as callers.
pub struct RemoteEnded(Client);

impl RemoteEnded {
    /// Reads the list with this client, which must authenticate as a service.
    pub fn new(user_service: Client) -> Self {
        Self(user_service)
    }
}

#[tonic::async_trait]
impl EndedFeed for RemoteEnded {
    async fn ended(&self, cursor: String) -> Result<EndedSessions, Status> {
        let request = ListEndedSessionsRequest { cursor, ..ListEndedSessionsRequest::default() };
        let response = SessionServiceClient::new(self.0.clone()).list_ended_sessions(request).await?.into_inner();
        Ok(response.into())
    }
}

impl From<ListEndedSessionsResponse> for EndedSessions {
    fn from(response: ListEndedSessionsResponse) -> Self {
        let read = |ended: souk_proto::user::v1::list_ended_sessions_response::EndedSession| {
            let session = SessionId::from_str(&ended.session_id).ok()?;
            let token_expire_time = DateTime::from_timestamp(ended.token_expire_time?.seconds, 0)?;
            Some(EndedSession { session, token_expire_time })
        };
        let sessions = response.sessions.into_iter().filter_map(read).collect();
        Self { sessions, cursor: response.cursor, more: response.more }
    }
}
