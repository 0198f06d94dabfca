//! A writer in a process of its own, for tests: `evertide-writer DB KEY=VALUE...`.
//!
//! Keys: `seed`, `id`, `page-size`, `auto-vacuum`, `max-bytes`, `busy-timeout-ms`, `pause-us`, and
//! `seconds`, without which it writes until its standard input ends.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match evertide_testkit::run_writer_process(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("evertide-writer: {error}");
            ExitCode::FAILURE
        }
    }
}
