//! Serving HTTP on loopback, on a thread of its own.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// Answers requests on a free port until the guard is dropped, which ends every connection. An error ends the
/// connection that it is of, without an answer.
///
/// # Errors
///
/// When there is no port, or no thread.
pub(crate) fn serve<F>(
    name: &str,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> io::Result<(SocketAddr, DropGuard)>
where
    F: Future<Output = io::Result<Response<Body>>> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let stopped = stop.clone();
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            // Ending the runtime ends every connection.
            runtime.block_on(stopped.run_until_cancelled(accept(listener, answer)))
        })?;
    Ok((address, stop.drop_guard()))
}

async fn accept<F>(
    listener: TcpListener,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> io::Result<()>
where
    F: Future<Output = io::Result<Response<Body>>> + Send + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (connection, _) = listener.accept().await?;
        let answer = answer.clone();
        tokio::spawn(async move {
            // A connection that ends half-way is nothing new to a server.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(connection), service_fn(answer))
                .await;
        });
    }
}
