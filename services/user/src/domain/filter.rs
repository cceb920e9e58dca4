//! What a list of accounts can be narrowed by.

use super::user::State;

/// One condition. A list shows the accounts that fit all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    /// On the email, in its normalised form.
    Email(Text),
    /// On the number in another system; an account without one has the empty text.
    ExternalId(Text),
    /// On the state.
    State {
        /// Whether it must be this state, or must not.
        is: bool,
        /// The state.
        state: State,
    },
}

impl Term {
    /// Whether at most one account can fit.
    pub fn finds_one(&self) -> bool {
        match self {
            Self::Email(Text::Is(_)) => true,
            Self::ExternalId(Text::Is(id)) => !id.is_empty(),
            _ => false,
        }
    }
}

/// A condition on a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// It equals this.
    Is(String),
    /// It does not equal this.
    IsNot(String),
    /// This stands somewhere in it.
    Has(String),
}
