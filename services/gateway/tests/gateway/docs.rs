//! The documentation page: it is complete, loads nothing from other hosts, and is served uncompressed if the client
//! needs that.

use std::io::Read;

use flate2::read::GzDecoder;

use crate::boot;

#[tokio::test]
async fn the_page_is_self_contained_and_loads_nothing_from_other_hosts() {
    let gateway = boot::boot().await;
    let page = gateway.get("/docs").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(!policy.contains("http") && !policy.contains('*'), "{policy}");
    let links: Vec<&str> = ["href=\"", "src=\""]
        .iter()
        .flat_map(|attribute| page.text.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()))
        .filter(|link| !link.starts_with("data:"))
        .collect();
    assert_eq!(links.len(), 4, "{links:?}");
    for link in links {
        let file = gateway.get(&format!("/{link}")).await;
        assert_eq!(file.status.as_u16(), 200, "{link}");
        assert!(!file.text.is_empty() && file.header("content-encoding").is_empty(), "{link}");
        assert_eq!(file.header("x-content-type-options"), "nosniff", "{link}");
    }
    assert_eq!(gateway.get("/docs/no-such-file.js").await.status.as_u16(), 404);
    let posted = gateway.json("POST", "/docs", "{}").await;
    posted.problem(405, "METHOD_NOT_ALLOWED");
}

#[tokio::test]
async fn the_page_is_compressed_for_clients_that_accept_it() {
    let gateway = boot::boot().await;
    let plain = gateway.get("/docs/swagger-ui.css").await;
    assert!(plain.text.contains(".swagger-ui"));
    let request = gateway.request("GET", "/docs/swagger-ui.css").header("accept-encoding", "br, gzip");
    let response = request.send().await.unwrap();
    assert_eq!(
        (&response.headers()["content-encoding"], &response.headers()["vary"]),
        (&"gzip".parse().unwrap(), &"accept-encoding".parse().unwrap())
    );
    let packed = response.bytes().await.unwrap();
    let mut unpacked = String::new();
    GzDecoder::new(&packed[..]).read_to_string(&mut unpacked).unwrap();
    assert!(packed.len() * 4 < unpacked.len() && unpacked == plain.text);
}
