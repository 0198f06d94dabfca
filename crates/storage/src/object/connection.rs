//! Connections to a store, by OpenDAL.

use std::{io, time::Duration};

use opendal::{Builder, Error, ErrorKind, HttpTransporter, OperationContext, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;
use opendal_layer_retry::RetryLayer;

use crate::web;

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
        .with_jitter();
    Ok(Operator::new(builder)?.with_context(context).layer(retry))
}

pub(super) fn transport() -> Result<HttpTransporter, Error> {
    let client = web::client().map_err(|error| {
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
