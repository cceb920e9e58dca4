//! Tests of locations.

use souk_common::{error::Reason, ids::LocationId};
use souk_proto::inventory::v1::{CreateLocationRequest, GetLocationRequest, ListLocationsRequest, Location};

use crate::harness::{both, fields, refused};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_installation_has_one_location_and_further_ones_are_listed_by_priority() {
    for souk in both().await {
        for (code, priority) in [("Zulu", -1), ("b", 5), ("A", 5)] {
            souk.location(code, priority).await;
        }
        let mut codes = Vec::new();
        let mut request = ListLocationsRequest { page_size: 2, ..Default::default() };
        loop {
            let page = souk.locations().list_locations(request.clone()).await.unwrap().into_inner();
            assert!(page.locations.len() <= 2);
            codes.extend(page.locations.into_iter().map(|location| location.code));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(codes, ["Zulu", "main", "A", "b"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_locations_are_refused_with_the_field() {
    for souk in both().await {
        let create = |code: &str| {
            let location = Location { code: code.to_owned(), ..Location::default() };
            let mut client = souk.locations();
            async move { client.create_location(CreateLocationRequest { location: Some(location) }).await }
        };
        let taken = refused(create("MAIN").await, Reason::ResourceExists);
        assert_eq!(fields(&taken), ["location.code"]);
        for wrong in ["", "-x", "a b", &"x".repeat(33)] {
            let problem = refused(create(wrong).await, Reason::FieldInvalid);
            assert_eq!(fields(&problem), ["location.code"], "{wrong}");
        }
        let get = |name: String| {
            let mut client = souk.locations();
            async move { client.get_location(GetLocationRequest { name }).await }
        };
        refused(get(LocationId::new().name()).await, Reason::ResourceNotFound);
        refused(get("locations/loc_x".to_owned()).await, Reason::FieldInvalid);
        // It matches the contract's pattern but is not an id: `l` and `u` are not in the alphabet.
        refused(get(format!("locations/loc_{}", "lu".repeat(13))).await, Reason::FieldInvalid);
        let listed = ListLocationsRequest { page_token: "nonsense".to_owned(), ..Default::default() };
        refused(souk.locations().list_locations(listed).await, Reason::PageTokenInvalid);
    }
}
