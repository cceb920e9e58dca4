//! The stack: what happens to every request, from the outside in, and the handler that answers it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderValue, Method as HttpMethod, Request, Response, StatusCode, header};
use souk_common::{
    auth::Verifier,
    contract::Contract,
    error::{Problem, Reason},
    quota::Quota,
    tls::{Acceptor, HTTP},
};
use tonic::body::Body;
use tower::ServiceBuilder;

use crate::{
    admission::{self, Admission},
    answer, body,
    cache::Cache,
    caller, compression,
    config::Config,
    connect,
    cors::{self, Cors},
    foreign::{self, Api},
    grpc::{self, Own},
    head, headers,
    health::Readiness,
    layers::{Next, NextInfallible, around, check},
    limits::{self, Limits},
    observe, request, respond,
    routes::{Miss, Routes},
    serve::ServeError,
    shared::Shared,
    stream::Streams,
    target::{Protocol, To},
    transcode::lenient::Leniency,
    upstream::Upstreams,
};

/// The gateway of one contract.
pub struct Gateway {
    pub(crate) config: Config,
    pub(crate) contract: Arc<Contract>,
    pub(crate) routes: Routes,
    pub(crate) upstreams: Upstreams,
    pub(crate) readiness: Readiness,
    pub(crate) own: Own,
    pub(crate) openapi: OnceLock<Bytes>,
    pub(crate) cache: Option<Arc<Cache>>,
    /// With other gateways.
    pub(crate) shared: Option<Arc<Shared>>,
    pub(crate) limits: Limits,
    pub(crate) bodies: Arc<Quota>,
    pub(crate) admission: Admission,
    pub(crate) streams: Streams,
    pub(crate) connect: connect::Bindings,
    /// Checks tokens; `None`: the services do, or nobody.
    pub(crate) verifier: Option<Arc<Verifier>>,
    pub(crate) api: Arc<Api>,
    pub(crate) cors: Option<Cors>,
    pub(crate) tls: Option<Acceptor>,
}

impl Gateway {
    /// The gateway of a contract. `descriptors` is the encoded set that the contract was read from, for reflection.
    ///
    /// # Errors
    /// Where a route or the address of a service is missing, clashes or cannot be read.
    pub fn new(
        config: Config,
        contract: Arc<Contract>,
        descriptors: &[u8],
        verifier: Arc<Verifier>,
    ) -> Result<Self, ServeError> {
        let routes = Routes::of(&contract)?;
        let (leniency, verifier, api) = (Leniency::default(), Some(verifier), Api::default());
        Self::of(config, foreign::Parts { contract, descriptors, routes, leniency, verifier, api })
    }

    /// The gateway of any contract.
    pub(crate) fn of(config: Config, parts: foreign::Parts<'_>) -> Result<Self, ServeError> {
        let foreign::Parts { contract, descriptors, routes, leniency, verifier, api } = parts;
        let upstreams = Upstreams::new(&config, &contract)?;
        let served: Vec<&str> = upstreams.services().collect();
        contract.require_access(&served)?;
        let readiness = Readiness::new(&upstreams, config.settings.ready_timeout, config.common.server.stop.clone());
        let own = grpc::own(descriptors, &served, readiness.clone())?;
        let connect = connect::bindings(&contract, leniency)?;
        let admission = Admission::new(
            config.common.server.max_concurrent_requests,
            config.settings.max_concurrent_per_caller,
            config.settings.queue_timeout,
        );
        let tls = config.settings.tls.load(HTTP)?;
        let shared = config.settings.shared()?;
        Ok(Self {
            streams: Streams::new(&config.settings.stream),
            bodies: body::quota(&config.settings.body),
            limits: Limits::new(config.settings.rate_limits, shared.clone()),
            cache: Cache::new(&contract, &config.settings.cache, shared.clone()).map(Arc::new),
            cors: Cors::of(&config.settings.cors, &config.settings.contract),
            openapi: OnceLock::new(),
            config,
            contract,
            routes,
            upstreams,
            readiness,
            own,
            shared,
            admission,
            connect,
            verifier,
            api: Arc::new(api),
            tls,
        })
    }

    /// Answers requests: one layer a line, from the outside in. What a layer learns of a request travels in the request's
    /// extensions (`request`), and a layer that misses what it needs refuses the request.
    pub(crate) fn stack(self: &Arc<Self>) -> NextInfallible {
        let gateway = self;
        let answers_in_any_case = ServiceBuilder::new()
            // Gives the request its id, deadline and span, and measures and logs it once, whatever becomes of it.
            .layer(around(gateway, observe::observe))
            // Keeps browsers from taking a response for what it is not.
            .layer(around(gateway, headers::secure))
            // Says which web pages of other origins may read the response.
            .layer(around(gateway, cors::cross_origin))
            // Compresses the response, inside of the layers that only add headers to it.
            .layer(around(gateway, compression::compress))
            // Makes a response of whatever is wrong, in the words of the client's protocol.
            .layer(around(gateway, respond::respond));
        let may_refuse = ServiceBuilder::new()
            // Refuses what one server reads so and another one otherwise, before anyone reads it.
            .layer(check(gateway, head::require_sound))
            // Refuses an address that has used up its budgets or its places, at no more cost than this.
            .layer(check(gateway, limits::refuse_exhausted))
            .layer(check(gateway, admission::refuse_crowd))
            // Checks the token: budgets and the access rule are the caller's.
            .layer(around(gateway, caller::identify))
            // Counts the request, also where its token is not valid: who tries tokens is stopped here.
            .layer(around(gateway, limits::spend))
            // Asks the contract whether this caller may call this method.
            .layer(check(gateway, caller::authorize))
            // Reads the body before the request takes a place: half a body keeps no one else out.
            .layer(around(gateway, body::read))
            // Gives the request a place among those that are worked on, or refuses it soon.
            .layer(around(gateway, admission::admit));
        answers_in_any_case.service(may_refuse.service(Next::handlers(gateway)))
    }

    /// Answers a request that passed all layers, by its protocol.
    pub(crate) async fn dispatch(&self, request: Request<Body>) -> Result<Response<Body>, Problem> {
        let target = request::target(request.extensions())?.clone();
        // Each on the heap by itself: the largest of them is ten times the smallest, and all are moved as often.
        match (&target.to, target.protocol) {
            (To::Route(matched), _) => Box::pin(self.rest(matched, request)).await,
            (To::Method(method), Protocol::Connect) => Box::pin(self.connect(method, request)).await,
            (To::Method(method), _) => Box::pin(self.pass(method, request)).await,
            (To::Own, _) => Box::pin(self.own(request)).await,
            (To::Page(page), _) => Box::pin(self.page(*page, request.headers())).await,
            (To::Miss(Miss::Method(allow)), _) => not_allowed(request.method(), allow),
            (To::Miss(Miss::Path(problem)), _) => Err(problem.clone()),
            (To::Unknown, _) => {
                Err(Problem::new(Reason::Unimplemented, format!("there is no method {}", request.uri().path())))
            }
        }
    }
}

/// OPTIONS is answered for every path that has a route; any other method is refused.
fn not_allowed(method: &HttpMethod, allow: &str) -> Result<Response<Body>, Problem> {
    if *method != HttpMethod::OPTIONS {
        let message = format!("this path takes {allow}, not {method}");
        return Err(Problem::new(Reason::MethodNotAllowed, message).metadata(answer::ALLOW, allow));
    }
    let mut response = answer::empty(StatusCode::NO_CONTENT);
    if let Ok(value) = HeaderValue::from_str(allow) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    Ok(response)
}
