//! The rules for each line. docs/import.md describes them.

use std::fmt;

use super::source::Line;

/// Why a line is neither in an order nor in a return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The values of the line cannot be read.
    Unreadable,
    /// The invoice number is neither that of a sale nor of a cancellation.
    NotAnInvoice,
    /// A cost or a discount of the shop itself, not something that was sold.
    NotASale,
    /// The stock code is invalid.
    BadStockCode,
    /// Fewer than one piece, but not on a cancellation: a correction of stock.
    StockCorrection,
    /// No price and no customer: a movement of stock.
    StockMovement,
    /// The price is below zero.
    NegativePrice,
    /// More pieces or a higher price than an order can have.
    TooLarge,
    /// A cancellation with pieces above zero.
    CancellationOfNothing,
    /// A cancellation that names no customer.
    CancellationWithoutCustomer,
    /// A cancellation of goods that no earlier order in the export has.
    NothingToCancel,
    /// souk refused the request for the order.
    OrderRefused,
    /// souk recorded the order, but rejected it.
    OrderRejected,
}

impl Reason {
    /// The name of the reason in the report.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "UNREADABLE",
            Self::NotAnInvoice => "NOT_AN_INVOICE",
            Self::NotASale => "NOT_A_SALE",
            Self::BadStockCode => "BAD_STOCK_CODE",
            Self::StockCorrection => "STOCK_CORRECTION",
            Self::StockMovement => "STOCK_MOVEMENT",
            Self::NegativePrice => "NEGATIVE_PRICE",
            Self::TooLarge => "TOO_LARGE",
            Self::CancellationOfNothing => "CANCELLATION_OF_NOTHING",
            Self::CancellationWithoutCustomer => "CANCELLATION_WITHOUT_CUSTOMER",
            Self::NothingToCancel => "NOTHING_TO_CANCEL",
            Self::OrderRefused => "ORDER_REFUSED",
            Self::OrderRejected => "ORDER_REJECTED",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The kind of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Part of an order.
    Sale,
    /// Cancels or returns part of an earlier order.
    Cancellation,
}

/// Codes that are charged to customers but have no stock: postage, carriage, manual entries.
const UNTRACKED: [&str; 4] = ["POST", "DOT", "C2", "M"];
/// Codes of the shop's own costs and discounts: bank and marketplace fees, samples, bad debt, donations.
const NOT_SALES: [&str; 7] = ["BANK CHARGES", "AMAZONFEE", "S", "D", "B", "CRUK", "PADS"];

/// The stock code that identifies a product. Letter case is ignored: in this data it only depends on who typed the
/// code.
pub fn sku(code: &str) -> String {
    code.to_uppercase()
}

/// True if the stock of the product is tracked.
pub fn tracked(sku: &str) -> bool {
    !UNTRACKED.contains(&sku)
}

/// The kind of a line, or why souk cannot import it.
pub fn judge(line: &Line) -> Result<Kind, Reason> {
    let cancellation = line.invoice.starts_with(['C', 'c']);
    let digits = line.invoice.trim_start_matches(['C', 'c']);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) || line.invoice.len() > 32 {
        return Err(Reason::NotAnInvoice);
    }
    let sku = sku(&line.code);
    if NOT_SALES.contains(&sku.as_str()) {
        return Err(Reason::NotASale);
    }
    if !is_code(&sku) {
        return Err(Reason::BadStockCode);
    }
    if line.price < 0 {
        return Err(Reason::NegativePrice);
    }
    if line.quantity.unsigned_abs() > 1_000_000 || line.price > 1_000_000_000 {
        return Err(Reason::TooLarge);
    }
    if cancellation {
        return match (line.quantity < 0, line.customer.is_empty()) {
            (false, _) => Err(Reason::CancellationOfNothing),
            (true, true) => Err(Reason::CancellationWithoutCustomer),
            (true, false) => Ok(Kind::Cancellation),
        };
    }
    match (line.quantity > 0, line.price > 0 || !line.customer.is_empty()) {
        (false, _) => Err(Reason::StockCorrection),
        (true, false) => Err(Reason::StockMovement),
        (true, true) => Ok(Kind::Sale),
    }
}

