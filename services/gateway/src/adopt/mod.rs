//! Contracts that were not written for souk. `[gateway.contract]` names such a contract, and the gateway serves it like
//! souk's own. Settings define what the contract's options leave open. A fault that would stop the start with souk's
//! own contract only excludes the affected method or route here, with a warning.

mod descriptors;
mod reflection;

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use souk_common::{
    auth::Verifier,
    client::AddressError,
    contract::{Contract, ContractError, Method, RateClass},
    error::chain,
};

pub use self::descriptors::DescriptorError;
use crate::{
    config::Config,
    docs,
    foreign::{Access, Api, Errors, fits},
    own,
    page::Page,
    routes::Routes,
    transcode::lenient::Leniency,
};

/// The parts that a gateway is built from.
pub(crate) struct Parts<'d> {
    pub contract: Arc<Contract>,
    /// The encoded descriptor set of the contract.
    pub descriptors: Cow<'d, [u8]>,
    pub routes: Routes,
    pub leniency: Leniency,
    /// Checks tokens. `None`: the gateway checks none.
    pub verifier: Option<Arc<Verifier>>,
    pub api: Api,
}

/// Why a foreign contract cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// The descriptors cannot be loaded.
    #[error(transparent)]
    Descriptors(#[from] DescriptorError),
    /// souk's own contract cannot be read.
    #[error(transparent)]
    Souk(#[from] ContractError),
    /// The address of the service that publishes the token keys is invalid.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The contract is invalid.
    #[error("the contract of {from} cannot be read")]
    Contract {
        /// The descriptor file, or the backends.
        from: String,
        /// Why it is invalid.
        #[source]
        source: ContractError,
    },
    /// No method of the contract can be served.
    #[error("no method of the contract of {from} is served: {why}")]
    Nothing {
        /// The descriptor file, or the backends.
        from: String,
        /// The reason and a remedy.
        why: &'static str,
    },
    /// A setting names an unknown package, service or method.
    #[error("gateway.contract.methods.{0}: the contract has no such package, service or method")]
    NoMethod(String),
    /// A method requires a signed-in caller, but the gateway checks no tokens.
    #[error(
        "{method} is for those who are signed in, and tokens are not checked: give gateway.keys_from (`{keys_from}`) an \
         address in gateway.backends and leave gateway.contract.pass_authorization false, or make it public"
    )]
    NoKeys {
        /// Full name of the method.
        method: String,
        /// The service that would publish the keys.
        keys_from: String,
    },
}

const NO_BACKEND: &str = "none of its services has a backend: name one for a service or its package, as in --backend \
                          my.pkg=http://127.0.0.1:9000 (gateway.backends)";
const NO_ACCESS: &str = "nobody may call it: say --public (gateway.contract.access = \"public\") where anyone may, or how \
                         tokens are checked (gateway.keys_from), or set gateway.contract.methods";

/// Builds the parts of a gateway for the contract that the settings name.
///
/// # Errors
/// The contract cannot be loaded, or cannot be served with these settings.
pub(crate) async fn parts(config: &Config) -> Result<Parts<'static>, ForeignError> {
    let settings = config.settings.contract.clone();
    let (descriptors, from) = descriptors::of(config).await?;
    let verifier = verifier(config)?;
    let (contract, unsupported) = contract(config, &descriptors, &from, verifier.is_some())?;
    for rule in unsupported {
        tracing::warn!(rule = chain(&rule), "a validation rule is not checked here: the service checks it itself");
    }
    let leniency = settings.lenient.leniency();
    let routes = routes(&contract, leniency);
    let api = Api {
        about: settings.about(&contract),
        errors: Errors::passed(contract.pool(), settings.response_headers.clone()),
        request_headers: settings.request_headers,
        response_headers: settings.response_headers,
        passes_authorization: settings.pass_authorization,
    };
    Ok(Parts { contract: Arc::new(contract), descriptors: descriptors.into(), routes, leniency, verifier, api })
}

