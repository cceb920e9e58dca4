//! Durations and sizes in a readable form, for `#[serde(with = "…")]` on settings.

/// A [`std::time::Duration`] written as `"250ms"`, `"30s"`, `"15m"` or `"1h 30m"`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Parses a duration. The error says what would be right.
    pub fn parse(text: &str) -> Result<Duration, String> {
        humantime::parse_duration(text).map_err(|error| {
            format!(
                "not a duration ({error}): write a number and a unit, such as \"250ms\", \"30s\", \"15m\" or \"1h 30m\""
            )
        })
    }

    /// Deserializes a duration from its text.
    ///
    /// # Errors
    /// If the text is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }

    /// Serializes a duration as text that [`deserialize`] accepts.
    ///
    /// # Errors
    /// The errors of the serializer.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }
}

/// A number of bytes written as `"512B"`, `"64KiB"`, `"4MiB"` or `"1GiB"`.
pub mod byte_size {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const UNITS: [(&str, usize); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

    /// Parses a size in bytes. The error says what would be right.
    pub fn parse(text: &str) -> Result<usize, String> {
        UNITS
            .iter()
            .find_map(|(unit, bytes)| Some((text.trim().strip_suffix(unit)?, bytes)))
            .and_then(|(number, bytes)| number.trim().parse::<usize>().ok()?.checked_mul(*bytes))
            .ok_or_else(|| {
                "not a size: write a whole number and one of B, KiB, MiB, GiB, such as \"64KiB\" or \"4MiB\"".to_owned()
            })
    }

    /// Deserializes a size in bytes from its text.
    ///
    /// # Errors
    /// If the text is not a size, or if the size is too large for this machine.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
        parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }

    /// Serializes a size in the largest unit that divides it.
    ///
    /// # Errors
    /// The errors of the serializer.
    pub fn serialize<S: Serializer>(value: &usize, serializer: S) -> Result<S::Ok, S::Error> {
        match UNITS.iter().find(|(_, bytes)| *value >= *bytes && value.is_multiple_of(*bytes)) {
            Some((unit, bytes)) => serializer.collect_str(&format_args!("{}{unit}", value / bytes)),
            None => serializer.collect_str(&format_args!("{value}B")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        #[serde(with = "super::duration")]
        wait: Duration,
        #[serde(with = "super::byte_size")]
        size: usize,
    }

    #[test]
    fn durations_and_sizes_are_parsed_and_formatted_alike() {
        for (wait, size, text) in [
            (Duration::from_millis(250), 0, r#"{"wait":"250ms","size":"0B"}"#),
            (Duration::from_secs(5400), 4 << 20, r#"{"wait":"1h 30m","size":"4MiB"}"#),
            (Duration::from_secs(30), 1536, r#"{"wait":"30s","size":"1536B"}"#),
        ] {
            let sample = Sample { wait, size };
            assert_eq!(serde_json::to_string(&sample).unwrap(), text);
            assert_eq!(serde_json::from_str::<Sample>(text).unwrap(), sample);
        }
    }

    #[test]
    fn invalid_sizes_and_durations_are_refused() {
        for text in ["", "4", "4MB", "-1KiB", "1.5MiB", "99999999999GiB"] {
            assert!(super::byte_size::parse(text).unwrap_err().contains("such as"), "{text}");
        }
        for text in ["", "5", "-5s", "soon", "5 parsecs"] {
            assert!(super::duration::parse(text).unwrap_err().contains("\"30s\""), "{text}");
        }
    }
}
