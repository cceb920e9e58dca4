//! Authentication and authorisation: tokens, identities and the access rule.

mod ended;
mod secret;
mod service;
mod verifier;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

pub(crate) use self::secret::check as check_secret;
pub use self::{
    ended::{EndedFeed, EndedSession, EndedSessions, has_ended},
    service::ServiceTokens,
    verifier::{Identified, KeySource, PublishedKey, Verifier},
};
pub use crate::contract::{AccessRule, Role, Roles};
use crate::{
    config::Secret,
    error::{Problem, Reason},
    ids::{SessionId, UserId},
};

/// The maximum leeway for expired tokens. Retired signing keys stay published for this long.
pub const LONGEST_LEEWAY: Duration = Duration::from_secs(60);

/// Settings of `[auth]`, the same for every service of an installation.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `iss` of access tokens.
    pub issuer: String,
    /// `aud` of access tokens.
    pub audience: String,
    /// How long expired tokens are still accepted, by the clock of this host.
    #[serde(with = "crate::config::duration")]
    pub leeway: Duration,
    /// How long ago a log-in may be for methods that need a recent one. Zero: any time.
    #[serde(with = "crate::config::duration")]
    pub recent_log_in: Duration,
    /// The secret that authenticates services to each other: at least 32 bytes, the same for all services.
    pub internal_secret: Secret,
}

/// The claims of an access token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claims {
    /// Issuer.
    pub iss: String,
    /// Audience.
    pub aud: String,
    /// The user's id, for example `usr_01k9…`.
    pub sub: String,
    /// The session's id.
    pub sid: String,
    /// The names of the user's roles, as [`Role::as_str`] returns them.
    #[serde(default)]
    pub roles: Vec<String>,
    /// The scopes that the token is limited to (RFC 8693), separated by spaces. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// When the user logged in, in seconds since 1970 (UTC), as in OpenID Connect. A refresh does not change it. Tokens
    /// of older versions lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<i64>,
    /// Time of issue, in seconds since 1970 (UTC).
    pub iat: i64,
    /// Time of expiry, in seconds since 1970 (UTC).
    pub exp: i64,
    /// The token's own id.
    pub jti: String,
}

impl Claims {
    fn identity(&self) -> Option<Identity> {
        Some(Identity::User {
            id: UserId::from_str(&self.sub).ok()?,
            roles: self.roles.iter().filter_map(|name| Role::parse(name)).collect(),
            session: SessionId::from_str(&self.sid).ok()?,
            scopes: self.scope.as_deref().map(Scopes::from),
            auth_time: self.auth_time,
        })
    }
}

/// The identity of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// No token was sent.
    Anonymous,
    /// A user with a valid access token.
    User {
        /// The user.
        id: UserId,
        /// The user's roles when the token was issued.
        roles: Roles,
        /// The session that the token belongs to.
        session: SessionId,
        /// The scopes that the token is limited to. `None`: no limit.
        scopes: Option<Scopes>,
        /// When the user logged in (seconds since 1970). `None`: not known.
        auth_time: Option<i64>,
    },
    /// Another souk service.
    Service {
        /// Its name, for example `order`.
        name: String,
        /// The gRPC service that the token is for. Other services refuse it.
        audience: String,
    },
}

impl Identity {
    /// Checks that a service's token is for the gRPC service that was called (`souk.user.v1.SessionService`).
    ///
    /// # Errors
    /// `TOKEN_INVALID` if the token is for another gRPC service: it was sent to the wrong one, or it was stolen.
    pub fn check_audience(&self, called: &str) -> Result<(), Problem> {
        match self {
            Self::Service { audience, .. } if audience != called => {
                let message = format!("the token is for {audience}, and {called} was called");
                Err(Problem::new(Reason::TokenInvalid, message))
            }
            _ => Ok(()),
        }
    }
}

/// The scopes that a token is limited to (RFC 8693).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes(Arc<str>);

impl Scopes {
    /// True if the token has this scope.
    pub fn has(&self, scope: &str) -> bool {
        self.0.split(' ').any(|name| name == scope)
    }
}

impl From<&str> for Scopes {
    fn from(names: &str) -> Self {
        Self(names.into())
    }
}

/// The resource name of the actor, for ledgers and timelines: `users/usr_…`, `services/order`, `anonymous`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::User { id, .. } => f.write_str(&id.name()),
            Self::Service { name, .. } => write!(f, "services/{name}"),
        }
    }
}