/// Checks tokens with the keys of souk's user service. `None` if no such service is configured or the services check
/// tokens.
fn verifier(config: &Config) -> Result<Option<Arc<Verifier>>, ForeignError> {
    let Some((_, address)) = config.settings.backends.of(&config.settings.keys_from) else { return Ok(None) };
    if config.settings.contract.pass_authorization {
        return Ok(None);
    }
    Ok(Some(config.common.verifier(&config.client(address), Contract::souk()?, "gateway")?))
}

/// Loads the contract, without methods that are not served.
fn contract(
    config: &Config,
    descriptors: &[u8],
    from: &str,
    checks_tokens: bool,
) -> Result<(Contract, Vec<souk_common::contract::validate::Unsupported>), ForeignError> {
    let settings = &config.settings.contract;
    let default = settings.access.unwrap_or(if checks_tokens { Access::SignedIn } else { Access::Deny });
    let (mut without_backend, mut closed) = (BTreeSet::new(), Vec::new());
    let mut unchecked = None;
    let mut names = Vec::new();
    let keep = |method: &mut Method| {
        let name = method.descriptor.full_name().to_owned();
        names.push(name.clone());
        if own::is_own(&method.path) || config.settings.backends.of(&method.service).is_none() {
            without_backend.insert(method.service.clone());
            return false;
        }
        let rule = settings.methods.of(&name);
        method.deadline = rule.deadline;
        if method.rate_class == RateClass::Unspecified {
            method.rate_class =
                rule.rate_class.unwrap_or(if reads(method) { RateClass::Read } else { RateClass::Write });
        }
        if method.access.is_none() {
            let access = rule.access.unwrap_or(default);
            method.access = access.rule();
            // The contract does not say who may see a response, so responses are not shared between callers.
            method.caching = None;
        }
        match &method.access {
            None => {
                closed.push(name);
                return false;
            }
            Some(rule) if !rule.public && !rule.only_internal() && !checks_tokens => {
                unchecked.get_or_insert(name);
            }
            Some(_) => {}
        }
        true
    };
    let (contract, unsupported) = Contract::load_leniently(descriptors, keep)
        .map_err(|source| ForeignError::Contract { from: from.to_owned(), source })?;
    if let Some(unknown) = settings.methods.names().find(|rule| !names.iter().any(|name| fits(rule, name))) {
        return Err(ForeignError::NoMethod(unknown.to_owned()));
    }
    if let Some(method) = unchecked {
        return Err(ForeignError::NoKeys { method, keys_from: config.settings.keys_from.clone() });
    }
    for service in without_backend {
        tracing::info!(%service, "service not served: no backend is configured for it");
    }
    if contract.methods().next().is_none() {
        let why = if closed.is_empty() { NO_BACKEND } else { NO_ACCESS };
        return Err(ForeignError::Nothing { from: from.to_owned(), why });
    }
    for method in closed {
        tracing::warn!(method, "method not served: nobody may call it (gateway.contract.access)");
    }
    Ok((contract, unsupported))
}

/// True if a method only reads, according to its contract.
fn reads(method: &Method) -> bool {
    use souk_proto::google::api::http_rule::Pattern;
    let pattern = method.http.as_ref().and_then(|rule| rule.pattern.as_ref());
    method.safe || matches!(pattern, Some(Pattern::Get(_)))
}

/// The routes of the contract that can be served. Logs a warning for each of the others.
fn routes(contract: &Contract, leniency: Leniency) -> Routes {
    let pages: Vec<&str> = Page::ALL.into_iter().map(Page::path).chain(docs::paths()).collect();
    let (routes, skipped) = Routes::foreign(contract, leniency, &pages);
    for error in skipped {
        tracing::warn!(error = chain(&error), "route not served");
    }
    for page in pages {
        if let Some(route) = routes.at(page) {
            tracing::warn!(%route, page, "route shadowed for this path by a page of the gateway's own");
        }
    }
    routes
}
