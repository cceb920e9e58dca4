//! Lists of accounts.

use std::collections::HashSet;

use souk_common::{auth::Role, error::Reason};
use souk_proto::user::v1::{CreateUserRequest, ListUsersRequest, User};
use souk_user::{admin, domain::user::State};

use crate::harness::{Souk, both, fields, refused};

/// An administrator's token, and accounts `user-0@example.com` to `user-<count - 1>`. Those with an even number have an
/// external id.
async fn filled(souk: &Souk, count: usize) -> String {
    let token = souk.staff("admin@example.com", Role::Admin).await.access_token;
    let mut users = souk.users_as(&token);
    for at in 0..count {
        let external_id = if at % 2 == 0 { format!("EXT_{at}%") } else { String::new() };
        let user = User { email: format!("user-{at}@example.com"), external_id, ..User::default() };
        users.create_user(CreateUserRequest { user: Some(user) }).await.unwrap();
    }
    token
}

async fn emails(souk: &Souk, token: &str, filter: &str) -> Vec<String> {
    let request = ListUsersRequest { filter: filter.into(), ..Default::default() };
    let page = souk.users_as(token).list_users(request).await.unwrap_or_else(|status| panic!("{filter}: {status}"));
    page.into_inner().users.into_iter().map(|user| user.email).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_newest_first_and_miss_no_account() {
    for souk in both().await {
        let token = filled(&souk, 7).await;
        let mut users = souk.users_as(&token);
        let mut seen = Vec::new();
        let mut request = ListUsersRequest { page_size: 3, ..Default::default() };
        let mut pages = 0;
        loop {
            let page = users.list_users(request.clone()).await.unwrap().into_inner();
            seen.extend(page.users.into_iter().map(|user| user.email));
            pages += 1;
            // Accounts that are created in the meantime are newer, so they are on no later page.
            souk.register(&format!("late-{pages}@example.com")).await;
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        let newest_first = (0..7).rev().map(|at| format!("user-{at}@example.com"));
        let expected: Vec<_> = newest_first.chain(["admin@example.com".to_owned()]).collect();
        assert_eq!(seen, expected);
        assert_eq!(pages, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_find_the_same_accounts_on_both_engines() {
    for souk in both().await {
        let token = filled(&souk, 4).await;
        admin::set_state(&souk.config, "user-3@example.com", State::Disabled).await.unwrap().unwrap();
        let set = |emails: Vec<String>| emails.into_iter().collect::<HashSet<_>>();
        let of = |names: &[&str]| names.iter().map(|name| format!("{name}@example.com")).collect::<HashSet<_>>();
        for (filter, expected) in [
            (r#"email = "USER-1@example.com""#, &["user-1"][..]),
            (r#"email : "user-""#, &["user-0", "user-1", "user-2", "user-3"]),
            (r#"email : "user-" AND email != "user-0@example.com""#, &["user-1", "user-2", "user-3"]),
            (r#"email : "%""#, &[]),
            (r#"email : "_""#, &[]),
            (r#"external_id = "EXT_2%""#, &["user-2"]),
            (r#"external_id : "EXT_""#, &["user-0", "user-2"]),
            (r#"external_id : "ext_""#, &[]),
            (r#"external_id = """#, &["admin", "user-1", "user-3"]),
            (r#"external_id != """#, &["user-0", "user-2"]),
            (r#"external_id != "EXT_0%""#, &["admin", "user-1", "user-2", "user-3"]),
            ("state = STATE_DISABLED", &["user-3"]),
            ("state != STATE_DISABLED AND email:user", &["user-0", "user-1", "user-2"]),
        ] {
            assert_eq!(set(emails(&souk, &token, filter).await), of(expected), "{filter}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_page_tokens_and_filters_are_refused() {
    for souk in both().await {
        let token = filled(&souk, 3).await;
        let mut users = souk.users_as(&token);
        for filter in
            ["nonsense", "password_hash = \"x\"", "email > \"a\"", "state = ACTIVE", "email = \"a\0\"", "email"]
        {
            let request = ListUsersRequest { filter: filter.into(), ..Default::default() };
            let problem = refused(users.list_users(request).await, Reason::FieldInvalid);
            assert_eq!(fields(&problem), ["filter"], "{filter}");
        }
        let request = ListUsersRequest { page_size: -1, ..Default::default() };
        assert_eq!(fields(&refused(users.list_users(request).await, Reason::FieldInvalid)), ["page_size"]);

        let request = ListUsersRequest { page_size: 1, filter: "email:user".into(), ..Default::default() };
        let page = users.list_users(request.clone()).await.unwrap().into_inner();
        let other_list = ListUsersRequest { page_token: page.next_page_token.clone(), ..Default::default() };
        refused(users.list_users(other_list).await, Reason::PageTokenInvalid);
        for page_token in ["x", "AAAA", &page.next_page_token[1..]] {
            let request = ListUsersRequest { page_token: page_token.into(), ..request.clone() };
            refused(users.list_users(request).await, Reason::PageTokenInvalid);
        }
        // Another page size does not change the list.
        let request = ListUsersRequest { page_token: page.next_page_token, page_size: 1000, ..request };
        assert_eq!(users.list_users(request).await.unwrap().into_inner().users.len(), 2);
    }
}
