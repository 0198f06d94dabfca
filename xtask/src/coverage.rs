//! Which lines of the parsers the fuzz targets reach: their tests are built with the compiler's instrumentation,
//! into a folder of their own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use evertide_testkit::checkout_root;

use crate::cargo::{command, output_of};

/// Files that read bytes from outside.
const PARSERS: &[&str] = &[
    "crates/ltx/src/checksum.rs",
    "crates/ltx/src/decode.rs",
    "crates/ltx/src/frames.rs",
    "crates/ltx/src/header.rs",
    "crates/ltx/src/index.rs",
    "crates/ltx/src/input.rs",
    "crates/ltx/src/merge.rs",
    "crates/ltx/src/name.rs",
    "crates/ltx/src/page.rs",
    "crates/ltx/src/stream.rs",
    "crates/storage/src/lease/record.rs",
    "crates/storage/src/url.rs",
    "crates/storage/src/v3.rs",
    "crates/storage/src/webdav/listing.rs",
    "crates/engine/src/drill/proof.rs",
    "crates/engine/src/follow/position.rs",
    "crates/engine/src/restore/v3/plan.rs",
    "crates/engine/src/restore/v3/unpack.rs",
    "crates/engine/src/restore/v3/wal.rs",
    "crates/engine/src/state/identity.rs",
    "crates/engine/src/state/leases.rs",
    "crates/engine/src/state/pages.rs",
    "crates/engine/src/state/position.rs",
    "crates/engine/src/state/stage.rs",
    "crates/engine/src/verify/records.rs",
    "crates/engine/src/wal/file.rs",
    "crates/engine/src/wal/format.rs",
    "crates/engine/src/wal/index.rs",
    "crates/server/src/settings/directory.rs",
    "crates/server/src/settings/duration.rs",
    "crates/server/src/settings/litestream_yaml.rs",
    "crates/server/src/settings/replica.rs",
    "crates/server/src/settings/section.rs",
    "crates/server/src/settings/store.rs",
    "crates/server/src/settings/toml.rs",
    "crates/server/src/settings/yaml.rs",
    "crates/vault/src/cipher.rs",
    "crates/vault/src/keyfile.rs",
    "crates/vault/src/table.rs",
];

/// A run whose lines are counted.
pub(crate) struct Coverage {
    tools: PathBuf,
    target: PathBuf,
    /// What was run.
    binaries: Vec<PathBuf>,
}

impl Coverage {
    /// Begins to count.
    pub(crate) fn begin() -> Result<Self> {
        let coverage = Self {
            tools: tools()?,
            target: checkout_root().join("target/coverage"),
            binaries: Vec::new(),
        };
        let _ = fs::remove_dir_all(coverage.profiles());
        Ok(coverage)
    }

    fn profiles(&self) -> PathBuf {
        self.target.join("profiles")
    }

    /// Has this `cargo test` count lines.
    pub(crate) fn count(&self, test: &mut Command) {
        test.env("RUSTFLAGS", "-C instrument-coverage")
            .env("CARGO_TARGET_DIR", &self.target)
            .env("LLVM_PROFILE_FILE", self.profiles().join("%p-%m.profraw"));
    }

    /// Builds the binary of these arguments of `cargo test`.
    pub(crate) fn build(&mut self, arguments: &[&str]) -> Result<()> {
        let mut build = command("cargo");
        build.arg("test").args(arguments).arg("--no-run");
        self.count(&mut build);
        let said = output_of(&mut build)?;
        let built = executables(&said);
        if built.is_empty() {
            bail!("cargo test {} built nothing:\n{said}", arguments.join(" "));
        }
        let root = checkout_root();
        self.binaries
            .extend(built.into_iter().map(|path| root.join(path)));
        Ok(())
    }

