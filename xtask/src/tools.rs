//! Installing what the tests need, once, at pinned versions.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use evertide_testkit::{
    cache_dir, install_age, install_azurite, install_fake_gcs, install_faketime,
    install_litestream, install_litestream_v3, install_ministack, install_nats, install_openssh,
    install_rclone, install_wsgidav,
};

use crate::cargo::command;
use crate::steps::Tally;

const CARGO_DENY: &str = "0.20.2";
const CARGO_MUTANTS: &str = "27.1.0";

/// Everything.
pub(crate) fn install() -> Result<Tally> {
    let mut tally = Tally::default();
    let installed = [
        install_litestream().map_err(Into::into),
        install_litestream_v3().map_err(Into::into),
        install_age().map_err(Into::into),
        install_ministack().map_err(Into::into),
        install_rclone().map_err(Into::into),
        install_fake_gcs().map_err(Into::into),
        install_azurite().map_err(Into::into),
        install_wsgidav().map_err(Into::into),
        install_openssh().map_err(Into::into),
        install_faketime().map_err(Into::into),
        install_nats().map_err(Into::into),
        cargo_deny(),
    ];
    for outcome in installed {
        match &outcome {
            Ok(path) => println!("{}", path.display()),
            Err(error) => println!("error: {error:#}"),
        }
        tally.add(Tally::one(outcome.is_ok()));
    }
    Ok(tally)
}

/// The path of cargo-deny. Built without optimisation it is ready in a minute, and fast enough.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    cargo_program("cargo-deny", CARGO_DENY)
}

/// The path of cargo-mutants, which only the task of that name needs.
pub(crate) fn cargo_mutants() -> Result<PathBuf> {
    cargo_program("cargo-mutants", CARGO_MUTANTS)
}

/// The path of a program that cargo installs into the cache.
fn cargo_program(name: &str, version: &str) -> Result<PathBuf> {
    let root = cache_dir().join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if program.is_file() {
        return Ok(program);
    }
    let build = cache_dir().join(format!("{name}-build"));
    let mut install = command("cargo");
    install
        .args(["install", "--quiet", "--debug", "--locked", name])
        .args(["--version", version])
        .arg("--root")
        .arg(&root)
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .env("CARGO_TARGET_DIR", &build);
    let status = install
        .status()
        .with_context(|| format!("starting {install:?}"))?;
    if !status.success() {
        bail!("{name} could not be installed; the command was\n    {install:?}");
    }
    std::fs::remove_dir_all(build).ok();
    Ok(program)
}
