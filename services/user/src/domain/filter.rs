//! The filters of a list of accounts.

use super::user::State;

/// A condition on accounts. Listed accounts meet all conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    /// On the email, in its normalised form.
    Email(Text),
    /// On the account's id in another system. An account without one has the empty text.
    ExternalId(Text),
    /// On the state.
    State {
        /// True if the account must be in this state, false if it must not.
        is: bool,
        /// The state.
        state: State,
    },
}

/// True if these terms fit disabled accounts alone. An index finds those, since almost all accounts are active.
pub fn only_disabled(terms: &[Term]) -> bool {
    let fits = |state: State| {
        let fits = |term: &Term| !matches!(term, Term::State { is, state: other } if (state == *other) != *is);
        terms.iter().all(fits)
    };
    fits(State::Disabled) && !fits(State::Active)
}

impl Term {
    /// True if at most one account can match.
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
    /// The text equals this one.
    Is(String),
    /// The text does not equal this one.
    IsNot(String),
    /// The text contains this one.
    Has(String),
}
