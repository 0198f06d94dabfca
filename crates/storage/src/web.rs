//! Connections to stores that speak HTTP.

use std::{
    convert::Infallible,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::stream;
use reqwest::{
    Body,
    header::{HeaderMap, RETRY_AFTER},
};

use crate::tls::{self, Certificates};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing moves for so long is given up.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of an upload that are watched as one.
const PIECE: usize = 64 << 10;

/// What is asked for by `Retry-After` and longer is left to the caller, who knows what else there is to do.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long the server asks to be left alone, where it says so in seconds.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(seconds.trim().parse().ok()?))
}

/// A time as HTTP has it, `Mon, 12 Jan 1998 09:25:56 GMT`.
pub(crate) fn time(text: &str) -> Option<SystemTime> {
    let parsed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text);
    Some(parsed.ok()?.into())
}

/// Nothing moved for so long that a request was given up.
#[derive(Debug, thiserror::Error)]
#[error("the server took nothing for {} s", READ_TIMEOUT.as_secs())]
pub(crate) struct Stalled;

/// Content on its way to a server, and how many bytes of it were taken so far.
pub(crate) fn watched(
    content: impl Iterator<Item = Bytes> + Send + 'static,
) -> (Body, impl Fn() -> u64) {
    let taken = Arc::new(AtomicU64::new(0));
    let count = taken.clone();
    let pieces = content.flat_map(|mut whole| {
        std::iter::from_fn(move || {
            let piece = whole.split_to(whole.len().min(PIECE));
            (!piece.is_empty()).then_some(piece)
        })
    });
    let pieces = pieces.map(move |piece| {
        count.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Ok::<_, Infallible>(piece)
    });
    let body = Body::wrap_stream(stream::iter(pieces));
    (body, move || taken.load(Ordering::Relaxed))
}

/// Waits as long as something moves.
pub(crate) async fn while_moving<T>(
    work: impl Future<Output = T>,
    moved: impl Fn() -> u64,
) -> Result<T, Stalled> {
    let mut work = std::pin::pin!(work);
    loop {
        let before = moved();
        match tokio::time::timeout(READ_TIMEOUT, &mut work).await {
            Ok(done) => return Ok(done),
            Err(_) if moved() > before => {}
            Err(_) => return Err(Stalled),
        }
    }
}

/// Connections for requests that are answered soon: they have [`READ_TIMEOUT`] from their first byte on.
pub(crate) fn client(
    certificates: Certificates,
) -> Result<reqwest::Client, Box<dyn Error + Send + Sync>> {
    Ok(builder(certificates)?.read_timeout(READ_TIMEOUT).build()?)
}

/// Connections for uploads, which take as long as they take: for [`while_moving`].
pub(crate) fn uploads(
    certificates: Certificates,
) -> Result<reqwest::Client, Box<dyn Error + Send + Sync>> {
    Ok(builder(certificates)?.build()?)
}

fn builder(
    certificates: Certificates,
) -> Result<reqwest::ClientBuilder, Box<dyn Error + Send + Sync>> {
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls::config(certificates)?)
        // What is to be stored would become a question, and keys in headers would go wherever the answer says.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT))
}

#[cfg(test)]
pub(crate) mod fixed {
    //! A server that gives each request the same answer.

    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    /// Where it is, and how often it was asked.
    pub(crate) async fn start(answer: String) -> (String, Arc<AtomicU32>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    if matches!(connection.read_buf(&mut request).await, Ok(0) | Err(_)) {
                        break;
                    }
                }
                let answer =
                    format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = connection.write_all(answer.as_bytes()).await;
            }
        });
        (url, asked)
    }

    #[tokio::test]
    async fn no_request_goes_where_an_answer_says() {
        let (elsewhere, asked_elsewhere) = start("200 OK".into()).await;
        for status in [
            "301 Moved",
            "302 Found",
            "303 See Other",
            "307 Temporary",
            "308 Permanent",
        ] {
            let (url, asked) = start(format!("{status}\r\nlocation: {elsewhere}")).await;
            for client in [super::client, super::uploads] {
                let client = client(super::Certificates::Checked).unwrap();
                let request = client
                    .put(&url)
                    .header("x-amz-server-side-encryption-customer-key", "k");
                let answer = request.body("content").send().await.unwrap();
                assert_eq!(&status[..3], answer.status().as_str());
                let answer = client.get(&url).send().await.unwrap();
                assert_eq!(&status[..3], answer.status().as_str());
            }
            assert_eq!(asked.load(Ordering::Relaxed), 4);
        }
        assert_eq!(asked_elsewhere.load(Ordering::Relaxed), 0);
    }
}

#[cfg(test)]
pub(crate) mod slow {
    //! A server that takes uploads slowly, by a clock that moves only when it says so.

    use std::sync::mpsc;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, copy, sink},
        net::{TcpListener, TcpSocket},
        task::JoinHandle,
        time::{Instant, advance},
    };

    use super::{Bytes, Duration, READ_TIMEOUT};

    /// An upload that no buffer on its way can hold.
    const LENGTH: usize = 32 << 20;
    /// Bytes that the server takes at a time.
    const MOUTHFUL: u64 = 1 << 20;

    /// Starts one that takes so many mouthfuls before it takes the rest and answers, so long for each; or never more.
    fn start(mouthfuls: Option<u64>, pause: Duration) -> (String, JoinHandle<()>) {
        let socket = TcpSocket::new_v4().unwrap();
        // What is on its way counts as taken.
        socket.set_recv_buffer_size(64 << 10).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (url, tokio::spawn(take(listener, mouthfuls, pause)))
    }

    async fn take(listener: TcpListener, mouthfuls: Option<u64>, pause: Duration) {
        let (mut connection, _) = listener.accept().await.unwrap();
        let Some(mouthfuls) = mouthfuls else {
            loop {
                advance(pause).await;
            }
        };
        for _ in 0..mouthfuls {
            let mut mouthful = (&mut connection).take(MOUTHFUL);
            let taken = copy(&mut mouthful, &mut sink()).await;
            assert_eq!(taken.unwrap(), MOUTHFUL);
            advance(pause).await;
        }
        let mut rest = (&mut connection).take(LENGTH as u64 - mouthfuls * MOUTHFUL);
        copy(&mut rest, &mut sink()).await.unwrap();
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
        connection.write_all(answer.as_bytes()).await.unwrap();
        // The head of the request made it a little longer.
        let _ = copy(&mut connection, &mut sink()).await;
    }

    /// Checks that an upload takes as long as it takes, and is given up when nothing moves.
    pub(crate) async fn check<E: std::fmt::Debug>(
        upload: impl AsyncFn(String, Bytes) -> Result<(), E>,
    ) {
        tokio::time::pause();
        // The clock does not move by itself as long as there is blocking work.
        let (done, work) = mpsc::channel::<()>();
        let work = tokio::task::spawn_blocking(move || work.recv());
        let content = Bytes::from(vec![7; LENGTH]);

        let begun = Instant::now();
        let (url, mut server) = start(Some(31), READ_TIMEOUT / 10);
        tokio::select! {
            uploaded = upload(url, content.clone()) => uploaded.unwrap(),
            ended = &mut server => panic!("the connection was given up: {ended:?}"),
        }
        assert!(begun.elapsed() > 3 * READ_TIMEOUT);
        server.abort();

        let (url, server) = start(None, READ_TIMEOUT / 10);
        upload(url, content).await.unwrap_err();
        server.abort();
        drop(done);
        let _ = work.await;
    }
}