/// Looks up a caller's current identity: roles may have changed since the token was issued.
#[tonic::async_trait]
pub trait Recheck: Send + Sync + 'static {
    /// The current identity.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if it is no longer valid.
    async fn now(&self, identity: Identity) -> Result<Identity, Problem>;
}

/// What a caller may reach with a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// All resources that the method can reach.
    All,
    /// Only this user's own resources.
    Own(UserId),
}

impl Grant {
    /// True if a resource of this user may be reached.
    pub fn covers(self, owner: UserId) -> bool {
        match self {
            Self::All => true,
            Self::Own(user) => user == owner,
        }
    }

    /// The user to whose resources the caller is limited. `None`: no limit.
    pub fn owner(self) -> Option<UserId> {
        match self {
            Self::All => None,
            Self::Own(user) => Some(user),
        }
    }
}

/// A caller who passed a method's access rule.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The caller's identity.
    pub identity: Identity,
    /// What they may reach.
    pub grant: Grant,
    /// True unless they are a user whose log-in is too old for methods that need a recent one.
    pub recent_log_in: bool,
}

impl Caller {
    /// The caller of a request that went through the server's access check.
    ///
    /// # Errors
    /// `INTERNAL` if the request did not: a bug in how the server was assembled.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, Problem> {
        request.extensions().get::<Self>().cloned().ok_or_else(Problem::internal)
    }

    /// The signed-in user.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` for anyone else.
    pub fn user(&self) -> Result<UserId, Problem> {
        match self.identity {
            Identity::User { id, .. } => Ok(id),
            _ => Err(token_missing()),
        }
    }

    /// The session of the signed-in user's token.
    pub fn session(&self) -> Option<SessionId> {
        match self.identity {
            Identity::User { session, .. } => Some(session),
            _ => None,
        }
    }

    /// True if the caller is a user who has the role, or a role that includes it.
    pub fn has_role(&self, role: Role) -> bool {
        matches!(self.identity, Identity::User { roles, .. } if roles.grant(role))
    }

    /// The resource name of the caller, for ledgers and timelines.
    pub fn actor(&self) -> String {
        self.identity.to_string()
    }
}

/// An access rule of the contract.
pub trait Admit {
    /// The grant of this caller under the rule.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if a token would help, `PERMISSION_DENIED` if it would not.
    fn admit(&self, identity: &Identity) -> Result<Grant, Problem>;
}

impl Admit for AccessRule {
    fn admit(&self, identity: &Identity) -> Result<Grant, Problem> {
        if self.public {
            return Ok(Grant::All);
        }
        if let Identity::User { scopes: Some(scopes), .. } = identity
            && !self.scope.as_ref().is_some_and(|scope| scopes.has(scope))
        {
            return Err(out_of_scope(self));
        }
        match identity {
            Identity::Service { name, .. } if self.internal_callers.iter().any(|caller| caller == name) => {
                Ok(Grant::All)
            }
            Identity::User { roles, .. } if self.roles.iter().any(|role| roles.grant(role)) => Ok(Grant::All),
            Identity::User { id, .. } if self.owner.is_some() => Ok(Grant::Own(*id)),
            Identity::User { .. } if self.signed_in => Ok(Grant::All),
            Identity::Anonymous if !self.only_internal() => Err(token_missing()),
            _ => Err(Problem::new(Reason::AccessDenied, refusal(self))),
        }
    }
}

/// The error for a user whose log-in is too old.
pub fn reauthentication_required() -> Problem {
    Problem::new(
        Reason::ReauthenticationRequired,
        "this needs a recent log-in, and yours is too old: log in again, and repeat it with the new token",
    )
}

fn out_of_scope(rule: &AccessRule) -> Problem {
    match &rule.scope {
        Some(scope) => {
            let message = format!("this token is limited to scopes, and `{scope}` is not one of them");
            Problem::new(Reason::ScopeMissing, message).metadata("scope", scope)
        }
        None => Problem::new(Reason::ScopeMissing, "a token that is limited to scopes does not open this method"),
    }
}

fn refusal(rule: &AccessRule) -> String {
    if rule.only_internal() {
        return format!(
            "of souk's own services, only these may call this method: {}",
            rule.internal_callers.join(", ")
        );
    }
    let roles: Vec<_> = rule.roles.iter().map(Role::as_str).collect();
    if roles.is_empty() {
        return "this method is for signed-in users alone".to_owned();
    }
    format!("this method needs the role {}", roles.join(" or "))
}

