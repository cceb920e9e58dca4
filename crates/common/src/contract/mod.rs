//! What the contracts say of each method: route, access, rate class, idempotency. Read once from the descriptors.

mod access;
pub mod validate;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use prost_reflect::{DescriptorPool, DynamicMessage, ExtensionDescriptor, MethodDescriptor, Value};
use souk_proto::{
    google::api::HttpRule,
    options::v1::{Access, RateClass},
};

pub use self::access::{AccessRule, Role, Roles};
use self::validate::Validator;

/// A set of contracts, ready to be asked.
pub struct Contract {
    pool: DescriptorPool,
    methods: BTreeMap<String, Arc<Method>>,
    validator: Validator,
}

/// What the contract says of one method.
#[derive(Debug)]
pub struct Method {
    /// gRPC path, for example `/souk.order.v1.OrderService/PlaceOrder`.
    pub path: String,
    /// Full name of the service, for example `souk.order.v1.OrderService`.
    pub service: Arc<str>,
    /// Name within the service, for example `PlaceOrder`.
    pub name: Arc<str>,
    /// Request and response types, comments and the rest.
    pub descriptor: MethodDescriptor,
    /// Who may call it. `None`: no one, and a service that has it does not start.
    pub access: Option<AccessRule>,
    /// Which budget of requests it draws on.
    pub rate_class: RateClass,
    /// Request field that holds the caller's idempotency key.
    pub idempotency_key: Option<String>,
    /// It changes nothing (`idempotency_level = NO_SIDE_EFFECTS`).
    pub safe: bool,
    /// It may be repeated (`IDEMPOTENT` or `NO_SIDE_EFFECTS`).
    pub idempotent: bool,
    /// Its REST routes (`google.api.http`), additional bindings still inside.
    pub http: Option<HttpRule>,
}

