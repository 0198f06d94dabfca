//! Row for row, through SQLite.

use std::fmt::Write as _;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row, Rows};

use super::copy::Copied;
use super::{CompareError, Comparison, Findings};

pub(super) fn compare(
    left: &Copied,
    right: &Copied,
    findings: &mut Findings,
    comparison: &mut Comparison,
) -> Result<(), CompareError> {
    let left_side = Side::open(left)?;
    let right_side = Side::open(right)?;
    for side in [&left_side, &right_side] {
        for problem in side.integrity_check()? {
            let path = side.copied.original.display();
            findings.add(
                "integrity_check",
                format!("integrity_check of {path}: {problem}"),
            );
        }
    }
    let left_tables = left_side.tables()?;
    let right_tables = right_side.tables()?;
    for table in &left_tables {
        if !right_tables.contains(table) {
            findings.add("table", format!("table {} is on the left only", table.name));
            continue;
        }
        comparison.tables += 1;
        comparison.rows += compare_table(table, &left_side, &right_side, findings)?;
    }
    for table in right_tables
        .iter()
        .filter(|table| !left_tables.contains(table))
    {
        findings.add(
            "table",
            format!("table {} is on the right only", table.name),
        );
    }
    Ok(())
}

#[derive(PartialEq)]
struct Table {
    name: String,
    query: String,
}

struct Side<'a> {
    copied: &'a Copied,
    connection: Connection,
}

impl<'a> Side<'a> {
    fn open(copied: &'a Copied) -> Result<Self, CompareError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
        let connection = Connection::open_with_flags(&copied.path, flags)
            .map_err(|error| copied.unreadable(error))?;
        Ok(Self { copied, connection })
    }

    fn integrity_check(&self) -> Result<Vec<String>, CompareError> {
        let all = || {
            let mut statement = self.connection.prepare("PRAGMA integrity_check(20)")?;
            let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
            lines.collect::<rusqlite::Result<Vec<_>>>()
        };
        let lines = all().map_err(|error| self.copied.unreadable(error))?;
        Ok(lines.into_iter().filter(|line| line != "ok").collect())
    }

    /// Every table with rows of its own. A virtual table has none: its shadow tables hold them.
    fn tables(&self) -> Result<Vec<Table>, CompareError> {
        let all = || {
            let mut statement = self.connection.prepare(
                "SELECT name, wr FROM pragma_table_list
                 WHERE schema = 'main' AND type IN ('table', 'shadow') ORDER BY name",
            )?;
            let tables = statement.query_map([], |row| {
                let name: String = row.get(0)?;
                let quoted = name.replace('"', "\"\"");
                // NOT INDEXED reads the table itself, in the order of its own key.
                let query = match row.get(1)? {
                    true => format!("SELECT * FROM \"{quoted}\""),
                    false => format!("SELECT _rowid_, * FROM \"{quoted}\" NOT INDEXED"),
                };
                Ok(Table { name, query })
            })?;
            tables.collect::<rusqlite::Result<Vec<_>>>()
        };
        all().map_err(|error| self.copied.unreadable(error))
    }
}

fn compare_table(
    table: &Table,
    left: &Side<'_>,
    right: &Side<'_>,
    findings: &mut Findings,
) -> Result<u64, CompareError> {
    let left_error = |error: rusqlite::Error| left.copied.unreadable(error);
    let right_error = |error: rusqlite::Error| right.copied.unreadable(error);
    let mut left_query = left.connection.prepare(&table.query).map_err(left_error)?;
    let mut right_query = right
        .connection
        .prepare(&table.query)
        .map_err(right_error)?;
    let columns = left_query.column_count();
    if columns != right_query.column_count() {
        let sentence = format!("table {} has other columns on the right", table.name);
        findings.add("columns", sentence);
        return Ok(0);
    }
    let mut left_rows = left_query.query([]).map_err(left_error)?;
    let mut right_rows = right_query.query([]).map_err(right_error)?;
    let mut compared = 0;
    loop {
        let l = next(&mut left_rows).map_err(left_error)?;
        let r = next(&mut right_rows).map_err(right_error)?;
        let (l, r) = match (l, r) {
            (None, None) => return Ok(compared),
            (Some(l), Some(r)) => (l, r),
            (l, _) => {
                let side = if l.is_some() { "left" } else { "right" };
                let sentence = format!(
                    "table {} has more than {compared} rows on the {side}",
                    table.name
                );
                findings.add("rows", sentence);
                return Ok(compared);
            }
        };
        compared += 1;
        if !same_row(l, r, columns).map_err(left_error)? {
            let (l, r) = (shown(l, columns), shown(r, columns));
            findings.add(
                "rows",
                format!("table {}, row {compared}: {l} | {r}", table.name),
            );
        }
    }
}

fn next<'r>(rows: &'r mut Rows<'_>) -> rusqlite::Result<Option<&'r Row<'r>>> {
    rows.next()
}

fn same_row(left: &Row<'_>, right: &Row<'_>, columns: usize) -> rusqlite::Result<bool> {
    for column in 0..columns {
        let same = match (left.get_ref(column)?, right.get_ref(column)?) {
            // By bits: SQLite stores no NaN, and 0.0 is not -0.0 in a backup.
            (ValueRef::Real(l), ValueRef::Real(r)) => l.to_bits() == r.to_bits(),
            (l, r) => l == r,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn shown(row: &Row<'_>, columns: usize) -> String {
    let mut text = String::new();
    for column in 0..columns {
        let separator = if column == 0 { "" } else { ", " };
        let value = match row.get_ref(column) {
            Ok(ValueRef::Null) => "NULL".to_owned(),
            Ok(ValueRef::Integer(value)) => value.to_string(),
            Ok(ValueRef::Real(value)) => value.to_string(),
            Ok(ValueRef::Text(bytes)) => {
                let start: String = String::from_utf8_lossy(bytes).chars().take(40).collect();
                format!("{start:?} ({} bytes)", bytes.len())
            }
            Ok(ValueRef::Blob(bytes)) => format!("a blob of {} bytes", bytes.len()),
            Err(error) => error.to_string(),
        };
        write!(text, "{separator}{value}").expect("writing to a String");
    }
    text
}