/// True if this is a valid stock code (`Product.sku` of the contract).
fn is_code(sku: &str) -> bool {
    let mut bytes = sku.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    first && sku.len() <= 64 && bytes.all(|byte| byte.is_ascii_alphanumeric() || b" ._/-".contains(&byte))
}

/// The ISO 3166-1 code of a country by its name in this data; `ZZ` (unknown) for any other name.
pub fn region(country: &str) -> &'static str {
    match country {
        "United Kingdom" => "GB",
        "EIRE" => "IE",
        "France" => "FR",
        "Germany" => "DE",
        "Spain" => "ES",
        "Portugal" => "PT",
        "Italy" => "IT",
        "Belgium" => "BE",
        "Netherlands" => "NL",
        "Switzerland" => "CH",
        "Austria" => "AT",
        "Norway" => "NO",
        "Sweden" => "SE",
        "Denmark" => "DK",
        "Finland" => "FI",
        "Iceland" => "IS",
        "Poland" => "PL",
        "Lithuania" => "LT",
        "Czech Republic" => "CZ",
        "Greece" => "GR",
        "Cyprus" => "CY",
        "Malta" => "MT",
        "Channel Islands" => "JE",
        "Australia" => "AU",
        "Japan" => "JP",
        "Singapore" => "SG",
        "Hong Kong" => "HK",
        "USA" => "US",
        "Canada" => "CA",
        "Brazil" => "BR",
        "Israel" => "IL",
        "Lebanon" => "LB",
        "Bahrain" => "BH",
        "Saudi Arabia" => "SA",
        "United Arab Emirates" => "AE",
        "RSA" => "ZA",
        _ => "ZZ",
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn line(invoice: &str, code: &str, quantity: i64, price: i64, customer: &str) -> Line {
        Line {
            number: 2,
            invoice: invoice.into(),
            code: code.into(),
            description: "x".into(),
            quantity,
            date: DateTime::UNIX_EPOCH,
            price,
            customer: customer.into(),
            country: "EIRE".into(),
        }
    }

    #[test]
    fn each_line_is_accepted_or_rejected_by_its_rule() {
        let cases = [
            (line("536365", "85123A", 6, 255, "17850"), Ok(Kind::Sale)),
            (line("536365", "85123a", 6, 255, ""), Ok(Kind::Sale)),
            (line("536365", "POST", 1, 1800, "17850"), Ok(Kind::Sale)),
            (line("536365", "22139", 1, 0, "17850"), Ok(Kind::Sale)),
            (line("C536379", "85123A", -1, 255, "17850"), Ok(Kind::Cancellation)),
            (line("C536379", "85123A", -1, 255, ""), Err(Reason::CancellationWithoutCustomer)),
            (line("C536379", "85123A", 1, 255, "17850"), Err(Reason::CancellationOfNothing)),
            (line("C536379", "D", -1, 2750, "14527"), Err(Reason::NotASale)),
            (line("537632", "AMAZONFEE", 1, 1_354_133, ""), Err(Reason::NotASale)),
            (line("536414", "22139", 56, 0, ""), Err(Reason::StockMovement)),
            (line("536589", "21777", -10, 0, ""), Err(Reason::StockCorrection)),
            (line("A563185", "B", 1, 1_106_206, ""), Err(Reason::NotAnInvoice)),
            (line("563185", "85123A", 1, -1, "1"), Err(Reason::NegativePrice)),
            (line("563185", "?", 1, 1, "1"), Err(Reason::BadStockCode)),
            (line("563185", "85123A", 1_000_001, 1, "1"), Err(Reason::TooLarge)),
        ];
        for (line, expected) in cases {
            assert_eq!(judge(&line), expected, "{line:?}");
        }
    }

    #[test]
    fn stock_codes_ignore_letter_case() {
        assert_eq!(sku("85123a"), sku("85123A"));
        assert!(tracked("85123A") && !tracked(&sku("post")));
    }
}
