//! docs/order-states.md is generated from the table. `SOUK_UPDATE_DOCS=1 cargo test -p souk-order --lib picture`
//! regenerates it.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fmt::Write, fs, path::Path};

use super::*;

const HEAD: &str = "# The states of an order

A saga places an order and, if requested, cancels it. It stores each step before the next one begins. Returns, partial
cancellations and refunds of an order that stays confirmed are adjustments, and each of them has a saga of its own. A
step that has nothing to do is skipped: postage is not reserved, and a refund of zero is not requested.

Both diagrams are generated from the table in `services/order/src/domain/saga.rs`; a test compares them.
";

const MANUAL: &str = "can be done manually: an operator does the step outside of souk and marks it as done
(`FinishSaga`). The timeline then has the entry FINISHED_MANUALLY, with who did it and how, before the step's own entry.
Stock steps cannot be done manually, because stock is known to inventory alone. Nor can AUTHORIZE, because an
authorisation without a reference cannot be captured.
";

/// The id of a state and step in the diagram.
fn place(state: State, step: Step) -> String {
    format!("{}_{}", state.code(), step.code())
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Done => "done",
        OutOfStock => "out of stock",
        Refused => "refused",
        AlreadyCommitted => "already committed",
        Abandoned => "abandoned",
    }
}

/// A Mermaid state diagram of the sagas in these states.
fn picture(running: &[State]) -> String {
    let mut lines = BTreeSet::new();
    let mut arrows = Vec::new();
    let mut name = |state: State, step: Step| {
        let place = place(state, step);
        lines.insert(format!("    state \"{}: {}\" as {place}\n", state.code(), step.code().to_lowercase()));
        place
    };
    for Beginning(from, state, _, step) in BEGINNINGS.iter().filter(|beginning| running.contains(&beginning.1)) {
        let from = from.map_or("[*]", State::code);
        arrows.push(format!("    {from} --> {}\n", name(*state, *step)));
    }
    for Row(state, step, ended, _, next) in TABLE.iter().filter(|row| running.contains(&row.0)) {
        let to = match next {
            Go(next) => name(*state, *next),
            Reach(end, _) => end.code().to_owned(),
        };
        arrows.push(format!("    {} --> {to}: {}\n", name(*state, *step), outcome(*ended)));
    }
    let ends = TABLE.iter().filter(|row| running.contains(&row.0)).filter_map(|row| match row.4 {
        Reach(end, _) => Some(format!("    {} --> [*]\n", end.code())),
        Go(_) => None,
    });
    arrows.extend(ends.collect::<BTreeSet<_>>());
    let body: String = lines.into_iter().chain(arrows).collect();
    format!("```mermaid\nstateDiagram-v2\n{body}```\n")
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for (title, running) in [
        ("Placing and cancelling", [Pending, Cancelling].as_slice()),
        ("Adjustments", &[Returning, CancellingItems, Refunding]),
    ] {
        write!(page, "\n## {title}\n\n{}", picture(running)).unwrap();
    }
    page.push_str("\n## The table\n\n| state | step | outcome | timeline | next |\n|---|---|---|---|---|\n");
    for Beginning(from, state, kind, step) in BEGINNINGS {
        let from = from.map_or("", State::code);
        writeln!(page, "| {from} | | | {} | {}: {} |", kind.code(), state.code(), step.code()).unwrap();
    }
    for Row(state, step, ended, kind, next) in TABLE {
        let next = match next {
            Go(step) => step.code().to_owned(),
            Reach(end, kind) => format!("**{}** ({})", end.code(), kind.code()),
        };
        let kind = kind.map_or("", Kind::code);
        writeln!(page, "| {} | {} | {} | {kind} | {next} |", state.code(), step.code(), outcome(*ended)).unwrap();
    }
    let steps = [Reserve, Authorize, Commit, Capture, Release, Void, Restock, Refund];
    let manual: Vec<_> = steps.into_iter().filter(|step| step.can_be_done_manually()).map(Step::code).collect();
    write!(page, "\n## Manual steps\n\n{} {MANUAL}", manual.join(", ")).unwrap();
    page
}

#[test]
fn the_page_matches_the_table() {
    let page = page();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/order-states.md");
    if std::env::var_os("SOUK_UPDATE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), page, "run this test with SOUK_UPDATE_DOCS=1");
}
