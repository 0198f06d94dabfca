//! Connections to a store, by OpenDAL.

use std::{io, time::Duration};

#[cfg(any(feature = "s3", feature = "oss"))]
use http::HeaderValue;
use http::{Request, Response, StatusCode, header};
use opendal::{
    Buffer, Builder, Error, ErrorKind, HttpBody, HttpTransport, HttpTransporter, OperationContext,
    Operator,
};
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
    let connections = ReqwestTransport::new(client);
    Ok(HttpTransporter::new(Patient(connections)))
}

/// Leaves a server alone for as long as it asks for (`Retry-After`), which OpenDAL does not: passes its answer on only
/// when that time is over, so that the next try comes after it.
#[derive(Debug)]
struct Patient<T>(T);

impl<T: HttpTransport> HttpTransport for Patient<T> {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>, Error> {
        let response = self.0.fetch(request).await?;
        let status = response.status();
        let is_busy = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ]
        .contains(&status);
        let asked = web::retry_after(response.headers()).filter(|_| is_busy);
        match asked {
            None => Ok(response),
            Some(asked) if asked <= web::LONGEST_PAUSE => {
                // The server may end the connection meanwhile.
                let response = heard(response, Buffer::clone).await;
                tokio::time::sleep(asked).await;
                response
            }
            // An error that lasts: who knows what else there is to do is told at once.
            Some(asked) => {
                let asked = asked.as_secs();
                let what = format!(
                    "the server answered {status}, and asks to be left alone for {asked} s"
                );
                Err(Error::new(ErrorKind::RateLimited, what))
            }
        }
    }
}

/// An answer whose content has come, changed like this.
async fn heard(
    response: Response<HttpBody>,
    change: impl Fn(&Buffer) -> Buffer,
) -> Result<Response<HttpBody>, Error> {
    let (mut parts, mut body) = response.into_parts();
    let said = change(&body.to_buffer().await?);
    parts.headers.remove(header::CONTENT_LENGTH);
    let size = said.len() as u64;
    let said = futures_util::stream::iter([Ok(said)]);
    Ok(Response::from_parts(parts, HttpBody::new(said, Some(size))))
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

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "what it says";

    /// A server that always answers this.
    #[derive(Clone, Debug)]
    struct Answers(u16, Option<&'static str>);

    impl HttpTransport for Answers {
        async fn fetch(&self, _: Request<Buffer>) -> Result<Response<HttpBody>, Error> {
            let said = futures_util::stream::iter([Ok(Buffer::from(SAID))]);
            let mut response = Response::builder().status(self.0);
            if let Some(asked) = self.1 {
                response = response.header(header::RETRY_AFTER, asked);
            }
            Ok(response.body(HttpBody::new(said, None)).unwrap())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_for_it_is_left_alone_for_a_while() {
        // The answer, what it asks for, and how many seconds later it is passed on.
        let cases = [
            (429, Some("3"), Some(3)),
            (503, Some("10"), Some(10)),
            (503, None, Some(0)),
            (429, Some("soon"), Some(0)),
            (200, Some("3"), Some(0)),
            (500, Some("3"), Some(0)),
            (503, Some("11"), None),
        ];
        for (status, asked, passed_on) in cases {
            let begun = tokio::time::Instant::now();
            let server = Patient(Answers(status, asked));
            let answer = server.fetch(Request::default()).await;
            let waited = begun.elapsed().as_secs();
            match (answer, passed_on) {
                (Ok(mut answer), Some(seconds)) => {
                    assert_eq!(waited, seconds, "{status} {asked:?}");
                    assert_eq!(answer.status(), status);
                    let said = answer.body_mut().to_buffer().await.unwrap();
                    assert_eq!(said.to_bytes(), SAID);
                }
                (Err(error), None) => {
                    assert!(waited == 0 && !error.is_temporary(), "{error}");
                    assert!(error.to_string().contains("left alone for 11 s"), "{error}");
                }
                (answer, _) => panic!("{status} {asked:?}: {:?}", answer.map(|_| ())),
            }
        }
    }
}
