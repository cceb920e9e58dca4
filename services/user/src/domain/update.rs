//! Updates of accounts: the fields that change, and their new values (AIP-134).

use super::{email::Email, user::User};

/// The fields that an update may change.
pub const FIELDS: [&str; 3] = ["email", "display_name", "external_id"];

/// A field cannot be changed as requested. `path` is its path in the request; `description` describes a valid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} {description}")]
pub struct UpdateError {
    /// The path of the field in the request.
    pub path: String,
    /// A description of a valid value.
    pub description: String,
}

/// The new values of a request.
#[derive(Debug, Clone, Default)]
pub struct Values {
    /// See [`User::email`].
    pub email: String,
    /// See [`User::display_name`].
    pub display_name: String,
    /// See [`User::external_id`]; empty to remove it.
    pub external_id: String,
}

/// What a caller may change.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    /// True if the caller is staff: only staff may change `external_id`.
    pub staff: bool,
    /// True if the caller has logged in recently, which another email needs.
    pub recent_log_in: bool,
}

/// A valid change: each field that is set replaces the account's value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    email: Option<Email>,
    display_name: Option<String>,
    external_id: Option<String>,
}

impl Change {
    /// Reads an update mask and the new values. An empty mask names the fields that are not empty; `*` names all.
    ///
    /// Only staff may change `external_id`. The `*` of an owner does not include it, unless the request has a value for
    /// it.
    ///
    /// # Errors
    /// If the mask has an unknown or immutable field, or a field has an invalid value.
    pub fn read(mask: &[String], values: Values, staff: bool) -> Result<Self, UpdateError> {
        let named = |field: &str, value: &str| match mask {
            [] => !value.is_empty(),
            [all] if all == "*" => field != "external_id" || staff || !value.is_empty(),
            paths => paths.iter().any(|path| path == field),
        };
        check(mask)?;
        let email = named("email", &values.email)
            .then(|| Email::parse(&values.email))
            .transpose()
            .map_err(|error| wrong("user.email", error.to_string()))?;
        Ok(Self {
            email,
            display_name: named("display_name", &values.display_name).then_some(values.display_name),
            external_id: named("external_id", &values.external_id).then_some(values.external_id),
        })
    }

    /// Applies the change. Returns true if anything has changed.
    ///
    /// # Errors
    /// If someone who is not `staff` changes `external_id`. Sending the current value is not a change.
    pub fn apply(self, user: &mut User, staff: bool) -> Result<bool, UpdateError> {
        let before = user.clone();
        if let Some(email) = self.email {
            user.email = email.as_str().to_owned();
        }
        if let Some(display_name) = self.display_name {
            user.display_name = display_name;
        }
        if let Some(external_id) = self.external_id {
            user.external_id = Some(external_id).filter(|id| !id.is_empty());
        }
        if user.external_id != before.external_id && !staff {
            let was = before.external_id.as_deref().unwrap_or_default();
            return Err(wrong("user.external_id", format!("is changed by staff alone: leave it out, or send {was:?}")));
        }
        Ok(*user != before)
    }
}

fn check(mask: &[String]) -> Result<(), UpdateError> {
    for (at, path) in mask.iter().enumerate() {
        let why = match path.as_str() {
            "*" if mask.len() == 1 => continue,
            "*" => "must be the only path".to_owned(),
            known if FIELDS.contains(&known) => continue,
            "name" | "etag" | "state" | "create_time" | "update_time" => {
                format!("cannot be `{path}`, which is never updated: use {}", names())
            }
            "roles" => "cannot be `roles`: SetUserRoles changes them".to_owned(),
            _ => format!("is `{path}`, which is no field of a user: use {}", names()),
        };
        return Err(wrong(format!("update_mask.paths[{at}]"), why));
    }
    Ok(())
}

fn names() -> String {
    format!("{} or `*`", FIELDS.map(|field| format!("`{field}`")).join(", "))
}

fn wrong(path: impl Into<String>, description: String) -> UpdateError {
    UpdateError { path: path.into(), description }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::now;

    fn user() -> User {
        User::new(Email::parse("ann@example.com").unwrap(), "Ann".into(), "7".into(), now())
    }

    fn values(email: &str, display_name: &str, external_id: &str) -> Values {
        Values { email: email.into(), display_name: display_name.into(), external_id: external_id.into() }
    }

    fn updated(mask: &[&str], values: Values, staff: bool) -> Result<(User, bool), UpdateError> {
        let mask: Vec<_> = mask.iter().map(|path| (*path).to_owned()).collect();
        let mut user = user();
        let changed = Change::read(&mask, values, staff)?.apply(&mut user, staff)?;
        Ok((user, changed))
    }

    fn fields(user: &User) -> (&str, &str, Option<&str>) {
        (&user.email, &user.display_name, user.external_id.as_deref())
    }

    #[test]
    fn without_a_mask_the_set_fields_change() {
        let (user, changed) = updated(&[], values("", "Anna", ""), false).unwrap();
        assert_eq!((fields(&user), changed), (("ann@example.com", "Anna", Some("7")), true));
        let (user, changed) = updated(&[], values("ANN@example.com", "", "7"), false).unwrap();
        assert_eq!((fields(&user), changed), (("ann@example.com", "Ann", Some("7")), false));
    }

    #[test]
    fn a_mask_names_the_fields_to_change_or_clear() {
        let (user, _) = updated(&["display_name"], values("x@example.com", "", "9"), false).unwrap();
        assert_eq!(fields(&user), ("ann@example.com", "", Some("7")));
        let (user, _) = updated(&["external_id"], values("", "", ""), true).unwrap();
        assert_eq!(fields(&user), ("ann@example.com", "Ann", None));
        assert_eq!(updated(&["email"], values("", "", ""), true).unwrap_err().path, "user.email");
    }

    #[test]
    fn a_star_replaces_all_fields_that_the_caller_may_change() {
        let (user, _) = updated(&["*"], values("bo@example.com", "", ""), false).unwrap();
        assert_eq!(fields(&user), ("bo@example.com", "", Some("7")));
        let (user, _) = updated(&["*"], values("bo@example.com", "", ""), true).unwrap();
        assert_eq!(fields(&user), ("bo@example.com", "", None));
        assert_eq!(updated(&["*"], values("", "", ""), false).unwrap_err().path, "user.email");
    }

    #[test]
    fn an_owner_does_not_change_the_external_id() {
        for mask in [&[][..], &["*"], &["external_id"]] {
            let error = updated(mask, values("a@b.example", "", "8"), false).unwrap_err();
            assert_eq!(error.path, "user.external_id", "{mask:?}");
        }
    }

    #[test]
    fn wrong_paths_are_named() {
        for (mask, at, word) in [
            (&["display_name", "state"][..], 1, "never updated"),
            (&["name"], 0, "never updated"),
            (&["roles"], 0, "SetUserRoles"),
            (&["email.domain"], 0, "no field"),
            (&["displayName"], 0, "no field"),
            (&[""], 0, "no field"),
            (&["email", "*"], 1, "must be the only path"),
        ] {
            let error = updated(mask, values("a@b.example", "", ""), true).unwrap_err();
            assert_eq!(error.path, format!("update_mask.paths[{at}]"));
            assert!(error.description.contains(word), "{error}");
        }
    }
}
