//! Requests to a WebDAV share, and what its answers mean.

use std::{
    error::Error,
    io, iter,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{
    Body, Client, Method, RequestBuilder, Response, StatusCode,
    header::{self, HeaderMap},
};
use tokio::time::sleep;

use super::listing::{self, Entry};
use crate::{
    ByteStream, Secret, collect,
    stream::exactly,
    tls::{self, Certificates},
    web,
};

/// Everything but slashes and what RFC 3986 never has escaped.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');
/// Tries of one request, with a pause that doubles.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A listing is some hundred bytes for each file.
const LONGEST_LISTING: usize = 256 << 20;

/// Why a request did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the server answered {0}")]
    Answer(StatusCode),
    #[error("{text}")]
    Connection { text: String, hint: &'static str },
    #[error(transparent)]
    Stalled(#[from] web::Stalled),
    #[error("the answer cannot be read: {0}")]
    Nonsense(String),
    #[error("{sent} bytes were sent and {stored} stored")]
    CutShort { sent: u64, stored: u64 },
    #[error("the answer is too long")]
    TooLong,
    /// The body failed, and the server is not to blame.
    #[error("{0}")]
    Body(io::Error),
}

impl Failure {
    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Answer(status) => Some(*status),
            _ => None,
        }
    }

    /// What the user can do about it.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Answer(StatusCode::UNAUTHORIZED) => {
                "; check user and password, and that the server takes them as they are (\"Basic\")"
            }
            Self::Answer(StatusCode::FORBIDDEN) => {
                "; check what the user may do there: list, read, write, move, delete"
            }
            Self::Answer(StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)
            | Self::Nonsense(_) => "; check that the URL leads to a WebDAV share",
            Self::Connection { hint, .. } => hint,
            Self::Answer(StatusCode::INSUFFICIENT_STORAGE) => "; make room on the share",
            Self::Answer(StatusCode::LENGTH_REQUIRED) | Self::CutShort { .. } => {
                "; the server does not take uploads of unknown length (\"chunked\"): allow them in its \
                 settings, or in those of the proxy before it"
            }
            _ => "",
        }
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        let hint = tls::hint(&error).unwrap_or_default();
        // The location has the URL already; the cause is at the end of the chain.
        let error = error.without_url();
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Self::Connection { text, hint }
    }
}

/// A folder of a server, and who to be there. Paths are below that folder and without escapes; those of
/// folders end with a slash.
#[derive(Clone)]
pub(super) struct Share {
    http: Client,
    /// For uploads, whose answer comes when they are over.
    uploads: Client,
    /// URL of the server, without a slash at its end.
    server: String,
    /// Path of the folder, without slashes at its ends.
    root: String,
    user: Option<(String, Option<Secret>)>,
}

impl Share {
    pub(super) fn new(
        server: &str,
        root: &str,
        user: Option<(String, Option<Secret>)>,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(Self {
            http: web::client(Certificates::Checked)?,
            uploads: web::uploads(Certificates::Checked)?,
            server: server.to_owned(),
            root: root.to_owned(),
            user,
        })
    }

    fn url(&self, path: &str) -> String {
        let whole = format!("{}/{path}", self.root);
        let whole = whole.trim_start_matches('/');
        format!("{}/{}", self.server, utf8_percent_encode(whole, IN_PATH))
    }

    fn request(&self, client: &Client, method: &str, path: &str) -> RequestBuilder {
        // All that are used are methods.
        let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
        let request = client.request(method, self.url(path));
        match &self.user {
            Some((name, password)) => {
                request.basic_auth(name, password.as_ref().map(Secret::expose))
            }
            None => request,
        }
    }

