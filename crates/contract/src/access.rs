//! The access rule of a method.

use std::fmt;

use souk_proto::options::v1::Access;

/// A role, which allows a user more than access to their own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Staff of the shop.
    Staff,
    /// Operators of souk; includes [`Role::Staff`].
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 2] = [Self::Staff, Self::Admin];

    /// The role's name in tokens and in the database: the contract's name without its prefix.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Staff => "STAFF",
            Self::Admin => "ADMIN",
        }
    }

    /// The role with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

impl From<Role> for souk_proto::common::v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Staff => Self::Staff,
            Role::Admin => Self::Admin,
        }
    }
}

impl TryFrom<i32> for Role {
    type Error = i32;

    /// Converts the number in a message. An unknown number is returned as the error.
    fn try_from(number: i32) -> Result<Self, i32> {
        match souk_proto::common::v1::Role::try_from(number) {
            Ok(souk_proto::common::v1::Role::Staff) => Ok(Self::Staff),
            Ok(souk_proto::common::v1::Role::Admin) => Ok(Self::Admin),
            _ => Err(number),
        }
    }
}

/// A set of roles.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Roles(u8);

impl Roles {
    /// True if the set contains the role or one that includes it.
    pub fn grant(self, role: Role) -> bool {
        self.has(role) || (role == Role::Staff && self.has(Role::Admin))
    }

    /// True if the set contains the role itself.
    pub fn has(self, role: Role) -> bool {
        self.0 & (1 << role as u8) != 0
    }

    /// The roles of the set.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.has(*role))
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |set, role| set | 1 << role as u8))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Who may call a method. A caller needs to satisfy only one of the conditions that are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// Anyone, without a token.
    pub public: bool,
    /// Anyone with a valid token.
    pub signed_in: bool,
    /// Users with one of these roles.
    pub roles: Roles,
    /// Anyone with a valid token, limited to their own resources. The value is the request field with the owner.
    pub owner: Option<String>,
    /// Services of souk that may call the method as themselves.
    pub internal_callers: Vec<String>,
    /// The scope that a token with limited scopes must have. Such a token cannot call a method without a scope, unless
    /// the method is public.
    pub scope: Option<String>,
    /// True if users must have logged in recently.
    pub recent_log_in: bool,
}

impl AccessRule {
    /// The rule as written; `None` if it admits no one, which counts as no rule.
    pub(super) fn from_contract(access: Access) -> Option<Self> {
        let roles = access.roles.iter().filter_map(|number| Role::try_from(*number).ok()).collect();
        let rule = Self {
            public: access.public,
            signed_in: access.signed_in,
            roles,
            owner: Some(access.owner).filter(|owner| !owner.is_empty()),
            internal_callers: access.internal_callers,
            scope: Some(access.scope).filter(|scope| !scope.is_empty()),
            recent_log_in: access.recent_log_in,
        };
        let someone = rule.public || rule.signed_in || !rule.internal_callers.is_empty() || rule.owner.is_some();
        (someone || rule.roles != Roles::default()).then_some(rule)
    }

    /// True if no client may ever call the method.
    pub fn only_internal(&self) -> bool {
        let clients = self.public || self.signed_in || self.owner.is_some() || self.roles != Roles::default();
        !self.internal_callers.is_empty() && !clients
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_admits_no_one_counts_as_missing() {
        assert_eq!(AccessRule::from_contract(Access::default()), None);
        assert_eq!(AccessRule::from_contract(Access { roles: vec![0, 99], ..Access::default() }), None);
        assert!(AccessRule::from_contract(Access { roles: vec![1], ..Access::default() }).is_some());
    }

    #[test]
    fn admin_includes_staff_but_not_the_reverse() {
        let admin: Roles = [Role::Admin].into_iter().collect();
        let staff: Roles = [Role::Staff].into_iter().collect();
        assert!(admin.grant(Role::Staff) && admin.grant(Role::Admin));
        assert!(staff.grant(Role::Staff) && !staff.grant(Role::Admin));
        assert!(!admin.has(Role::Staff));
    }
}
