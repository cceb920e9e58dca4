//! Rules for the secret that the services share.

use crate::config::Secret;

/// The minimum length of the secret.
pub(super) const SHORTEST: usize = 32;
/// Placeholder secrets of examples such as `.env.example`, reduced to lower-case letters and digits.
const PLACEHOLDERS: [&str; 6] = ["changeme", "changethis", "replaceme", "yoursecret", "secretsecret", "placeholder"];
/// The minimum number of different characters. A secret with fewer was typed, not generated.
const FEWEST_DIFFERENT: usize = 8;

/// Checks that a secret is strong enough. An empty secret is allowed: a secret is then generated in the data folder.
///
/// # Errors
/// What is wrong with the secret and what would be right. The text never contains the secret.
pub fn check(secret: &Secret) -> Result<(), String> {
    let text = secret.expose();
    if text.is_empty() {
        return Ok(());
    }
    if text.chars().count() < SHORTEST {
        return Err(format!("must have {SHORTEST} characters or more"));
    }
    let plain: String = text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let different = text.chars().collect::<std::collections::BTreeSet<_>>().len();
    if PLACEHOLDERS.iter().any(|placeholder| plain.contains(placeholder)) || different < FEWEST_DIFFERENT {
        return Err(
            "is that of an example, or as easy to guess; anyone who knows it can act as one of souk's services: \
                    make one of your own, for example with `openssl rand -hex 24`"
                .to_owned(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_and_weak_secrets_are_refused() {
        let example = include_str!("../../../../.env.example");
        let example = example.lines().find_map(|line| line.strip_prefix("SOUK_INTERNAL_SECRET=")).unwrap();
        for known in [example, "Change_Me-please-and-make-me-long-enough", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] {
            let fault = check(&Secret::new(known)).unwrap_err();
            assert!(fault.contains("openssl rand") && !fault.contains(known), "{fault}");
        }
        assert!(check(&Secret::new("short")).unwrap_err().contains("32 characters"));
        for good in ["", "a secret of the tests, long enough", "4f0c8a1b9e2d7f6035a4c8e1b7d90f3246ac58e1d7b3f902"] {
            check(&Secret::new(good)).unwrap();
        }
    }
}
