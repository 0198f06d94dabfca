//! Connections to a store, by OpenDAL.

use std::{io, time::Duration};

#[cfg(any(feature = "s3", feature = "oss"))]
use http::{HeaderValue, Response};
#[cfg(any(feature = "s3", feature = "oss"))]
use opendal::{Buffer, HttpBody};
use opendal::{Builder, Error, ErrorKind, HttpTransporter, OperationContext, Operator};
use opendal_layer_retry::{RetryEvent, RetryLayer};

#[cfg(any(feature = "s3", feature = "oss"))]
use super::transport::heard;
use super::transport::{Connections, Patient};
use crate::tls::Certificates;

/// How often a request is tried again, at first after [`FIRST_PAUSE`], then after twice as long each
/// time: for three seconds in all.
const RETRIES: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The store that a builder describes.
pub(super) fn operator(
    builder: impl Builder,
    transport: HttpTransporter,
) -> Result<Operator, Error> {
    let context = OperationContext::new().with_http_transport(transport);
    // For the moment: a connection that has died meanwhile, a server that is busy. What lasts longer
    // is for the caller, who knows what else there is to do.
    let retry = RetryLayer::new()
        .with_min_delay(FIRST_PAUSE)
        .with_max_times(RETRIES)
        .with_jitter()
        .with_notify(tried_again);
    Ok(Operator::new(builder)?.with_context(context).layer(retry))
}

/// What may yet work is no news; what lasts is an error of the caller's, who says it once. What the store's
/// client says of it is left out here, since that quotes URLs as they were signed.
fn tried_again(event: RetryEvent<'_>) {
    tracing::debug!(
        request = ?event.op,
        error = %event.err.kind(),
        attempt = event.attempt,
        pause = ?event.retry_after,
        "a request failed; trying again"
    );
}

/// Connections to servers that have to prove who they are.
pub(super) fn transport() -> Result<HttpTransporter, Error> {
    transport_to(Certificates::Checked)
}

pub(super) fn transport_to(certificates: Certificates) -> Result<HttpTransporter, Error> {
    let connections = Connections::new(certificates).map_err(|error| {
        Error::new(ErrorKind::ConfigInvalid, "cannot set up connections")
            .set_source(io::Error::other(error))
    })?;
    Ok(HttpTransporter::new(Patient(connections)))
}

/// An error of a server without this secret of the request: some quote what they were asked, to say that a signature
/// is not right.
#[cfg(any(feature = "s3", feature = "oss"))]
pub(super) async fn unquoted(
    response: Response<HttpBody>,
    secret: Option<HeaderValue>,
) -> Result<Response<HttpBody>, Error> {
    let status = response.status();
    let secret = secret.as_ref().and_then(|secret| secret.to_str().ok());
    let secret = secret.filter(|_| status.is_client_error() || status.is_server_error());
    let Some(secret) = secret.filter(|secret| !secret.is_empty()) else {
        return Ok(response);
    };
    let without = |said: &Buffer| {
        let said = said.to_bytes();
        Buffer::from(String::from_utf8_lossy(&said).replace(secret, "…"))
    };
    heard(response, without).await
}

/// A variable of the environment that is set, and not to nothing.
#[cfg(any(feature = "azure", feature = "gcs"))]
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
