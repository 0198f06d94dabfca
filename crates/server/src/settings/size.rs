//! Sizes in bytes, as people write them.

/// Reads a size: a number with a unit, in powers of 1,024 (`KiB`, `MiB`, `GiB`, `TiB`) or of 1,000
/// (`B`, `kB`, `MB`, `GB`, `TB`). Case makes no difference, nor does a space before the unit.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let (base, power) = match unit.as_str() {
        "b" => (1_u64, 0),
        "kb" => (1_000, 1),
        "mb" => (1_000, 2),
        "gb" => (1_000, 3),
        "tb" => (1_000, 4),
        "kib" => (1_024, 1),
        "mib" => (1_024, 2),
        "gib" => (1_024, 3),
        "tib" => (1_024, 4),
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(base.pow(power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_with_a_unit_and_nothing_else() {
        for (text, bytes) in [
            ("0B", Some(0)),
            ("512MiB", Some(512 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("2tib", Some(2 << 40)),
            ("64kB", Some(64_000)),
            ("3 MB", Some(3_000_000)),
            ("16777215TiB", Some(16_777_215 << 40)),
            ("16777216TiB", None),
            ("18446744073709551616B", None),
            ("1024", None),
            ("1.5GiB", None),
            ("-1GiB", None),
            ("GiB", None),
            ("1  GiB", None),
            ("1G", None),
            ("", None),
            ("é", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }
}
