//! The files of a replica, judged by their names alone.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One LTX file.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LtxFile {
    pub(crate) level: u8,
    pub(crate) min: u64,
    pub(crate) max: u64,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// Every LTX file, by level, then by TXID. Anything else below `ltx` is an error: a reader of
/// Litestream's layout would trip over it. It does not trip over what a killed process was writing, which stays
/// until something is written to that level again.
pub(crate) fn ltx_files(replica: &Path) -> Result<Vec<LtxFile>> {
    let root = replica.join("ltx");
    let mut files = Vec::new();
    for level in fs::read_dir(&root).with_context(|| format!("listing {}", root.display()))? {
        let level = level?.path();
        for entry in fs::read_dir(&level)? {
            let entry = entry?;
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') && name.ends_with(".evertide-tmp") {
                continue;
            }
            let file = parse(&level, &path, entry.metadata()?.len());
            files.push(file.with_context(|| format!("{} is no LTX file", path.display()))?);
        }
    }
    files.sort();
    Ok(files)
}

fn parse(level: &Path, path: &Path, bytes: u64) -> Option<LtxFile> {
    let level = level.file_name()?.to_str()?.parse().ok()?;
    let name = path.file_name()?.to_str()?.strip_suffix(".ltx")?;
    let (min, max) = name.split_once('-')?;
    let txid = |hex: &str| {
        u64::from_str_radix(hex, 16)
            .ok()
            .filter(|_| hex.len() == 16)
    };
    Some(LtxFile {
        level,
        min: txid(min)?,
        max: txid(max)?,
        path: path.to_path_buf(),
        bytes,
    })
}

/// One sentence for each pair of files of level 0 that overlap or leave a gap.
pub(crate) fn misfits(files: &[LtxFile]) -> Vec<String> {
    let level_0: Vec<_> = files.iter().filter(|file| file.level == 0).collect();
    let pairs = level_0.iter().zip(level_0.iter().skip(1));
    let misfits = pairs.filter(|(a, b)| b.min != a.max + 1);
    misfits
        .map(|(a, b)| format!("{} is followed by {}", name(a), name(b)))
        .collect()
}

fn name(file: &LtxFile) -> String {
    file.path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(min: u64, max: u64) -> LtxFile {
        LtxFile {
            level: 0,
            min,
            max,
            path: format!("{min}-{max}").into(),
            bytes: 1,
        }
    }

    #[test]
    fn gaps_and_overlaps_are_found_and_neighbours_are_not() {
        assert!(misfits(&[file(1, 1), file(2, 5), file(6, 6)]).is_empty());
        assert_eq!(
            misfits(&[file(1, 1), file(3, 3)]),
            ["1-1 is followed by 3-3"]
        );
        assert_eq!(
            misfits(&[file(1, 4), file(4, 5)]),
            ["1-4 is followed by 4-5"]
        );
    }
}
