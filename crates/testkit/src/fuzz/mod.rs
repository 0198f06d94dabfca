//! Fuzzing with the stable toolchain: inputs drawn from a corpus by small changes.
//!
//! A target says what became of each input in a word or a phrase, its *outcome*: `accepted`, or the
//! error. The number of distinct outcomes is the measure of coverage, and an input with an outcome
//! that was not seen before joins the corpus of the run, so that changes build on it.
//!
//! `EVERTIDE_FUZZ_SECONDS` makes a short run a long one, `EVERTIDE_SEED` repeats one.

mod mutate;

use std::{
    collections::BTreeMap,
    fmt::{Debug, Write},
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

use fastrand::Rng;

pub use self::mutate::mutate;

/// Changes made to one input, at most.
const CHANGES: u8 = 5;
/// Inputs with new outcomes that are kept.
const MOST_KEPT: usize = 512;

/// The seed of a random test: `EVERTIDE_SEED`, or a new one. Printed, so that a failure can be had
/// again.
pub fn seed() -> u64 {
    let given = std::env::var("EVERTIDE_SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    eprintln!("to repeat: EVERTIDE_SEED={seed}");
    seed
}

/// What a target is given.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The input.
    pub bytes: &'a [u8],
    /// Another one, for properties of two: a member of the corpus, as it is.
    pub other: &'a [u8],
}

/// One fuzz target.
pub struct Fuzz<'a> {
    name: &'static str,
    corpus: Vec<Vec<u8>>,
    words: &'a [&'a str],
    inputs: u64,
    repair: Option<fn(&mut Vec<u8>)>,
}

impl Debug for Fuzz<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fuzz")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<'a> Fuzz<'a> {
    /// A target of this name, as `cargo xtask fuzz --target` knows it.
    pub fn target(name: &'static str) -> Self {
        Self {
            name,
            corpus: Vec::new(),
            words: &[],
            inputs: 4_000,
            repair: None,
        }
    }

    /// Adds inputs to begin with.
    pub fn corpus(mut self, inputs: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        self.corpus.extend(inputs.into_iter().map(Into::into));
        self
    }

    /// Adds every file of a directory, which must have one: inputs that were worth keeping.
    pub fn corpus_of(mut self, directory: impl AsRef<Path>) -> Self {
        let directory = directory.as_ref();
        let entries = fs::read_dir(directory)
            .unwrap_or_else(|error| panic!("reading {}: {error}", directory.display()));
        let mut paths: Vec<_> = entries
            .map(|entry| entry.expect("an entry").path())
            .collect();
        paths.sort();
        assert!(!paths.is_empty(), "{} is empty", directory.display());
        let read = |path| fs::read(path).expect("a file of the corpus");
        self.corpus.extend(paths.into_iter().map(read));
        self
    }

    /// Pieces of text that mean something to the parser.
    pub fn words(mut self, words: &'a [&'a str]) -> Self {
        self.words = words;
        self
    }

    /// How many inputs a short run has.
    pub fn inputs(mut self, inputs: u64) -> Self {
        self.inputs = inputs;
        self
    }

    /// Something that makes most inputs, after they were changed, get past the first check: it sets
    /// lengths and checksums right, say.
    pub fn repair(mut self, repair: fn(&mut Vec<u8>)) -> Self {
        self.repair = Some(repair);
        self
    }

    /// Runs it. `property` panics where something does not hold, and otherwise returns the outcome.
    ///
    /// # Panics
    ///
    /// When the property does; the input is then in `target/fuzz`, whose file belongs into the
    /// corpus once the fault is mended.
    pub fn run(self, mut property: impl FnMut(Input<'_>) -> String) -> FuzzReport {
        let seed = seed();
        let random = &mut Rng::with_seed(seed);
        let seconds = std::env::var("EVERTIDE_FUZZ_SECONDS").ok();
        let time = seconds.map(|text| Duration::from_secs(text.parse().expect("seconds")));
        let start = Instant::now();
        let mut pool = self.corpus.clone();
        assert!(!pool.is_empty(), "{} has no corpus", self.name);
        let mut report = FuzzReport {
            name: self.name,
            inputs: 0,
            outcomes: BTreeMap::new(),
        };
        let most = self.corpus.len() + MOST_KEPT;
        loop {
            // The corpus as it is, at first.
            let bytes = match self.corpus.get(report.inputs as usize) {
                Some(bytes) => bytes.clone(),
                None => self.draw(random, &pool),
            };
            let other = &pool[random.usize(..pool.len())];
            let tried = catch_unwind(AssertUnwindSafe(|| {
                property(Input {
                    bytes: &bytes,
                    other,
                })
            }));
            let Ok(outcome) = tried else {
                self.fail(&bytes, other, seed, report.inputs);
            };
            report.inputs += 1;
            let seen = report.outcomes.entry(outcome).or_default();
            *seen += 1;
            if *seen == 1 && pool.len() < most {
                pool.push(bytes);
            }
            let done = match time {
                Some(time) => start.elapsed() >= time,
                None => true,
            };
            // However slow the machine is: what must be reached depends on it.
            if done && report.inputs >= self.inputs.max(self.corpus.len() as u64) {
                break;
            }
        }
        report.print(seed);
        report
    }

    fn draw(&self, random: &mut Rng, pool: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = pool[random.usize(..pool.len())].clone();
        let other = &pool[random.usize(..pool.len())];
        for _ in 0..random.u8(..CHANGES) {
            mutate(random, &mut bytes, other, self.words);
        }
        if let Some(repair) = self.repair
            && random.u8(..4) > 0
        {
            repair(&mut bytes);
        }
        bytes
    }

    fn fail(&self, bytes: &[u8], other: &[u8], seed: u64, inputs: u64) -> ! {
        let folder = crate::checkout_root().join("target/fuzz");
        fs::create_dir_all(&folder).expect("a folder for the input");
        let path = folder.join(format!("{}-{seed}", self.name));
        fs::write(&path, bytes).expect("the input is kept");
        fs::write(path.with_extension("other"), other).expect("the other input is kept");
        panic!(
            "fuzz target {}: input {inputs} of seed {seed} fails, {} bytes, now in {}: {}",
            self.name,
            bytes.len(),
            path.display(),
            String::from_utf8_lossy(bytes.get(..200).unwrap_or(bytes)).escape_debug()
        );
    }
}

