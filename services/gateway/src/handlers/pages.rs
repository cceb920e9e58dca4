//! The gateway's own pages: index, liveness, readiness, and the API document.

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use souk_common::{auth::Identity, contract::Role, error::Problem};
use tonic::body::Body;

use crate::{answer, docs, gateway::Gateway, health::Report, openapi, page::Page};

impl Gateway {
    pub(crate) async fn page(&self, page: Page, headers: &HeaderMap) -> Result<Response<Body>, Problem> {
        let (status, body) = match page {
            Page::Index => (StatusCode::OK, self.index()),
            Page::Alive => (StatusCode::OK, json!({"alive": true})),
            Page::Ready => {
                let report = self.readiness.report().await;
                let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                let mut body = json!(*report);
                if self.is_for_administrator(headers).await {
                    tell_addresses(&report, &mut body);
                }
                (status, body)
            }
            Page::OpenApi => return Ok(answer::json(StatusCode::OK, self.openapi())),
            Page::Docs(file) => return file.answer(headers),
        };
        let mut response = answer::json(status, format!("{body:#}\n"));
        answer::never_store(&mut response);
        Ok(response)
    }

    /// Built at the first request: most gateways never need it.
    fn openapi(&self) -> Bytes {
        let made = || openapi::document_about(&self.contract, &self.routes, &self.api.about).to_string().into();
        self.openapi.get_or_init(made).clone()
    }

    async fn is_for_administrator(&self, headers: &HeaderMap) -> bool {
        let Some(verifier) = &self.verifier else { return false };
        let identity = verifier.identify(headers).await;
        matches!(identity, Ok(Identity::User { roles, .. }) if roles.has(Role::Admin))
    }

    fn index(&self) -> serde_json::Value {
        let routes: Vec<String> = self.routes.iter().map(ToString::to_string).collect();
        json!({
            "name": self.api.about.title,
            "version": self.api.about.version,
            "alive": Page::Alive.path(),
            "ready": Page::Ready.path(),
            "openapi": Page::OpenApi.path(),
            "docs": docs::PATH,
            "grpc": {
                "note": "gRPC (HTTP/2) at this same address, with reflection and health",
                "services": self.upstreams.services().collect::<Vec<_>>(),
            },
            "rest": routes,
        })
    }
}

/// Adds the addresses of each backend, with their states.
fn tell_addresses(report: &Report, body: &mut Value) {
    for (at, backend) in report.backends.iter().enumerate() {
        let addresses = backend.addresses.iter();
        body["backends"][at]["addresses"] =
            addresses.map(|(address, state)| json!({"address": address, "state": state.name()})).collect();
    }
}
