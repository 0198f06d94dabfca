//! Standard output and standard error.
//!
//! Results go to standard output and nothing else does; when its reader goes away the command ends,
//! with success.

use std::{
    io::{self, Write},
    time::{Duration, SystemTime},
};

use anyhow::Context;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde::Serialize;

use crate::failure::OutputGone;

/// Prints a line of the result.
pub(crate) fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    print(format!("{}\n", text.as_ref()).as_bytes())
}

/// Prints a part of the result as it is.
pub(crate) fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputGone.into()),
        other => other.context("cannot write to standard output"),
    }
}

/// Prints the result as one JSON document.
pub(crate) fn json(document: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(document).context("cannot write the result as JSON")?)
}

/// Says something on standard error. Nobody may be listening there, and then it cannot be helped.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A table with a header and no lines. Columns in `right` are aligned to the right.
pub(crate) fn table<const N: usize>(header: [&str; N], right: &[usize]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Prints a table.
pub(crate) fn print_table(table: &Table) -> anyhow::Result<()> {
    line(table.trim_fmt())
}

/// A number of bytes for people: `812 B`, `1.4 MB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1_000 {
        return format!("{count} B");
    }
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    let mut value = count as f64 / 1_000.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().unwrap_or(&"");
    for next in units {
        if value < 999.95 {
            break;
        }
        value /= 1_000.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A duration for people: `0.4 ms`, `12 ms`, `1.25 s`, `3 min 20 s`, `5 h 10 min`, `2 d 3 h`.
pub(crate) fn duration(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1_000.0;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 1_000.0 {
        format!("{ms:.0} ms")
    } else if duration.as_secs() < 60 {
        format!("{:.2} s", duration.as_secs_f64())
    } else {
        let minutes = duration.as_secs() / 60;
        match minutes {
            ..60 => format!("{minutes} min {} s", duration.as_secs() % 60),
            60..1_440 => format!("{} h {} min", minutes / 60, minutes % 60),
            _ => format!("{} d {} h", minutes / 1_440, minutes / 60 % 24),
        }
    }
}

/// A time as RFC 3339, in UTC.
pub(crate) fn time(time: SystemTime) -> String {
    match Timestamp::try_from(time) {
        Ok(time) => time.to_string(),
        Err(_) => "unknown".to_owned(),
    }
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: u64, one: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {one}{s}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_three_digits_and_change_unit_in_time() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (1_500_000_000, "1.5 GB"),
            (u64::MAX, "18446.7 PB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn durations_are_readable_from_microseconds_to_days() {
        let cases = [
            (400, "0.4 ms"),
            (12_400, "12 ms"),
            (1_250_000, "1.25 s"),
            (200_000_000, "3 min 20 s"),
            (3_599_000_000, "59 min 59 s"),
            (18_600_000_000, "5 h 10 min"),
            (86_399_000_000, "23 h 59 min"),
            (183_700_000_000, "2 d 3 h"),
        ];
        for (us, text) in cases {
            assert_eq!(duration(Duration::from_micros(us)), text);
        }
    }
}