    /// As [`Share::asked`], of a request that is answered soon.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, Failure> {
        self.asked(|| {
            let answer = request().send();
            async { Ok(answer.await?) }
        })
        .await
    }

    /// Asks, again where that may help, until there is an answer that is final.
    async fn asked<A: Future<Output = Result<Response, Failure>>>(
        &self,
        ask: impl Fn() -> A,
    ) -> Result<Response, Failure> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            let asked = match ask().await {
                Ok(answer) if is_final(answer.status()) => return Ok(answer),
                Ok(answer) => match web::retry_after(answer.headers()) {
                    Some(asked) if asked > web::LONGEST_PAUSE => return Ok(answer),
                    asked => asked.unwrap_or_default(),
                },
                Err(_) => Duration::ZERO,
            };
            // Those that failed together do not come back together.
            sleep(asked + pause.mul_f64(0.5 + fastrand::f64())).await;
            pause *= 2;
        }
        ask().await
    }

    /// As [`Share::send`], for requests that are to succeed.
    async fn succeed(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, Failure> {
        succeeded(self.send(request).await?)
    }

    /// As [`Share::succeed`], with the content of the answer, for which it is sent again where that breaks off.
    async fn whole(
        &self,
        request: impl Fn() -> RequestBuilder,
        longest: usize,
    ) -> Result<(HeaderMap, Bytes), Failure> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            let (headers, body) = sized(self.succeed(&request).await?);
            match collect(body, longest).await {
                Ok(content) => return Ok((headers, content)),
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                    return Err(Failure::TooLong);
                }
                Err(_) => sleep(pause.mul_f64(0.5 + fastrand::f64())).await,
            }
            pause *= 2;
        }
        let (headers, body) = sized(self.succeed(&request).await?);
        match collect(body, longest).await {
            Ok(content) => Ok((headers, content)),
            Err(error) => Err(Failure::Connection {
                text: error.to_string(),
                hint: "",
            }),
        }
    }

    /// What is in a folder, `None` where there is none.
    pub(super) async fn list(&self, folder: &str) -> Result<Option<Vec<Entry>>, Failure> {
        let request = || {
            self.request(&self.http, "PROPFIND", folder)
                .header("Depth", "1")
                .header(header::CONTENT_TYPE, "application/xml; charset=utf-8")
                .body(listing::REQUEST)
        };
        let xml = match self.whole(request, LONGEST_LISTING).await {
            Ok((_, xml)) => xml,
            Err(Failure::Answer(StatusCode::NOT_FOUND)) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let nonsense = |error: &dyn std::fmt::Display| Failure::Nonsense(error.to_string());
        let xml = std::str::from_utf8(&xml).map_err(|error| nonsense(&error))?;
        Ok(Some(listing::read(xml).map_err(|error| nonsense(&error))?))
    }

    /// Size of a file in bytes; `None` where there is none.
    pub(super) async fn size(&self, path: &str) -> Result<Option<u64>, Failure> {
        let answer = self.succeed(|| self.request(&self.http, "HEAD", path));
        match answer.await {
            Ok(answer) => match number(answer.headers(), header::CONTENT_LENGTH) {
                Some(size) => Ok(Some(size)),
                None => Err(Failure::Nonsense("it has no length".into())),
            },
            Err(Failure::Answer(StatusCode::NOT_FOUND)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Asks for a file, or for a range of it that is not empty.
    pub(super) async fn get(
        &self,
        path: &str,
        range: Option<&Range<u64>>,
    ) -> Result<Response, Failure> {
        self.succeed(|| {
            let request = self.request(&self.http, "GET", path);
            match range {
                Some(Range { start, end }) => {
                    request.header(header::RANGE, format!("bytes={start}-{}", end - 1))
                }
                None => request,
            }
        })
        .await
    }

    /// Headers and content of a file that is not longer than that.
    pub(super) async fn get_whole(
        &self,
        path: &str,
        longest: usize,
    ) -> Result<(HeaderMap, Bytes), Failure> {
        self.whole(|| self.request(&self.http, "GET", path), longest)
            .await
    }

    /// Stores a file, in place of what is there. With a version in `only_over`, only of that.
    pub(super) async fn put(
        &self,
        path: &str,
        content: Bytes,
        modified: Option<SystemTime>,
        only_over: Option<&str>,
    ) -> Result<(), Failure> {
        let put = || {
            let mut request = dated(self.request(&self.uploads, "PUT", path), modified);
            if let Some(version) = only_over {
                request = request.header(header::IF_MATCH, version);
            }
            let (body, taken) = web::watched(iter::once(content.clone()));
            let request = request.header(header::CONTENT_LENGTH, content.len());
            let answer = web::while_moving(request.body(body).send(), taken);
            async { Ok(answer.await??) }
        };
        succeeded(self.asked(put).await?).map(drop)
    }

    /// Stores a file of unknown length, in place of what is there; its size in bytes.
    pub(super) async fn put_stream(
        &self,
        path: &str,
        body: ByteStream,
        modified: Option<SystemTime>,
    ) -> Result<u64, Failure> {
        let sent = Arc::new(AtomicU64::new(0));
        let broken = Arc::new(Mutex::new(None));
        let body = {
            let (sent, broken) = (sent.clone(), broken.clone());
            body.map(move |chunk| match chunk {
                Ok(chunk) => {
                    sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    Ok(chunk)
                }
                Err(error) => {
                    *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    Err("the body failed")
                }
            })
        };
        let request = dated(self.request(&self.uploads, "PUT", path), modified);
        let answer = web::while_moving(request.body(Body::wrap_stream(body)).send(), || {
            sent.load(Ordering::Relaxed)
        });
        let answer = answer.await;
        let broken = broken.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(error) = broken {
            return Err(Failure::Body(error));
        }
        succeeded(answer??)?;
        let sent = sent.load(Ordering::Relaxed);
        // Some servers store nothing of such a body, and say that all is well.
        match self.size(path).await?.unwrap_or(0) {
            stored if stored == sent => Ok(sent),
            stored => Err(Failure::CutShort { sent, stored }),
        }
    }

    /// Gives a file another name that no other has.
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        let rename = || {
            self.request(&self.http, "MOVE", from)
                .header("Destination", self.url(to))
                .header("Overwrite", "F")
        };
        all_of_it(self.succeed(rename).await?)
    }

    /// Deletes a file. One that is not there is no error.
    pub(super) async fn delete(&self, path: &str) -> Result<(), Failure> {
        let deleted = self.succeed(|| self.request(&self.http, "DELETE", path));
        match deleted.await {
            Err(Failure::Answer(StatusCode::NOT_FOUND)) => Ok(()),
            deleted => all_of_it(deleted?),
        }
    }

    /// Makes a folder, and those it is to be in.
    pub(super) async fn make_folder(&self, folder: &str) -> Result<(), Failure> {
        let whole = Self {
            root: String::new(),
            ..self.clone()
        };
        let path = format!("{}/{folder}", self.root);
        let mut missing = vec![path.trim_start_matches('/')];
        while let Some(&folder) = missing.last() {
            let made = whole.succeed(|| whole.request(&whole.http, "MKCOL", folder));
            match made.await {
                Ok(_) | Err(Failure::Answer(StatusCode::METHOD_NOT_ALLOWED)) => {
                    missing.pop();
                }
                Err(Failure::Answer(StatusCode::CONFLICT | StatusCode::NOT_FOUND))
                    if let Some(parent) = parent(folder)
                        && !missing.contains(&parent) =>
                {
                    missing.push(parent);
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }
}

/// The folder that a folder is in.
fn parent(folder: &str) -> Option<&str> {
    let end = folder.trim_end_matches('/').rfind('/')?;
    folder.get(..=end)
}

/// The headers of an answer, and its content, which ends with an error where it is shorter than they say.
fn sized(answer: Response) -> (HeaderMap, ByteStream) {
    let headers = answer.headers().clone();
    let body = content(answer);
    match number(&headers, header::CONTENT_LENGTH) {
        Some(size) => (headers, exactly(size, body)),
        None => (headers, body),
    }
}

/// The content of an answer.
pub(super) fn content(answer: Response) -> ByteStream {
    let failed = |error| io::Error::other(Failure::from(error));
    Box::pin(answer.bytes_stream().map_err(failed))
}

pub(super) fn number(headers: &HeaderMap, name: header::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// Keeps the time of a file where the server knows how (Nextcloud, ownCloud, rclone).
fn dated(request: RequestBuilder, modified: Option<SystemTime>) -> RequestBuilder {
    let seconds = modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    match seconds {
        Some(seconds) => request.header("X-OC-Mtime", seconds.as_secs()),
        None => request,
    }
}

fn succeeded(answer: Response) -> Result<Response, Failure> {
    match answer.status() {
        status if status.is_success() => Ok(answer),
        status => Err(Failure::Answer(status)),
    }
}

/// Of what changes something: a 207 says of what it was not done (RFC 4918, 9.6.1 and 9.9.4).
fn all_of_it(answer: Response) -> Result<(), Failure> {
    match answer.status() {
        StatusCode::MULTI_STATUS => Err(Failure::Answer(StatusCode::MULTI_STATUS)),
        _ => Ok(()),
    }
}

/// Whether asking again gives no other answer.
fn is_final(status: StatusCode) -> bool {
    !status.is_server_error()
        && ![
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::LOCKED,
            StatusCode::TOO_MANY_REQUESTS,
        ]
        .contains(&status)
        || [
            StatusCode::NOT_IMPLEMENTED,
            StatusCode::INSUFFICIENT_STORAGE,
        ]
        .contains(&status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_done_in_part_is_not_done() {
        let (url, _) = web::fixed::start("207 Multi-Status".into()).await;
        let share = Share::new(&url, "", None).unwrap();
        for done in [share.rename("a", "b").await, share.delete("a").await] {
            let failed = matches!(done, Err(Failure::Answer(StatusCode::MULTI_STATUS)));
            assert!(failed, "{done:?}");
        }
    }

    #[tokio::test]
    async fn an_upload_takes_as_long_as_it_takes_and_is_given_up_when_nothing_moves() {
        web::slow::check(async |url, content| {
            let share = Share::new(&url, "", None).unwrap();
            share.put("object", content, None, None).await
        })
        .await;
    }
}
