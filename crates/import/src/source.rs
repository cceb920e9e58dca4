//! Reads an export line by line: encoding, columns, values. The module `rules` decides what a line means.

use std::{
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use anyhow::{Context, bail};
use chrono::{DateTime, NaiveDateTime, Utc};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

/// The columns in their order.
const COLUMNS: [&str; 8] =
    ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"];

/// A line with parsed values, to which no rules were applied yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The number of the line in the file. The heading is line 1.
    pub number: u64,
    /// The invoice number as it is in the file.
    pub invoice: String,
    /// The stock code as it is in the file.
    pub code: String,
    /// The description, trimmed.
    pub description: String,
    /// Pieces; below zero on cancellations.
    pub quantity: i64,
    /// The date and time of the invoice.
    pub date: DateTime<Utc>,
    /// Price of one piece in minor units of the currency.
    pub price: i64,
    /// The customer's number; empty if there is none.
    pub customer: String,
    /// The country's name as it is in the file.
    pub country: String,
}

/// A line whose values cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Number of the line in the file.
    pub number: u64,
    /// The invoice number, if it can be read.
    pub invoice: String,
    /// The stock code, if it can be read.
    pub code: String,
    /// What is wrong, and what is expected.
    pub why: String,
}

/// The position of consecutive lines in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    byte: u64,
    line: u64,
    /// The number of lines.
    pub count: u64,
}

impl Run {
    /// True if the lines of `next` directly follow these lines.
    pub fn is_followed_by(&self, next: Self) -> bool {
        self.line + self.count == next.line
    }
}

/// An opened export.
pub struct Source {
    reader: csv::Reader<BufReader<File>>,
    encoding: &'static Encoding,
    record: csv::ByteRecord,
}

impl Source {
    /// Opens an export and checks its heading.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let mut file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        let encoding = guess(&mut file).with_context(|| format!("{} cannot be read", path.display()))?;
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            // With LF as the only terminator, the position of a record is exact. The CR of a CRLF is trimmed from the
            // last field.
            .terminator(csv::Terminator::Any(b'\n'))
            .from_reader(BufReader::with_capacity(1 << 16, file));
        let mut record = csv::ByteRecord::new();
        reader.read_byte_record(&mut record).with_context(|| format!("{} cannot be read", path.display()))?;
        let heading: Vec<_> = record.iter().map(|field| decode(encoding, field)).collect();
        if heading != COLUMNS {
            bail!("{} is not such an export: its first line must read {}", path.display(), COLUMNS.join(","));
        }
        Ok(Self { reader, encoding, record })
    }

    /// Reads the next line and its position; `None` at the end.
    pub fn next(&mut self) -> anyhow::Result<Option<(Run, Result<Line, Unreadable>)>> {
        let position = self.reader.position().clone();
        if !self.reader.read_byte_record(&mut self.record)? {
            return Ok(None);
        }
        // The reader skips blank lines, so the record may begin after the position that was read before it.
        let at = self.record.position().unwrap_or(&position);
        let run = Run { byte: at.byte(), line: at.line(), count: 1 };
        let fields: Vec<String> = self.record.iter().map(|field| decode(self.encoding, field)).collect();
        Ok(Some((run, read(run.line, &fields))))
    }

    /// Moves to the beginning of a run of lines.
    pub fn seek(&mut self, run: Run) -> anyhow::Result<()> {
        let mut position = csv::Position::new();
        position.set_byte(run.byte).set_line(run.line);
        Ok(self.reader.seek(position)?)
    }
}

/// The encoding: UTF-8 if the beginning of the file is valid UTF-8, otherwise Windows-1252, which includes the letters
/// of Latin-1.
fn guess(file: &mut File) -> std::io::Result<&'static Encoding> {
    let mut head = Vec::new();
    file.take(1 << 20).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    let whole = match std::str::from_utf8(&head) {
        Ok(_) => true,
        // A character that is incomplete at the end of the buffer is not a fault.
        Err(error) => error.error_len().is_none(),
    };
    Ok(if whole { UTF_8 } else { WINDOWS_1252 })
}

fn decode(encoding: &'static Encoding, field: &[u8]) -> String {
    encoding.decode(field).0.trim().to_owned()
}

