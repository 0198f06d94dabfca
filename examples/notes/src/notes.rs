//! The notes and their table.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS notes (
        id INTEGER PRIMARY KEY,
        text TEXT NOT NULL,
        important INTEGER NOT NULL,
        written_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M', 'now'))
    )";

/// One note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Its number.
    pub id: i64,
    /// What it says.
    pub text: String,
    /// Whether saving it waited for the replicas.
    pub important: bool,
    /// When it was written, in UTC.
    pub written_at: String,
}

/// The notes in one SQLite database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notes(Arc<Mutex<Connection>>);

impl Notes {
    /// Opens the database, with the pragmas recommended for one that is backed up, and makes the table
    /// where it is missing.
    pub fn open(path: impl AsRef<Path>) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.execute_batch(&evertide::recommended_pragmas())?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Adds a note and returns its number.
    pub async fn add(&self, text: String, important: bool) -> anyhow::Result<i64> {
        self.run(move |connection| {
            let insert = "INSERT INTO notes (text, important) VALUES (?1, ?2)";
            connection.execute(insert, (text, important))?;
            Ok(connection.last_insert_rowid())
        })
        .await
    }

    /// The newest notes, newest first.
    pub async fn newest(&self, limit: u32) -> anyhow::Result<Vec<Note>> {
        self.run(move |connection| {
            let query =
                "SELECT id, text, important, written_at FROM notes ORDER BY id DESC LIMIT ?1";
            let mut statement = connection.prepare_cached(query)?;
            let notes = statement.query_map([limit], |row| {
                Ok(Note {
                    id: row.get(0)?,
                    text: row.get(1)?,
                    important: row.get(2)?,
                    written_at: row.get(3)?,
                })
            })?;
            notes.collect()
        })
        .await
    }

    /// How many there are.
    pub async fn count(&self) -> anyhow::Result<u32> {
        self.run(|connection| {
            connection.query_row("SELECT count(*) FROM notes", (), |row| row.get(0))
        })
        .await
    }

    /// Deletes a note, if it is still there.
    pub async fn delete(&self, id: i64) -> anyhow::Result<()> {
        self.run(move |connection| connection.execute("DELETE FROM notes WHERE id = ?1", [id]))
            .await?;
        Ok(())
    }

    /// SQLite blocks, so it runs on a thread that may.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let connection = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            // A panic in between leaves no transaction open: each call is one statement.
            work(&connection.lock().unwrap_or_else(PoisonError::into_inner))
        });
        Ok(done.await??)
    }
}
