//! How often the property tests try: a few hundred times, or as often as `SOUK_FUZZ_CASES` says.

use proptest::prelude::ProptestConfig;

/// For `proptest!` blocks.
pub fn cases() -> ProptestConfig {
    let cases = std::env::var("SOUK_FUZZ_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig::with_cases(cases.unwrap_or(500))
}
