//! Figures of the turns: medians with their range, and ratios of figures of the same round.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use serde::Serialize;

use crate::{load::Turn, process::Spent};

/// The figures of one contestant in one round, and how they are shown.
pub trait Row: Serialize + Sized + 'static {
    /// The columns of the table. The first one is also shown after each round.
    const COLUMNS: &'static [Column<Self>];
}

/// A column of the table.
pub struct Column<F> {
    /// The title of the column.
    pub title: &'static str,
    /// Digits after the decimal point.
    pub digits: usize,
    /// True if the table shows the range beside the median.
    pub range: bool,
    /// Gets the figure.
    pub of: fn(&F) -> f64,
}

/// A column that shows the median and the range.
pub const fn ranged<F>(title: &'static str, digits: usize, of: fn(&F) -> f64) -> Column<F> {
    Column { title, digits, range: true, of }
}

/// A column that shows only the median.
pub const fn plain<F>(title: &'static str, digits: usize, of: fn(&F) -> f64) -> Column<F> {
    Column { title, digits, range: false, of }
}

impl<F> Column<F> {
    fn width(&self) -> usize {
        let least = if self.range { 25 } else { 9 };
        least.max(self.title.chars().count() + 2)
    }
}

/// The figures of one contestant under closed-loop load.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Responses per second.
    pub rate: f64,
    /// Median response time in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of the response time in milliseconds.
    pub p99_ms: f64,
    /// CPU seconds of all servers per 1,000 responses.
    pub cpu_per_1000: f64,
    /// CPU seconds of only the contestant's own processes per 1,000 responses.
    pub own_cpu_per_1000: f64,
    /// CPU seconds of the load generator per 1,000 responses.
    pub load_cpu_per_1000: f64,
    /// Context switches of the contestant's own processes per response.
    pub own_switches: f64,
    /// Resident memory of the contestant's own processes at the end, in MiB.
    pub own_resident_mib: f64,
}

impl Row for Figures {
    const COLUMNS: &'static [Column<Self>] = &[
        ranged("answers/s", 0, |f| f.rate),
        plain("p50 ms", 2, |f| f.p50_ms),
        plain("p99 ms", 2, |f| f.p99_ms),
        ranged("CPU s/1,000 (all)", 3, |f| f.cpu_per_1000),
        ranged("(own)", 3, |f| f.own_cpu_per_1000),
        plain("(load)", 3, |f| f.load_cpu_per_1000),
        plain("switches", 1, |f| f.own_switches),
        plain("MiB", 0, |f| f.own_resident_mib),
    ];
}

impl Figures {
    /// The figures per item, if each response was for `many` items.
    #[must_use]
    pub fn for_each_of(self, many: usize) -> Self {
        let many = many as f64;
        Self {
            rate: self.rate * many,
            cpu_per_1000: self.cpu_per_1000 / many,
            own_cpu_per_1000: self.own_cpu_per_1000 / many,
            load_cpu_per_1000: self.load_cpu_per_1000 / many,
            own_switches: self.own_switches / many,
            ..self
        }
    }

    /// The figures of a turn and its resource usage.
    pub fn of(turn: &Turn, spent: &Spent) -> Self {
        let thousands = turn.count as f64 / 1000.0;
        Self {
            rate: turn.count as f64 / turn.elapsed.as_secs_f64(),
            p50_ms: turn.latency.value_at_quantile(0.5) as f64 / 1000.0,
            p99_ms: turn.latency.value_at_quantile(0.99) as f64 / 1000.0,
            cpu_per_1000: (spent.own.cpu + spent.others.cpu) / thousands,
            own_cpu_per_1000: spent.own.cpu / thousands,
            load_cpu_per_1000: spent.load.cpu / thousands,
            own_switches: spent.own.switches as f64 / turn.count as f64,
            own_resident_mib: mib(spent.own.resident),
        }
    }
}

/// Converts bytes to MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The goal of a ratio.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// There is no goal.
    Open,
    /// The figure must be at least this much.
    AtLeast(f64),
    /// The figure must be at most this much.
    AtMost(f64),
}

/// The figures of all contestants in all rounds, and the ratios.
#[derive(Debug, Serialize)]
pub struct Report<F> {
    names: Vec<String>,
    rounds: BTreeMap<String, Vec<F>>,
    ratios: Vec<Ratio>,
}

#[derive(Debug, Serialize)]
struct Ratio {
    what: String,
    goal: String,
    #[serde(flatten)]
    spread: Spread,
}