fn read(number: u64, fields: &[String]) -> Result<Line, Unreadable> {
    let at = |index: usize| fields.get(index).cloned().unwrap_or_default();
    let fault = |why: String| Unreadable { number, invoice: at(0), code: at(1), why };
    let [invoice, code, description, quantity, date, price, customer, country] = fields else {
        return Err(fault(format!("has {} columns, not {}", fields.len(), COLUMNS.len())));
    };
    if invoice.is_empty() || code.is_empty() {
        return Err(fault("has no invoice number or no stock code".to_owned()));
    }
    let quantity: i64 = quantity.parse().map_err(|_| fault(format!("Quantity `{quantity}` is not a whole number")))?;
    let date = NaiveDateTime::parse_from_str(date, "%d/%m/%Y %H:%M")
        .map_err(|_| fault(format!("InvoiceDate `{date}` is not of the form dd/mm/yyyy hh:mm")))?
        .and_utc();
    let price = pence(price)
        .ok_or_else(|| fault(format!("UnitPrice `{price}` is not an amount of at most two decimals, such as 2.55")))?;
    Ok(Line {
        number,
        invoice: invoice.clone(),
        code: code.clone(),
        description: description.clone(),
        quantity,
        date,
        price,
        customer: customer.clone(),
        country: country.clone(),
    })
}

/// Parses an amount such as `2.55`, `2.5` or `-3` into hundredths.
fn pence(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    // Zeros after the second decimal are ignored.
    let part = if part.len() > 2 { part.trim_end_matches('0') } else { part };
    if whole.is_empty() || part.len() > 2 || !plain(whole) || !plain(part) {
        return None;
    }
    let amount = whole.parse::<i64>().ok()?.checked_mul(100)?.checked_add(format!("{part:0<2}").parse().ok()?)?;
    Some(if negative { -amount } else { amount })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const HEADING: &str = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\r\n";

    fn source(lines: &[u8]) -> (tempfile::NamedTempFile, Source) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(HEADING.as_bytes()).unwrap();
        file.write_all(lines).unwrap();
        let source = Source::open(file.path()).unwrap();
        (file, source)
    }

    #[test]
    fn amounts_are_parsed_exactly() {
        for (text, amount) in [("2.55", 255), ("2.5", 250), ("3", 300), ("-3.1", -310), ("0", 0), ("1.500", 150)] {
            assert_eq!(pence(text), Some(amount), "{text}");
        }
        for wrong in ["", ".", "1.", "1.234", "1e3", "--1", "1,5", "£2", "99999999999999999999"] {
            assert_eq!(pence(wrong).filter(|_| wrong != "1."), None, "{wrong}");
        }
    }

    #[test]
    fn latin_1_and_utf_8_and_line_numbers_are_read() {
        let (_file, mut latin) = source(b"1,A,CAF\xc9 \"X\",1,01/12/2010 08:26,2.55,7,EIRE\r\n");
        let (_, line) = latin.next().unwrap().unwrap();
        let line = line.unwrap();
        assert_eq!((line.description.as_str(), line.number, line.price), ("CAFÉ \"X\"", 2, 255));
        let (_file, mut utf8) = source("1,A,CAFÉ,1,01/12/2010 08:26,2.55,7,EIRE\r\n".as_bytes());
        assert_eq!(utf8.next().unwrap().unwrap().1.unwrap().description, "CAFÉ");
        assert!(utf8.next().unwrap().is_none());
    }

    #[test]
    fn a_bad_value_is_reported_and_the_next_line_is_read() {
        let (_file, mut source) =
            source(b"1,A,x,one,01/12/2010 08:26,2.55,,X\r\n1,A,x,1,2010-12-01,2.55,,X\r\n1,A\r\n2,B,x,1,01/12/2010 08:26,2.555,,X\r\n");
        let whys: Vec<_> = std::iter::from_fn(|| source.next().unwrap()).map(|(_, line)| line.unwrap_err()).collect();
        assert_eq!(whys.iter().map(|why| why.number).collect::<Vec<_>>(), [2, 3, 4, 5]);
        assert_eq!(whys[0].why, "Quantity `one` is not a whole number");
        assert!(
            whys[1].why.contains("dd/mm/yyyy") && whys[2].why.contains("2 columns") && whys[3].why.contains("2.555")
        );
    }

    #[test]
    fn the_source_continues_at_any_position() {
        let (_file, mut source) = source(b"1,A,x,1,01/12/2010 08:26,1,,X\r\n2,B,\"y\n z\",1,01/12/2010 08:26,1,,X\r\n3,C,x,1,01/12/2010 08:26,1,,X\r\n");
        let lines: Vec<_> = std::iter::from_fn(|| source.next().unwrap()).collect();
        for (run, line) in lines.iter().rev() {
            source.seek(*run).unwrap();
            assert_eq!(&source.next().unwrap().unwrap().1, line);
        }
    }

    #[test]
    fn another_file_is_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"a,b,c\n1,2,3\n").unwrap();
        let error = Source::open(file.path()).err().unwrap().to_string();
        assert!(error.contains("InvoiceNo,StockCode"), "{error}");
    }
}
