//! Keys of the user's own that the server encrypts with and forgets (SSE-C).

use std::{io, net::IpAddr, path::Path};

use reqsign_core::hash::base64_decode;

use super::{S3Options, provider};
use crate::{Disk, Error, Secret};

/// Bytes of a file that are read at most: a key has 44.
const LONGEST: u64 = 1_024;

/// The same options, with the key that their file has.
pub(super) fn read(options: &S3Options, disk: &dyn Disk) -> Result<S3Options, Error> {
    let mut options = options.clone();
    let given = options.sse_customer_key.is_some();
    let Some(path) = options.sse_customer_key_path.as_deref().filter(|_| !given) else {
        return Ok(options);
    };
    let key = of_file(path, disk).map_err(|source| Error::Io {
        location: options.to_string(),
        action: "read the key to encrypt with in",
        path: path.to_owned(),
        source,
    })?;
    options.sse_customer_key = Some(key);
    options.sse_customer_key_path = None;
    Ok(options)
}

fn of_file(path: &Path, disk: &dyn Disk) -> io::Result<Secret> {
    let file = disk.open_read(path)?;
    let mut content = vec![0; file.len()?.min(LONGEST) as usize];
    file.read_exact_at(&mut content, 0)?;
    let content = String::from_utf8(content).map(Secret::new);
    let content = content.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Secret::new(content.expose().trim()))
}

/// What of the settings of such a key cannot work.
pub(super) fn check(options: &S3Options, endpoint: Option<&str>) -> Result<(), &'static str> {
    let Some(key) = &options.sse_customer_key else {
        return Ok(());
    };
    if options.sse_customer_key_path.is_some() {
        return Err("a key to encrypt with and a file with one exclude each other");
    }
    if options.sse_kms_key_id.is_some() {
        return Err("a key of your own and one of the key management exclude each other");
    }
    if !base64_decode(key.expose()).is_ok_and(|key| key.len() == 32) {
        return Err("the key to encrypt with is not 32 bytes in Base64");
    }
    let far = endpoint.filter(|endpoint| !is_near(endpoint));
    if far.is_some_and(|endpoint| endpoint.starts_with("http://")) {
        return Err("a key to encrypt with is sent with requests: the endpoint must be https");
    }
    if far.is_some() && options.skip_verify == Some(true) {
        return Err("a key to encrypt with is sent with requests: leave skip_verify out");
    }
    Ok(())
}

/// Whether an endpoint is on this machine or in a private network.
fn is_near(endpoint: &str) -> bool {
    let host = provider::host(endpoint).0;
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_private(),
        Ok(IpAddr::V6(address)) => address.is_loopback() || address.is_unique_local(),
        Err(_) => host == "localhost",
    }
}
