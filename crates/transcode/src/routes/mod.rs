//! REST routes: each binding of `google.api.http`, found by HTTP method and path.

mod fits;
pub mod options;
pub mod template;
pub mod trie;

use std::sync::Arc;

use http::{Method as HttpMethod, uri::PathAndQuery};
use prost_reflect::{DescriptorPool, MethodDescriptor};

pub use self::{
    fits::TooLong,
    options::{MethodOptions, NoOptions},
};
use self::{
    options::HttpRule,
    template::{Template, TemplateError},
    trie::Trie,
};
use crate::{
    message::{Binding, BindingError},
    percent::DecodeError,
};

/// A REST route: one HTTP method and path template of one RPC. `M` is the data of the serving program, see
/// [`MethodOptions`].
#[derive(Debug)]
pub struct Route<M = ()> {
    /// The serving program's data of the RPC.
    pub method: M,
    /// The RPC.
    pub descriptor: MethodDescriptor,
    /// Its gRPC path: `/shop.v1.OrderService/GetOrder`.
    pub grpc_path: PathAndQuery,
    /// Name of the HTTP method; `*` means any.
    pub http_method: String,
    /// The path template.
    pub template: Template,
    /// Converts requests to messages and responses to JSON.
    pub binding: Binding,
}

/// All routes.
#[derive(Debug)]
pub struct Routes<M = ()> {
    trie: Trie<Arc<Route<M>>>,
    list: Vec<Arc<Route<M>>>,
}

/// A route, and the values of its path variables.
#[derive(Debug)]
pub struct Matched<M = ()> {
    /// The route.
    pub route: Arc<Route<M>>,
    /// The decoded value of each variable of the template, in order.
    pub captures: Vec<String>,
}

/// Why a request has no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Miss {
    /// No route has this path: 404.
    #[error("no method has this path")]
    NotFound,
    /// The path is invalid: 400.
    #[error("the path {0}")]
    Path(#[from] DecodeError),
    /// Routes have this path, but with other HTTP methods: 405. Contains the `Allow` header: `GET, PATCH, HEAD,
    /// OPTIONS`.
    #[error("this path is for {0}")]
    Method(String),
}

/// A method with a route that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("method {method}: {fault}")]
pub struct RouteError {
    /// Full name of the RPC.
    pub method: String,
    /// What is wrong with the route.
    #[source]
    pub fault: Box<RouteFault>,
}

/// What is wrong with a route.
#[derive(Debug, thiserror::Error)]
pub enum RouteFault {
    /// The path template is invalid.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The variables, `body` or `response_body` are invalid.
    #[error("{template}: {source}")]
    Binding {
        /// The path.
        template: String,
        /// The cause.
        #[source]
        source: BindingError,
    },
    /// The path is missing, or the HTTP method is missing or invalid.
    #[error("its google.api.http rule names no HTTP method and path")]
    Pattern,
    /// [`MethodOptions`] refused the method.
    #[error("{0}")]
    Options(String),
    /// Additional bindings contain further bindings.
    #[error("its additional_bindings have additional_bindings of their own, which google.api.http does not allow")]
    Nested,
    /// The program uses the path itself.
    #[error("`{0}` is a page of the gateway's own: give the method another path")]
    Taken(String),
    /// Another RPC has the same route.
    #[error("`{route}` is the same route as `{other_route}` of {other}: change one of them")]
    Clash {
        /// This route.
        route: String,
        /// The other route.
        other_route: String,
        /// Full name of the RPC that has it.
        other: String,
    },
}

impl<M> Default for Routes<M> {
    fn default() -> Self {
        Self { trie: Trie::default(), list: Vec::new() }
    }
}

impl<M> Routes<M> {
    /// The routes of all methods with a `google.api.http` rule, sorted by gRPC path.
    ///
    /// # Errors
    /// The first route that cannot be served.
    pub fn of(pool: &DescriptorPool, options: &impl MethodOptions<Method = M>) -> Result<Self, RouteError> {
        let (routes, skipped) = Self::leniently(pool, options);
        skipped.into_iter().next().map_or(Ok(routes), Err)
    }

    /// Like [`Self::of`], but skips the routes that cannot be served, and returns their errors.
    pub fn leniently(pool: &DescriptorPool, options: &impl MethodOptions<Method = M>) -> (Self, Vec<RouteError>) {
        let mut methods: Vec<_> = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect();
        methods.sort_by_key(grpc_path);
        let mut routes = Self::default();
        let skipped = methods.iter().flat_map(|method| routes.add(method, options)).collect();
        (routes, skipped)
    }