/// A contract that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ContractError {
    /// The descriptor set is not one.
    #[error("the descriptor set cannot be read")]
    Descriptors(#[source] prost_reflect::DescriptorError),
    /// An option has another type than `souk.options.v1` or `google.api` gives it.
    #[error("method {method}: option {option} cannot be read")]
    Option {
        /// Full name of the method.
        method: String,
        /// Full name of the option.
        option: String,
        /// Why.
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
        /// The path as given.
        field: String,
        /// Full name of the request type.
        message: String,
    },
    /// Methods that nobody said who may call.
    #[error("no (souk.options.v1.access) rule on: {}. Give each one in its .proto; without it no one may call it", .0.join(", "))]
    NoAccess(Vec<String>),
    /// A service that is not in the contract.
    #[error("the contract has no service {0}")]
    NoService(String),
    /// A validation rule that this program does not know.
    #[error(transparent)]
    Validation(#[from] validate::Unsupported),
}

impl Contract {
    /// Reads an encoded `FileDescriptorSet` that has all its imports and options.
    pub fn load(descriptors: &[u8]) -> Result<Self, ContractError> {
        let pool = DescriptorPool::decode(descriptors).map_err(ContractError::Descriptors)?;
        let options = Options::of(&pool);
        let mut methods = BTreeMap::new();
        for service in pool.services() {
            for descriptor in service.methods() {
                let method = options.read(descriptor)?;
                methods.insert(method.path.clone(), Arc::new(method));
            }
        }
        let validator = Validator::new(&pool)?;
        Ok(Self { pool, methods, validator })
    }

    /// souk's own contracts, read once.
    pub fn souk() -> Result<&'static Arc<Self>, ContractError> {
        static SOUK: OnceLock<Arc<Contract>> = OnceLock::new();
        if let Some(contract) = SOUK.get() {
            return Ok(contract);
        }
        let contract = Arc::new(Self::load(souk_proto::DESCRIPTORS)?);
        Ok(SOUK.get_or_init(|| contract))
    }

    /// The types behind it.
    pub fn pool(&self) -> &DescriptorPool {
        &self.pool
    }

    /// The checks of `buf.validate`.
    pub fn validator(&self) -> &Validator {
        &self.validator
    }

    /// What is said of the method with this gRPC path.
    pub fn method(&self, path: &str) -> Option<&Arc<Method>> {
        self.methods.get(path)
    }

    /// Every method, ordered by path.
    pub fn methods(&self) -> impl Iterator<Item = &Arc<Method>> {
        self.methods.values()
    }

    /// Fails unless every method of these services says who may call it.
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

/// The options' extensions, looked up once. A contract that does not import one simply has none of it.
struct Options(HashMap<&'static str, ExtensionDescriptor>);

const ACCESS: &str = "souk.options.v1.access";
const RATE_CLASS: &str = "souk.options.v1.rate_class";
const IDEMPOTENCY_KEY: &str = "souk.options.v1.idempotency_key";
const HTTP: &str = "google.api.http";

impl Options {
    fn of(pool: &DescriptorPool) -> Self {
        let names = [ACCESS, RATE_CLASS, IDEMPOTENCY_KEY, HTTP];
        Self(names.into_iter().filter_map(|name| Some((name, pool.get_extension_by_name(name)?))).collect())
    }

    fn get(&self, options: &DynamicMessage, name: &'static str) -> Option<Value> {
        let extension = self.0.get(name)?;
        options.has_extension(extension).then(|| options.get_extension(extension).into_owned())
    }

    fn message<T>(
        &self,
        descriptor: &MethodDescriptor,
        options: &DynamicMessage,
        name: &'static str,
    ) -> Result<Option<T>, ContractError>
    where
        T: prost::Message + Default,
    {
        let Some(Value::Message(message)) = self.get(options, name) else {
            return Ok(None);
        };
        message.transcode_to().map(Some).map_err(|source| ContractError::Option {
            method: descriptor.full_name().to_owned(),
            option: name.to_owned(),
            source,
        })
    }

    fn read(&self, descriptor: MethodDescriptor) -> Result<Method, ContractError> {
        let options = descriptor.options();
        let access = self.message::<Access>(&descriptor, &options, ACCESS)?;
        let http = self.message::<HttpRule>(&descriptor, &options, HTTP)?;
        let rate_class = match self.get(&options, RATE_CLASS) {
            Some(Value::EnumNumber(number)) => RateClass::try_from(number).unwrap_or_default(),
            _ => RateClass::Unspecified,
        };
        let idempotency_key = match self.get(&options, IDEMPOTENCY_KEY) {
            Some(Value::String(field)) if !field.is_empty() => Some(field),
            _ => None,
        };
        // 1 is NO_SIDE_EFFECTS, 2 is IDEMPOTENT (google.protobuf.MethodOptions.IdempotencyLevel).
        let level = match options.get_field_by_name("idempotency_level").as_deref() {
            Some(Value::EnumNumber(number)) => *number,
            _ => 0,
        };
        let access = access.and_then(AccessRule::from_contract);
        for (option, field) in [
            (ACCESS, access.as_ref().and_then(|rule| rule.owner.as_ref())),
            (IDEMPOTENCY_KEY, idempotency_key.as_ref()),
        ] {
            if let Some(field) = field
                && !has_path(&descriptor, field)
            {
                return Err(ContractError::Field {
                    method: descriptor.full_name().to_owned(),
                    option,
                    field: field.clone(),
                    message: descriptor.input().full_name().to_owned(),
                });
            }
        }
        let service = descriptor.parent_service().full_name().to_owned();
        Ok(Method {
            path: format!("/{service}/{}", descriptor.name()),
            service: service.into(),
            name: descriptor.name().into(),
            access,
            rate_class,
            idempotency_key,
            safe: level == 1,
            idempotent: level == 1 || level == 2,
            http,
            descriptor,
        })
    }
}

/// Whether the request has a field at the dotted path.
fn has_path(method: &MethodDescriptor, path: &str) -> bool {
    let mut message = Some(method.input());
    path.split('.').all(|name| {
        let field = message.as_ref().and_then(|message| message.get_field_by_name(name));
        message = field.as_ref().and_then(|field| field.kind().as_message().cloned());
        field.is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_souk_says_who_may_call_it() {
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
        let reserve = contract.method("/souk.inventory.v1.ReservationService/Reserve").unwrap();
        assert!(reserve.http.is_none() && reserve.access.as_ref().unwrap().only_internal());
    }

    #[test]
    fn an_unknown_service_is_named() {
        let error = Contract::souk().unwrap().require_access(&["souk.no.v1.Such"]).unwrap_err();
        assert_eq!(error.to_string(), "the contract has no service souk.no.v1.Such");
    }
}
