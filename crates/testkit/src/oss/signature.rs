//! Signatures, as "Include a V4 signature in the Authorization header" of the documentation has them.

use jiff::{SignedDuration, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::{digest, hmac};

use super::{OssServer, request::Asked};

/// How far the clock of a client may be from that of the server.
const LARGEST_SKEW: SignedDuration = SignedDuration::from_mins(15);
const VERSION: &str = "OSS4-HMAC-SHA256";
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const ESCAPED_BUT_SLASHES: &AsciiSet = &ESCAPED.remove(b'/');

/// Whether a request may be answered; else the code and message that say why not.
pub(super) fn check(asked: &Asked) -> Result<(), (&'static str, &'static str)> {
    let Some(authorization) = asked.header("authorization") else {
        return Err(("AccessDenied", "Anonymous access is forbidden."));
    };
    let said = said(authorization).ok_or(("InvalidArgument", "Invalid Authorization."))?;
    let token = asked.header("x-oss-security-token");
    let secret = match (said.key_id, token) {
        (OssServer::KEY_ID, None) => OssServer::KEY_SECRET,
        (OssServer::TEMPORARY_ID, Some(OssServer::SECURITY_TOKEN)) => OssServer::TEMPORARY_SECRET,
        (OssServer::TEMPORARY_ID, Some(_)) => {
            let message = "The security token you provided is invalid.";
            return Err(("InvalidSecurityToken", message));
        }
        _ => {
            let message = "The OSS Access Key Id you provided does not exist in our records.";
            return Err(("InvalidAccessKeyId", message));
        }
    };
    if signature(asked, &said, secret).as_deref() != Some(said.signature) {
        return Err((
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided.",
        ));
    }
    match skew(asked).is_some_and(|skew| skew.abs() <= LARGEST_SKEW) {
        true => Ok(()),
        false => Err((
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
        )),
    }
}

/// By how much the time of a request, `20261129T120000Z`, is before now.
fn skew(asked: &Asked) -> Option<SignedDuration> {
    let time: Timestamp = asked.header("x-oss-date")?.parse().ok()?;
    Some(Timestamp::now().duration_since(time))
}

/// What an `Authorization` says.
struct Said<'a> {
    key_id: &'a str,
    /// Day, region, product and an end that is always the same.
    scope: &'a str,
    /// Names of headers that are signed in addition.
    additional: &'a str,
    signature: &'a str,
}

fn said(authorization: &str) -> Option<Said<'_>> {
    let parts = authorization.strip_prefix(VERSION)?;
    let part = |name: &str| {
        let mut parts = parts.split(',').map(str::trim);
        parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
    };
    let (key_id, scope) = part("Credential")?.split_once('/')?;
    let additional = part("AdditionalHeaders");
    // No document has an empty list.
    (additional != Some("")).then_some(Said {
        key_id,
        scope,
        additional: additional.unwrap_or_default(),
        signature: part("Signature")?,
    })
}

fn signature(asked: &Asked, said: &Said<'_>, secret: &str) -> Option<String> {
    let time = asked.header("x-oss-date")?;
    let day = time.split('T').next()?;
    let end = format!("{day}/{}/oss/aliyun_v4_request", OssServer::REGION);
    if said.scope != end {
        return None;
    }
    let request = digest::digest(
        &digest::SHA256,
        canonical(asked, said.additional)?.as_bytes(),
    );
    let to_sign = format!(
        "{VERSION}\n{time}\n{}\n{}",
        said.scope,
        hex(request.as_ref())
    );
    let mut key = format!("aliyun_v4{secret}").into_bytes();
    for part in said.scope.split('/') {
        key = signed(&key, part);
    }
    Some(hex(&signed(&key, &to_sign)))
}

fn signed(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

/// The request as it is signed.
fn canonical(asked: &Asked, additional: &str) -> Option<String> {
    let resource = format!("/{}/{}", asked.bucket, asked.key);
    let query = asked.query.iter().map(|(name, value)| {
        let [name, value] = [name, value].map(|text| utf8_percent_encode(text, ESCAPED));
        (name.to_string(), value.to_string())
    });
    let mut query: Vec<_> = query.collect();
    query.sort_unstable();
    let query = query.into_iter().map(|(name, value)| match value.as_str() {
        "" => name,
        value => format!("{name}={value}"),
    });
    let is_signed = |name: &str| {
        name.starts_with("x-oss-")
            || ["content-type", "content-md5"].contains(&name)
            || additional.split(';').any(|other| other == name)
    };
    let headers = asked
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value));
    let mut headers: Vec<_> = headers.filter(|(name, _)| is_signed(name)).collect();
    headers.sort_by_key(|(name, _)| *name);
    let mut lines = String::new();
    for (name, value) in headers {
        lines += &format!("{name}:{}\n", value.to_str().ok()?.trim());
    }
    Some(format!(
        "{}\n{}\n{}\n{lines}\n{additional}\n{}",
        asked.method,
        utf8_percent_encode(&resource, ESCAPED_BUT_SLASHES),
        query.collect::<Vec<_>>().join("&"),
        asked.header("x-oss-content-sha256")?,
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
