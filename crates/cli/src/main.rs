//! The command-line tool of Evertide: parse arguments, call a library, print, choose the exit
//! status.

mod args;
mod commands;
mod failure;
mod logs;
mod output;
mod progress;
mod settings;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help asked for is a result, on standard output; all else is wrong usage. Nobody may
            // be reading.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    commands::warn_of_old_sqlite();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Keygen(args) => commands::keygen(&args),
        Command::GenerateBlueprintConfig(args) => commands::blueprint(&args),
        Command::InsertConfig(args) => commands::insert_config(&args),
        Command::Config(args) => commands::config(&args.command),
        Command::Replicate(args) => commands::replicate(&args),
        Command::Restore(args) => commands::restore(&args),
        Command::Ltx(args) => commands::ltx(&args),
        Command::Completions(args) => commands::completions(&args),
        _ => Err(failure::usage("not in this build")),
    }
}
