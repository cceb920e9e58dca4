//! The keys that sign access tokens: publication, rotation and deletion.

use std::time::Duration;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{TimeDelta, Utc};
use futures::future::join_all;
use serde_json::Value;
use souk_common::error::Reason;
use souk_proto::user::v1::{GetJsonWebKeySetRequest, GetMeRequest, JsonWebKey};
use souk_testkit::wait;
use souk_user::{domain, jobs};

use crate::harness::{PASSWORD, Service, Souk, both, both_with, id, refused};

async fn published(service: &Service) -> Vec<JsonWebKey> {
    let set = service.sessions().get_json_web_key_set(GetJsonWebKeySetRequest {}).await.unwrap();
    set.into_inner().keys
}

/// The header and the claims of a token. Its signature is checked without a token library.
fn decode(token: &str, keys: &[JsonWebKey]) -> (Value, Value) {
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    let read = |part: &str| -> Value { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap() };
    let (header, claims) = (read(header), read(claims));
    let key = keys.iter().find(|key| key.kid == header["kid"]).expect("the token's key is published");
    let public = URL_SAFE_NO_PAD.decode(&key.x).unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    UnparsedPublicKey::new(&ED25519, public).verify(message.as_bytes(), &signature).unwrap();
    (header, claims)
}

/// Rotates the key as if it had happened `ago`, so that the new key signs now.
async fn rotate(souk: &Souk, ago: TimeDelta) {
    let now = domain::now() - ago;
    assert!(souk.store.rotate_key(now, Utc::now()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_checked_by_the_published_key() {
    for souk in both().await {
        let ann = souk.customer("ann@example.com").await;
        let keys = published(&souk).await;
        assert_eq!(keys.len(), 1);
        let JsonWebKey { kty, crv, alg, r#use, .. } = &keys[0];
        assert_eq!([kty, crv, alg, r#use], ["OKP", "Ed25519", "EdDSA", "sig"]);

        let (header, claims) = decode(&ann.access_token, &keys);
        assert_eq!(header["alg"], "EdDSA");
        assert_eq!(claims["iss"], "souk");
        assert_eq!(claims["aud"], "souk");
        assert_eq!(claims["sub"], id(&ann.user.unwrap()).to_string());
        assert!(claims["sid"].as_str().unwrap().starts_with("ses_"));
        assert_eq!(claims["roles"], serde_json::json!([]));
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 15 * 60);
        assert!((Utc::now().timestamp() - claims["iat"].as_i64().unwrap()).abs() < 60);

        let staff = souk.staff("staff@example.com", souk_common::auth::Role::Staff).await;
        let (_, staff_claims) = decode(&staff.access_token, &keys);
        assert_eq!(staff_claims["roles"], serde_json::json!(["STAFF"]));
        assert_ne!(staff_claims["jti"], claims["jti"]);
        let next = souk.refresh(&ann.refresh_token).await.unwrap();
        let (_, next_claims) = decode(&next.access_token, &keys);
        assert_eq!(next_claims["sid"], claims["sid"]);
        assert_ne!(next_claims["jti"], claims["jti"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_signs_while_the_old_one_still_verifies() {
    for souk in both().await {
        let old = souk.customer("ann@example.com").await;
        rotate(&souk, TimeDelta::seconds(30)).await;
        let keys = published(&souk).await;
        assert_eq!(keys.len(), 2);
        let new = souk.log_in("ann@example.com", PASSWORD).await.unwrap();
        assert_ne!(decode(&old.access_token, &keys).0["kid"], decode(&new.access_token, &keys).0["kid"]);
        // A new replica without keys in memory, and a replica that knows only the old key.
        let fresh = Service::start(&souk.database, &[]).await;
        for session in [&old, &new] {
            fresh.users_as(&session.access_token).get_me(GetMeRequest {}).await.unwrap();
        }
        souk.users_as(&old.access_token).get_me(GetMeRequest {}).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_published_before_it_signs() {
    for souk in both().await {
        let before = published(&souk).await;
        rotate(&souk, TimeDelta::zero()).await;
        let ann = souk.customer("ann@example.com").await;
        let keys = published(&souk).await;
        assert_eq!(keys.len(), 2);
        assert_eq!(decode(&ann.access_token, &keys).0["kid"], before[0].kid.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_deleted_after_its_last_token_expired() {
    for souk in both().await {
        let old = souk.customer("ann@example.com").await;
        rotate(&souk, TimeDelta::minutes(20)).await;
        let keys = published(&souk).await;
        assert_eq!(keys.len(), 1);
        let day = TimeDelta::days(1);
        assert_eq!(jobs::turn_keys(souk.store.clone(), day, TimeDelta::minutes(15)).await.unwrap(), 1);
        assert_eq!(jobs::turn_keys(souk.store.clone(), day, TimeDelta::minutes(15)).await.unwrap(), 0);
        assert_eq!(published(&souk).await, keys);

        let fresh = Service::start(&souk.database, &[]).await;
        refused(fresh.users_as(&old.access_token).get_me(GetMeRequest {}).await, Reason::TokenInvalid);
        let new = fresh.log_in("ann@example.com", PASSWORD).await.unwrap();
        fresh.users_as(&new.access_token).get_me(GetMeRequest {}).await.unwrap();
        // The key is old enough to be replaced. It stays published beside the new one.
        assert_eq!(
            jobs::turn_keys(souk.store.clone(), TimeDelta::minutes(1), TimeDelta::minutes(15)).await.unwrap(),
            1
        );
        assert_eq!(published(&souk).await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_expires() {
    let souks = both_with(&[("ACCESS_TOKEN_TTL", "1s")]).await;
    join_all(souks.iter().map(|souk| async {
        let ann = souk.customer("ann@example.com").await;
        let refusal = wait::value(Duration::from_secs(20), "the token to run out", async || {
            souk.users_as(&ann.access_token).get_me(GetMeRequest {}).await.err()
        });
        refused::<()>(Err(refusal.await), Reason::TokenExpired);
    }))
    .await;
}
