//! The application of the demo: a small web application whose backup runs inside it. Its own
//! process, so that it can be killed.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use evertide::{CONFIG_SCOPE, DatabaseStatus, Durability, Replication, recommended_pragmas};
use evertide_server::{BackupDaemon, Server};
use evertide_vault::AgeKeyFile;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::{
    args::{DemoAppArgs, LogArgs, LogFormat, LogLevel},
    commands::block_on,
    logs, output,
};

/// An order, as clients send it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Order {
    pub(super) item: String,
    /// Answer only when every replica has it.
    pub(super) durable: bool,
}

/// The answer to an order.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Placed {
    pub(super) id: i64,
    /// From the commit to the moment every replica had it, in microseconds.
    pub(super) lag_us: Option<u64>,
}

/// What the application says when it is ready.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Ready {
    pub(super) address: std::net::SocketAddr,
}

/// What the application knows of its backup.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Status {
    pub(super) txid: String,
    pub(super) uploads: u64,
    pub(super) uploaded_bytes: u64,
    pub(super) database_bytes: u64,
    pub(super) rotations: u64,
}

impl From<DatabaseStatus> for Status {
    fn from(status: DatabaseStatus) -> Self {
        Self {
            txid: status.txid.to_string(),
            uploads: status.replicas.iter().map(|replica| replica.uploads).sum(),
            uploaded_bytes: status
                .replicas
                .iter()
                .map(|replica| replica.uploaded_bytes)
                .sum(),
            database_bytes: u64::from(status.pages) * u64::from(status.page_size),
            rotations: status.rotations,
        }
    }
}

#[derive(Clone)]
struct App {
    database: Arc<Mutex<Connection>>,
    backup: Replication,
}

/// Runs the application until it is told to end.
pub(crate) fn demo_app(args: &DemoAppArgs) -> anyhow::Result<()> {
    // What goes wrong is in the answers too; the demo says the rest in plain words.
    logs::start(LogArgs {
        log_level: LogLevel::Error,
        log_format: LogFormat::Text,
    });
    block_on(serve(args))
}

async fn serve(args: &DemoAppArgs) -> anyhow::Result<()> {
    // This is all that an application does to be backed up: load the settings, add the daemon, run.
    let key = AgeKeyFile::new(&args.age_key);
    let daemon = BackupDaemon::from_store(&args.db, key, CONFIG_SCOPE).await?;
    let app = App {
        database: Arc::new(Mutex::new(open(&args.db)?)),
        backup: daemon.replication(),
    };
    let router = Router::new()
        .route("/orders", post(place))
        .route("/backup", get(backup))
        .with_state(app);
    let server = Server::new(router)
        .listen(([127, 0, 0, 1], 0))
        .add_daemon(daemon);
    let handle = server.handle();
    tokio::spawn(async move {
        if let Ok(Some(address)) = handle.serving().await
            && let Ok(ready) = serde_json::to_string(&Ready { address })
        {
            // Where the demo has ended there is nobody to serve.
            if output::line(ready).is_err() {
                handle.shut_down();
            }
        }
    });
    Ok(server.run().await?)
}

fn open(path: &Path) -> anyhow::Result<Connection> {
    let open = || {
        let database = Connection::open(path)?;
        database.pragma_update(None, "journal_mode", "WAL")?;
        database.execute_batch(&recommended_pragmas())?;
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS orders (
               id INTEGER PRIMARY KEY AUTOINCREMENT,
               item TEXT NOT NULL,
               placed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')));
             CREATE INDEX IF NOT EXISTS orders_by_item ON orders(item);",
        )?;
        Ok::<_, rusqlite::Error>(database)
    };
    open().with_context(|| format!("cannot open {}", path.display()))
}

async fn place(State(app): State<App>, Json(order): Json<Order>) -> Result<Json<Placed>, Failed> {
    let database = Arc::clone(&app.database);
    let inserted = tokio::task::spawn_blocking(move || {
        let database = database.lock().unwrap_or_else(PoisonError::into_inner);
        database.execute("INSERT INTO orders (item) VALUES (?1)", [&order.item])?;
        Ok::<_, rusqlite::Error>(database.last_insert_rowid())
    });
    let id = inserted.await??;
    let committed = Instant::now();
    let mut lag_us = None;
    if order.durable {
        app.backup.wait_durable(Durability::All).await?;
        lag_us = u64::try_from(committed.elapsed().as_micros()).ok();
    }
    Ok(Json(Placed { id, lag_us }))
}

async fn backup(State(app): State<App>) -> Json<Status> {
    Json(app.backup.status().into())
}

/// Any error, as 500.
struct Failed(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("{:#}", self.0)).into_response()
    }
}
