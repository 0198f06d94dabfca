//! Page for page, except leaves of the freelist and the lock page.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::copy::Copied;
use super::{CompareError, Comparison, Findings};

const LOCK_BYTE: u64 = 0x4000_0000;

pub(super) fn compare(
    left: &Copied,
    right: &Copied,
    findings: &mut Findings,
    comparison: &mut Comparison,
) -> Result<(), CompareError> {
    let left_image = Image::open(left)?;
    let right_image = Image::open(right)?;
    for (what, l, r) in [
        ("page size", left_image.page_size, right_image.page_size),
        (
            "number of pages",
            left_image.page_count,
            right_image.page_count,
        ),
    ] {
        if l != r {
            findings.add(
                "header",
                format!("the {what} is {l} on the left, {r} on the right"),
            );
        }
    }
    if left_image.page_size != right_image.page_size {
        return Ok(());
    }
    let mut exempt = left_image
        .freelist_leaves()
        .map_err(|error| left.unreadable(error))?;
    // The two lists are equal unless trunk pages differ, which is found below all the same.
    exempt.extend(
        right_image
            .freelist_leaves()
            .map_err(|error| right.unreadable(error))?,
    );
    exempt.insert(lock_page(left_image.page_size));
    let common = left_image.page_count.min(right_image.page_count);
    for pgno in 1..=common {
        if exempt.contains(&pgno) {
            comparison.exempt_pages += 1;
            continue;
        }
        let l = left_image
            .page(pgno)
            .map_err(|error| left.unreadable(error))?;
        let r = right_image
            .page(pgno)
            .map_err(|error| right.unreadable(error))?;
        if l != r {
            let bytes = l.iter().zip(&r).filter(|(a, b)| a != b).count();
            let first = l.iter().zip(&r).position(|(a, b)| a != b).unwrap_or(0);
            let sentence = format!("page {pgno} differs in {bytes} bytes, the first at {first}");
            findings.add("page", sentence);
        }
    }
    comparison.pages = common;
    Ok(())
}

/// The page that holds SQLite's lock bytes.
fn lock_page(page_size: u32) -> u32 {
    u32::try_from(LOCK_BYTE / u64::from(page_size) + 1).expect("at most 2,097,153")
}

/// A database file without a WAL.
struct Image {
    file: File,
    page_size: u32,
    page_count: u32,
    freelist_trunk: u32,
    freelist_count: u32,
}

impl Image {
    fn open(copied: &Copied) -> Result<Self, CompareError> {
        let unreadable = |error: io::Error| copied.unreadable(error);
        let file = File::open(&copied.path).map_err(unreadable)?;
        let mut header = [0; 100];
        file.read_exact_at(&mut header, 0).map_err(unreadable)?;
        let page_size = match u32::from(u16::from_be_bytes([header[16], header[17]])) {
            1 => 65536,
            size => size,
        };
        if !header.starts_with(b"SQLite format 3\0") || !page_size.is_power_of_two() {
            return Err(copied.unreadable("it is not a SQLite database"));
        }
        let length = file.metadata().map_err(unreadable)?.len();
        // A restored file longer than its own page count is a finding too, so the length counts.
        let page_count = u32::try_from(length.div_ceil(u64::from(page_size)))
            .map_err(|_| copied.unreadable("it has more pages than SQLite allows"))?;
        Ok(Self {
            file,
            page_size,
            page_count,
            freelist_trunk: u32_at(&header, 32),
            freelist_count: u32_at(&header, 36),
        })
    }

    fn page(&self, pgno: u32) -> io::Result<Vec<u8>> {
        let mut page = vec![0; self.page_size as usize];
        let offset = u64::from(pgno - 1) * u64::from(self.page_size);
        self.file.read_exact_at(&mut page, offset)?;
        Ok(page)
    }

    /// Follows the trunks: next trunk, number of leaves, the leaves.
    fn freelist_leaves(&self) -> Result<BTreeSet<u32>, String> {
        let mut leaves = BTreeSet::new();
        let mut trunk = self.freelist_trunk;
        let mut trunks = 0;
        while trunk != 0 {
            trunks += 1;
            if trunk > self.page_count || trunks > self.page_count {
                return Err(format!(
                    "its freelist leads to page {trunk}, or round in a circle"
                ));
            }
            let page = self.page(trunk).map_err(|error| error.to_string())?;
            let count = u32_at(&page, 4) as usize;
            let entries = page[8..].chunks_exact(4);
            if count > entries.len() {
                return Err(format!(
                    "trunk page {trunk} of its freelist names {count} leaves"
                ));
            }
            leaves.extend(entries.take(count).map(|entry| u32_at(entry, 0)));
            trunk = u32_at(&page, 0);
        }
        let found = leaves.len() + trunks as usize;
        if found != self.freelist_count as usize {
            let said = self.freelist_count;
            return Err(format!(
                "its freelist has {found} pages, its header says {said}"
            ));
        }
        Ok(leaves)
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_be_bytes(word)
}
