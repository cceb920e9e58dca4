//! `souk completions` and `souk man`: generated from the command line's definition, so that they always match it.

use std::{
    fs,
    io::{Write, stdout},
    path::Path,
};

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;

/// Prints the completions for a shell.
pub fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "souk", &mut script);
    stdout().write_all(&script).context("the completions cannot be printed")
}

/// Writes a manual page for each command.
pub fn pages(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    clap_mangen::generate_to(Cli::command(), folder)
        .with_context(|| format!("the pages cannot be written to {}", folder.display()))
}
