//! The REST routes of a contract ([`souk_transcode::routes`]), each with its method and the method's options.

use std::{collections::BTreeMap, ops::Deref, sync::Arc};

use http::Method as HttpMethod;
use prost_reflect::MethodDescriptor;
use souk_common::{
    contract::{Contract, Method},
    error::{Problem, Reason},
};
pub use souk_transcode::routes::{RouteError, TooLong};
use souk_transcode::{
    message::{HeaderField, lenient::Leniency},
    routes::{self, MethodOptions},
};

use crate::{
    resume::Resume,
    transcode::{Binding, BindingError},
};

/// A REST route of a method.
pub type Route = routes::Route<Served>;
/// A route, and the values of its path variables.
pub type Matched = routes::Matched<Served>;

/// A method of the contract, as its routes refer to it.
#[derive(Debug)]
pub struct Served {
    method: Arc<Method>,
    /// How a client resumes the method's stream.
    pub resume: Option<Resume>,
}

impl Deref for Served {
    type Target = Arc<Method>;

    fn deref(&self) -> &Arc<Method> {
        &self.method
    }
}

/// All routes of a contract.
#[derive(Debug)]
pub struct Routes(routes::Routes<Served>);

/// Why a request matches no route.
#[derive(Debug)]
pub enum Miss {
    /// No route has this path, or the path is invalid.
    Path(Problem),
    /// The path has routes only for other HTTP methods. Contains the value of the `Allow` header.
    Method(String),
}

impl Routes {
    /// Builds the routes of all methods of a contract that clients may call.
    ///
    /// # Errors
    /// The first HTTP rule that cannot be served.
    pub fn of(contract: &Contract) -> Result<Self, RouteError> {
        let options = Options { contract, leniency: Leniency::default(), taken: &[] };
        routes::Routes::of(contract.pool(), &options).map(Self)
    }

    /// Builds the routes of a foreign contract. Returns them, and the errors of routes that cannot be served. Routes
    /// with a `taken` path are skipped.
    pub fn foreign(contract: &Contract, leniency: Leniency, taken: &[&str]) -> (Self, Vec<RouteError>) {
        let (routes, skipped) = routes::Routes::leniently(contract.pool(), &Options { contract, leniency, taken });
        (Self(routes), skipped)
    }

    /// Finds the route of a request. HEAD matches the routes of GET.
    ///
    /// # Errors
    /// Why no route matches.
    pub fn find(&self, method: &HttpMethod, path: &str) -> Result<Matched, Miss> {
        self.0.find(method, path).map_err(|miss| match miss {
            routes::Miss::Method(allow) => Miss::Method(allow),
            routes::Miss::NotFound => Miss::Path(Problem::new(Reason::RouteNotFound, "no method has this path")),
            routes::Miss::Path(_) => Miss::Path(Problem::new(Reason::MalformedRequest, miss.to_string())),
        })
    }
}

impl Deref for Routes {
    type Target = routes::Routes<Served>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// The settings and contract options that routes are built from.
struct Options<'c> {
    contract: &'c Contract,
    leniency: Leniency,
    /// Paths of the gateway's own pages. No route may have one of them.
    taken: &'c [&'c str],
}

impl MethodOptions for Options<'_> {
    type Method = Served;

    fn method(&self, descriptor: &MethodDescriptor) -> Result<Option<Served>, String> {
        let path = format!("/{}/{}", descriptor.parent_service().full_name(), descriptor.name());
        // Internal methods have no routes.
        let reachable = |method: &&Arc<Method>| method.access.as_ref().is_some_and(|rule| !rule.only_internal());
        let Some(method) = self.contract.method(&path).filter(reachable) else { return Ok(None) };
        let resume = Resume::of(method).map_err(|fault| format!("(souk.options.v1.cursor): {fault}"))?;
        Ok(Some(Served { method: method.clone(), resume }))
    }

    fn headers(&self, method: &Served) -> Vec<HeaderField> {
        let headers = method.headers.iter();
        headers.map(|header| HeaderField { name: header.name.clone(), field: header.field.clone() }).collect()
    }

    fn is_taken(&self, path: &str) -> bool {
        self.taken.contains(&path)
    }

    fn leniency(&self) -> Leniency {
        self.leniency
    }
}

/// The JSON format of each method's messages, by method path.
pub type Bindings = BTreeMap<String, Binding>;

/// The bindings of all methods of a contract for Connect, where the body is the whole message.
///
/// # Errors
/// None in practice: these bindings name no field that could be missing.
pub fn bindings(contract: &Contract, leniency: Leniency) -> Result<Bindings, BindingError> {
    let of = |method: &Method| {
        let (input, output) = (method.descriptor.input(), method.descriptor.output());
        Ok::<_, BindingError>(Binding::new(&input, &output, [], "*", "")?.leniently(leniency, &output))
    };
    contract.methods().map(|method| Ok((method.path.clone(), of(method)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(found: Result<Matched, Miss>) -> (String, Vec<String>) {
        let matched = found.unwrap();
        (matched.route.method.path.clone(), matched.captures)
    }

    #[test]
    fn the_contract_of_souk_gives_its_routes() {
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

    #[test]
    fn every_valid_request_of_souk_fits_into_a_url_or_a_body() {
        let routes = Routes::of(Contract::souk().unwrap()).unwrap();
        routes.fit(32 * 1024).unwrap();
        // An operator may set a smaller limit. The error then says how large it must be.
        let error = routes.fit(8 * 1024).unwrap_err().to_string();
        assert!(error.contains("accepts addresses of"), "{error}");
    }
}
