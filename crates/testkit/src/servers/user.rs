//! The user that a server runs as: PostgreSQL refuses to run as root, but containers and CI often do.

use anyhow::{Context, Result};

/// A user id and a group id.
#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// The user to run a server as: if this process is root, `postgres` or else `nobody`; otherwise `None`, for no change.
pub(super) fn unprivileged() -> Result<Option<User>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    lookup(&passwd, "postgres")
        .or_else(|| lookup(&passwd, "nobody"))
        .context(
            "PostgreSQL does not run as root, and neither the user postgres nor nobody exists: \
             create one of them or run the tests as another user",
        )
        .map(Some)
}

fn lookup(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        let mut fields = fields.skip(1);
        Some(User { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n\
                      postgresql:x:7:8::/:/bin/sh\n\
                      postgres:x:101:104:admin,,,:/var/lib/postgresql:/bin/bash\n";
        let user = lookup(passwd, "postgres").unwrap();
        assert_eq!((user.uid, user.gid), (101, 104));
        assert!(lookup(passwd, "nobody").is_none());
    }
}
