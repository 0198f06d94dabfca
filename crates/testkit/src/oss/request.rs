//! What is asked, and of which object.

use bytes::Bytes;
use hyper::{HeaderMap, Method, header::HOST, http::request::Parts};
use percent_encoding::percent_decode_str;

#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    /// Whom was asked.
    pub(super) host: String,
    pub(super) bucket: String,
    /// Empty for the bucket itself.
    pub(super) key: String,
    /// Decoded.
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Asked {
    pub(super) fn read(head: Parts, body: Bytes) -> Self {
        let of_header = head.headers.get(HOST).and_then(|host| host.to_str().ok());
        let of_proxy = head.uri.authority().map(|host| host.as_str());
        let host = of_proxy.or(of_header).unwrap_or_default().to_owned();
        let path = decoded(head.uri.path().trim_start_matches('/'));
        // An address has no names below it.
        let (bucket, key) = match host.split_once('.') {
            Some((bucket, _)) if !bucket.bytes().all(|byte| byte.is_ascii_digit()) => {
                (bucket.to_owned(), path)
            }
            _ => match path.split_once('/') {
                Some((bucket, key)) => (bucket.to_owned(), key.to_owned()),
                None => (path, String::new()),
            },
        };
        let pairs = head.uri.query().unwrap_or_default().split('&');
        let pairs = pairs.filter(|pair| !pair.is_empty());
        let query = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(&value.replace('+', " ")))
        });
        Self {
            method: head.method,
            host,
            bucket,
            key,
            query: query.collect(),
            headers: head.headers,
            body,
        }
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What is asked about, in a word.
    pub(super) fn what(&self) -> &'static str {
        const WORDS: [&str; 5] = ["list-type", "delete", "uploads", "partNumber", "uploadId"];
        let word = WORDS
            .into_iter()
            .find(|word| self.parameter(word).is_some());
        word.unwrap_or("object")
    }
}

pub(super) fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}
