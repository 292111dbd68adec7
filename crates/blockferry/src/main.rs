//! `blockferry`: the service and the commands that talk to it.
//!
//! `main` reads the command line, runs one function of `commands` and turns its result into an
//! exit status. Nothing else ends the process, except an interrupt (`interrupt`).

mod args;
#[cfg(test)]
mod book;
mod bundle;
mod commands;
mod config;
mod demo;
mod failure;
mod interrupt;
mod logging;
mod machine;
mod output;

use args::{Cli, Command};
use blockferry_node::api::{Exit, Request};
use clap::Parser;
use commands::App;
use failure::{AdminError, Failure};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage(&error)),
    };
    let app = App::new(&cli.global);
    let status = match run(&app, cli.command) {
        Ok(exit) => exit.status(),
        Err(Failure::NobodyReads) => Exit::Done.status(),
        Err(Failure::Error(error)) => {
            app.out.error(&error);
            error.exit
        }
    };
    ExitCode::from(status)
}

fn run(app: &App, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Demo(args) => demo::run(app, &args),
        Command::Init(args) => commands::init::run(app, &args),
        Command::Serve(args) => commands::serve::run(app, &args),
        Command::Id => commands::id::run(app),
        Command::Token(command) => commands::token::run(app, command),
        Command::Store(command) => commands::store::run(app, command),
        Command::Invite(args) => commands::pairing::invite(app, args),
        Command::Join(args) => commands::pairing::join(app, args),
        Command::Peer(command) => commands::peer::run(app, command),
        Command::Status(args) => commands::status::run(app, &args),
        Command::Doctor(args) => commands::doctor::run(app, &args),
        Command::Bundle(args) => commands::bundle::run(app, &args),
        Command::Image(command) => commands::image::run(app, command),
        Command::Publish(args) => commands::publish::run(app, args),
        Command::Plan(args) => commands::plan::run(app, args),
        Command::Push(args) => commands::push::run(app, args),
        Command::Backlog { peer } => commands::backlog::run(app, peer),
        Command::Netcheck { peer, count } => commands::netcheck::run(app, peer, count),
        Command::Ready(args) => commands::ready::ready(app, args),
        Command::Wait(args) => commands::ready::wait(app, args),
        Command::Promote(args) => commands::promote::run(app, args),
        Command::Rollback { image } => commands::rollback::run(app, image),
        Command::Conflicts { image } => commands::conflicts::list(app, image),
        Command::Resolve(args) => commands::conflicts::resolve(app, args),
        Command::Adopt(command) => commands::adopt::run(app, command),
        Command::Verify { image, deep, repair } => {
            commands::verify::run(app, Request::Verify { image, deep, repair })
        }
        Command::Pause(args) => commands::orders::give(app, args, Request::Pause),
        Command::Resume(args) => commands::orders::give(app, args, Request::Resume),
        Command::Boost(args) => commands::orders::give(app, args, Request::Boost),
        Command::Limit(command) => commands::orders::limit(app, command),
        Command::Schedule(command) => commands::schedule::run(app, command),
        Command::Events { follow, since } => commands::events::run(app, follow, since),
        Command::Config(command) => commands::config::run(app, command),
        Command::Completions { shell } => commands::generate::completions(app, shell),
        Command::Man { dir } => commands::generate::man(app, &dir),
    }
}

/// `--help` and `--version` are answers; everything else clap says is a usage error.
fn usage(error: &clap::Error) -> u8 {
    use clap::error::ErrorKind;
    let text = error.to_string();
    let json = std::env::args_os().any(|arg| arg == "--json");
    let out = output::Output::bare(json);
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = out.data(&text);
        return Exit::Done.status();
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        out.prose(&text);
        return Exit::Usage.status();
    }
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut parts = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let message = parts.next().unwrap_or_default().to_owned();
    let rest: Vec<&str> = parts.filter(|line| !line.starts_with("For more information")).collect();
    let mut error = AdminError::new("USAGE", message);
    if !rest.is_empty() {
        error = error.with_remedy(rest.join("; "));
    }
    out.error(&error);
    error.exit
}
