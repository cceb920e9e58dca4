//! The options of each method in the contracts: route, access, rate class, idempotency, validation. They are read once
//! from the descriptors.

mod access;
mod cost;
mod options;
mod shorten;
pub mod validate;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, prost_types::FileDescriptorSet};
use souk_proto::google::api::HttpRule;
pub use souk_proto::options::v1::{Cursor, HeaderField, RateClass};

pub use self::{
    access::{AccessRule, Role, Roles},
    cost::Cost,
    options::{Caching, DEFAULT_MAX_REQUEST_BYTES, Deprecation},
    shorten::shorten,
};
use self::{
    options::Options,
    validate::{Validator, Violation},
};

/// A set of contracts.
pub struct Contract {
    pool: DescriptorPool,
    methods: BTreeMap<String, Arc<Method>>,
    validator: Validator,
}

/// A method of a contract, with its options.
#[derive(Debug)]
pub struct Method {
    /// gRPC path, for example `/souk.order.v1.OrderService/PlaceOrder`.
    pub path: String,
    /// Full name of the service, for example `souk.order.v1.OrderService`.
    pub service: Arc<str>,
    /// Name within the service, for example `PlaceOrder`.
    pub name: Arc<str>,
    /// The method's descriptor: request and response types, comments and all other properties.
    pub descriptor: MethodDescriptor,
    /// Who may call the method. `None`: no one may, and a service with such a method does not start.
    pub access: Option<AccessRule>,
    /// The rate limit budget that calls count against.
    pub rate_class: RateClass,
    /// The longest time that a call may take, if the method has its own limit. A setting gives it, not an option.
    pub deadline: Option<Duration>,
    /// The request field with the caller's idempotency key.
    pub idempotency_key: Option<String>,
    /// How long its responses may be cached.
    pub caching: Option<Caching>,
    /// The request field with the etag that the resource must still have.
    pub etag: Option<String>,
    /// The cursor fields of a stream that can be resumed.
    pub cursor: Option<Cursor>,
    /// When the method is deprecated and removed.
    pub deprecation: Option<Deprecation>,
    /// Headers of a REST request that fill fields of the request.
    pub headers: Vec<HeaderField>,
    /// Size of the largest request message, in bytes. `None`: the contract sets no limit.
    pub max_request_bytes: Option<usize>,
    /// How many requests of its budget a call counts as.
    pub cost: Cost,
    /// True if the gateway sends the client's address and `User-Agent` to the service.
    pub client_details: bool,
    /// True if the method changes nothing (`idempotency_level = NO_SIDE_EFFECTS`).
    pub safe: bool,
    /// True if a call may be repeated (`IDEMPOTENT` or `NO_SIDE_EFFECTS`).
    pub idempotent: bool,
    /// The method's REST routes (`google.api.http`), including additional bindings.
    pub http: Option<HttpRule>,
}

impl Method {
    /// Size of the largest request message in bytes, where `max` is the limit for all methods.
    pub fn request_limit(&self, max: usize) -> usize {
        self.max_request_bytes.map_or(max, |own| own.min(max))
    }
}

/// Why a contract cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ContractError {
    /// The descriptor set is invalid.
    #[error("the descriptor set cannot be read")]
    Descriptors(#[source] prost_reflect::DescriptorError),
    /// A file has a syntax that the library does not support.
    #[error("{file}: the syntax `{syntax}` cannot be read (editions are not supported): write `syntax = \"proto3\";`")]
    Syntax {
        /// The `.proto` file.
        file: String,
        /// Its syntax, as the compiler wrote it: `editions`.
        syntax: String,
    },
    /// An option's type is not the one that `souk.options.v1` or `google.api` defines.
    #[error("method {method}: option {option} cannot be read")]
    Option {
        /// Full name of the method.
        method: String,
        /// Full name of the option.
        option: &'static str,
        /// The cause.
        #[source]
        source: prost::DecodeError,
    },
    /// A method names a field that its request does not have.
    #[error("method {method}: option {option} names the field `{field}`, which {message} does not have")]
    Field {
        /// Full name of the method.
        method: String,
        /// Full name of the option.
        option: &'static str,
        /// The field's path, as given.
        field: String,
        /// Full name of the request type.
        message: String,
    },
    /// An option has an invalid value.
    #[error("method {method}: option {option}: {fault}")]
    Value {
        /// Full name of the method.
        method: String,
        /// Full name of the option.
        option: &'static str,
        /// What is wrong, and what would be right.
        fault: String,
    },
    /// Methods have no access rule.
    #[error("no (souk.options.v1.access) rule on: {}. Give each one in its .proto; without it no one may call it", .0.join(", "))]
    NoAccess(Vec<String>),
    /// A service is not in the contract.
    #[error("the contract has no service {0}")]
    NoService(String),
    /// A message is not in the contract.
    #[error("the contract has no message {0}")]
    NoMessage(String),
    /// A validation rule is not supported.
    #[error(transparent)]
    Validation(#[from] validate::Unsupported),
}

/// Why a message does not pass a check.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The message's type is not in the contract.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// All violations of the rules; at least one.
    #[error("{} rules of the contract are broken", .0.len())]
    Violations(Vec<Violation>),
}

