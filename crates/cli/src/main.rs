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

use clap::{CommandFactory, FromArgMatches};

use self::args::{Cli, Command};

fn main() -> ExitCode {
    let matches = match Cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return refuse(&error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    commands::warn_of_old_sqlite();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(matches.subcommand_name().unwrap_or_default(), &error),
    }
}

/// Help that was asked for is a result, on standard output; all else is wrong usage.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let printed = output::print(error.render().to_string().as_bytes());
        return match printed {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failure::report("", &error),
        };
    }
    // Nobody may be reading.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => commands::demo(&args),
        Command::DemoApp(args) => commands::demo_app(&args),
        Command::Keygen(args) => commands::keygen(&args),
        Command::GenerateBlueprintConfig(args) => commands::blueprint(&args),
        Command::InsertConfig(args) => commands::insert_config(&args),
        Command::Config(args) => commands::config(&args.command),
        Command::Replicate(args) => commands::replicate(&args),
        Command::Restore(args) => commands::restore(&args),
        Command::Ltx(args) => commands::ltx(&args),
        Command::Verify(args) => commands::verify(&args),
        Command::Doctor(args) => commands::doctor(&args),
        Command::Completions(args) => commands::completions(&args),
    }
}
