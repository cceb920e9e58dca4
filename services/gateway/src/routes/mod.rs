//! The REST routes of a contract: each binding of `google.api.http`, found by method and path.

mod fits;
pub mod template;
pub mod trie;

use std::sync::Arc;

use http::{Method as HttpMethod, uri::PathAndQuery};
use souk_common::{
    contract::{Contract, Method},
    error::{Problem, Reason},
};
use souk_proto::google::api::{HttpRule, http_rule::Pattern};

pub use self::fits::TooLong;
use self::{
    template::{Template, TemplateError},
    trie::Trie,
};
use crate::{
    stream::Resume,
    transcode::{Binding, BindingError, lenient::Leniency},
};

/// A REST route: one HTTP method and path template of one RPC.
#[derive(Debug)]
pub struct Route {
    /// The RPC.
    pub method: Arc<Method>,
    /// Its gRPC path.
    pub grpc_path: PathAndQuery,
    /// Name of the HTTP method; `*` is any.
    pub http_method: String,
    /// The path.
    pub template: Template,
    /// How a request becomes a message.
    pub binding: Binding,
    /// How its stream is taken up again.
    pub resume: Option<Resume>,
}

/// All routes.
#[derive(Debug, Default)]
pub struct Routes {
    trie: Trie<Arc<Route>>,
    list: Vec<Arc<Route>>,
    leniency: Leniency,
}

/// A route and what its path variables captured.
#[derive(Debug)]
pub struct Matched {
    /// The route.
    pub route: Arc<Route>,
    /// One for each variable of the template, in its order.
    pub captures: Vec<String>,
}

/// Why a request has no route.
#[derive(Debug)]
pub enum Miss {
    /// The path leads nowhere, or cannot be read.
    Path(Problem),
    /// The path leads somewhere, with other HTTP methods. Holds the `Allow` header.
    Method(String),
}

/// A contract whose routes cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("method {method}: {fault}")]
pub struct RouteError {
    /// Full name of the RPC.
    pub method: String,
    /// What is wrong with its route.
    #[source]
    pub fault: Box<RouteFault>,
}

/// What is wrong with a route.
#[derive(Debug, thiserror::Error)]
pub enum RouteFault {
    /// The path.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The variables, `body` or `response_body`.
    #[error("{template}: {source}")]
    Binding {
        /// The path.
        template: String,
        /// What is wrong.
        #[source]
        source: BindingError,
    },
    /// No path, or no HTTP method that is one.
    #[error("its google.api.http rule names no HTTP method and path")]
    Pattern,
    /// The fields of its cursor.
    #[error("(souk.options.v1.cursor): {0}")]
    Cursor(String),
    /// Bindings inside additional bindings.
    #[error("its additional_bindings have additional_bindings of their own, which google.api.http does not allow")]
    Nested,
    /// One of the gateway's own pages is there.
    #[error("`{0}` is a page of the gateway's own: give the method another path")]
    Taken(String),
    /// Another RPC has the same route.
    #[error("`{route}` is the same route as `{other_route}` of {other}: change one of them")]
    Clash {
        /// This one.
        route: String,
        /// The other one.
        other_route: String,
        /// Full name of the RPC that has it.
        other: String,
    },
}

impl Routes {
    /// The routes of those methods of a contract that clients may call at all.
    ///
    /// # Errors
    /// The first rule that cannot be served.
    pub fn of(contract: &Contract) -> Result<Self, RouteError> {
        let mut routes = Self::default();
        match routes.add_all(contract, &[]).into_iter().next() {
            Some(error) => Err(error),
            None => Ok(routes),
        }
    }

    /// The routes of a contract that was not written for souk, and the rules that cannot be served. Paths that are
    /// `taken` are not among them.
    pub fn foreign(contract: &Contract, leniency: Leniency, taken: &[&str]) -> (Self, Vec<RouteError>) {
        let mut routes = Self { leniency, ..Self::default() };
        let skipped = routes.add_all(contract, taken);
        (routes, skipped)
    }

    /// Adds all that can be served, and tells of the rest.
    fn add_all(&mut self, contract: &Contract, taken: &[&str]) -> Vec<RouteError> {
        let mut skipped = Vec::new();
        for method in contract.methods() {
            // What clients may never call has no place in their world.
            let reachable = method.access.as_ref().is_some_and(|rule| !rule.only_internal());
            let Some(rule) = method.http.as_ref().filter(|_| reachable) else { continue };
            for (at, rule) in std::iter::once(rule).chain(&rule.additional_bindings).enumerate() {
                let added = match at > 0 && !rule.additional_bindings.is_empty() {
                    true => Err(RouteFault::Nested),
                    false => self.add(method, rule, taken),
                };
                if let Err(fault) = added {
                    let method = method.descriptor.full_name().to_owned();
                    skipped.push(RouteError { method, fault: Box::new(fault) });
                }
            }
        }
        skipped
    }

