//! The number of cases that the property tests run: 500, or the value of `SOUK_FUZZ_CASES`.

use proptest::prelude::ProptestConfig;

/// The configuration for `proptest!` blocks.
pub fn cases() -> ProptestConfig {
    let cases = std::env::var("SOUK_FUZZ_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig::with_cases(cases.unwrap_or(500))
}
