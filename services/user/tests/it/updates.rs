//! Changes of accounts and their roles.

use prost_types::FieldMask;
use souk_common::{auth::Role, error::Reason, ids::UserId};
use souk_proto::{
    common::v1::Role as RoleMessage,
    user::v1::{SetUserRolesRequest, UpdateUserRequest, User},
};
use tonic::Code;

use crate::harness::{PASSWORD, both, fields, name, refused};

fn update(user: User, mask: &[&str]) -> UpdateUserRequest {
    let paths = mask.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    UpdateUserRequest { user: Some(user), update_mask: (!paths.is_empty()).then_some(FieldMask { paths }) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_changes_their_own_fields_only() {
    for souk in both().await {
        let ann = souk.customer("ann@example.com").await;
        let mut users = souk.users_as(&ann.access_token);
        let before = ann.user.clone().unwrap();

        let wanted = User { name: before.name.clone(), display_name: "Anna".into(), ..User::default() };
        let after = users.update_user(update(wanted, &[])).await.unwrap().into_inner();
        assert_eq!((after.display_name.as_str(), after.email.as_str()), ("Anna", "ann@example.com"));
        assert_ne!(after.etag, before.etag);
        assert!(after.update_time.unwrap().seconds >= before.update_time.unwrap().seconds);
        assert_eq!(after.create_time, before.create_time);

        // An update without a difference changes nothing.
        let same = users.update_user(update(after.clone(), &[])).await.unwrap().into_inner();
        assert_eq!(same, after);

        let wanted = User { name: before.name.clone(), email: "Anna@Example.com".into(), ..User::default() };
        let after = users.update_user(update(wanted, &["email"])).await.unwrap().into_inner();
        assert_eq!(after.email, "anna@example.com");
        souk.log_in("anna@example.com", crate::harness::PASSWORD).await.unwrap();
        refused(souk.log_in("ann@example.com", crate::harness::PASSWORD).await, Reason::CredentialsInvalid);

        let wanted = User { name: before.name.clone(), ..User::default() };
        let after = users.update_user(update(wanted, &["display_name"])).await.unwrap().into_inner();
        assert_eq!(after.display_name, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_updates_are_refused_with_the_field() {
    for souk in both().await {
        let ann = souk.customer("ann@example.com").await;
        souk.register("taken@example.com").await;
        let mut users = souk.users_as(&ann.access_token);
        let me = User { name: name(&ann), ..User::default() };
        for (user, mask, field) in [
            (me.clone(), &["state"][..], "update_mask.paths[0]"),
            (me.clone(), &["display_name", "create_time"], "update_mask.paths[1]"),
            (me.clone(), &["nonsense"], "update_mask.paths[0]"),
            (me.clone(), &["roles"], "update_mask.paths[0]"),
            (me.clone(), &["email"], "user.email"),
            (User { email: "nonsense".into(), ..me.clone() }, &[], "user.email"),
            (User { external_id: "1".into(), ..me.clone() }, &["external_id"], "user.external_id"),
            (User { display_name: "a\u{7}".into(), ..me.clone() }, &[], "user.display_name"),
            (User { name: "users/x".into(), ..me.clone() }, &[], "user.name"),
        ] {
            let problem = refused(users.update_user(update(user, mask)).await, Reason::FieldInvalid);
            assert_eq!(fields(&problem), [field], "{problem}");
        }
        let taken = User { email: "taken@example.com".into(), ..me };
        refused(users.update_user(update(taken, &[])).await, Reason::ResourceExists);
        let nobody = UpdateUserRequest::default();
        assert_eq!(fields(&refused(users.update_user(nobody).await, Reason::FieldInvalid)), ["user"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_with_a_stale_etag_is_refused() {
    for souk in both().await {
        let ann = souk.customer("ann@example.com").await;
        let mut users = souk.users_as(&ann.access_token);
        let first = User { display_name: "One".into(), ..ann.user.clone().unwrap() };
        users.update_user(update(first.clone(), &[])).await.unwrap();
        let second = User { display_name: "Two".into(), ..first };
        let problem = refused(users.update_user(update(second, &[])).await, Reason::EtagMismatch);
        assert_eq!(problem.code(), Code::Aborted);

        let admin = souk.staff("admin@example.com", Role::Admin).await;
        let request = SetUserRolesRequest { name: name(&ann), roles: vec![1], etag: ann.user.unwrap().etag };
        let result = souk.users_as(&admin.access_token).set_user_roles(request).await;
        refused(result, Reason::EtagMismatch);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_changes_any_account() {
    for souk in both().await {
        let ann = souk.customer("ann@example.com").await;
        let admin = souk.staff("admin@example.com", Role::Admin).await;
        let mut users = souk.users_as(&admin.access_token);
        let wanted = User { name: name(&ann), external_id: "17850".into(), ..User::default() };
        let after = users.update_user(update(wanted.clone(), &[])).await.unwrap().into_inner();
        assert_eq!(after.external_id, "17850");
        let cleared = User { external_id: String::new(), ..wanted.clone() };
        let after = users.update_user(update(cleared, &["external_id"])).await.unwrap().into_inner();
        assert_eq!(after.external_id, "");
        let missing = User { name: UserId::new().name(), display_name: "x".into(), ..User::default() };
        refused(users.update_user(update(missing, &[])).await, Reason::ResourceNotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_replaced_as_a_whole_and_a_change_ends_every_session() {
    for souk in both().await {
        let ann = souk.customer("ann@example.com").await;
        let admin = souk.staff("admin@example.com", Role::Admin).await;
        let mut users = souk.users_as(&admin.access_token);
        let set = |roles: &[RoleMessage]| SetUserRolesRequest {
            name: name(&ann),
            roles: roles.iter().map(|role| (*role).into()).collect(),
            etag: String::new(),
        };
        let both = [RoleMessage::Staff, RoleMessage::Admin];
        for roles in [&both[..], &both[..1], &[]] {
            let after = users.set_user_roles(set(roles)).await.unwrap().into_inner();
            assert_eq!(after.roles().collect::<Vec<_>>(), roles);
        }
        users.set_user_roles(set(&[RoleMessage::Staff])).await.unwrap();
        let list = souk_proto::user::v1::ListUsersRequest::default();
        refused(souk.users_as(&ann.access_token).list_users(list.clone()).await, Reason::TokenInvalid);
        refused(souk.refresh(&ann.refresh_token).await, Reason::TokenInvalid);
        let next = souk.log_in("ann@example.com", PASSWORD).await.unwrap();
        souk.users_as(&next.access_token).list_users(list.clone()).await.unwrap();
        // The same roles again change nothing.
        users.set_user_roles(set(&[RoleMessage::Staff])).await.unwrap();
        souk.users_as(&next.access_token).list_users(list).await.unwrap();
        souk.refresh(&next.refresh_token).await.unwrap();

        for roles in [vec![0], vec![9], vec![1, 1]] {
            let request = SetUserRolesRequest { name: name(&ann), roles, etag: String::new() };
            refused(users.set_user_roles(request).await, Reason::FieldInvalid);
        }
        let missing = SetUserRolesRequest { name: UserId::new().name(), ..Default::default() };
        refused(users.set_user_roles(missing).await, Reason::ResourceNotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_administrator_stays_one() {
    for souk in both().await {
        let admin = souk.staff("admin@example.com", Role::Admin).await;
        let mut users = souk.users_as(&admin.access_token);
        for roles in [vec![], vec![1]] {
            let request = SetUserRolesRequest { name: name(&admin), roles, etag: String::new() };
            let problem = refused(users.set_user_roles(request).await, Reason::StateConflict);
            assert_eq!(problem.code(), Code::FailedPrecondition);
            assert_eq!(problem.violations()[0].subject, name(&admin));
        }
        souk.staff("second@example.com", Role::Admin).await;
        let request = SetUserRolesRequest { name: name(&admin), ..Default::default() };
        users.set_user_roles(request).await.unwrap();
    }
}
