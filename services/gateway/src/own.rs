//! The gateway's own gRPC services: health, and reflection of the whole API.

use std::convert::Infallible;

use http::{Request, Response};
use souk_common::{
    error::{Problem, Reason},
    server::REFLECTION_BYTES,
};
use tonic::{Code, Status, body::Body, service::Routes};
use tower::ServiceExt;

use crate::health::Readiness;

/// Path prefixes of the gateway's own gRPC services: health and reflection.
const OWN: [&str; 3] =
    ["/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];

/// True if a gRPC path belongs to one of the gateway's own services.
pub fn is_own(path: &str) -> bool {
    OWN.iter().any(|own| path.starts_with(own))
}

/// The gateway's own gRPC services.
pub struct Own(Routes);

/// Creates the health and reflection services for these services.
///
/// # Errors
/// The descriptors are invalid.
pub fn own(
    descriptors: &[u8],
    services: &[&str],
    readiness: Readiness,
) -> Result<Own, tonic_reflection::server::Error> {
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let names = services.iter().copied().chain(["grpc.health.v1.Health"]);
        names.fold(builder, tonic_reflection::server::Builder::with_service_name)
    };
    let health = tonic_health::pb::health_server::HealthServer::new(readiness);
    let reflections = (
        reflection().build_v1()?.max_decoding_message_size(REFLECTION_BYTES),
        reflection().build_v1alpha()?.max_decoding_message_size(REFLECTION_BYTES),
    );
    Ok(Own(Routes::new(health).add_service(reflections.0).add_service(reflections.1).prepare()))
}

impl Own {
    /// Handles a call of health or reflection.
    pub async fn call(&self, request: Request<Body>) -> Response<Body> {
        let answered: Result<_, Infallible> = self.0.clone().oneshot(request).await;
        match answered {
            Ok(response) if is_unreadable(&response) => {
                let problem = Problem::new(Reason::MalformedRequest, "the message is not of the method's request type");
                Status::from(problem).into_http()
            }
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// True if the request message could not be decoded. tonic reports that as an internal error.
fn is_unreadable(response: &Response<Body>) -> bool {
    const WORDS: &str = "failed to decode Protobuf message";
    let status = response.extensions().get::<Status>();
    status.is_some_and(|status| status.code() == Code::Internal && status.message().starts_with(WORDS))
}
