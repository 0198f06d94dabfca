//! What Azure Blob Storage says of the time of a request, by "Authorize with Shared Key" of its documentation; its
//! emulator does not look.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::HeaderMap;

/// The time from which on a request is too old.
const OLDEST: Duration = Duration::from_secs(15 * 60);

/// The content of the answer to a request that is too old, or has no time.
pub(super) fn too_old(headers: &HeaderMap) -> Option<Bytes> {
    let date = headers.get("x-ms-date").and_then(|date| date.to_str().ok());
    let date = date.unwrap_or_default();
    #[allow(clippy::disallowed_methods)] // the clock of the machine, as it is for who signed it
    let oldest = SystemTime::now() - OLDEST;
    match httpdate::parse_http_date(date).is_ok_and(|date| date > oldest) {
        true => None,
        false => Some(Bytes::from(format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>AuthenticationFailed</Code>\
             <Message>Server failed to authenticate the request. Make sure the value of Authorization header is \
             formed correctly including the signature.</Message>\
             <AuthenticationErrorDetail>Request date header too old: '{date}'</AuthenticationErrorDetail></Error>"
        ))),
    }
}
