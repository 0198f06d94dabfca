//! The table `app_config`, byte for byte that of the Go framework: rows are inserted, never
//! updated. The generations of a scope count from its newest row, in the order both
//! implementations use: by time, then by id.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{ConfigFormat, ConfigInfo};

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS app_config (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    scope TEXT NOT NULL,
    content BLOB NOT NULL,
    format TEXT NOT NULL DEFAULT 'toml',
    description TEXT,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);
CREATE INDEX IF NOT EXISTS idx_app_config_created ON app_config(created_at DESC);
";

const COLUMNS: [&str; 6] = [
    "id",
    "scope",
    "content",
    "format",
    "description",
    "created_at",
];

type Result<T> = rusqlite::Result<T>;

/// A row to insert.
pub(crate) struct NewRow<'a> {
    pub(crate) scope: &'a str,
    pub(crate) encrypted: &'a [u8],
    pub(crate) format: &'a str,
    pub(crate) description: Option<&'a str>,
}

pub(crate) fn create(connection: &Connection) -> Result<()> {
    connection.execute_batch(CREATE)
}

/// Whether the table is there and ours.
pub(crate) enum Shape {
    Missing,
    Ours,
    Foreign { missing: &'static str },
}

pub(crate) fn shape(connection: &Connection) -> Result<Shape> {
    let mut statement = connection.prepare("SELECT name FROM pragma_table_info('app_config')")?;
    let names = statement
        .query_map([], |row| row.get(0))?
        .collect::<Result<Vec<String>>>()?;
    if names.is_empty() {
        return Ok(Shape::Missing);
    }
    let missing = COLUMNS
        .into_iter()
        .find(|column| !names.iter().any(|name| name == column));
    Ok(missing.map_or(Shape::Ours, |missing| Shape::Foreign { missing }))
}

/// Inserts a row so that it is generation 0 of its scope, and returns its id.
///
/// After the clock has stepped back, "now" can be before the newest row; the row then takes
/// that row's time, and its greater id makes it the newer of the two.
pub(crate) fn insert(connection: &Connection, row: &NewRow<'_>) -> Result<i64> {
    connection.execute(
        "INSERT INTO app_config (scope, content, format, description, created_at)
         VALUES (?1, ?2, ?3, ?4, max(strftime('%Y-%m-%dT%H:%M:%SZ', 'now'),
             coalesce((SELECT max(created_at) FROM app_config WHERE scope = ?1), '')))",
        params![row.scope, row.encrypted, row.format, row.description],
    )?;
    Ok(connection.last_insert_rowid())
}

const SELECT: &str = "SELECT id, scope, format, description, created_at, length(content)
    FROM app_config WHERE scope = ?1 ORDER BY created_at DESC, id DESC";

/// The rows of a scope, newest first.
pub(crate) fn history(connection: &Connection, scope: &str) -> Result<Vec<ConfigInfo>> {
    let mut statement = connection.prepare(SELECT)?;
    let mut rows = statement.query([scope])?;
    let mut history = Vec::new();
    while let Some(row) = rows.next()? {
        let generation = u32::try_from(history.len()).unwrap_or(u32::MAX);
        history.push(info(row, generation)?);
    }
    Ok(history)
}

/// One row of a scope.
pub(crate) fn find(
    connection: &Connection,
    scope: &str,
    generation: u32,
) -> Result<Option<ConfigInfo>> {
    let mut statement = connection.prepare(&format!("{SELECT} LIMIT 1 OFFSET ?2"))?;
    statement
        .query_row(params![scope, generation], |row| info(row, generation))
        .optional()
}

pub(crate) fn versions(connection: &Connection, scope: &str) -> Result<u32> {
    let sql = "SELECT count(*) FROM app_config WHERE scope = ?1";
    connection.query_row(sql, [scope], |row| row.get(0))
}

/// What is stored in a row; a text as its bytes.
pub(crate) fn content(connection: &Connection, id: i64) -> Result<Vec<u8>> {
    let sql = "SELECT CAST(content AS BLOB) FROM app_config WHERE id = ?1";
    connection.query_row(sql, [id], |row| row.get(0))
}

pub(crate) fn scopes(connection: &Connection) -> Result<Vec<String>> {
    let mut statement = connection.prepare("SELECT DISTINCT scope FROM app_config ORDER BY 1")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

fn info(row: &Row<'_>, generation: u32) -> Result<ConfigInfo> {
    let format: String = row.get(2)?;
    let description: Option<String> = row.get(3)?;
    let size: i64 = row.get(5)?;
    Ok(ConfigInfo {
        id: row.get(0)?,
        scope: row.get(1)?,
        generation,
        format: ConfigFormat::from_name(&format),
        description: description.filter(|text| !text.is_empty()),
        created_at: row.get(4)?,
        stored_bytes: u64::try_from(size).unwrap_or(0),
    })
}
