//! Steps with a heading, a time and a tally.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;

/// How many tests or checks passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// A check that is one thing.
    pub(crate) fn one(passed: bool) -> Self {
        Self {
            passed: u64::from(passed),
            failed: u64::from(!passed),
            skipped: 0,
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// Steps that have been run.
pub(crate) struct Steps {
    started: Instant,
    done: Vec<(&'static str, Tally, Duration)>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            done: Vec::new(),
        }
    }

    /// Runs one step. An error is a failed check; the next steps run all the same.
    pub(crate) fn run(&mut self, title: &'static str, step: impl FnOnce() -> Result<Tally>) {
        println!("\n=== {}. {title}", self.done.len() + 1);
        let started = Instant::now();
        let tally = step().unwrap_or_else(|error| {
            println!("error: {error:#}");
            Tally::one(false)
        });
        let took = started.elapsed();
        println!("=== {title}: {tally}, {}", seconds(took));
        self.done.push((title, tally, took));
    }

    /// Prints every step again, and the sum as the last line.
    pub(crate) fn finish(self) -> Tally {
        let mut total = Tally::default();
        println!("\n=== All steps");
        for (title, tally, took) in &self.done {
            total.add(*tally);
            let verdict = if tally.failed == 0 {
                "ok    "
            } else {
                "FAILED"
            };
            println!("{verdict} {:>8}  {title}: {tally}", seconds(*took));
        }
        println!("took {}\n", seconds(self.started.elapsed()));
        println!("{total}");
        total
    }
}

fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        seconds => format!("{}m {:02}s", seconds / 60, seconds % 60),
    }
}
