//! `souk import online-retail`: imports a real catalogue and real orders through the gateway's public API.
//!
//! Every request has an idempotency key that depends only on the export. So a run that was stopped can be run again:
//! completed requests return the same response, and the others are done now. The rules are in docs/import.md.
#![allow(clippy::print_stdout, reason = "a command of the command line speaks there")]

pub mod api;
mod catalogue;
mod orders;
mod plan;
mod report;
mod rules;
mod source;
mod takeback;

use std::{path::PathBuf, sync::Arc, time::Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use self::{api::Api, report::Report};

/// The prefix of request ids and external ids.
const SOURCE: &str = "online-retail";

/// The options of an import.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file of the export.
    pub file: PathBuf,
    /// The CSV file for lines that could not be imported, with number and reason.
    pub report: Option<PathBuf>,
    /// The maximum number of requests in flight.
    pub concurrency: u16,
}

/// Imports an export. `connect` is called after the export has been read, and returns the API client.
pub async fn online_retail(args: &Options, connect: impl FnOnce() -> anyhow::Result<Api>) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut report = Report::new(args.report.as_deref())?;

    let reading = ProgressBar::new_spinner().with_message("reading the export");
    let plan = plan::plan(&args.file, &mut report, |lines| reading.set_position(lines))?;
    reading.finish_and_clear();
    println!(
        "{}: {} lines, {} invoices, {} products, {} customers",
        args.file.display(),
        plan.lines,
        plan.invoices.len(),
        plan.products.len(),
        plan.customers.keys().filter(|customer| !customer.is_empty()).count(),
    );

    let api = Arc::new(connect()?);
    let width = usize::from(args.concurrency);
    let bar = bar(plan.products.len() as u64, "products");
    let products = catalogue::products(&api, &plan, &bar).await?;
    let bar = self::bar(plan.customers.len() as u64, "customers");
    let customers = catalogue::customers(&api, &plan, width, &bar).await?;
    let bar = self::bar(plan.products.len() as u64, "opening stock");
    catalogue::opening_stock(&api, &plan, &products, &bar).await?;

    let bar = self::bar(plan.invoices.len() as u64, "orders");
    let ordering = Instant::now();
    let report = orders::run(&api, args, &plan, products, customers, report, &bar).await;
    let report = report.context("run the import again to continue where it stopped")?;
    let took = ordering.elapsed().as_secs_f64();
    bar.finish_and_clear();

    println!("\n  lines       {:>8}\n{report}", plan.lines);
    println!(
        "{:.1} s in all; orders and returns {took:.1} s: {:.0} orders a second",
        started.elapsed().as_secs_f64(),
        report.orders as f64 / took.max(0.001),
    );
    if !report.adds_up(plan.lines) {
        bail!("the counts do not add up to the file's {} lines: a fault in the importer", plan.lines);
    }
    Ok(())
}

fn bar(length: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:>14} {wide_bar} {pos}/{len} {eta}");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what)
}
