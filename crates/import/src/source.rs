//! Reads an export line by line: encoding, columns, values. What a line means is decided in `rules`.

use std::{
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use anyhow::{Context, bail};
use chrono::{DateTime, NaiveDateTime, Utc};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

/// The columns, in their order.
const COLUMNS: [&str; 8] =
    ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"];

/// One line, its values read but not yet judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Number of the line in the file; the heading is line 1.
    pub number: u64,
    /// The invoice, as written.
    pub invoice: String,
    /// The stock code, as written.
    pub code: String,
    /// The description, trimmed.
    pub description: String,
    /// Pieces; below zero on cancellations.
    pub quantity: i64,
    /// When the invoice was made.
    pub date: DateTime<Utc>,
    /// Price of one piece in minor units of the currency.
    pub price: i64,
    /// The customer's number; empty if there is none.
    pub customer: String,
    /// The country's name, as written.
    pub country: String,
}

/// A line whose values cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Number of the line in the file.
    pub number: u64,
    /// The invoice, if that much can be read.
    pub invoice: String,
    /// The stock code, if that much can be read.
    pub code: String,
    /// What is wrong, and what would be right.
    pub why: String,
}

/// Where consecutive lines are in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    byte: u64,
    line: u64,
    /// How many lines.
    pub count: u64,
}

impl Run {
    /// Whether the lines of `next` stand right behind those of this one.
    pub fn is_followed_by(&self, next: Self) -> bool {
        self.line + self.count == next.line
    }
}

/// An export, opened.
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
            // With CRLF taken apart here, a record's position is that of its first letter; fields are trimmed anyway.
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

    /// The next line, with where it stands; `None` at the end.
    pub fn next(&mut self) -> anyhow::Result<Option<(Run, Result<Line, Unreadable>)>> {
        let position = self.reader.position().clone();
        if !self.reader.read_byte_record(&mut self.record)? {
            return Ok(None);
        }
        // Blank lines are passed over by the reader, so the record may begin after the position asked before it.
        let at = self.record.position().unwrap_or(&position);
        let run = Run { byte: at.byte(), line: at.line(), count: 1 };
        let fields: Vec<String> = self.record.iter().map(|field| decode(self.encoding, field)).collect();
        Ok(Some((run, read(run.line, &fields))))
    }

    /// Goes to where a run of lines begins.
    pub fn seek(&mut self, run: Run) -> anyhow::Result<()> {
        let mut position = csv::Position::new();
        position.set_byte(run.byte).set_line(run.line);
        Ok(self.reader.seek(position)?)
    }
}

/// UTF-8 where the file's beginning is, else Windows-1252, of which Latin-1's letters are a part.
fn guess(file: &mut File) -> std::io::Result<&'static Encoding> {
    let mut head = Vec::new();
    file.take(1 << 20).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    let whole = match std::str::from_utf8(&head) {
        Ok(_) => true,
        // A letter cut in two by the end of what was read is no fault.
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

/// An amount such as `2.55`, `2.5` or `-3` in hundredths.
fn pence(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    // Zeros beyond the second decimal say nothing.
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
    fn amounts_are_read_exactly() {
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
    fn a_bad_value_is_named_and_the_next_line_is_read() {
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
    fn a_run_is_found_again() {
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
