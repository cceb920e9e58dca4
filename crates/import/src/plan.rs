//! The first pass over an export: finds products, customers and invoices, and the positions of their lines.
//!
//! It keeps a few bytes for each invoice, product and customer, never the lines themselves.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use super::{
    report::Report,
    rules::{self, Kind, Reason},
    source::{Line, Run, Source},
};

/// The content of an export.
pub struct Plan {
    /// The number of lines without the heading.
    pub lines: u64,
    /// The beginning of the SHA-256 of the file. It distinguishes the opening stock of different exports.
    pub file_hash: String,
    /// Products by stock code.
    pub products: BTreeMap<String, Product>,
    /// The numbers of customers. The empty number represents sales without a customer.
    pub customers: BTreeMap<String, ()>,
    /// Invoices, sorted by date and then by their order in the file.
    pub invoices: Vec<Invoice>,
    /// Customer and stock code of everything that a cancellation takes back.
    pub wanted_back: HashSet<(String, String)>,
}

/// A product of an export.
pub struct Product {
    /// The most frequent description.
    pub title: String,
    /// The price on the first line of the product, in minor units.
    pub price: i64,
    /// Pieces sold in the export.
    pub sold: i64,
}

/// An invoice whose lines are not read yet.
pub struct Invoice {
    /// The number of the invoice.
    pub number: String,
    /// The date of the invoice: the earliest date of its lines.
    pub date: DateTime<Utc>,
    /// The positions of its lines.
    pub runs: Vec<Run>,
}

#[derive(Default)]
struct Titles {
    counts: BTreeMap<String, (u64, u64)>,
    price: i64,
    sold: i64,
}

/// Reads the whole file once. Lines that souk cannot import are reported at once.
pub fn plan(path: &Path, report: &mut Report, mut progress: impl FnMut(u64)) -> anyhow::Result<Plan> {
    let mut source = Source::open(path)?;
    let mut plan = Plan {
        lines: 0,
        file_hash: hash(path)?,
        products: BTreeMap::new(),
        customers: BTreeMap::new(),
        invoices: Vec::new(),
        wanted_back: HashSet::new(),
    };
    let mut titles: HashMap<String, Titles> = HashMap::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    while let Some((run, line)) = source.next()? {
        plan.lines += 1;
        if plan.lines.is_multiple_of(1000) {
            progress(plan.lines);
        }
        let line = match line {
            Ok(line) => line,
            Err(bad) => {
                report.reject(bad.number, &bad.invoice, &bad.code, Reason::Unreadable, &bad.why)?;
                continue;
            }
        };
        match rules::judge(&line) {
            Err(reason) => {
                report.reject(line.number, &line.invoice, &line.code, reason, &line.description)?;
                continue;
            }
            Ok(Kind::Sale) => note_product(&mut titles, &line),
            Ok(Kind::Cancellation) => {
                plan.wanted_back.insert((line.customer.clone(), rules::sku(&line.code)));
            }
        }
        plan.customers.entry(line.customer.clone()).or_default();
        let place = *places.entry(line.invoice.clone()).or_insert_with(|| {
            plan.invoices.push(Invoice { number: line.invoice.clone(), date: line.date, runs: Vec::new() });
            plan.invoices.len() - 1
        });
        if let Some(invoice) = plan.invoices.get_mut(place) {
            invoice.add(run, line.date);
        }
    }
    plan.products = titles.into_iter().map(|(sku, titles)| (sku.clone(), titles.product(sku))).collect();
    plan.invoices.sort_by_key(|invoice| invoice.date);
    Ok(plan)
}

fn note_product(products: &mut HashMap<String, Titles>, line: &Line) {
    let product =
        products.entry(rules::sku(&line.code)).or_insert_with(|| Titles { price: line.price, ..Titles::default() });
    product.sold += line.quantity;
    if !line.description.is_empty() {
        let next = product.counts.len() as u64;
        product.counts.entry(line.description.clone()).or_insert((0, next)).0 += 1;
    }
}

impl Titles {
    fn product(self, sku: String) -> Product {
        // The most frequent description; if there are several, the first one.
        let best = self.counts.into_iter().max_by_key(|(_, (count, first))| (*count, std::cmp::Reverse(*first)));
        Product { title: best.map_or(sku, |(title, _)| title), price: self.price, sold: self.sold }
    }
}

impl Invoice {
    fn add(&mut self, run: Run, date: DateTime<Utc>) {
        self.date = self.date.min(date);
        match self.runs.last_mut() {
            Some(last) if last.is_followed_by(run) => last.count += 1,
            _ => self.runs.push(run),
        }
    }
}

fn hash(path: &Path) -> anyhow::Result<String> {
    let mut file = BufReader::new(File::open(path)?);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    Ok(hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn invoices_are_found_by_date_with_all_their_lines() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(
            b"InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\r\n\
              2,a,Old,1,02/12/2010 08:00,2,7,EIRE\r\n\
              1,A,New,2,01/12/2010 08:00,3,8,EIRE\r\n\
              2,K,Two,5,02/12/2010 08:01,1,7,EIRE\r\n\
              2,a,New,1,02/12/2010 07:59,2,7,EIRE\r\n\
              C3,A,New,-1,03/12/2010 08:00,2,7,EIRE\r\n\
              x,A,New,1,03/12/2010 08:00,2,7,EIRE\r\n",
        )
        .unwrap();
        let mut report = Report::new(None).unwrap();
        let plan = plan(file.path(), &mut report, |_| ()).unwrap();
        assert_eq!(plan.lines, 6);
        assert_eq!(report.rejected(), 1);
        let invoices: Vec<_> =
            plan.invoices.iter().map(|invoice| (invoice.number.as_str(), invoice.runs.len())).collect();
        assert_eq!(invoices, [("1", 1), ("2", 2), ("C3", 1)]);
        assert_eq!(plan.invoices[1].runs.iter().map(|run| run.count).sum::<u64>(), 3);
        let product = &plan.products["A"];
        assert_eq!((product.title.as_str(), product.price, product.sold), ("New", 200, 4));
        assert!(plan.wanted_back.contains(&("7".into(), "A".into())));
        assert_eq!(plan.customers.len(), 2);
    }
}
