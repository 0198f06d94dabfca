//! The comparison must find what a bad backup gets wrong, and nothing else.

// Tests damage databases on purpose, and a failed step of a test is a failed test.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use evertide_testkit::{
    AutoVacuum, Comparison, DatabaseOptions, Operation, TempDir, Writer, WriterOptions,
    assert_same_database, compare_databases, temp_dir,
};
use rusqlite::Connection;

struct Pair {
    dir: TempDir,
    left: PathBuf,
    right: PathBuf,
}

/// A database with a freelist, and a copy of it.
fn pair() -> Pair {
    let dir = temp_dir();
    let (left, right) = (dir.path().join("left.db"), dir.path().join("right.db"));
    let mut writer = Writer::open(&left, WriterOptions::seeded(1)).unwrap();
    writer.run_steps(300).unwrap();
    writer.perform(Operation::HugeTransaction).unwrap();
    writer.perform(Operation::DeleteMost).unwrap();
    drop(writer);
    checkpoint(&left);
    fs::copy(&left, &right).unwrap();
    Pair { dir, left, right }
}

fn checkpoint(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
}

fn pragma(path: &Path, name: &str) -> u32 {
    let connection = Connection::open(path).unwrap();
    connection
        .pragma_query_value(None, name, |row| row.get(0))
        .unwrap()
}

fn byte_of(path: &Path, offset: u64) -> u8 {
    let mut byte = [0];
    fs::File::open(path)
        .unwrap()
        .read_exact_at(&mut byte, offset)
        .unwrap();
    byte[0]
}

fn flip(path: &Path, offset: u64) {
    let byte = [byte_of(path, offset) ^ 0x55];
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(&byte, offset)
        .unwrap();
}

fn difference(pair: &Pair) -> String {
    compare_databases(&pair.left, &pair.right)
        .unwrap_err()
        .to_string()
}

#[test]
fn equal_databases_are_equal_and_something_was_compared() {
    let pair = pair();
    let Comparison {
        pages,
        exempt_pages,
        tables,
        rows,
        ..
    } = assert_same_database(&pair.left, &pair.right);
    assert!(
        pages > 500 && tables >= 4 && rows > 100,
        "{pages} pages, {tables} tables, {rows}"
    );
    assert!(
        exempt_pages > 100,
        "the test needs a freelist, it has {exempt_pages} pages"
    );
}

#[test]
fn commits_that_are_only_in_the_wal_count() {
    let pair = pair();
    let connection = Connection::open(&pair.left).unwrap();
    connection
        .execute("INSERT INTO entries(tag) VALUES ('late')", [])
        .unwrap();
    let said = difference(&pair);
    assert!(said.contains("table entries has more than"), "{said}");
    let connection = Connection::open(&pair.right).unwrap();
    connection
        .execute("INSERT INTO entries(tag) VALUES ('late')", [])
        .unwrap();
    assert_same_database(&pair.left, &pair.right);
}

#[test]
fn neither_database_is_changed_by_the_comparison() {
    let pair = pair();
    let connection = Connection::open(&pair.left).unwrap();
    connection
        .execute("INSERT INTO entries(tag) VALUES ('late')", [])
        .unwrap();
    let wal = pair.dir.path().join("left.db-wal");
    let before = (fs::read(&pair.left).unwrap(), fs::read(&wal).unwrap());
    compare_databases(&pair.left, &pair.right).unwrap_err();
    assert!(before == (fs::read(&pair.left).unwrap(), fs::read(&wal).unwrap()));
}

#[test]
fn one_flipped_byte_of_a_page_in_use_is_found() {
    let pair = pair();
    flip(&pair.right, 3 * 4096 - 5);
    let said = difference(&pair);
    assert!(
        said.contains("page 3 differs in 1 bytes, the first at 4091"),
        "{said}"
    );
}

#[test]
fn a_flipped_byte_of_a_freelist_leaf_is_no_difference_and_of_a_trunk_is() {
    let pair = pair();
    let image = fs::read(&pair.right).unwrap();
    let word = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().unwrap());
    let trunk = u64::from(word(32));
    let leaf = u64::from(word((trunk as usize - 1) * 4096 + 8));
    flip(&pair.right, (leaf - 1) * 4096 + 100);
    assert_same_database(&pair.left, &pair.right);
    flip(&pair.right, (trunk - 1) * 4096 + 4090);
    let said = difference(&pair);
    assert!(said.contains(&format!("page {trunk} differs")), "{said}");
}

#[test]
fn a_page_too_many_is_found() {
    let pair = pair();
    let file = fs::File::options().write(true).open(&pair.right).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length + 4096).unwrap();
    assert!(difference(&pair).contains("number of pages"));
}

#[test]
fn one_changed_value_is_named_with_its_table() {
    let pair = pair();
    for (path, value) in [(&pair.left, "0.5"), (&pair.right, "-0.5")] {
        let connection = Connection::open(path).unwrap();
        let sql = format!(
            "UPDATE pairs SET weight = {value} WHERE key =
             (SELECT min(key) FROM pairs)"
        );
        connection
            .execute("INSERT INTO pairs VALUES ('a first key', x'00', 1.0)", [])
            .unwrap();
        connection.execute(&sql, []).unwrap();
    }
    let said = difference(&pair);
    assert!(said.contains("table pairs, row 1"), "{said}");
    assert!(said.contains("page "), "the pages differ too: {said}");
}

#[test]
fn another_schema_is_found() {
    let pair = pair();
    let connection = Connection::open(&pair.right).unwrap();
    connection.execute("CREATE TABLE more(x)", []).unwrap();
    let said = difference(&pair);
    assert!(said.contains("table more is on the right only"), "{said}");
    assert!(said.contains("table sqlite_schema has more than"), "{said}");
}

#[test]
fn an_index_that_disagrees_with_its_table_is_found_though_both_sides_have_it() {
    let pair = pair();
    for path in [&pair.left, &pair.right] {
        let connection = Connection::open(path).unwrap();
        connection
            .execute_batch("CREATE TABLE n(x); CREATE INDEX nx ON n(x);")
            .unwrap();
        connection
            .execute("INSERT INTO n VALUES (1), (2), (3)", [])
            .unwrap();
        connection
            .execute_batch(
                "PRAGMA writable_schema = ON;
                 DELETE FROM sqlite_schema WHERE name = 'nx'; PRAGMA writable_schema = RESET;
                 INSERT INTO n VALUES (4); PRAGMA wal_checkpoint(TRUNCATE);",
            )
            .unwrap();
    }
    // The index's root page is now used by nobody.
    assert!(
        difference(&pair).contains("integrity_check"),
        "{}",
        difference(&pair)
    );
}

#[test]
fn every_page_size_and_auto_vacuum_is_compared() {
    for (seed, page_size) in [512, 1024, 4096, 65536].into_iter().enumerate() {
        let dir = temp_dir();
        let (left, right) = (dir.path().join("left.db"), dir.path().join("right.db"));
        let mut options = WriterOptions::seeded(seed as u64);
        options.database = DatabaseOptions {
            page_size,
            auto_vacuum: AutoVacuum::Incremental,
        };
        Writer::open(&left, options).unwrap().run_steps(60).unwrap();
        checkpoint(&left);
        fs::copy(&left, &right).unwrap();
        assert_same_database(&left, &right);
        assert_eq!(pragma(&left, "page_size"), page_size);
    }
}

#[test]
fn a_missing_database_is_named() {
    let pair = pair();
    let said = compare_databases(&pair.left, "/nowhere.db")
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("cannot compare /nowhere.db: there is no such file"),
        "{said}"
    );
}
