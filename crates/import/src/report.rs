//! The report: lines that are not in an order, with number and reason, and totals.

use std::{collections::BTreeMap, fmt, fs::File, io::BufWriter, path::Path};

use anyhow::Context;

use super::rules::Reason;

/// The report of one run.
pub struct Report {
    file: Option<csv::Writer<BufWriter<File>>>,
    rejected: BTreeMap<Reason, u64>,
    /// Lines that are in orders.
    pub ordered: u64,
    /// Lines that cancelled or returned something.
    pub returned: u64,
    /// Orders placed in this run or an earlier one.
    pub orders: u64,
    /// Cancellations and returns done in this run or an earlier one.
    pub returns: u64,
    /// The total of the orders, in minor units.
    pub value: i64,
    /// The total of the refunds, in minor units.
    pub refunded: i64,
}

impl Report {
    /// A report that writes each rejected line to this file, if one is given.
    pub fn new(path: Option<&Path>) -> anyhow::Result<Self> {
        let file = path
            .map(|path| {
                let file = File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
                let mut writer = csv::Writer::from_writer(BufWriter::new(file));
                writer.write_record(["line", "invoice", "stock_code", "reason", "detail"])?;
                anyhow::Ok(writer)
            })
            .transpose()?;
        Ok(Self {
            file,
            rejected: BTreeMap::new(),
            ordered: 0,
            returned: 0,
            orders: 0,
            returns: 0,
            value: 0,
            refunded: 0,
        })
    }

    /// Adds a line that is neither in an order nor in a return.
    pub fn reject(&mut self, line: u64, invoice: &str, code: &str, reason: Reason, detail: &str) -> anyhow::Result<()> {
        *self.rejected.entry(reason).or_default() += 1;
        if let Some(file) = &mut self.file {
            file.write_record([&line.to_string(), invoice, code, reason.as_str(), detail])?;
        }
        Ok(())
    }

    /// How many lines were rejected.
    pub fn rejected(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Flushes the file.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        if let Some(file) = &mut self.file {
            file.flush()?;
        }
        Ok(())
    }

    /// True if every line of the file is accounted for.
    pub fn adds_up(&self, lines: u64) -> bool {
        self.ordered + self.returned + self.rejected() == lines
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  in orders   {:>8}   {} orders, {}", self.ordered, self.orders, money(self.value))?;
        writeln!(f, "  taken back  {:>8}   {} returns, {}", self.returned, self.returns, money(self.refunded))?;
        writeln!(f, "  rejected    {:>8}", self.rejected())?;
        for (reason, count) in &self.rejected {
            writeln!(f, "    {reason:<30} {count:>6}")?;
        }
        Ok(())
    }
}

fn money(minor: i64) -> String {
    format!("{}.{:02} GBP", minor / 100, minor % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejected_lines_are_written_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.csv");
        let mut report = Report::new(Some(&path)).unwrap();
        report.reject(7, "1", "A", Reason::NotASale, "a, \"b\"").unwrap();
        report.ordered = 2;
        report.finish().unwrap();
        assert!(report.adds_up(3) && !report.adds_up(4));
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text, "line,invoice,stock_code,reason,detail\n7,1,A,NOT_A_SALE,\"a, \"\"b\"\"\"\n");
        assert!(report.to_string().contains("NOT_A_SALE"));
    }
}