/// What a run has seen.
#[derive(Clone, Debug)]
pub struct FuzzReport {
    name: &'static str,
    inputs: u64,
    outcomes: BTreeMap<String, u64>,
}

impl FuzzReport {
    /// How many inputs had this outcome.
    pub fn count(&self, outcome: &str) -> u64 {
        self.outcomes.get(outcome).copied().unwrap_or_default()
    }

    /// How many inputs there were.
    pub fn inputs(&self) -> u64 {
        self.inputs
    }

    /// Fails when one of these outcomes was never seen, or there were fewer than `distinct`: a run
    /// in which nothing gets past the first checks would prove nothing.
    ///
    /// # Panics
    ///
    /// See above.
    pub fn assert_reached(&self, outcomes: &[&str], distinct: usize) {
        for outcome in outcomes {
            assert!(self.count(outcome) > 0, "{outcome} is not in {self:?}");
        }
        assert!(
            self.outcomes.len() >= distinct,
            "fewer than {distinct} outcomes: {self:?}"
        );
    }

    #[allow(clippy::print_stdout, reason = "read by cargo xtask fuzz")]
    fn print(&self, seed: u64) {
        let mut line = format!(
            "fuzz {}: {} inputs, seed {seed}, {} outcomes:",
            self.name,
            self.inputs,
            self.outcomes.len()
        );
        let mut by_count: Vec<_> = self.outcomes.iter().collect();
        by_count.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (outcome, count) in by_count.iter().take(8) {
            let _ = write!(line, " [{count} {outcome}]");
        }
        println!("{line}");
    }
}

/// The outcome that an error with variants is: the name of its variant.
pub fn variant(error: &impl Debug) -> String {
    let text = format!("{error:?}");
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    text[..end.unwrap_or(text.len())].to_owned()
}

/// The outcome that an error with a sentence is: its words, without numbers and what is quoted.
pub fn phrase(error: &impl ToString) -> String {
    let mut quoted = false;
    let mut phrase = String::new();
    for c in error.to_string().chars().take(120) {
        match c {
            '`' | '"' => quoted = !quoted,
            _ if quoted => {}
            '0'..='9' => {
                if !phrase.ends_with('#') {
                    phrase.push('#');
                }
            }
            c => phrase.push(c),
        }
    }
    phrase.truncate(phrase.floor_char_boundary(60));
    phrase
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A parser with a fault that takes three right bytes in a row and then a wrong one.
    fn faulty(bytes: &[u8]) -> String {
        let known = b"key=".iter().zip(bytes).take_while(|(a, b)| a == b);
        let known = known.count();
        assert!(known < 4 || bytes.get(4) != Some(&b'!'), "the fault");
        format!("{known} right")
    }

    fn faulty_again(bytes: &[u8]) -> bool {
        catch_unwind(|| faulty(bytes)).is_err()
    }

    #[test]
    fn a_planted_fault_is_found_by_way_of_new_outcomes() {
        let found = catch_unwind(|| {
            Fuzz::target("canary")
                .corpus(["kay:?"])
                .words(&["key", "="])
                .inputs(2_000_000)
                .run(|input| faulty(input.bytes))
        });
        let message = *found.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("key=!"), "{message}");
        let path = message.split("now in ").nth(1).unwrap();
        let path = Path::new(path.split(": ").next().unwrap());
        assert!(faulty_again(&fs::read(path).unwrap()), "the input is kept");
        fs::remove_file(path).unwrap();
        fs::remove_file(path.with_extension("other")).unwrap();
    }

    #[test]
    fn an_outcome_that_was_expected_and_never_seen_fails_the_run() {
        let report = Fuzz::target("blind")
            .corpus([""])
            .inputs(10)
            .run(|_| "refused".to_owned());
        report.assert_reached(&["refused"], 1);
        assert!(catch_unwind(|| report.assert_reached(&["accepted"], 1)).is_err());
        assert!(catch_unwind(|| report.assert_reached(&[], 2)).is_err());
    }

    #[test]
    fn outcomes_are_the_same_whatever_numbers_an_error_holds() {
        assert_eq!(variant(&Some(3)), "Some");
        assert_eq!(phrase(&"frame 17 is `bad` at 4096"), "frame # is  at #");
        assert_eq!(phrase(&"frame 2 is `good` at 1"), "frame # is  at #");
    }
}
