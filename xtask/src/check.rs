//! Checks of the source that run nothing of it.

use anyhow::Result;
use evertide_testkit::checkout_root;

use crate::cargo::{cargo, command, run};
use crate::run::DRIVERS;
use crate::steps::Tally;
use crate::tools::cargo_deny;

/// Formats the workspace, and the packages outside it.
pub(crate) fn fmt(check: bool) -> Result<Tally> {
    let mut tally = Tally::default();
    let others = DRIVERS.map(|driver| format!("tests/drivers/{driver}"));
    let others = others.iter().map(String::as_str).chain(["fuzz"]);
    // Only the workspace takes `--all`: from the others it would reach back into the workspace.
    let folders = [(".", Some("--all"))].into_iter();
    for (folder, scope) in folders.chain(others.map(|folder| (folder, None))) {
        let mut fmt = command("cargo");
        fmt.current_dir(checkout_root().join(folder));
        fmt.arg("fmt").args(scope);
        if check {
            fmt.arg("--check");
        }
        tally.add(run(&mut fmt)?);
    }
    Ok(tally)
}

/// Clippy on every target of the workspace.
pub(crate) fn lint() -> Result<Tally> {
    cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "--deny",
        "warnings",
    ])
}

/// The documentation of the workspace.
pub(crate) fn doc(open: bool) -> Result<Tally> {
    let mut doc = command("cargo");
    doc.args(["doc", "--workspace", "--no-deps", "--locked"]);
    if open {
        doc.arg("--open");
    }
    run(doc.env("RUSTDOCFLAGS", "--deny warnings"))
}

/// Licences, bans and sources, from deny.toml.
pub(crate) fn deny() -> Result<Tally> {
    let program = cargo_deny()?;
    let mut deny = command(&program.to_string_lossy());
    run(deny.args([
        "--workspace",
        "--locked",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))
}

/// The lock files outside the workspace, which the workspace's own dependencies are in, too.
pub(crate) fn locks() -> Result<Tally> {
    let mut tally = Tally::default();
    for driver in DRIVERS {
        let mut update = command("cargo");
        update.current_dir(checkout_root().join("tests/drivers").join(driver));
        tally.add(run(update.args([
            "update",
            "--workspace",
            "--locked",
            "--quiet",
        ]))?);
    }
    Ok(tally)
}

/// Advisories, whose database cargo-deny fetches.
pub(crate) fn advisories() -> Result<Tally> {
    let program = cargo_deny()?;
    let mut deny = command(&program.to_string_lossy());
    run(deny.args(["--workspace", "--locked", "check", "advisories"]))
}