impl Contract {
    /// Reads an encoded `FileDescriptorSet` with all its imports and options.
    ///
    /// # Errors
    /// If the set is invalid, or has an option or a rule that is not supported.
    pub fn load(descriptors: &[u8]) -> Result<Self, ContractError> {
        let pool = decode(descriptors)?;
        let validator = Validator::new(&pool)?;
        let methods = methods(&pool, |_| true)?;
        Ok(Self { pool, methods, validator })
    }

    /// Reads a contract that was not written for souk. `keep` decides which methods are part of it, and may complete
    /// their options. The servers of the contract check requests themselves, so rules of `buf.validate` that are not
    /// supported here are no errors. They are returned, so that the caller can log them. See [`Validator::lenient`].
    ///
    /// # Errors
    /// If the set is invalid, or has an option that is not supported.
    pub fn load_leniently(
        descriptors: &[u8],
        keep: impl FnMut(&mut Method) -> bool,
    ) -> Result<(Self, Vec<validate::Unsupported>), ContractError> {
        let pool = decode(descriptors)?;
        let (validator, left_out) = Validator::lenient(&pool);
        let methods = methods(&pool, keep)?;
        Ok((Self { pool, methods, validator }, left_out))
    }

    /// souk's own contracts, which are read once.
    pub fn souk() -> Result<&'static Arc<Self>, ContractError> {
        static SOUK: OnceLock<Arc<Contract>> = OnceLock::new();
        if let Some(contract) = SOUK.get() {
            return Ok(contract);
        }
        let contract = Arc::new(Self::load(souk_proto::DESCRIPTORS)?);
        Ok(SOUK.get_or_init(|| contract))
    }

    /// The descriptors of all types.
    pub fn pool(&self) -> &DescriptorPool {
        &self.pool
    }

    /// The validator of `buf.validate` rules.
    pub fn validator(&self) -> &Validator {
        &self.validator
    }

    /// Checks a single message, for methods that take many messages and report errors for each.
    ///
    /// # Errors
    /// All violated rules; or the contract has no message with this full name.
    pub fn check(&self, name: &str, message: &impl prost::Message) -> Result<(), CheckError> {
        let not_ours = || ContractError::NoMessage(name.to_owned());
        let descriptor = self.pool.get_message_by_name(name).ok_or_else(not_ours)?;
        let bytes = message.encode_to_vec();
        let message = DynamicMessage::decode(descriptor, bytes.as_slice()).map_err(|_| not_ours())?;
        self.validator.check(&message).map_err(CheckError::Violations)
    }

    /// The method with this gRPC path.
    pub fn method(&self, path: &str) -> Option<&Arc<Method>> {
        self.methods.get(path)
    }

    /// All methods, sorted by path.
    pub fn methods(&self) -> impl Iterator<Item = &Arc<Method>> {
        self.methods.values()
    }

    /// Fails unless every method of these services has an access rule.
    pub fn require_access(&self, services: &[&str]) -> Result<(), ContractError> {
        let mut missing = Vec::new();
        for service in services {
            if self.pool.get_service_by_name(service).is_none() {
                return Err(ContractError::NoService((*service).to_owned()));
            }
            let open = self.methods().filter(|method| &*method.service == *service && method.access.is_none());
            missing.extend(open.map(|method| method.descriptor.full_name().to_owned()));
        }
        if missing.is_empty() { Ok(()) } else { Err(ContractError::NoAccess(missing)) }
    }
}

