//! The table as the Go framework makes, writes and reads it. Its statements, not its words: the
//! schema is the published format, the two queries are what its store does.

use evertide_vault::ConfigFormat;
use rusqlite::Connection;

use crate::{Place, read, save};

const GO_SCHEMA: &str = "CREATE TABLE app_config (
        id INTEGER PRIMARY KEY AUTOINCREMENT, scope TEXT NOT NULL, content BLOB NOT NULL,
        format TEXT NOT NULL DEFAULT 'toml', description TEXT,
        created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')));
    CREATE INDEX idx_app_config_created ON app_config(created_at DESC);";

const GO_INSERT: &str =
    "INSERT INTO app_config (scope, content, format, description) VALUES (?, ?, ?, ?)";

const GO_GET: &str = "SELECT content, format FROM app_config WHERE scope = ?
    ORDER BY created_at DESC, id DESC LIMIT 1 OFFSET ?";

/// Columns with types, constraints and defaults; index with its order.
fn shape(connection: &Connection) -> Vec<String> {
    let sql = "SELECT printf('%s %s %d %s %d', name, type, \"notnull\", dflt_value, pk)
            FROM pragma_table_xinfo('app_config')
        UNION ALL SELECT printf('%s %d %s', name, \"desc\", coll)
            FROM pragma_index_xinfo('idx_app_config_created') WHERE key
        UNION ALL SELECT 'autoincrement ' || (sql LIKE '%AUTOINCREMENT%')
            FROM sqlite_schema WHERE name = 'app_config'";
    let mut statement = connection.prepare(sql).unwrap();
    statement
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

#[test]
fn our_table_is_the_go_frameworks_table() {
    let place = Place::new();
    save(&place.store(), "text");
    let theirs = Connection::open_in_memory().unwrap();
    theirs.execute_batch(GO_SCHEMA).unwrap();
    assert_eq!(shape(&place.connect()), shape(&theirs));
    assert_eq!(shape(&theirs).len(), 8);
}

#[test]
fn rows_of_both_make_one_history() {
    let place = Place::new();
    let go = place.connect();
    go.execute_batch(GO_SCHEMA).unwrap();
    let encrypt = |text: &str| place.key().encrypt(text.as_bytes()).unwrap();
    go.execute(GO_INSERT, ("litestream", encrypt("go 1"), "yml", ""))
        .unwrap();
    save(&place.store(), "rust 2");
    go.execute(
        GO_INSERT,
        ("litestream", encrypt("go 3"), "toml", "Rollback"),
    )
    .unwrap();

    let store = place.store();
    assert_eq!(
        [0, 1, 2].map(|generation| read(&store, generation)),
        ["go 3", "rust 2", "go 1"]
    );
    let history = store.history("litestream").unwrap();
    assert_eq!(history[2].format, ConfigFormat::Yaml);
    assert_eq!(history[2].description, None);

    for (generation, expected) in ["go 3", "rust 2", "go 1"].into_iter().enumerate() {
        let row = (("litestream"), generation as i64);
        let content: Vec<u8> = go.query_row(GO_GET, row, |row| row.get(0)).unwrap();
        let plain = place.key().decrypt(&content, "the row").unwrap();
        assert_eq!(plain.as_str().unwrap(), expected);
    }
}

#[test]
fn both_agree_on_the_newest_row_after_the_clock_stepped_back() {
    let place = Place::new();
    save(&place.store(), "from the future");
    let go = place.connect();
    go.execute(
        "UPDATE app_config SET created_at = '2999-01-01T00:00:00Z'",
        [],
    )
    .unwrap();
    let encrypted = place.key().encrypt(b"from now").unwrap();
    go.execute(GO_INSERT, ("litestream", encrypted, "toml", ""))
        .unwrap();
    assert_eq!(read(&place.store(), 0), "from the future");
    assert_eq!(read(&place.store(), 1), "from now");
}
