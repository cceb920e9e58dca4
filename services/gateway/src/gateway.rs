//! What happens to every request: it gets its id, span and deadline, is answered, measured and logged once.

use std::{
    any::Any,
    net::Ipv4Addr,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, Method as HttpMethod, Request, Response, StatusCode, header};
use souk_common::{
    auth::{Identity, Verifier},
    context::{self, REQUEST_ID, RequestContext},
    contract::{AccessRule, Contract, Method},
    error::{Problem, Reason},
    framing, telemetry,
};
use tonic::{Status, body::Body};

use crate::{
    access::{Done, Sent},
    address::{self, Peer},
    admission::{self, Admission},
    answer,
    cache::{Cache, Change},
    config::Config,
    connect,
    foreign::{self, Api},
    grpc::{self, Own},
    head,
    health::Readiness,
    limits::{Client, Limits},
    manners::{self, Manners, cors},
    pages::Page,
    routes::{Matched, Miss, Routes},
    serve::ServeError,
    shared::Shared,
    stream::{self, Ended, Outcome, Streams},
    tls::Tls,
    transcode::lenient::Leniency,
    upstream::Upstreams,
    web::Encoding,
};

/// When to come back where no one knows better.
const RETRY_AFTER: Duration = Duration::from_secs(1);

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
    limits: Limits,
    pub(crate) streams: Streams,
    pub(crate) connect: connect::Bindings,
    /// Checks tokens; `None`: the services do, or nobody.
    pub(crate) verifier: Option<Arc<Verifier>>,
    pub(crate) api: Arc<Api>,
    manners: Manners,
    admission: Admission,
    pub(crate) tls: Option<Tls>,
}