fn decode(descriptors: &[u8]) -> Result<DescriptorPool, ContractError> {
    check_syntax(descriptors)?;
    DescriptorPool::decode(descriptors).map_err(ContractError::Descriptors)
}

/// The methods that `keep` selects, by their paths.
fn methods(
    pool: &DescriptorPool,
    mut keep: impl FnMut(&mut Method) -> bool,
) -> Result<BTreeMap<String, Arc<Method>>, ContractError> {
    let options = Options::of(pool);
    let mut methods = BTreeMap::new();
    for service in pool.services() {
        for descriptor in service.methods() {
            let mut method = options.read(descriptor)?;
            if keep(&mut method) {
                methods.insert(method.path.clone(), Arc::new(method));
            }
        }
    }
    Ok(methods)
}

/// Refuses files with a syntax that prost-reflect does not know: it would lose count of the files, and panic.
fn check_syntax(descriptors: &[u8]) -> Result<(), ContractError> {
    // If the bytes are not a descriptor set at all, the pool has a better error message.
    let Ok(set) = FileDescriptorSet::decode(descriptors) else { return Ok(()) };
    match set.file.into_iter().find(|file| !matches!(file.syntax(), "" | "proto2" | "proto3")) {
        Some(file) => Err(ContractError::Syntax { file: file.name().to_owned(), syntax: file.syntax().to_owned() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_an_unsupported_edition_is_refused_by_name() {
        let mut set = FileDescriptorSet::decode(souk_proto::DESCRIPTORS).unwrap();
        // As protoc writes a file that begins with `edition = "2023";`, among other files that refer to each other.
        let file = set.file.iter_mut().find(|file| file.name() == "souk/inventory/v1/stock.proto").unwrap();
        file.syntax = Some("editions".to_owned());
        let error = Contract::load(&set.encode_to_vec()).err().unwrap();
        assert!(matches!(&error, ContractError::Syntax { .. }), "{error}");
        assert!(error.to_string().starts_with("souk/inventory/v1/stock.proto: the syntax `editions`"), "{error}");
        assert!(matches!(Contract::load(b"nonsense").err().unwrap(), ContractError::Descriptors(_)));
    }

    #[test]
    fn every_method_of_souk_has_an_access_rule() {
        let contract = Contract::souk().unwrap();
        let services: Vec<_> = contract.pool().services().map(|service| service.full_name().to_owned()).collect();
        assert!(services.len() >= 7, "{services:?}");
        contract.require_access(&services.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    }

    #[test]
    fn options_are_read() {
        let contract = Contract::souk().unwrap();
        let place = contract.method("/souk.order.v1.OrderService/PlaceOrder").unwrap();
        assert_eq!(place.access.as_ref().unwrap().owner.as_deref(), Some("customer"));
        assert_eq!(place.idempotency_key.as_deref(), Some("request_id"));
        assert!(place.idempotent && !place.safe && place.http.is_some());
        let get = contract.method("/souk.inventory.v1.ProductService/GetProduct").unwrap();
        assert!(get.safe && get.access.as_ref().unwrap().public);
        assert_eq!(get.caching.unwrap().max_age.as_secs(), 5);
        let update = contract.method("/souk.inventory.v1.ProductService/UpdateProduct").unwrap();
        assert_eq!(update.etag.as_deref(), Some("product.etag"));
        assert_eq!(update.access.as_ref().unwrap().scope.as_deref(), Some("inventory.write"));
        let reserve = contract.method("/souk.inventory.v1.ReservationService/Reserve").unwrap();
        assert!(reserve.http.is_none() && reserve.access.as_ref().unwrap().only_internal());
    }

    #[test]
    fn an_unknown_service_is_named() {
        let error = Contract::souk().unwrap().require_access(&["souk.no.v1.Such"]).unwrap_err();
        assert_eq!(error.to_string(), "the contract has no service souk.no.v1.Such");
    }
}
