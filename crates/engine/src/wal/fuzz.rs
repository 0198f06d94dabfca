//! Whatever bytes the `-wal` file and the wal-index hold: they are refused, or read as SQLite would
//! recover them.

#![allow(
    clippy::disallowed_methods,
    reason = "files that nobody has open through SQLite"
)]
#![allow(clippy::ptr_arg, reason = "the form that every repair has")]

use std::{collections::BTreeMap, fs, io::Write, os::unix::fs::FileExt, path::Path, sync::Arc};

use evertide_ltx::{PageSize, Pgno};
use evertide_storage::OsDisk;
use evertide_testkit::{Fuzz, variant};

use super::{
    file::{Cursor, ScanError, WalFile},
    format::{FRAME_HEADER_LEN, Salts, WAL_HEADER_LEN, WalChecksum},
    index::{IndexHeader, WalIndex},
};

/// What a recovery finds in a WAL, frame by frame and by the documentation: the committed part.
struct Recovered {
    index: IndexHeader,
    newest: BTreeMap<Pgno, u32>,
    /// After each commit: the frames, and the running checksum.
    commits: Vec<(u32, (u32, u32))>,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn sum(big_endian: bool, (mut a, mut b): (u32, u32), bytes: &[u8]) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        let read = |at: usize| {
            let word: [u8; 4] = pair[at..at + 4].try_into().unwrap();
            if big_endian {
                u32::from_be_bytes(word)
            } else {
                u32::from_le_bytes(word)
            }
        };
        a = a.wrapping_add(read(0)).wrapping_add(b);
        b = b.wrapping_add(read(4)).wrapping_add(a);
    }
    (a, b)
}

/// `None` where the header is none.
fn recover(wal: &[u8]) -> Option<Recovered> {
    let header = wal.get(..WAL_HEADER_LEN)?;
    let big_endian = match word(header, 0) {
        0x377f_0682 => false,
        0x377f_0683 => true,
        _ => return None,
    };
    let page_size = PageSize::new(word(header, 8)).ok()?;
    let mut checksum = sum(big_endian, (0, 0), &header[..24]);
    if word(header, 4) != 3_007_000 || checksum != (word(header, 24), word(header, 28)) {
        return None;
    }
    let salts = Salts(header[16..24].try_into().unwrap());
    let mut index = IndexHeader {
        page_size,
        committed: 0,
        pages: 0,
        checksum: WalChecksum::default(),
        salts,
        backfilled: 0,
    };
    let (mut seen, mut newest, mut commits) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    let frames = wal[WAL_HEADER_LEN..].chunks_exact(FRAME_HEADER_LEN + page_size.len());
    for (frame, at) in frames.zip(0..) {
        checksum = sum(big_endian, checksum, &frame[..8]);
        checksum = sum(big_endian, checksum, &frame[FRAME_HEADER_LEN..]);
        let valid = frame[8..16] == salts.0 && checksum == (word(frame, 16), word(frame, 20));
        let Some(pgno) = Pgno::new(word(frame, 0)).filter(|_| valid) else {
            break;
        };
        seen.insert(pgno, at);
        let commit = word(frame, 4);
        if commit > 0 {
            index.committed = at + 1;
            index.pages = commit;
            index.checksum = WalChecksum(checksum.0, checksum.1);
            commits.push((at + 1, checksum));
            newest = seen.clone();
        }
    }
    newest.retain(|pgno, _| pgno.get() <= index.pages);
    Some(Recovered {
        index,
        newest,
        commits,
    })
}

/// Sets the salts and checksums right, so that what else is wrong matters.
fn repair(wal: &mut Vec<u8>) {
    let Some(header) = wal.first_chunk_mut::<WAL_HEADER_LEN>() else {
        return;
    };
    let big_endian = word(header, 0) == 0x377f_0683;
    let put = |target: &mut [u8], (a, b): (u32, u32)| {
        target[..4].copy_from_slice(&a.to_be_bytes());
        target[4..8].copy_from_slice(&b.to_be_bytes());
    };
    let mut checksum = sum(big_endian, (0, 0), &header[..24]);
    put(&mut header[24..], checksum);
    let salts: [u8; 8] = header[16..24].try_into().unwrap();
    let Ok(page_size) = PageSize::new(word(header, 8)) else {
        return;
    };
    let frame_len = FRAME_HEADER_LEN + page_size.len();
    for frame in wal[WAL_HEADER_LEN..].chunks_exact_mut(frame_len) {
        frame[8..16].copy_from_slice(&salts);
        checksum = sum(big_endian, checksum, &frame[..8]);
        checksum = sum(big_endian, checksum, &frame[FRAME_HEADER_LEN..]);
        put(&mut frame[16..24], checksum);
    }
}

