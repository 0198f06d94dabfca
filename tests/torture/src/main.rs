//! `cargo xtask torture`.

#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use clap::Parser;
use evertide_torture::{Fault, Form, Options, Subject, torture};

/// Random writers, the backup killed again and again, and at the end two restores compared.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask torture",
    bin_name = "cargo xtask torture",
    max_term_width = 100
)]
struct Arguments {
    /// How long to write; ten minutes are 600.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Everything random follows from it; drawn and printed without it.
    #[arg(long)]
    seed: Option<u64>,
    /// Processes that write.
    #[arg(long, default_value_t = 3)]
    writers: u32,
    /// Whose backup is tortured. Litestream is there to show what the test demands.
    #[arg(long, value_enum, default_value_t)]
    subject: Subject,
    /// Run the backup only beside the application, or only inside; both in turn without it.
    #[arg(long, value_enum)]
    form: Option<Form>,
    /// Damage the replica before the restores, to see that the comparison notices.
    #[arg(long, value_enum)]
    plant: Option<Fault>,
    /// Keep the database, the replica, the restored databases and the logs.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        seconds: arguments.seconds,
        seed: arguments.seed.unwrap_or_else(|| fastrand::u64(..)),
        writers: arguments.writers,
        subject: arguments.subject,
        form: arguments.form,
        plant: arguments.plant,
        keep: arguments.keep,
    };
    match torture(&options) {
        Ok(verdict) => {
            println!("{verdict}");
            if verdict.is_good() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("error: {error:#} (seed {})", options.seed);
            ExitCode::FAILURE
        }
    }
}
