//! A server that answers as Alibaba's documentation of OSS has it. There is no emulator of theirs or of anybody
//! else's; that two clients which know nothing of each other, the official Litestream's and Evertide's, get along
//! with it is all that there is to say for it.

mod answer;
mod bucket;
mod request;
mod signature;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming};
use tokio_util::sync::DropGuard;

use self::{bucket::Bucket, request::Asked};
use crate::serve::{Body, serve};

/// How often a part looks for others that are under way, a hundredth of a second apart.
const PATIENCE: u32 = 1_000;

/// A server with one bucket in memory, stopped when dropped. It accepts only requests that are signed in the
/// fourth version, for its region.
///
/// It takes requests to itself, with the bucket in their path, and as an HTTP proxy those to a host whose name
/// begins with the bucket.
#[derive(Debug)]
pub struct OssServer {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
    _running: DropGuard,
}

#[derive(Debug)]
struct Shared {
    versioned: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bucket: Bucket,
    answered: Vec<String>,
    parts: Parts,
}

/// Parts of uploads that are under way at a time.
#[derive(Debug, Default)]
struct Parts {
    now: usize,
    most: usize,
    /// How many wait for each other.
    awaited: usize,
}

impl Parts {
    fn are_there(&self) -> bool {
        self.most >= self.awaited
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// One more part, which waits for others.
    async fn others(&self) {
        {
            let parts = &mut self.state().parts;
            parts.now += 1;
            parts.most = parts.most.max(parts.now);
        }
        for _ in 0..PATIENCE {
            if self.state().parts.are_there() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl OssServer {
    /// The bucket that is there.
    pub const BUCKET: &'static str = "replicas";
    /// The region it is in.
    pub const REGION: &'static str = "eu-central-1";
    /// The only access key's identity.
    pub const KEY_ID: &'static str = "LTAIEXAMPLE12345";
    /// And the key.
    pub const KEY_SECRET: &'static str = "SECRETSECRETSECRET";
    /// The identity of an access key that is taken with a security token only.
    pub const TEMPORARY_ID: &'static str = "STS.EXAMPLE12345";
    /// And the key.
    pub const TEMPORARY_SECRET: &'static str = "TEMPORARYTEMPORARY";
    /// And the token.
    pub const SECURITY_TOKEN: &'static str = "TOKENTOKENTOKENTOKEN";

    /// Starts a server on a free port.
    ///
    /// # Panics
    ///
    /// When there is no port, or no thread.
    pub fn start() -> Self {
        Self::with(false)
    }

    /// Starts one whose bucket keeps versions, and so takes no notice of who must not overwrite what.
    ///
    /// # Panics
    ///
    /// As [`OssServer::start`].
    pub fn start_versioned() -> Self {
        Self::with(true)
    }

    fn with(versioned: bool) -> Self {
        let shared = Arc::new(Shared {
            versioned,
            state: Mutex::default(),
        });
        let theirs = Arc::clone(&shared);
        let answer = move |request| answer(Arc::clone(&theirs), request);
        let (address, running) = serve("oss", answer).expect("a port and a thread");
        Self {
            address,
            shared,
            _running: running,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The keys of all objects.
    pub fn keys(&self) -> Vec<String> {
        self.shared.state().bucket.keys()
    }

    /// User metadata of an object.
    pub fn metadata(&self, key: &str, name: &str) -> Option<String> {
        self.shared.state().bucket.metadata(key, name)
    }

    /// Uploads in parts that were begun and neither completed nor given up.
    pub fn uploads(&self) -> usize {
        self.shared.state().bucket.uploads()
    }

    /// Answers no part of an upload before so many have been under way at a time, or a while has passed.
    pub fn wait_for_parts(&self, count: usize) {
        self.shared.state().parts.awaited = count;
    }

    /// The most parts of uploads that were under way at a time.
    pub fn most_parts(&self) -> usize {
        self.shared.state().parts.most
    }

    /// Takes what was asked and answered since the last call: the method, what of (`PUT object`), the status and
    /// the host that was asked.
    pub fn take_answered(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.state().answered)
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let asked = Asked::read(head, body);
    let is_part = asked.what() == "partNumber";
    if is_part {
        shared.others().await;
    }
    let mut state = shared.state();
    state.parts.now -= usize::from(is_part);
    let answer = answer::to(&asked, &mut state.bucket, shared.versioned);
    let status = answer.status().as_u16();
    let line = format!("{} {} {status} {}", asked.method, asked.what(), asked.host);
    state.answered.push(line);
    Ok(answer.map(whole))
}

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed()
}
