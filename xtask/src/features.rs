//! The stores as features: that each compiles alone, and how many crates it brings along.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use evertide_testkit::checkout_root;

use crate::cargo::command;
use crate::steps::Tally;

/// What an application compiles that names no store: more than so many crates are no light dependency.
const LIGHT: usize = 70;
/// The crates that hand the features on, from the bottom up.
const PACKAGES: [(&str, &str); 3] = [
    ("evertide-storage", "crates/storage"),
    ("evertide", "crates/engine"),
    ("evertide-server", "crates/server"),
];

/// Counts crates, and fails where the library is not light any more.
pub(crate) fn count() -> Result<Tally> {
    let light = crates("evertide", "")?;
    println!("crates that are compiled, with the first:");
    println!("{light:>5}  evertide without a store (at most {LIGHT})");
    for feature in stores("crates/engine")? {
        println!(
            "{:>5}  evertide with {feature}",
            crates("evertide", &feature)?
        );
    }
    let server = crates("evertide-server", "")?;
    println!("{server:>5}  evertide-server without a store");
    Ok(Tally::one(light <= LIGHT))
}

/// Counts crates, and compiles each crate with no store, and with each alone.
pub(crate) fn check() -> Result<Tally> {
    let mut tally = count()?;
    tally.add(alone(&PACKAGES)?);
    Ok(tally)
}

/// Compiles the crate of the clients with no store, and with each alone: the others only hand the features on.
pub(crate) fn clients() -> Result<Tally> {
    alone(&PACKAGES[..1])
}

fn alone(packages: &[(&str, &str)]) -> Result<Tally> {
    let mut tally = Tally::default();
    for (package, folder) in packages {
        let alone = stores(folder)?;
        for feature in [String::new()].into_iter().chain(alone) {
            println!("--- {package} with `{feature}`");
            tally.add(Tally::one(compiles(package, &feature)?));
        }
    }
    Ok(tally)
}

/// Whether a crate compiles with this feature alone, and without a warning.
fn compiles(package: &str, feature: &str) -> Result<bool> {
    let mut check = command("cargo");
    check.args(["check", "--locked", "--quiet", "--package", package]);
    check.args(["--no-default-features", "--features", feature]);
    let output = check.output().context("starting cargo check")?;
    // Without progress, there is nothing else to say.
    let said = String::from_utf8_lossy(&output.stderr);
    print!("{said}");
    Ok(output.status.success() && said.is_empty())
}

/// The stores that are features of a crate: what has an underscore in front, and what is for tests, is none.
fn stores(folder: &str) -> Result<Vec<String>> {
    let path = checkout_root().join(folder).join("Cargo.toml");
    let manifest =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let manifest: toml::Table = manifest.parse()?;
    let features = manifest.get("features").and_then(toml::Value::as_table);
    let names = features.context("the manifest has features")?.keys();
    let stores = names.filter(|name| !name.starts_with('_') && *name != "testing");
    Ok(stores.cloned().collect())
}

/// How many crates are compiled for one with these features, itself included.
fn crates(package: &str, features: &str) -> Result<usize> {
    let mut tree = command("cargo");
    tree.args(["tree", "--locked", "--package", package]);
    tree.args(["--no-default-features", "--features", features]);
    tree.args(["--edges", "no-dev", "--prefix", "none", "--format", "{p}"]);
    let output = tree.output().context("starting cargo tree")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    // The same line may have a mark that it was shown before.
    let lines = text.lines().map(|line| line.trim_end_matches(" (*)"));
    Ok(lines
        .filter(|line| !line.is_empty())
        .collect::<BTreeSet<_>>()
        .len())
}
