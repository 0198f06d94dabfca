//! Connections to a store, by OpenDAL.

use std::{io, time::Duration};

use opendal::{Builder, Error, ErrorKind, HttpTransporter, OperationContext, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;
use opendal_layer_retry::{RetryEvent, RetryLayer};

use crate::{tls::Certificates, web};

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
    let client = web::client(certificates).map_err(|error| {
        Error::new(ErrorKind::ConfigInvalid, "cannot set up connections")
            .set_source(io::Error::other(error))
    })?;
    Ok(HttpTransporter::new(ReqwestTransport::new(client)))
}

/// A variable of the environment that is set, and not to nothing.
#[cfg(feature = "gcs")]
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