    /// Prints how many lines of each parser were reached, tests beside them left out.
    pub(crate) fn print(&self) -> Result<()> {
        let merged = self.target.join("merged.profdata");
        let raw = fs::read_dir(self.profiles()).context("no lines were counted")?;
        let raw: Vec<_> = raw.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        let mut merge = Command::new(self.tools.join("llvm-profdata"));
        merge
            .args(["merge", "-sparse", "-o"])
            .arg(&merged)
            .args(raw);
        checked(&mut merge)?;
        let mut export = Command::new(self.tools.join("llvm-cov"));
        export
            .args(["export", "-format=lcov", "-instr-profile"])
            .arg(&merged);
        for binary in &self.binaries {
            export.arg("-object").arg(binary);
        }
        let counted = lines_of(&checked(&mut export)?);
        println!("\n| parser | lines | reached | |\n|---|---|---|---|");
        let mut sum = (0, 0);
        for parser in PARSERS {
            let path = checkout_root().join(parser);
            let text = fs::read_to_string(&path).with_context(|| format!("reading {parser}"))?;
            let Some(lines) = counted.get(&path) else {
                continue; // of a target that did not run
            };
            let (lines, reached) = reached(lines, &text);
            println!("{}", row(&format!("`{parser}`"), lines, reached));
            sum = (sum.0 + lines, sum.1 + reached);
        }
        println!("{}", row("all of them", sum.0, sum.1));
        Ok(())
    }
}

fn row(what: &str, lines: usize, reached: usize) -> String {
    let percent = 100 * reached / lines.max(1);
    format!("| {what} | {lines} | {reached} | {percent} % |")
}

/// Where `llvm-cov` and `llvm-profdata` of this very compiler are.
fn tools() -> Result<PathBuf> {
    let root = output_of(command("rustc").args(["--print", "sysroot"]))?;
    let version = output_of(command("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not say what it compiles for")?;
    let tools = Path::new(root.trim())
        .join("lib/rustlib")
        .join(host)
        .join("bin");
    if !tools.join("llvm-cov").exists() {
        bail!("llvm-cov of this compiler is missing: run `rustup component add llvm-tools`");
    }
    Ok(tools)
}

/// Runs a tool to its end; what it printed.
fn checked(tool: &mut Command) -> Result<String> {
    let name = tool.get_program().to_os_string();
    let output = tool
        .output()
        .with_context(|| format!("starting {name:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name:?} ended with {}: {said}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `  Executable tests/fuzz.rs (target/coverage/debug/deps/fuzz-2f9a)`
fn executables(said: &str) -> Vec<&str> {
    let lines = said
        .lines()
        .filter(|line| line.trim().starts_with("Executable"));
    lines
        .filter_map(|line| line.rsplit_once('(')?.1.strip_suffix(')'))
        .collect()
}

/// How often each line of each file was reached, by number.
fn lines_of(lcov: &str) -> BTreeMap<PathBuf, BTreeMap<usize, u64>> {
    let mut files: BTreeMap<PathBuf, BTreeMap<usize, u64>> = BTreeMap::new();
    let mut file = PathBuf::new();
    for line in lcov.lines() {
        if let Some(path) = line.strip_prefix("SF:") {
            file = OsStr::new(path).into();
        } else if let Some((number, count)) =
            line.strip_prefix("DA:").and_then(|at| at.split_once(','))
            && let (Ok(number), Ok(count)) = (number.parse(), count.parse::<u64>())
        {
            let seen = files.entry(file.clone()).or_default();
            *seen.entry(number).or_default() += count;
        }
    }
    files
}

/// How many lines above the tests of a file there are, and how many of them were reached.
fn reached(lines: &BTreeMap<usize, u64>, text: &str) -> (usize, usize) {
    let tests = text.lines().position(|line| line.starts_with("mod tests"));
    let above = tests.map_or(usize::MAX, |index| index + 1);
    let above = lines.range(..above);
    let reached = above.clone().filter(|(_, count)| **count > 0);
    (above.clone().count(), reached.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_above_the_tests_are_counted_once_whichever_binary_reached_them() {
        let lcov = "SF:/a.rs\nFN:1,f\nDA:1,0\nDA:2,3\nDA:5,1\nend_of_record\n\
                    SF:/a.rs\nDA:1,2\nDA:3,0\nend_of_record\n";
        let lines = lines_of(lcov);
        let text = "fn f() {\n}\nfn g() {}\n#[cfg(test)]\nmod tests {}\n";
        assert_eq!(reached(&lines[Path::new("/a.rs")], text), (3, 2));
    }

    #[test]
    fn what_cargo_built_is_read_from_what_it_says() {
        let said =
            "   Compiling x v1\n  Executable tests/fuzz.rs (target/coverage/debug/deps/fuzz-2f)\n";
        assert_eq!(executables(said), ["target/coverage/debug/deps/fuzz-2f"]);
    }

    #[test]
    fn every_parser_whose_lines_are_counted_is_there() {
        for parser in PARSERS {
            assert!(checkout_root().join(parser).is_file(), "{parser}");
        }
    }
}
