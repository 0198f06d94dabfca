//! One request on its way to the server, and the answer on its way back.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    client::conn::http1,
    header::{HOST, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, TRANSFER_ENCODING},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::sleep};

use super::{Answered, Fault, LEFT_ALONE, Shared, dates};
use crate::serve::Body;

/// Answers a request. It goes on when the client goes, as what a network has accepted does. An error
/// ends the client's connection without an answer.
pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> io::Result<Response<Body>> {
    let read = usize::from(request.method() == Method::GET);
    {
        let mut state = shared.state();
        state.under_way += 1;
        state.reads += read;
        state.most_reads = state.most_reads.max(state.reads);
    }
    let answer = tokio::spawn(async move {
        let answer = forward(&shared, request).await;
        let mut state = shared.state();
        state.under_way -= 1;
        state.reads -= read;
        drop(state);
        answer
    });
    answer.await?
}

async fn forward(shared: &Shared, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (fault, wait, keeps, minds_dates) = {
        let mut state = shared.state();
        let fault = state.next();
        let wait = Duration::from_millis(state.random.u64(1..500));
        (fault, wait, state.keeps, state.minds_dates)
    };
    match fault {
        Some(Fault::Refused) => return Err(cut()),
        Some(Fault::InternalError) => return refused(request, 500).await,
        Some(Fault::Unavailable) => return refused(request, 503).await,
        Some(Fault::TooManyRequests) => return refused(request, 429).await,
        Some(Fault::Slow) => sleep(wait).await,
        Some(Fault::VerySlow) => sleep(Duration::from_secs(3)).await,
        Some(Fault::Silent) => std::future::pending().await,
        _ => {}
    }
    if keeps && request.method() == Method::DELETE {
        return refused(request, 204).await;
    }
    if minds_dates && let Some(why) = dates::too_old(request.headers()) {
        let mut answer = refused(request, 403).await?;
        *answer.body_mut() = whole(why);
        return Ok(answer);
    }
    let (mut head, body) = request.into_parts();
    head.headers.remove(TRANSFER_ENCODING);
    let host = head.headers.get(HOST).cloned();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let (method, uri) = (head.method.clone(), head.uri.to_string());
    let body = match fault {
        Some(Fault::RequestCut) if body.is_empty() => return Err(cut()),
        Some(Fault::RequestCut) => half(&body),
        _ => whole(body),
    };
    let answer = ask(shared, Request::from_parts(head, body)).await?;
    shared.state().answered.push(Answered {
        method,
        uri,
        status: answer.status(),
    });
    let (mut head, body) = answer.into_parts();
    // It is all there by now.
    head.headers.remove(TRANSFER_ENCODING);
    lead_here(&mut head.headers, shared.server, host.as_ref());
    let body = match fault {
        Some(Fault::AnswerLost) => return Err(cut()),
        Some(Fault::AnswerCut) if body.is_empty() => return Err(cut()),
        Some(Fault::AnswerCut) => half(&body),
        _ => whole(body),
    };
    Ok(Response::from_parts(head, body))
}

/// What the server wants to be asked next comes this way, too.
fn lead_here(headers: &mut HeaderMap, server: SocketAddr, here: Option<&HeaderValue>) {
    let location = headers.get(LOCATION).and_then(|url| url.to_str().ok());
    let here = here.and_then(|here| here.to_str().ok());
    if let (Some(location), Some(here)) = (location, here) {
        let location = location.replacen(&server.to_string(), here, 1);
        if let Ok(location) = HeaderValue::try_from(location) {
            headers.insert(LOCATION, location);
        }
    }
}

async fn ask(shared: &Shared, request: Request<Body>) -> io::Result<Response<Bytes>> {
    let connection = TokioIo::new(TcpStream::connect(shared.server).await?);
    let (mut sender, connection) = http1::handshake(connection)
        .await
        .map_err(io::Error::other)?;
    let answer = async {
        let answer = sender.send_request(request).await;
        let (head, body) = answer.map_err(io::Error::other)?.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection may end as soon as all of the answer is there.
        _ = connection => answer.await,
    }
}

/// An answer that the server knows nothing of. The request is read, as a server does.
async fn refused(request: Request<Incoming>, status: u16) -> io::Result<Response<Body>> {
    let _ = request.into_body().collect().await;
    let status = StatusCode::from_u16(status).map_err(io::Error::other)?;
    let mut answer = Response::new(whole(Bytes::new()));
    *answer.status_mut() = status;
    if status == StatusCode::TOO_MANY_REQUESTS {
        let seconds = LEFT_ALONE.as_secs().into();
        answer.headers_mut().insert(RETRY_AFTER, seconds);
    }
    Ok(answer)
}

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed()
}

/// The first half, and then the end of the connection, since the length that was announced is not
/// reached.
fn half(body: &Bytes) -> Body {
    let first = Ok(Frame::data(body.slice(..body.len() / 2)));
    BodyExt::boxed(StreamBody::new(stream::iter([first, Err(cut())])))
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "cut by the fault proxy")
}
