//! Figures of the turns: medians with their range, and ratios of figures of the same round.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use serde::Serialize;

/// What one contestant did in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Answers a second.
    pub rate: f64,
    /// Median time to an answer, in milliseconds.
    pub p50_ms: f64,
    /// The same for all but one in a hundred.
    pub p99_ms: f64,
    /// CPU seconds of all servers for 1,000 answers.
    pub cpu_per_1000: f64,
    /// CPU seconds of the contestant's own processes alone, for 1,000 answers.
    pub own_cpu_per_1000: f64,
    /// MiB resident at the end, of the contestant's own processes.
    pub own_resident_mib: f64,
}

/// All rounds of all contestants, in the order in which they had their turns.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    names: Vec<&'static str>,
    rounds: BTreeMap<&'static str, Vec<Figures>>,
}

impl Report {
    /// Keeps the figures of a turn.
    pub fn add(&mut self, name: &'static str, figures: Figures) {
        if !self.names.contains(&name) {
            self.names.push(name);
        }
        self.rounds.entry(name).or_default().push(figures);
    }

    /// Prints each contestant's figures; `own` says what its own processes are.
    pub fn print(&self, own: &str) {
        println!(
            "\n{:<26}{:>22}{:>9}{:>9}{:>22}{:>20}{:>8}",
            "",
            "answers/s",
            "p50 ms",
            "p99 ms",
            "CPU s/1,000 (all)",
            format!("({own})"),
            "MiB"
        );
        for name in &self.names {
            let of = |figure: fn(&Figures) -> f64| Spread::of(self.rounds[name].iter().map(figure));
            println!(
                "{name:<26}{:>22}{:>9}{:>9}{:>22}{:>20}{:>8}",
                of(|f| f.rate).show(0),
                of(|f| f.p50_ms).middle(2),
                of(|f| f.p99_ms).middle(2),
                of(|f| f.cpu_per_1000).show(3),
                of(|f| f.own_cpu_per_1000).show(3),
                of(|f| f.own_resident_mib).middle(0),
            );
        }
    }

    /// Prints the ratio of two contestants' figures, round by round.
    pub fn ratio(&self, what: &str, a: &'static str, b: &'static str, figure: fn(&Figures) -> f64) {
        if let (Some(a), Some(b)) = (self.rounds.get(a), self.rounds.get(b)) {
            let spread = Spread::of(a.iter().zip(b).map(|(a, b)| figure(a) / figure(b)));
            println!("{what:<72}{}", spread.show(2));
        }
    }

    /// Writes every turn's figures.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(std::fs::write(path, serde_json::to_vec_pretty(self)?)?)
    }
}

/// A median and its range.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let (middle, last) = (values.len() / 2, values.len().saturating_sub(1));
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(at(middle.saturating_sub(1)), at(middle))
        } else {
            at(middle)
        };
        Self { median, least: at(0), most: at(last) }
    }

    /// The median; a dash where nothing was measured.
    fn middle(&self, digits: usize) -> String {
        if self.median.is_nan() { "–".to_owned() } else { format!("{:.digits$}", self.median) }
    }

    fn show(&self, digits: usize) -> String {
        let Self { median, least, most } = self;
        let middle = self.middle(digits);
        if median.is_nan() { middle } else { format!("{middle} ({least:.digits$}–{most:.digits$})") }
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn medians() {
        for (values, expected) in
            [(vec![3.0, 1.0, 2.0], "2.0 (1.0–3.0)"), (vec![4.0, 1.0], "2.5 (1.0–4.0)"), (vec![7.0], "7.0 (7.0–7.0)")]
        {
            assert_eq!(Spread::of(values.into_iter()).show(1), expected);
        }
    }
}