/// What a request is for.
enum Target {
    /// gRPC, to this method of the contract.
    Grpc(Arc<Method>),
    /// gRPC, to health or reflection: the gateway's own.
    GrpcOwn,
    /// gRPC, to nothing that is known.
    GrpcUnknown,
    /// One of the gateway's own pages.
    Page(Page),
    /// The Connect protocol, to this method of the contract.
    Connect(Arc<Method>),
    /// REST.
    Rest(Matched),
    /// REST, to a path that cannot be, or not so.
    Miss(Miss),
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
        let streams = Streams::new(config.settings.stream.max_open);
        let manners = Manners::of(&config.settings);
        let openapi = OnceLock::new();
        let admission = Admission::new(
            config.common.server.max_concurrent_requests,
            config.settings.max_concurrent_per_caller,
            config.settings.queue_timeout,
        );
        let tls = config.settings.tls.is_on().then(|| Tls::load(&config.settings.tls)).transpose()?;
        let shared = config.settings.shared()?;
        let limits = Limits::new(config.settings.rate_limits, shared.clone());
        let cache = Cache::new(&contract, &config.settings.cache, shared.clone()).map(Arc::new);
        Ok(Self {
            config,
            contract,
            routes,
            upstreams,
            readiness,
            own,
            openapi,
            cache,
            shared,
            limits,
            streams,
            connect,
            verifier,
            api: Arc::new(api),
            manners,
            admission,
            tls,
        })
    }

    /// Answers one request.
    pub async fn handle(&self, mut request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let path = request.uri().path().to_owned();
        let head = head::check(&mut request);
        let web = Encoding::of(&request);
        let request = match web {
            Some(encoding) => encoding.unwrap(request),
            None => request,
        };
        let target = self.target(&request, &path);
        let connects = matches!(target, Target::Connect(_));
        let mut request = if connects { connect::with_timeout(request) } else { request };
        if self.verifier.is_none() && !self.api.passes_authorization {
            // Checked by nobody here, it must not look to a service as if it were.
            request.headers_mut().remove(header::AUTHORIZATION);
        }
        let limit = target.deadline(&self.config);
        let context = RequestContext::from_headers(request.headers(), limit);
        let is_head = request.method() == HttpMethod::HEAD;
        let method = target.measured(request.method());
        let label = target.label().to_owned();
        let binding = target.matched().map(|matched| matched.route.clone());
        let deprecation = target.method().and_then(|method| method.deprecation.clone());
        let speaks_grpc = target.is_grpc();
        let asked = self.manners.asked(&request);
        let change = Change::of(self.cache.as_ref(), target.method());
        let client = self.client(&request);
        let span = telemetry::span::http_server("gateway", &method, &label, request.headers());
        span.span().record("request_id", &*context.request_id);
        let in_flight = Some(telemetry::metrics::http_in_flight());
        let access_log = self.config.settings.access_log;
        let sent = Sent::default();
        let mut done = Done {
            method,
            label,
            started,
            span: span.clone(),
            problem: None,
            in_flight,
            sent: sent.clone(),
            access_log,
        };

        // On the heap: each wrapper around it would copy all of it, and there are five.
        let work = Box::pin(async move {
            head?;
            self.answer(target, request).await
        });
        let work = client.clone().scope(context.clone().scope(work));
        let work = admission::visit(client.address(), work);
        let work = AssertUnwindSafe(work).catch_unwind();
        let answered = span.run(work).await.unwrap_or_else(|panic| Err(panicked(&*panic)));

        let answered = answered.map_err(told_when_to_return);
        let (mut response, problem) = match answered {
            Ok(response) => (response, None),
            Err(problem) if speaks_grpc => {
                let status = Status::from(problem.clone().request_id(&*context.request_id));
                (status.into_http(), Some(problem))
            }
            Err(problem) if connects => (connect::refusal(&problem, &context.request_id), Some(problem)),
            Err(problem) => {
                let binding = binding.as_deref().map(|route| &route.binding);
                (answer::problem(&problem, &context.request_id, &path, binding), Some(problem))
            }
        };
        if let Some(id) = context.request_id_header() {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        if let Some(deprecation) = &deprecation {
            manners::deprecate(response.headers_mut(), deprecation);
        }
        done.problem = problem;
        if speaks_grpc {
            let mut response = response.map(|body| sent.count(body, || ()));
            let ended = response.extensions_mut().remove::<Ended>();
            let response = grpc::observe(response, move |code| {
                let ended_here = ended.is_some_and(|ended| ended.here());
                let status = if ended_here { StatusCode::OK } else { grpc::http_status(code) };
                Change::settle(change, status);
                done.settle(status, Some(code));
            });
            return match web {
                Some(encoding) => self.manners.dress(&asked, encoding.wrap(response)).await,
                None => response,
            };
        }
        client.tell(response.headers_mut());
        let mut response = self.manners.dress(&asked, response).await;
        let status = response.status();
        Change::settle(change, status);
        if is_head {
            *response.body_mut() = Body::empty();
        }
        if let Some(outcome) = response.extensions_mut().remove::<Outcome>().filter(|_| !is_head) {
            return response.map(|body| sent.count(body, move || done.settle_with(outcome.end())));
        }
        response.map(|body| sent.count(body, move || done.settle(status, None)))
    }

    fn client(&self, request: &Request<Body>) -> Arc<Client> {
        let settings = &self.config.settings;
        let peer = request.extensions().get().map_or(Ipv4Addr::UNSPECIFIED.into(), |Peer(address)| *address);
        Client::at(address::client(peer, request.headers(), &settings.trusted_proxies, settings.forwarded_by))
    }

    fn target(&self, request: &Request<Body>, path: &str) -> Target {
        if grpc::is_grpc(request) {
            if *request.method() != HttpMethod::POST {
                return Target::Miss(Miss::Method("POST".to_owned()));
            }
            return match self.contract.method(path) {
                Some(method) => Target::Grpc(method.clone()),
                None if grpc::is_own(path) => Target::GrpcOwn,
                None => Target::GrpcUnknown,
            };
        }
        if let HttpMethod::TRACE | HttpMethod::CONNECT = *request.method() {
            // Not even where a route takes any method: one shows headers to scripts, the other opens tunnels.
            return Target::Miss(Miss::Method("GET, HEAD, OPTIONS".to_owned()));
        }
        if let Some(page) = Page::at(path) {
            return match request.method() {
                &HttpMethod::GET | &HttpMethod::HEAD => Target::Page(page),
                _ => Target::Miss(Miss::Method("GET, HEAD, OPTIONS".to_owned())),
            };
        }
        if let Some(method) = self.contract.method(path) {
            let takes = *request.method() == HttpMethod::POST || (*request.method() == HttpMethod::GET && method.safe);
            return match takes {
                true => Target::Connect(method.clone()),
                false => Target::Miss(Miss::Method(connect::allow(method).to_owned())),
            };
        }
        match self.routes.find(request.method(), path) {
            // A route that takes any method must not take the browser's question for a call.
            Ok(matched) if matched.route.http_method == "*" && cors::is_preflight(request) => {
                Target::Miss(Miss::Method("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".to_owned()))
            }
            Ok(matched) => Target::Rest(matched),
            Err(miss) => Target::Miss(miss),
        }
    }

    async fn answer(&self, target: Target, request: Request<Body>) -> Result<Response<Body>, Problem> {
        if !matches!(target, Target::Page(_) | Target::Miss(_)) {
            context::timeout(request.headers())?;
        }
        match target {
            Target::Grpc(method) => self.pass(&method, request).await,
            Target::GrpcOwn => {
                let request = framing::inflated(request, self.config.common.server.max_request_bytes)?;
                Ok(stream::bound(self.own.call(request).await, self.streams.end(true), None))
            }
            Target::GrpcUnknown => {
                Err(Problem::new(Reason::Unimplemented, format!("there is no method {}", request.uri().path())))
            }
            Target::Connect(method) => self.connect(&method, request).await,
            Target::Rest(matched) => self.rest(&matched, request).await,
            Target::Miss(Miss::Method(allow)) => not_allowed(request.method(), &allow),
            Target::Miss(Miss::Path(problem)) => Err(problem),
            Target::Page(page) => self.page(page, request.headers()).await,
        }
    }

    /// Whether the caller may call the method at all, and whether there is room for it now. What is theirs, the
    /// service decides. The gateway's own pages need no room: whoever watches over it is answered however busy it is.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`, `PERMISSION_DENIED`, `RATE_LIMITED` where a budget is used up, or `OVERLOADED`.
    pub(crate) async fn admit(&self, method: &Method, headers: &http::HeaderMap) -> Result<(), Problem> {
        let rule: &AccessRule = method
            .access
            .as_ref()
            .filter(|rule| !rule.only_internal())
            .ok_or_else(|| Problem::new(Reason::AccessDenied, "this method is for souk's own services alone"))?;
        let identified = match &self.verifier {
            Some(verifier) => verifier.identify(headers).await,
            None => Ok(Identity::Anonymous),
        };
        let identity = match identified {
            // Services call each other directly: one that comes in here is a stolen token.
            Ok(Identity::Service { .. }) => {
                Err(Problem::new(Reason::TokenInvalid, "this token is not one for clients"))
            }
            identified => identified,
        };
        let caller = match &identity {
            Ok(Identity::User { id, .. }) => Some(*id),
            _ => None,
        };
        // Who tries tokens is counted, too, by the address.
        self.limits.take(method.rate_class, caller).await?;
        let identity = identity?;
        let kind = if identity == Identity::Anonymous { "anonymous" } else { "user" };
        tracing::Span::current().record("souk.caller", kind);
        rule.admit(&identity)?;
        self.admission.admit(caller, method.rate_class).await
    }
}

