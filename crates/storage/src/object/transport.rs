//! How requests get to a server: given up when nothing moves, however long an upload takes, and not repeated sooner than the
//! server asks for. One that is refused where the clock shows another time says so.

use std::{
    error,
    time::{Duration, SystemTime},
};

use futures_util::stream;
use http::{Request, Response, StatusCode, header};
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport};
use opendal_http_transport_reqwest::ReqwestTransport;

use crate::{tls::Certificates, web};

/// What has more to send is watched on its way.
const LONG: usize = 256 << 10;
/// Stores accept requests that were signed a quarter of an hour ago, and some no tokens that are signed in a few
/// minutes from now.
const SKEW: Duration = Duration::from_secs(5 * 60);
/// What an error of a request says that was refused by a server whose clock shows another time.
pub(super) const WRONG_CLOCK: &str = "by the server's clock, this machine's is";

/// Connections to servers.
#[derive(Debug)]
pub(super) struct Connections {
    /// For requests that are answered soon.
    http: ReqwestTransport,
    /// For those that may take long to send, and are answered after that.
    uploads: reqwest::Client,
}

impl Connections {
    pub(super) fn new(
        certificates: Certificates,
    ) -> Result<Self, Box<dyn error::Error + Send + Sync>> {
        Ok(Self {
            http: ReqwestTransport::new(web::client(certificates)?),
            uploads: web::uploads(certificates)?,
        })
    }

    async fn upload(&self, request: Request<Buffer>) -> Result<Response<HttpBody>, Error> {
        let (mut parts, body) = request.into_parts();
        parts
            .headers
            .insert(header::CONTENT_LENGTH, body.len().into());
        let (body, taken) = web::watched(body);
        let request = self.uploads.request(parts.method, parts.uri.to_string());
        let answer = answer(request.headers(parts.headers).body(body));
        match web::while_moving(answer, taken).await {
            Ok(answer) => answer.map_err(|error| failed().set_source(error.without_url())),
            Err(stalled) => Err(failed().set_source(stalled)),
        }
    }
}

impl HttpTransport for Connections {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>, Error> {
        let response = match request.body().len() {
            0..=LONG => self.http.fetch(request).await,
            _ => self.upload(request).await,
        }?;
        #[allow(clippy::disallowed_methods)] // what signs requests knows no other clock
        refused_by_clock(response, SystemTime::now())
    }
}

/// A refusal by a server in whose opinion it is another time is an error that says so. Not every store says why it
/// refuses a request, or in words of its own; what time it is there all of them say (RFC 9110, section 6.6.1).
fn refused_by_clock(
    response: Response<HttpBody>,
    now: SystemTime,
) -> Result<Response<HttpBody>, Error> {
    let status = response.status();
    let refused = [
        StatusCode::BAD_REQUEST,
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
    ];
    if !refused.contains(&status) {
        return Ok(response);
    }
    let date = response.headers().get(header::DATE);
    let date = date.and_then(|date| date.to_str().ok());
    let Some(there) = date.and_then(web::time) else {
        return Ok(response);
    };
    let (by, way) = match now.duration_since(there) {
        Ok(ahead) => (ahead, "ahead"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if by <= SKEW {
        return Ok(response);
    }
    let by = humantime::format_duration(Duration::from_secs(by.as_secs()));
    let what = format!("the server answered {status}; {WRONG_CLOCK} {by} {way}");
    Err(Error::new(ErrorKind::PermissionDenied, what))
}

/// The whole answer, which is short.
async fn answer(request: reqwest::RequestBuilder) -> reqwest::Result<Response<HttpBody>> {
    let answer = request.send().await?;
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        headers.clone_from(answer.headers());
    }
    let content = answer.bytes().await?;
    let size = content.len() as u64;
    let content = stream::iter([Ok(Buffer::from(content))]);
    let body = HttpBody::new(content, Some(size));
    Ok(response
        .body(body)
        .expect("the parts are those of a response"))
}

fn failed() -> Error {
    Error::new(ErrorKind::Unexpected, "send http request").set_temporary()
}

/// Leaves a server alone for as long as it asks for (`Retry-After`), which OpenDAL does not: passes its answer on only
/// when that time is over, so that the next try comes after it.
#[derive(Debug)]
pub(super) struct Patient<T>(pub(super) T);

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
pub(super) async fn heard(
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

    #[test]
    fn what_is_refused_by_another_time_is_said_to_be() {
        let time = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        // What the server answers, and when by the clock here; it is 12:00:00 there.
        let noon = 1_795_953_600;
        let said = |status, date: Option<&str>, now: u64| {
            let mut response = Response::builder().status(status);
            if let Some(date) = date {
                response = response.header(header::DATE, date);
            }
            let body = HttpBody::new(stream::iter([Ok(Buffer::new())]), None);
            let response = response.body(body).unwrap();
            refused_by_clock(response, time(now)).err().map(|error| {
                assert!(!error.is_temporary());
                error.to_string()
            })
        };
        let date = Some("Sun, 29 Nov 2026 12:00:00 GMT");
        for status in [400, 401, 403] {
            let ahead = said(status, date, noon + 3_600).unwrap();
            assert!(ahead.contains("this machine's is 1h ahead"), "{ahead}");
            let behind = said(status, date, noon - 301).unwrap();
            assert!(
                behind.contains("this machine's is 5m 1s behind"),
                "{behind}"
            );
            assert_eq!(said(status, date, noon + 300), None);
            assert_eq!(said(status, date, noon - 300), None);
            assert_eq!(said(status, None, 0), None);
            assert_eq!(said(status, Some("at noon"), 0), None);
        }
        for status in [200, 206, 301, 404, 409, 412, 429, 500, 503] {
            assert_eq!(said(status, date, 0), None, "{status}");
        }
    }

    #[tokio::test]
    async fn an_upload_takes_as_long_as_it_takes_and_is_given_up_when_nothing_moves() {
        let connections = Connections::new(Certificates::Checked).unwrap();
        web::slow::check(async |url, content| {
            let request = Request::put(url).body(Buffer::from(content)).unwrap();
            let mut answer = connections.fetch(request).await?;
            assert_eq!(answer.status(), StatusCode::OK);
            let said = answer.body_mut().to_buffer().await?;
            assert_eq!(said.to_bytes(), "done");
            Ok::<_, Error>(())
        })
        .await;
    }
}
