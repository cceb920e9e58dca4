//! The SQL that both engines share: compiled once for each.

mod keys;
mod sessions;
pub mod users;

pub use self::{keys::*, sessions::*, users::*};
pub use super::{keep_user, lock_admins, lock_user};
