//! Routes and handlers: forms in, redirects and one page out.

use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Form, Path, Query, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use evertide::{Durability, Replication};
use maud::Markup;
use serde::Deserialize;

use crate::notes::Notes;
use crate::page::{self, Outcome};

/// The page lists this many.
const LISTED: u32 = 100;

/// An important note waits this long for its replicas before the page says that they are behind.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
struct App {
    notes: Notes,
    backup: Replication,
}

/// The application, over a database that `backup` replicates.
pub fn router(notes: Notes, backup: Replication) -> Router {
    Router::new()
        .route("/", get(show))
        .route("/notes", post(add))
        .route("/notes/{id}/delete", post(delete))
        .route("/style.css", get(style))
        .layer(middleware::from_fn(guard))
        .with_state(App { notes, backup })
}

#[derive(Debug, Deserialize)]
struct NewNote {
    text: String,
    /// A checkbox: sent only when it is checked.
    important: Option<String>,
}

/// Saves a note. An important one is confirmed only when it is on every replica: lose this machine a
/// moment later, and the note is still there.
async fn add(State(app): State<App>, Form(new): Form<NewNote>) -> Result<Redirect, Failed> {
    let text = new.text.trim();
    if text.is_empty() || text.chars().count() > page::LONGEST_NOTE {
        return Ok(Redirect::to("/?outcome=refused"));
    }
    let important = new.important.is_some();
    app.notes.add(text.to_owned(), important).await?;
    if !important {
        return Ok(Redirect::to("/?outcome=saved"));
    }
    let began = Instant::now();
    match tokio::time::timeout(PATIENCE, app.backup.wait_durable(Durability::All)).await {
        Ok(Ok(_txid)) => {
            let ms = began.elapsed().as_millis();
            Ok(Redirect::to(&format!("/?outcome=durable&ms={ms}")))
        }
        // It is saved here and will be replicated: say so, do not make the user send it twice.
        Ok(Err(error)) => {
            tracing::warn!(%error, "an important note is not on every replica yet");
            Ok(Redirect::to("/?outcome=behind"))
        }
        Err(_elapsed) => Ok(Redirect::to("/?outcome=behind")),
    }
}

async fn delete(State(app): State<App>, Path(id): Path<i64>) -> Result<Redirect, Failed> {
    app.notes.delete(id).await?;
    Ok(Redirect::to("/?outcome=deleted"))
}

#[derive(Debug, Deserialize)]
struct Shown {
    outcome: Option<Outcome>,
    ms: Option<u64>,
}

async fn show(State(app): State<App>, Query(shown): Query<Shown>) -> Result<Markup, Failed> {
    let (notes, count) = (app.notes.newest(LISTED).await?, app.notes.count().await?);
    Ok(page::notes(
        &notes,
        count,
        shown.outcome,
        shown.ms,
        &app.backup.status(),
    ))
}

async fn style() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/css")],
        include_str!("style.css"),
    )
}

/// Refuses forms sent by other sites, and tells the browser to run and load nothing but our style sheet.
async fn guard(request: Request, next: Next) -> Response {
    let from = request
        .headers()
        .get("sec-fetch-site")
        .map(HeaderValue::as_bytes);
    let foreign = !matches!(from, None | Some(b"same-origin" | b"none"));
    if foreign && request.method() == Method::POST {
        return (StatusCode::FORBIDDEN, "this form came from another site\n").into_response();
    }
    let mut response = next.run(request).await;
    let policy = "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; frame-ancestors 'none'";
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(policy),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("same-origin"),
    );
    response
}

/// Whatever a handler cannot mend: details go to the log, not to the page.
struct Failed(anyhow::Error);

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        tracing::error!(error = format!("{:#}", self.0), "a request failed");
        (StatusCode::INTERNAL_SERVER_ERROR, page::failed()).into_response()
    }
}