fn token_missing() -> Problem {
    Problem::new(
        Reason::TokenMissing,
        "this method needs a token: send `authorization: Bearer <access token>`; log in to get one",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> AccessRule {
        AccessRule {
            public: false,
            signed_in: false,
            roles: Roles::default(),
            owner: None,
            internal_callers: Vec::new(),
            scope: None,
            recent_log_in: false,
        }
    }

    fn user(roles: impl IntoIterator<Item = Role>) -> Identity {
        let roles = roles.into_iter().collect();
        Identity::User { id: UserId::new(), roles, session: SessionId::new(), scopes: None, auth_time: None }
    }

    #[test]
    fn the_rule_decides_for_every_kind_of_caller() {
        let service = |name: &str| Identity::Service { name: name.into(), audience: "souk.user.v1.UserService".into() };
        let staff_rule = AccessRule { roles: [Role::Staff].into_iter().collect(), ..rule() };
        let owner_rule = AccessRule { owner: Some("name".into()), ..staff_rule.clone() };
        let internal_rule = AccessRule { internal_callers: vec!["order".into(), "gateway".into()], ..rule() };
        let public_rule = AccessRule { public: true, ..rule() };
        let signed_in_rule = AccessRule { signed_in: true, ..rule() };
        let customer = user([]);
        let Identity::User { id, .. } = customer else { unreachable!() };

        let reason = |result: Result<Grant, Problem>| result.unwrap_err().reason();
        assert_eq!(public_rule.admit(&Identity::Anonymous).unwrap(), Grant::All);
        assert_eq!(signed_in_rule.admit(&customer).unwrap(), Grant::All);
        assert_eq!(owner_rule.admit(&customer).unwrap(), Grant::Own(id));
        assert_eq!(owner_rule.admit(&user([Role::Staff])).unwrap(), Grant::All);
        assert_eq!(staff_rule.admit(&user([Role::Admin])).unwrap(), Grant::All);
        assert_eq!(internal_rule.admit(&service("order")).unwrap(), Grant::All);
        assert_eq!(internal_rule.admit(&service("gateway")).unwrap(), Grant::All);

        assert_eq!(reason(signed_in_rule.admit(&Identity::Anonymous)), Reason::TokenMissing);
        assert_eq!(reason(signed_in_rule.admit(&service("order"))), Reason::AccessDenied);
        assert_eq!(reason(staff_rule.admit(&customer)), Reason::AccessDenied);
        assert_eq!(reason(owner_rule.admit(&service("order"))), Reason::AccessDenied);
        for other in ["inventory", "orde", "order2", "Order", ""] {
            assert_eq!(reason(internal_rule.admit(&service(other))), Reason::AccessDenied, "{other}");
        }
        assert_eq!(reason(internal_rule.admit(&user([Role::Admin]))), Reason::AccessDenied);
        assert_eq!(reason(internal_rule.admit(&Identity::Anonymous)), Reason::AccessDenied);
        assert_eq!(reason(rule().admit(&user([Role::Admin]))), Reason::AccessDenied);
    }

    #[test]
    fn a_limited_token_allows_only_methods_of_its_scopes() {
        let limited = |names: &str| {
            let Identity::User { id, roles, session, .. } = user([Role::Admin]) else { unreachable!() };
            Identity::User { id, roles, session, scopes: Some(names.into()), auth_time: None }
        };
        let orders = AccessRule { signed_in: true, scope: Some("orders.read".into()), ..rule() };
        assert_eq!(orders.admit(&user([])).unwrap(), Grant::All);
        assert_eq!(orders.admit(&limited("stock.write orders.read")).unwrap(), Grant::All);
        for names in ["", "orders", "orders.read.all", "ORDERS.READ"] {
            assert_eq!(orders.admit(&limited(names)).unwrap_err().reason(), Reason::ScopeMissing, "{names}");
        }
        let unnamed = AccessRule { signed_in: true, ..rule() };
        assert_eq!(unnamed.admit(&limited("orders.read")).unwrap_err().reason(), Reason::ScopeMissing);
        assert_eq!(AccessRule { public: true, ..rule() }.admit(&limited("")).unwrap(), Grant::All);
    }

    #[test]
    fn a_grant_of_own_resources_covers_no_other_user() {
        let (me, other) = (UserId::new(), UserId::new());
        assert!(Grant::Own(me).covers(me) && !Grant::Own(me).covers(other) && Grant::All.covers(other));
    }
}
