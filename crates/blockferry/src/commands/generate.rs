//! `completions` and `man`: written from the definition of the command line itself.

use super::App;
use crate::args::Cli;
use crate::failure::{Failure, on_path};
use blockferry_node::api::{Exit, Schema};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use serde_json::json;
use std::path::{Path, PathBuf};

pub(crate) fn completions(app: &App, shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "blockferry", &mut script);
    let script = String::from_utf8_lossy(&script);
    let object = json!({ "schema": Schema, "shell": shell.to_string(), "script": script });
    app.out.either(&object, || script.to_string())?;
    Ok(Exit::Done)
}

/// `blockferry.1` and one page for each command, `blockferry-store-add.1` for example.
pub(crate) fn man(app: &App, directory: &Path) -> Result<Exit, Failure> {
    let mut command = Cli::command();
    command.build();
    let mut written = Vec::new();
    pages(&command, "blockferry", directory, &mut written)?;
    let names: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
    let object = json!({ "schema": Schema, "pages": names });
    app.out.either(&object, || format!("{} pages in {}", written.len(), directory.display()))?;
    Ok(Exit::Done)
}

fn pages(
    command: &Command,
    name: &str,
    directory: &Path,
    written: &mut Vec<PathBuf>,
) -> Result<(), Failure> {
    let path = directory.join(format!("{name}.1"));
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .title(name.to_uppercase())
        .render(&mut page)
        .and_then(|()| std::fs::write(&path, &page))
        .map_err(|error| on_path("write", &path, &error))?;
    written.push(path);
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        pages(inner, &format!("{name}-{}", inner.get_name()), directory, written)?;
    }
    Ok(())
}