    /// Adds the routes of one method. Returns the errors of those that cannot be served.
    fn add(&mut self, descriptor: &MethodDescriptor, options: &impl MethodOptions<Method = M>) -> Vec<RouteError> {
        let Some(rule) = HttpRule::of(descriptor) else { return Vec::new() };
        let mut skipped = Vec::new();
        for (at, rule) in std::iter::once(&rule).chain(&rule.additional_bindings).enumerate() {
            let added = match options.method(descriptor) {
                Ok(None) => return Vec::new(),
                Ok(Some(_)) if at > 0 && !rule.additional_bindings.is_empty() => Err(RouteFault::Nested),
                Ok(Some(method)) => self.bind(descriptor, method, rule, options),
                Err(fault) => Err(RouteFault::Options(fault)),
            };
            if let Err(fault) = added {
                skipped.push(RouteError { method: descriptor.full_name().to_owned(), fault: Box::new(fault) });
            }
        }
        skipped
    }

    fn bind(
        &mut self,
        descriptor: &MethodDescriptor,
        method: M,
        rule: &HttpRule,
        options: &impl MethodOptions<Method = M>,
    ) -> Result<(), RouteFault> {
        let (http_method, path) = rule.pattern.as_ref().ok_or(RouteFault::Pattern)?;
        let http_method = HttpMethod::from_bytes(http_method.as_bytes()).map_err(|_| RouteFault::Pattern)?;
        if options.is_taken(path) {
            return Err(RouteFault::Taken(path.clone()));
        }
        let template = Template::parse(path)?;
        let variables = template.variables.iter().map(|variable| variable.field.as_str());
        let (input, output) = (descriptor.input(), descriptor.output());
        let binding = Binding::new(&input, &output, variables, &rule.body, &rule.response_body)
            .map_err(|source| RouteFault::Binding { template: path.clone(), source })?
            .over_rest(options.headers(&method))
            .leniently(options.leniency(), &output);
        let grpc_path = PathAndQuery::try_from(grpc_path(descriptor)).map_err(|_| RouteFault::Pattern)?;
        let (descriptor, http_name) = (descriptor.clone(), http_method.as_str().to_owned());
        let route = Arc::new(Route { method, descriptor, grpc_path, http_method: http_name, template, binding });
        if let Some(other) = self.trie.insert(&http_method, &route.template, route.clone()) {
            return Err(RouteFault::Clash {
                route: route.to_string(),
                other_route: other.to_string(),
                other: other.descriptor.full_name().to_owned(),
            });
        }
        self.list.push(route);
        Ok(())
    }

    /// All routes; those of one RPC are consecutive.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route<M>>> {
        self.list.iter()
    }

    /// A route with this path, whatever its HTTP method.
    pub fn at(&self, path: &str) -> Option<&Arc<Route<M>>> {
        let found = self.trie.find(path)?;
        let method = found.methods().next().and_then(|name| HttpMethod::from_bytes(name.as_bytes()).ok());
        method.and_then(|method| found.method(&method)).or_else(|| found.any())
    }

    /// The route of a request. HEAD finds the routes of GET. `path` is still encoded, without the query.
    ///
    /// # Errors
    /// Why there is no route.
    pub fn find(&self, method: &HttpMethod, path: &str) -> Result<Matched<M>, Miss> {
        let found = self.trie.find(path).ok_or(Miss::NotFound)?;
        let get = if *method == HttpMethod::HEAD { found.method(&HttpMethod::GET) } else { None };
        let Some(route) = found.method(method).or(get).or_else(|| found.any()) else {
            let mut methods: Vec<&str> = found.methods().collect();
            if methods.contains(&"GET") && !methods.contains(&"HEAD") {
                methods.push("HEAD");
            }
            methods.push("OPTIONS");
            return Err(Miss::Method(methods.join(", ")));
        };
        let captures = route.template.captures(&found.segments)?;
        Ok(Matched { route: route.clone(), captures })
    }
}

fn grpc_path(descriptor: &MethodDescriptor) -> String {
    format!("/{}/{}", descriptor.parent_service().full_name(), descriptor.name())
}

/// Written as in logs: `GET /v1/{name=orders/*}`.
impl<M> std::fmt::Display for Route<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.http_method, self.template.text)
    }
}
