//! Certificates of an authority that nobody knows but us.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::with_clock;
use crate::checkout::temp_dir;

/// An authority of its own, which `openssl` makes.
#[derive(Debug)]
pub struct Authority {
    dir: TempDir,
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    ///
    /// When there is no `openssl`, or it fails: nothing that needs it is skipped.
    pub fn new() -> Self {
        let authority = Self { dir: temp_dir() };
        let (certificate, key) = (authority.certificate(), authority.key());
        request("/CN=An authority of our own", &key, &certificate, &[]);
        authority
    }

    /// The file with its certificate (PEM).
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("ca.key")
    }

    /// A certificate for 127.0.0.1, and its key: two files in this folder.
    ///
    /// # Panics
    ///
    /// As [`Authority::new`].
    pub fn issue(&self, folder: &Path) -> [PathBuf; 2] {
        self.issue_for("IP:127.0.0.1", folder)
    }

    /// The same for a server with this name, as `subjectAltName` has it.
    pub(super) fn issue_for(&self, name: &str, folder: &Path) -> [PathBuf; 2] {
        let [certificate, key] = ["server.pem", "server.key"].map(|name| folder.join(name));
        let (by, signed) = (self.certificate(), self.key());
        let (by, signed) = (by.display().to_string(), signed.display().to_string());
        let name = format!("subjectAltName={name}");
        let arguments = [
            "-CA",
            &by,
            "-CAkey",
            &signed,
            "-addext",
            &name,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ];
        request("/CN=A server", &key, &certificate, &arguments);
        [certificate, key]
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes a key, and a certificate of it.
fn request(name: &str, key: &Path, certificate: &Path, arguments: &[&str]) {
    let mut openssl = Command::new("openssl");
    openssl
        .args(["req", "-x509", "-nodes", "-days", "3", "-subj", name])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .arg("-keyout")
        .arg(key)
        .arg("-out")
        .arg(certificate)
        .args(arguments);
    // Valid since yesterday: clocks of tests are wrong.
    let output = with_clock(&openssl, "-1d").output();
    let output = output.unwrap_or_else(|error| panic!("{openssl:?}: {error}"));
    assert!(output.status.success(), "{openssl:?}: {output:?}");
}