impl<F: Row> Report<F> {
    /// A report without rounds.
    pub fn new() -> Self {
        Self { names: Vec::new(), rounds: BTreeMap::new(), ratios: Vec::new() }
    }

    /// Adds the figures of a turn. They are shown after the promises of the round were checked.
    pub fn add(&mut self, name: &str, figures: F) {
        if !self.names.iter().any(|known| known == name) {
            self.names.push(name.to_owned());
        }
        self.rounds.entry(name.to_owned()).or_default().push(figures);
    }

    /// Prints the first figure of the last turn of each contestant.
    pub fn show_round(&self) {
        let Some(column) = F::COLUMNS.first() else { return };
        for name in &self.names {
            let turns = &self.rounds[name];
            let figure = Spread::of(turns.last().map(column.of).into_iter()).middle(column.digits);
            println!("round {}: {name:<26} {figure:>9} {}", turns.len(), column.title);
        }
    }

    /// Adds the ratio of two contestants' figures for each round. Adds nothing if one of them had no turn.
    pub fn ratio(
        &mut self,
        what: &str,
        goal: Goal,
        (a, of_a): (&str, impl Fn(&F) -> f64),
        (b, of_b): (&str, impl Fn(&F) -> f64),
    ) {
        if let (Some(a), Some(b)) = (self.rounds.get(a), self.rounds.get(b)) {
            let spread = Spread::of(a.iter().zip(b).map(|(a, b)| of_a(a) / of_b(b)));
            self.ratios.push(Ratio { what: what.to_owned(), goal: goal.judge(spread.median), spread });
        }
    }

    /// Adds a figure itself, if the goal is not a ratio.
    pub fn figure(&mut self, what: &str, goal: Goal, (name, of): (&str, impl Fn(&F) -> f64)) {
        self.ratio(what, goal, (name, of), (name, |_| 1.0));
    }

    /// Prints the report. If a file is given, writes the figures of every turn and the ratios to it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(&self, json: Option<&Path>) -> Result<()> {
        let title = |column: &Column<F>| format!("{:>1$}", column.title, column.width());
        println!("\n{:<26}{}", "", F::COLUMNS.iter().map(title).collect::<String>());
        for name in &self.names {
            let cell = |column: &Column<F>| {
                let spread = Spread::of(self.rounds[name].iter().map(column.of));
                let text = if column.range { spread.show(column.digits) } else { spread.middle(column.digits) };
                format!("{text:>0$}", column.width())
            };
            println!("{name:<26}{}", F::COLUMNS.iter().map(cell).collect::<String>());
        }
        println!();
        for Ratio { what, goal, spread } in &self.ratios {
            println!("{what:<64}{:<24}{goal}", spread.show(2));
        }
        match json {
            Some(path) => Ok(std::fs::write(path, serde_json::to_vec_pretty(self)?)?),
            None => Ok(()),
        }
    }
}

impl Goal {
    /// Describes the goal, and says if a median reaches it.
    fn judge(self, median: f64) -> String {
        let (sign, bound, reached) = match self {
            Self::Open => return String::new(),
            Self::AtLeast(bound) => ("≥", bound, median >= bound),
            Self::AtMost(bound) => ("≤", bound, median <= bound),
        };
        format!("goal {sign} {bound}: {}", if reached { "reached" } else { "missed" })
    }
}

/// A median and its range.
#[derive(Debug, Serialize)]
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

    /// The median as text; a dash if nothing was measured.
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
    use super::{Goal, Spread};

    #[test]
    fn medians() {
        for (values, expected) in
            [(vec![3.0, 1.0, 2.0], "2.0 (1.0–3.0)"), (vec![4.0, 1.0], "2.5 (1.0–4.0)"), (vec![7.0], "7.0 (7.0–7.0)")]
        {
            assert_eq!(Spread::of(values.into_iter()).show(1), expected);
        }
    }

    #[test]
    fn goals_that_were_not_measured_are_missed() {
        for (goal, median, expected) in [
            (Goal::AtLeast(0.9), 0.9, "goal ≥ 0.9: reached"),
            (Goal::AtLeast(0.9), 0.89, "goal ≥ 0.9: missed"),
            (Goal::AtMost(2.0), 2.1, "goal ≤ 2: missed"),
            (Goal::AtMost(2.0), f64::NAN, "goal ≤ 2: missed"),
            (Goal::Open, 1.0, ""),
        ] {
            assert_eq!(goal.judge(median), expected);
        }
    }
}
