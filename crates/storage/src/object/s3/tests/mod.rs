//! What requests look like, in front of a server that records them.

mod credentials;
mod parts;
mod requests;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Method, Request, Response};
use opendal::{Buffer, Error, HttpBody, HttpTransport, HttpTransporter};
use reqsign_core::StaticEnv;

use super::{super::ObjectClient, *};

/// A key to encrypt with.
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
/// What a request says that is encrypted with it.
const WITH_KEY: [Option<&str>; 3] = [Some("AES256"), Some(KEY), Some("hRasmdxgYDKV3nvbahU1MA==")];

/// An answer: status, headers, body.
type Answer = (u16, Vec<(&'static str, String)>, String);

fn ok(body: impl Into<String>) -> Answer {
    (200, vec![("etag", "\"1\"".to_owned())], body.into())
}

/// What a request that succeeds is answered with.
fn success(request: &Request<Buffer>) -> Answer {
    match (request.method(), request.uri().query().unwrap_or_default()) {
        (&Method::POST, query) if query.starts_with("delete") => {
            ok("<DeleteResult></DeleteResult>")
        }
        (&Method::POST, query) if query.starts_with("uploads") => {
            let result = "InitiateMultipartUploadResult";
            ok(format!("<{result}><UploadId>1</UploadId></{result}>"))
        }
        (&Method::POST, _) => ok("<CompleteMultipartUploadResult><ETag>1</ETag>\
                                  </CompleteMultipartUploadResult>"),
        (&Method::DELETE, _) => (204, Vec::new(), String::new()),
        (&Method::HEAD, _) => (200, vec![("content-length", "7".to_owned())], String::new()),
        _ => ok(""),
    }
}

/// Records requests, and answers them in turn; with success where no answer is left.
#[derive(Clone, Default)]
struct Server {
    requests: Arc<Mutex<Vec<Request<Buffer>>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    /// How long it thinks about each request.
    thinks: Duration,
    /// Requests under way, and the most that were at a time.
    under_way: Arc<Mutex<[usize; 2]>>,
}

impl HttpTransport for Server {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>, Error> {
        let answer = self.answers.lock().unwrap().pop_front();
        let (status, headers, body) = answer.unwrap_or_else(|| success(&request));
        self.requests.lock().unwrap().push(request);
        if !self.thinks.is_zero() {
            {
                let [now, most] = &mut *self.under_way.lock().unwrap();
                *now += 1;
                *most = (*most).max(*now);
            }
            tokio::time::sleep(self.thinks).await;
            self.under_way.lock().unwrap()[0] -= 1;
        }
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        let size = body.len() as u64;
        let body = futures_util::stream::iter([Ok(Buffer::from(body))]);
        Ok(response.body(HttpBody::new(body, Some(size))).unwrap())
    }
}

impl Server {
    fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        let server = Self::default();
        server.answers.lock().unwrap().extend(answers);
        server
    }

    /// A client of this server with these options in this environment.
    fn client(&self, options: &S3Options, environment: StaticEnv) -> ObjectClient {
        let (_, provider) = options.server(&environment);
        let transport = HttpTransporter::new(self.clone());
        let operator = options.operator(environment, transport.clone(), transport);
        ObjectClient::connect(options.to_string(), options.dialect(provider), operator).unwrap()
    }

    /// The requests so far, each with its method, its URL and its headers.
    fn seen(&self) -> Vec<Seen> {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(Seen::new).collect()
    }
}

struct Seen {
    method: Method,
    url: String,
    headers: HashMap<String, String>,
}

impl Seen {
    fn new(request: &Request<Buffer>) -> Self {
        let headers = request.headers().iter();
        Self {
            method: request.method().clone(),
            url: request.uri().to_string(),
            headers: headers
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .collect(),
        }
    }

    /// The key to encrypt with that the request says, with how it is to be used.
    fn customer_key(&self) -> [Option<&str>; 3] {
        ["algorithm", "key", "key-md5"]
            .map(|name| self.header(&format!("x-amz-server-side-encryption-customer-{name}")))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The access key and the region that the request is signed with.
    fn signed(&self) -> (&str, &str) {
        let signature = self.header("authorization").expect("it is signed");
        let (_, rest) = signature.split_once("Credential=").unwrap();
        let mut parts = rest.split('/');
        let (key, _date, region) = (parts.next(), parts.next(), parts.next());
        (key.unwrap(), region.unwrap())
    }
}

fn nowhere(variables: &[(&str, &str)]) -> StaticEnv {
    let mut envs: HashMap<_, _> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    envs.insert("AWS_EC2_METADATA_DISABLED".into(), "true".into());
    StaticEnv {
        home_dir: None,
        envs,
    }
}

/// Options with an access key.
fn options(endpoint: Option<&str>) -> S3Options {
    let mut options = S3Options::new("bucket", "app");
    options.endpoint = endpoint.map(str::to_owned);
    options.access_key_id = Some(Secret::new("AKID"));
    options.secret_access_key = Some(Secret::new("secret"));
    options
}

async fn put(client: &ObjectClient, key: &str, content: &'static [u8]) {
    let body = futures_util::stream::iter([Ok(bytes::Bytes::from_static(content))]);
    let created = std::time::SystemTime::UNIX_EPOCH;
    let size = client.put_stream(key, created, Box::pin(body)).await;
    assert_eq!(size.unwrap(), content.len() as u64);
}