impl Target {
    /// Names the target in logs and metrics: a template, never the path itself.
    fn label(&self) -> &str {
        match self {
            Self::Grpc(method) | Self::Connect(method) => &method.path,
            Self::GrpcOwn => "grpc",
            Self::Page(page) => page.path(),
            Self::Rest(matched) => &matched.route.template.text,
            Self::GrpcUnknown | Self::Miss(_) => "",
        }
    }

    /// The HTTP method as it stands in metrics. What a client makes up must not become a time series.
    fn measured(&self, method: &HttpMethod) -> HttpMethod {
        const KNOWN: [HttpMethod; 7] = [
            HttpMethod::GET,
            HttpMethod::HEAD,
            HttpMethod::POST,
            HttpMethod::PUT,
            HttpMethod::PATCH,
            HttpMethod::DELETE,
            HttpMethod::OPTIONS,
        ];
        let of_route = self.matched().is_some_and(|matched| matched.route.http_method == method.as_str());
        if of_route || KNOWN.contains(method) {
            return method.clone();
        }
        // OpenTelemetry's name for all others.
        HttpMethod::from_bytes(b"_OTHER").unwrap_or(HttpMethod::GET)
    }

    /// The method of the contract that it leads to.
    fn method(&self) -> Option<&Arc<Method>> {
        match self {
            Self::Grpc(method) | Self::Connect(method) => Some(method),
            Self::Rest(matched) => Some(&matched.route.method),
            _ => None,
        }
    }

    /// How long it may take.
    fn deadline(&self, config: &Config) -> Duration {
        let usual = if self.streams() { config.settings.stream.timeout } else { config.common.server.deadline };
        self.method().and_then(|method| method.deadline).unwrap_or(usual)
    }

    /// Whether it may last as long as a stream. Health and reflection have methods that do.
    fn streams(&self) -> bool {
        let streams =
            |method: &Arc<Method>| method.descriptor.is_client_streaming() || method.descriptor.is_server_streaming();
        matches!(self, Self::GrpcOwn) || self.method().is_some_and(streams)
    }

    fn is_grpc(&self) -> bool {
        matches!(self, Self::Grpc(_) | Self::GrpcOwn | Self::GrpcUnknown)
    }

    fn matched(&self) -> Option<&Matched> {
        match self {
            Self::Rest(matched) => Some(matched),
            _ => None,
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

/// A client that is refused for now is told when to come back, where the service did not say.
pub(crate) fn told_when_to_return(problem: Problem) -> Problem {
    let for_now = problem.http_status() == StatusCode::SERVICE_UNAVAILABLE.as_u16();
    if for_now && problem.retry_delay().is_none() { problem.retry_after(RETRY_AFTER) } else { problem }
}

fn panicked(panic: &(dyn Any + Send)) -> Problem {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Problem::internal().caused_by(format!("panic: {}", text.unwrap_or("without a message")))
}