    fn add(&mut self, method: &Arc<Method>, rule: &HttpRule, taken: &[&str]) -> Result<(), RouteFault> {
        let (http_method, path) = match rule.pattern.as_ref().ok_or(RouteFault::Pattern)? {
            Pattern::Get(path) => ("GET", path),
            Pattern::Put(path) => ("PUT", path),
            Pattern::Post(path) => ("POST", path),
            Pattern::Delete(path) => ("DELETE", path),
            Pattern::Patch(path) => ("PATCH", path),
            Pattern::Custom(custom) => (custom.kind.as_str(), &custom.path),
        };
        let http_method = HttpMethod::from_bytes(http_method.as_bytes()).map_err(|_| RouteFault::Pattern)?;
        if taken.contains(&path.as_str()) {
            return Err(RouteFault::Taken(path.clone()));
        }
        let template = Template::parse(path)?;
        let variables = template.variables.iter().map(|variable| variable.field.as_str());
        let (input, output) = (method.descriptor.input(), method.descriptor.output());
        let binding = Binding::new(&input, &output, variables, &rule.body, &rule.response_body)
            .map_err(|source| RouteFault::Binding { template: path.clone(), source })?
            .over_rest(&method.headers)
            .leniently(self.leniency, &output);
        let grpc_path = PathAndQuery::try_from(method.path.as_str()).map_err(|_| RouteFault::Pattern)?;
        let http_name = http_method.as_str().to_owned();
        let resume = Resume::of(method).map_err(RouteFault::Cursor)?;
        let route =
            Arc::new(Route { method: method.clone(), grpc_path, http_method: http_name, template, binding, resume });
        if let Some(other) = self.trie.insert(&http_method, &route.template, route.clone()) {
            return Err(RouteFault::Clash {
                route: route.to_string(),
                other_route: other.to_string(),
                other: other.method.descriptor.full_name().to_owned(),
            });
        }
        self.list.push(route);
        Ok(())
    }

    /// Every route, by RPC.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.list.iter()
    }

    /// A route that a path leads to, whatever the HTTP method.
    pub fn at(&self, path: &str) -> Option<&Arc<Route>> {
        let found = self.trie.find(path)?;
        let method = found.methods().next().and_then(|name| HttpMethod::from_bytes(name.as_bytes()).ok());
        method.and_then(|method| found.method(&method)).or_else(|| found.any())
    }

    /// The route of a request. HEAD finds what GET finds.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(&self, method: &HttpMethod, path: &str) -> Result<Matched, Miss> {
        let Some(found) = self.trie.find(path) else {
            return Err(Miss::Path(Problem::new(Reason::RouteNotFound, "no method has this path")));
        };
        let get = if *method == HttpMethod::HEAD { found.method(&HttpMethod::GET) } else { None };
        let Some(route) = found.method(method).or(get).or_else(|| found.any()) else {
            let mut methods: Vec<&str> = found.methods().collect();
            if methods.contains(&"GET") && !methods.contains(&"HEAD") {
                methods.push("HEAD");
            }
            methods.push("OPTIONS");
            return Err(Miss::Method(methods.join(", ")));
        };
        let captures = route
            .template
            .captures(&found.segments)
            .map_err(|error| Miss::Path(Problem::new(Reason::MalformedRequest, format!("the path {error}"))))?;
        Ok(Matched { route: route.clone(), captures })
    }
}

/// As in logs: `GET /v1/{name=orders/*}`.
impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.http_method, self.template.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(found: Result<Matched, Miss>) -> (String, Vec<String>) {
        let matched = found.unwrap();
        (matched.route.method.path.clone(), matched.captures)
    }

    #[test]
    fn the_routes_of_souk() {
        let routes = Routes::of(Contract::souk().unwrap()).unwrap();
        let get = |uri| path(routes.find(&HttpMethod::GET, uri));
        assert_eq!(get("/v1/users/me").0, "/souk.user.v1.UserService/GetMe");
        assert_eq!(
            get("/v1/users/usr_1"),
            ("/souk.user.v1.UserService/GetUser".to_owned(), vec!["users/usr_1".to_owned()])
        );
        assert_eq!(
            path(routes.find(&HttpMethod::POST, "/v1/orders/ord_1:cancel")),
            ("/souk.order.v1.OrderService/CancelOrder".to_owned(), vec!["orders/ord_1".to_owned()])
        );
        assert_eq!(
            path(routes.find(&HttpMethod::HEAD, "/v1/products")).0,
            "/souk.inventory.v1.ProductService/ListProducts"
        );
        let Err(Miss::Method(allow)) = routes.find(&HttpMethod::DELETE, "/v1/users/usr_1") else { panic!("found") };
        assert_eq!(allow, "GET, PATCH, HEAD, OPTIONS");
        assert!(matches!(routes.find(&HttpMethod::GET, "/v2"), Err(Miss::Path(_))));
        assert!(matches!(routes.find(&HttpMethod::GET, "/v1/users/%ff"), Err(Miss::Path(_))));
        let internal = routes.iter().filter(|route| &*route.method.name == "Reserve").count();
        assert_eq!(internal, 0);
    }
}
