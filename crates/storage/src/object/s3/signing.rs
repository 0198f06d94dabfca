//! Requests on their way to the server: signed, and with what a provider wants besides.
//!
//! OpenDAL would sign them without their bodies, which many servers refuse. With the digest of its body
//! in the signature, a body that is damaged on its way is refused, too.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
    request::Parts, uri::Authority,
};
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport, HttpTransporter};
use reqsign_aws_v4::{Credential, RequestSigner};
use reqsign_core::Signer;

use super::{super::connection, credentials::Credentials};

const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
const STORAGE_CLASS: HeaderName = HeaderName::from_static("x-amz-storage-class");
const SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
/// How the server encrypts with a key that it has.
const MANAGED_ENCRYPTION: [HeaderName; 2] = [
    HeaderName::from_static("x-amz-server-side-encryption"),
    HeaderName::from_static("x-amz-server-side-encryption-aws-kms-key-id"),
];
const BUCKET_REGION: &str = "x-amz-bucket-region";
/// What a server says to a request that is signed with what it does not know, or knows no longer.
const REFUSED: [StatusCode; 3] = [
    StatusCode::BAD_REQUEST,
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
];

/// Whether the bodies of requests are signed with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Payload {
    Signed,
    Unsigned,
}

/// Signs requests, and sends them.
pub(super) struct Signing {
    pub(super) transport: HttpTransporter,
    pub(super) credentials: Credentials,
    pub(super) region: Region,
    pub(super) payload: Payload,
    /// Requests may have a `Content-MD5`.
    pub(super) content_md5: bool,
    /// What every request says.
    pub(super) headers: &'static [(&'static str, &'static str)],
}

/// The region that requests are signed for.
pub(super) struct Region {
    /// The one that OpenDAL makes requests for.
    first: String,
    /// The one to sign for, where it is another; `None` where it was given, and nothing is to be learned.
    found: Option<Mutex<String>>,
}

impl Region {
    /// The region is this one.
    pub(super) fn given(region: String) -> Self {
        Self {
            first: region,
            found: None,
        }
    }

    /// The region is this one, unless Amazon says that the bucket has another.
    pub(super) fn guessed(region: String) -> Self {
        Self {
            found: Some(Mutex::new(region.clone())),
            first: region,
        }
    }

    /// The one that requests are made for at first.
    pub(super) fn first(&self) -> &str {
        &self.first
    }

    pub(super) fn is_guess(&self) -> bool {
        self.found.is_some()
    }

    fn current(&self) -> String {
        let found = self.found.as_ref();
        found.map_or_else(|| self.first.clone(), |found| locked(found).clone())
    }

    /// The bucket's region, where the answer to a request that was made for another says it.
    fn learn(&self, used: &str, status: StatusCode, headers: &HeaderMap) -> Option<String> {
        let found = self.found.as_ref()?;
        if ![StatusCode::MOVED_PERMANENTLY, StatusCode::BAD_REQUEST].contains(&status) {
            return None;
        }
        let region = headers.get(BUCKET_REGION)?.to_str().ok()?;
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if region == used || region.is_empty() || !region.bytes().all(letter) {
            return None;
        }
        region.clone_into(&mut locked(found));
        Some(region.to_owned())
    }
}

fn locked(region: &Mutex<String>) -> MutexGuard<'_, String> {
    region.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signing").finish_non_exhaustive()
    }
}

impl HttpTransport for Signing {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>, Error> {
        let response = self
            .ask(&self.credentials.signer(), request.clone())
            .await?;
        if !REFUSED.contains(&response.status()) {
            return Ok(response);
        }
        match self.credentials.find_again() {
            Some(signer) => self.ask(&signer, request).await,
            None => Ok(response),
        }
    }
}

