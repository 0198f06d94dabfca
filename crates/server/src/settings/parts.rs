//! Uploads in parts, of the stores that have them.

use super::{
    error::Mistake,
    section::{Field, Report, Section},
};

/// What S3 allows, and OSS as well.
const LEAST: u64 = 5 << 20;
const MOST_AT_A_TIME: u64 = 64;

/// Bytes in a part.
pub(super) fn size(
    report: &mut Report,
    section: &Section<'_>,
    key: &str,
    field: &Field<'_>,
) -> Option<u64> {
    // Litestream takes bytes as well.
    let bytes = field.whole().filter(|bytes| *bytes >= LEAST);
    bytes.or_else(|| section.size(report, key, LEAST))
}

/// Parts under way at a time.
pub(super) fn at_a_time(report: &mut Report, field: &Field<'_>) -> Option<usize> {
    let parts = field
        .whole()
        .filter(|parts| (1..=MOST_AT_A_TIME).contains(parts));
    if parts.is_none() {
        let mistake = format!("is no whole number from 1 to {MOST_AT_A_TIME}");
        report.add(&field.place, Mistake::BadDestination(mistake));
    }
    parts.and_then(|parts| parts.try_into().ok())
}
