//! The options of a method, read from its descriptor.

use std::{collections::HashMap, time::Duration};

use chrono::NaiveDate;
use fluent_uri::UriRef;
use http::HeaderName;
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value,
};
use souk_proto::{
    google::api::HttpRule,
    options::v1::{self, Access, Cache, Cursor, HeaderField, RateClass},
};

use super::{AccessRule, ContractError, Cost, Method};

/// How long a response may be cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caching {
    /// The time for which a response is fresh.
    pub max_age: Duration,
    /// The time after that in which a stale response may be used while a new one is fetched.
    pub stale_while_revalidate: Duration,
}

/// When a method is deprecated and removed. All days are in UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deprecation {
    /// The first day on which the method is deprecated.
    pub since: NaiveDate,
    /// The day after which the method may be removed.
    pub sunset: Option<NaiveDate>,
    /// URL of a page that says what to use instead.
    pub link: Option<String>,
}

/// Size limit in bytes of the request message of a method with an access rule but without `max_request_bytes`.
pub const DEFAULT_MAX_REQUEST_BYTES: u32 = 64 << 10;

/// The extensions of the options, looked up once. If a contract does not import one, no method has that option.
pub(super) struct Options(HashMap<&'static str, ExtensionDescriptor>);

const ACCESS: &str = "souk.options.v1.access";
const RATE_CLASS: &str = "souk.options.v1.rate_class";
const IDEMPOTENCY_KEY: &str = "souk.options.v1.idempotency_key";
const CACHE: &str = "souk.options.v1.cache";
const ETAG: &str = "souk.options.v1.etag";
const CURSOR: &str = "souk.options.v1.cursor";
const DEPRECATION: &str = "souk.options.v1.deprecation";
const HEADERS: &str = "souk.options.v1.headers";
const MAX_REQUEST_BYTES: &str = "souk.options.v1.max_request_bytes";
const COST: &str = "souk.options.v1.cost";
const CLIENT_DETAILS: &str = "souk.options.v1.client_details";
const HTTP: &str = "google.api.http";

impl Options {
    pub(super) fn of(pool: &DescriptorPool) -> Self {
        let names = [
            ACCESS,
            RATE_CLASS,
            IDEMPOTENCY_KEY,
            CACHE,
            ETAG,
            CURSOR,
            DEPRECATION,
            HEADERS,
            MAX_REQUEST_BYTES,
            COST,
            CLIENT_DETAILS,
            HTTP,
        ];
        Self(names.into_iter().filter_map(|name| Some((name, pool.get_extension_by_name(name)?))).collect())
    }

    fn get(&self, options: &DynamicMessage, name: &'static str) -> Option<Value> {
        let extension = self.0.get(name)?;
        options.has_extension(extension).then(|| options.get_extension(extension).into_owned())
    }

    fn text(&self, options: &DynamicMessage, name: &'static str) -> Option<String> {
        match self.get(options, name) {
            Some(Value::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
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
            option: name,
            source,
        })
    }

    fn headers(
        &self,
        descriptor: &MethodDescriptor,
        options: &DynamicMessage,
    ) -> Result<Vec<HeaderField>, ContractError> {
        let Some(Value::List(values)) = self.get(options, HEADERS) else { return Ok(Vec::new()) };
        let mut headers = Vec::with_capacity(values.len());
        for value in values {
            let Value::Message(message) = value else { continue };
            let header: HeaderField = message.transcode_to().map_err(|source| ContractError::Option {
                method: descriptor.full_name().to_owned(),
                option: HEADERS,
                source,
            })?;
            if HeaderName::from_lowercase(header.name.as_bytes()).is_err() {
                let fault = format!("`{}` is no name of a header: write it in lower case", header.name);
                return Err(wrong(descriptor, HEADERS, fault));
            }
            let input = descriptor.input();
            require_field(descriptor, &input, HEADERS, &header.field)?;
            let field = input.get_field_by_name(&header.field);
            if !field.is_some_and(|field| field.kind() == Kind::String && !field.is_list()) {
                let fault = format!("`{}` must be a single text, not inside of another message", header.field);
                return Err(wrong(descriptor, HEADERS, fault));
            }
            headers.push(header);
        }
        Ok(headers)
    }

    pub(super) fn read(&self, descriptor: MethodDescriptor) -> Result<Method, ContractError> {
        let options = descriptor.options();
        let access = self.message::<Access>(&descriptor, &options, ACCESS)?;
        let http = self.message::<HttpRule>(&descriptor, &options, HTTP)?;
        let rate_class = match self.get(&options, RATE_CLASS) {
            Some(Value::EnumNumber(number)) => RateClass::try_from(number).unwrap_or_default(),
            _ => RateClass::Unspecified,
        };
        let idempotency_key = self.text(&options, IDEMPOTENCY_KEY);
        let etag = self.text(&options, ETAG);
        let cursor = self.message::<Cursor>(&descriptor, &options, CURSOR)?;
        // 1 is NO_SIDE_EFFECTS, 2 is IDEMPOTENT (google.protobuf.MethodOptions.IdempotencyLevel).
        let level = match options.get_field_by_name("idempotency_level").as_deref() {
            Some(Value::EnumNumber(number)) => *number,
            _ => 0,
        };
        let max_request_bytes = match self.get(&options, MAX_REQUEST_BYTES) {
            Some(Value::U32(0)) => return Err(wrong(&descriptor, MAX_REQUEST_BYTES, "must be more than 0")),
            Some(Value::U32(bytes)) => Some(bytes),
            // A contract without souk's options has no size limits either.
            _ => access.is_some().then_some(DEFAULT_MAX_REQUEST_BYTES),
        };
        let max_request_bytes = max_request_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let access = access.and_then(AccessRule::from_contract);
        if access.as_ref().is_some_and(|rule| rule.public && rule.recent_log_in) {
            return Err(wrong(
                &descriptor,
                ACCESS,
                "a public method has callers without a log-in: remove recent_log_in",
            ));
        }
        let owner = access.as_ref().and_then(|rule| rule.owner.as_deref());
        for (option, field) in [(ACCESS, owner), (IDEMPOTENCY_KEY, idempotency_key.as_deref()), (ETAG, etag.as_deref())]
        {
            if let Some(field) = field {
                require_field(&descriptor, &descriptor.input(), option, field)?;
            }
        }
        if let Some(cursor) = &cursor {
            require_field(&descriptor, &descriptor.input(), CURSOR, &cursor.request)?;
            require_field(&descriptor, &descriptor.output(), CURSOR, &cursor.response)?;
        }
        let safe = level == 1;
        let caching = self.message::<Cache>(&descriptor, &options, CACHE)?.map(Caching::from);
        if caching.is_some() && !safe {
            return Err(wrong(&descriptor, CACHE, "only answers of methods with NO_SIDE_EFFECTS may be kept"));
        }
        let deprecation = match self.message::<v1::Deprecation>(&descriptor, &options, DEPRECATION)? {
            Some(deprecation) => {
                Some(Deprecation::read(deprecation).map_err(|fault| wrong(&descriptor, DEPRECATION, fault))?)
            }
            None => None,
        };
        let headers = self.headers(&descriptor, &options)?;
        let cost = match self.message::<v1::Cost>(&descriptor, &options, COST)? {
            Some(cost) => Cost::read(cost, &descriptor.input()).map_err(|fault| wrong(&descriptor, COST, fault))?,
            None => Cost::default(),
        };
        let client_details = matches!(self.get(&options, CLIENT_DETAILS), Some(Value::Bool(true)));
        let service = descriptor.parent_service().full_name().to_owned();
        Ok(Method {
            path: format!("/{service}/{}", descriptor.name()),
            service: service.into(),
            name: descriptor.name().into(),
            access,
            rate_class,
            deadline: None,
            idempotency_key,
            caching,
            etag,
            cursor,
            deprecation,
            headers,
            max_request_bytes,
            cost,
            client_details,
            safe,
            idempotent: safe || level == 2,
            http,
            descriptor,
        })
    }
}

impl From<Cache> for Caching {
    fn from(cache: Cache) -> Self {
        Self {
            max_age: Duration::from_secs(cache.max_age_seconds.into()),
            stale_while_revalidate: Duration::from_secs(cache.stale_while_revalidate_seconds.into()),
        }
    }
}

impl Deprecation {
    fn read(option: v1::Deprecation) -> Result<Self, String> {
        let day = |text: &str| {
            text.parse::<NaiveDate>().map_err(|_| format!("`{text}` is not a day: write it as 2027-01-31"))
        };
        let sunset = if option.sunset.is_empty() { None } else { Some(day(&option.sunset)?) };
        let link = Some(option.link).filter(|link| !link.is_empty());
        if let Some(link) = &link {
            UriRef::parse(link.as_str()).map_err(|error| format!("the link `{link}` is not a URI: {error}"))?;
        }
        Ok(Self { since: day(&option.since)?, sunset, link })
    }
}

fn wrong(method: &MethodDescriptor, option: &'static str, fault: impl Into<String>) -> ContractError {
    ContractError::Value { method: method.full_name().to_owned(), option, fault: fault.into() }
}

/// Fails if the message has no field at the dotted path.
fn require_field(
    method: &MethodDescriptor,
    message: &MessageDescriptor,
    option: &'static str,
    path: &str,
) -> Result<(), ContractError> {
    let mut inside = Some(message.clone());
    let there = path.split('.').all(|name| {
        let field = inside.as_ref().and_then(|message| message.get_field_by_name(name));
        inside = field.as_ref().and_then(|field| field.kind().as_message().cloned());
        field.is_some()
    });
    if there {
        return Ok(());
    }
    Err(ContractError::Field {
        method: method.full_name().to_owned(),
        option,
        field: path.to_owned(),
        message: message.full_name().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Contract, ContractError, Method};

    /// The only method of a contract, with these options.
    fn method(options: &str) -> Result<Arc<Method>, ContractError> {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "syntax = \"proto3\"; package test; import \"souk/options/v1/options.proto\";
             message Query {{ string after = 1; Thing thing = 2; }}
             message Thing {{ string etag = 1; string place = 2; }}
             service Things {{ rpc Get(Query) returns (stream Thing) {{ {options} }} }}"
        );
        std::fs::write(folder.path().join("test.proto"), text).unwrap();
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
        let mut compiler = protox::Compiler::new([root.into(), folder.path().to_owned()]).unwrap();
        compiler.include_imports(true).open_file("test.proto").unwrap_or_else(|error| panic!("{error:?}"));
        let contract = Contract::load(&compiler.encode_file_descriptor_set())?;
        Ok(contract.method("/test.Things/Get").unwrap().clone())
    }

    const SAFE: &str = "option idempotency_level = NO_SIDE_EFFECTS;";

    #[test]
    fn options_are_read() {
        let method = method(&format!(
            "{SAFE}
             option (souk.options.v1.cache) = {{max_age_seconds: 5 stale_while_revalidate_seconds: 30}};
             option (souk.options.v1.etag) = \"thing.etag\";
             option (souk.options.v1.cursor) = {{request: \"after\" response: \"place\"}};
             option (souk.options.v1.deprecation) = {{since: \"2027-01-31\" link: \"/docs\"}};
             option (souk.options.v1.headers) = {{name: \"x-after\" field: \"after\"}};
             option (souk.options.v1.headers) = {{name: \"x-too\" field: \"after\"}};
             option (souk.options.v1.client_details) = true;
             option (souk.options.v1.max_request_bytes) = 2000;"
        ))
        .unwrap();
        assert_eq!([1000, 2000, 4 << 20].map(|max| method.request_limit(max)), [1000, 2000, 2000]);
        assert!(method.client_details);
        let caching = method.caching.unwrap();
        assert_eq!((caching.max_age.as_secs(), caching.stale_while_revalidate.as_secs()), (5, 30));
        assert_eq!(method.etag.as_deref(), Some("thing.etag"));
        assert_eq!(method.cursor.as_ref().unwrap().request, "after");
        let headers: Vec<_> = method.headers.iter().map(|header| (&*header.name, &*header.field)).collect();
        assert_eq!(headers, [("x-after", "after"), ("x-too", "after")]);
        let deprecation = method.deprecation.as_ref().unwrap();
        assert_eq!(deprecation.since.to_string(), "2027-01-31");
        assert_eq!((deprecation.sunset, deprecation.link.as_deref()), (None, Some("/docs")));
    }

    #[test]
    fn a_method_of_souk_without_a_size_limit_has_the_default_limit() {
        let limit = |options: &str| method(options).unwrap().request_limit(4 << 20);
        assert_eq!(limit("option (souk.options.v1.access) = {public: true};"), 64 << 10);
        assert_eq!(limit(""), 4 << 20);
    }

    #[test]
    fn an_invalid_option_is_named() {
        let cases = [
            ("option (souk.options.v1.max_request_bytes) = 0;", "must be more than 0"),
            ("option (souk.options.v1.access) = {public: true recent_log_in: true};", "callers without a log-in"),
            ("option (souk.options.v1.cache) = {max_age_seconds: 5};", "only answers of methods with NO_SIDE_EFFECTS"),
            (
                "option (souk.options.v1.etag) = \"thing.tag\";",
                "names the field `thing.tag`, which test.Query does not have",
            ),
            (
                "option (souk.options.v1.cursor) = {request: \"after\" response: \"after\"};",
                "names the field `after`, which test.Thing does not have",
            ),
            ("option (souk.options.v1.cursor) = {request: \"after\"};", "names the field ``"),
            ("option (souk.options.v1.deprecation) = {since: \"soon\"};", "`soon` is not a day"),
            (
                "option (souk.options.v1.deprecation) = {since: \"2027-01-31\" sunset: \"2027-13-01\"};",
                "`2027-13-01` is not a day",
            ),
            (
                "option (souk.options.v1.deprecation) = {since: \"2027-01-31\" link: \"<over there>\"};",
                "the link `<over there>` is not a URI",
            ),
            (
                "option (souk.options.v1.headers) = {name: \"X-Signature\" field: \"after\"};",
                "`X-Signature` is no name of a header",
            ),
            (
                "option (souk.options.v1.headers) = {name: \"x-signature\" field: \"signature\"};",
                "names the field `signature`, which test.Query does not have",
            ),
            (
                "option (souk.options.v1.headers) = {name: \"x-signature\" field: \"thing\"};",
                "`thing` must be a single text",
            ),
            (
                "option (souk.options.v1.cost) = {surcharges: {field: \"filter\" units: 1}};",
                "names the field `filter`, which test.Query does not have",
            ),
            ("option (souk.options.v1.cost) = {surcharges: {field: \"after\"}};", "`after` needs `units`"),
            (
                "option (souk.options.v1.cost) = {surcharges: {field: \"after\" units: 1 per: 2}};",
                "`per` is for repeated fields, int32 and uint32",
            ),
        ];
        for (options, expected) in cases {
            let error = method(options).unwrap_err().to_string();
            assert!(error.contains("test.Things.Get") && error.contains(expected), "{error}");
        }
    }
}