impl Signing {
    /// Sends a request, and again to the region where the bucket turns out to be.
    async fn ask(
        &self,
        signer: &Signer<Credential>,
        request: Request<Buffer>,
    ) -> Result<Response<HttpBody>, Error> {
        let region = self.region.current();
        let response = self.send(signer, &region, request.clone()).await?;
        let right = self
            .region
            .learn(&region, response.status(), response.headers());
        match right {
            Some(right) => self.send(signer, &right, request).await,
            None => Ok(response),
        }
    }

    async fn send(
        &self,
        signer: &Signer<Credential>,
        region: &str,
        request: Request<Buffer>,
    ) -> Result<Response<HttpBody>, Error> {
        let (mut parts, body) = request.into_parts();
        self.prepare(region, &mut parts, &body)?;
        let signer = signer
            .clone()
            .with_request_signer(RequestSigner::new("s3", region));
        signer.sign(&mut parts, None).await.map_err(unsigned)?;
        // The connection knows better how to say it.
        parts.headers.remove(header::HOST);
        let token = parts.headers.get(SECURITY_TOKEN).cloned();
        let request = Request::from_parts(parts, body);
        connection::unquoted(self.transport.fetch(request).await?, token).await
    }

    fn prepare(&self, region: &str, parts: &mut Parts, body: &Buffer) -> Result<(), Error> {
        if region != self.region.first {
            parts.uri = moved(&parts.uri, &self.region.first, region)?;
        }
        if !self.content_md5 {
            parts.headers.remove(CONTENT_MD5);
        }
        // What is replaced every minute would be paid for a month each time in some classes.
        if !is_of_level(parts) {
            parts.headers.remove(STORAGE_CLASS);
        }
        // Named where the upload begins. Amazon refuses parts that name it again.
        if is_of_upload(parts) {
            for name in MANAGED_ENCRYPTION {
                parts.headers.remove(name);
            }
        }
        for (name, value) in self.headers {
            let name = HeaderName::from_static(name);
            parts.headers.insert(name, HeaderValue::from_static(value));
        }
        parts
            .headers
            .insert(CONTENT_SHA256, digest(self.payload, body)?);
        Ok(())
    }
}

/// Whether a request is about an upload in parts that was begun.
fn is_of_upload(parts: &Parts) -> bool {
    let query = parts.uri.query().unwrap_or_default();
    query
        .split('&')
        .any(|parameter| parameter.starts_with("uploadId="))
}

/// Whether a request is about a file of a level, not about a small object.
fn is_of_level(parts: &Parts) -> bool {
    parts.method != Method::GET && parts.uri.path().ends_with(".ltx")
}

/// What a request says of its body.
pub(super) fn digest(payload: Payload, body: &Buffer) -> Result<HeaderValue, Error> {
    if payload == Payload::Unsigned {
        return Ok(HeaderValue::from_static("UNSIGNED-PAYLOAD"));
    }
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    for piece in body.clone() {
        digest.update(&piece);
    }
    let digest = digest.finish();
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    HeaderValue::try_from(hex).map_err(malformed)
}

/// The same at Amazon's servers of another region.
fn moved(uri: &Uri, from: &str, to: &str) -> Result<Uri, Error> {
    let mut parts = uri.clone().into_parts();
    let authority = parts.authority.as_ref().map_or("", Authority::as_str);
    let authority = authority.replace(
        &format!(".{from}.amazonaws.com"),
        &format!(".{to}.amazonaws.com"),
    );
    parts.authority = Some(authority.parse().map_err(malformed)?);
    Uri::from_parts(parts).map_err(malformed)
}

fn malformed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unexpected, "cannot make a request").set_source(error)
}

/// Why a request could not be signed.
fn unsigned(error: reqsign_core::Error) -> Error {
    let temporary = error.is_retryable();
    let kind = match error.kind() {
        reqsign_core::ErrorKind::ConfigInvalid => ErrorKind::ConfigInvalid,
        reqsign_core::ErrorKind::RateLimited => ErrorKind::RateLimited,
        _ => ErrorKind::PermissionDenied,
    };
    Error::new(kind, "there are no credentials that work")
        .set_source(error)
        .with_temporary(temporary)
}