/// Reads the file as the engine does, and compares.
fn read(path: &Path, bytes: &[u8]) -> String {
    fs::write(path, bytes).unwrap();
    let file = WalFile::open(&OsDisk, path).unwrap();
    let header = file.header().unwrap();
    let Some(recovered) = recover(bytes) else {
        assert_eq!(header, None);
        return "no header".into();
    };
    let (index, header) = (recovered.index, header.unwrap());
    assert_eq!(
        (header.salts, header.page_size),
        (index.salts, index.page_size)
    );
    let scan = file.scan_if_any(Cursor::default(), &index).unwrap();
    assert_eq!((&scan.newest, scan.pages), (&recovered.newest, index.pages));
    // From every commit on, the rest, which is what there is to capture next.
    for (frames, (a, b)) in &recovered.commits {
        let from = Cursor {
            frames: *frames,
            checksum: WalChecksum(*a, *b),
        };
        let rest = file.scan(from, &index).unwrap();
        let expected = recovered.newest.iter().filter(|(_, at)| **at >= *frames);
        assert!(rest.newest.iter().eq(expected));
        assert!(file.continues(from, index.salts, index.page_size).unwrap());
    }
    // An index that claims more is not believed.
    for more in [1, 2, u32::MAX - index.committed] {
        let committed = index.committed + more;
        // A buffer for all of it would be as large as the claim; the file is not.
        match file.scan(Cursor::default(), &IndexHeader { committed, ..index }) {
            Err(ScanError::Broken(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    match recovered.commits.len() {
        0 => "nothing committed".into(),
        commits => format!("{commits} transactions"),
    }
}

#[test]
fn no_wal_is_read_otherwise_than_sqlite_would_recover_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal");
    fs::write(&path, "").unwrap();
    Fuzz::target("wal")
        .corpus_of(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/wal"))
        .repair(repair)
        .inputs(400)
        .run(|input| read(&path, input.bytes))
        .assert_reached(&["no header", "nothing committed", "2 transactions"], 4);
}

/// The first bytes of wal-indexes that SQLite made.
fn indexes() -> Vec<Vec<u8>> {
    let mut indexes = Vec::new();
    for page_size in [512, 4_096, 65_536] {
        let dir = tempfile::tempdir().unwrap();
        let conn = rusqlite::Connection::open(dir.path().join("t.db")).unwrap();
        conn.execute_batch(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA journal_mode = wal;"
        ))
        .unwrap();
        for sql in [
            "CREATE TABLE t(a)",
            "INSERT INTO t VALUES (zeroblob(3000))",
            "PRAGMA wal_checkpoint",
            "INSERT INTO t VALUES (1)",
        ] {
            conn.execute_batch(sql).unwrap();
            let mut bytes = fs::read(dir.path().join("t.db-shm")).unwrap();
            bytes.truncate(136);
            indexes.push(bytes);
        }
    }
    indexes
}

/// Makes both copies the same, and their checksum right.
fn repair_index(bytes: &mut Vec<u8>) {
    let Some((first, rest)) = bytes.split_at_mut_checked(48) else {
        return;
    };
    let sum = sum(cfg!(target_endian = "big"), (0, 0), &first[..40]);
    first[40..44].copy_from_slice(&sum.0.to_ne_bytes());
    first[44..48].copy_from_slice(&sum.1.to_ne_bytes());
    if let Some(second) = rest.get_mut(..48) {
        second.copy_from_slice(first);
    }
}

#[test]
fn no_wal_index_is_believed_that_sqlite_would_not_believe() {
    let file = tempfile::tempfile().unwrap();
    let mut database = tempfile::tempfile().unwrap();
    let mut head = [0; 3 * 512];
    head[16..18].copy_from_slice(&512_u16.to_be_bytes());
    database.write_all(&head).unwrap();
    let (file, database) = (Arc::new(file), Arc::new(database));
    let index = WalIndex::new(Arc::clone(&file), database);
    let native =
        |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    let report = Fuzz::target("wal-index")
        .corpus(indexes())
        .repair(repair_index)
        .inputs(600)
        .run(|input| {
            file.set_len(0).unwrap();
            file.write_all_at(input.bytes, 0).unwrap();
            let header = match index.read() {
                Ok(header) => header,
                Err(error) => return variant(&error),
            };
            let bytes = input.bytes;
            assert_eq!(bytes[..48], bytes[48..96]);
            let stored = (native(bytes, 40), native(bytes, 44));
            let big_endian = cfg!(target_endian = "big");
            assert_eq!(sum(big_endian, (0, 0), &bytes[..40]), stored);
            assert_eq!(native(bytes, 0), 3_007_000);
            assert_eq!(header.committed, native(bytes, 16));
            assert_eq!(header.backfilled, native(bytes, 96));
            assert_eq!(header.salts.0, bytes[32..40]);
            match header.committed {
                0 => assert_eq!((header.page_size.get(), header.pages), (512, 3)),
                _ => assert_eq!(header.pages, native(bytes, 20)),
            }
            "read".to_owned()
        });
    report.assert_reached(&["read", "Torn", "Empty", "Version"], 5);
}
