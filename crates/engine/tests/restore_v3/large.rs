//! A WAL file that grew beyond 4 GiB before it was checkpointed, as one beside a long reader does.

use std::{fs, io::Write, path::Path};

use evertide::RestoreTarget;
use lz4_flex::frame::FrameEncoder;
use rusqlite::Connection;

use crate::scene::restore;

const PAGE: usize = 65_536;
const FRAME: u64 = 24 + PAGE as u64;
/// Of one segment.
const FRAMES: u64 = 4_096;

/// A database of two pages, with this number in its only row.
fn database(dir: &Path, number: u32) -> Vec<u8> {
    let path = dir.join("source.db");
    let _ = fs::remove_file(&path);
    let database = Connection::open(&path).unwrap();
    database
        .pragma_update(None, "page_size", PAGE as u32)
        .unwrap();
    database.pragma_update(None, "journal_mode", "OFF").unwrap();
    database.execute_batch("CREATE TABLE t (x)").unwrap();
    database
        .execute("INSERT INTO t VALUES (?1)", [number])
        .unwrap();
    drop(database);
    let content = fs::read(&path).unwrap();
    assert_eq!(content.len(), 2 * PAGE);
    content
}

/// SQLite's running checksum of a WAL, of words with the most significant byte first.
#[derive(Clone, Copy)]
struct Sum(u32, u32);

impl Sum {
    fn add(self, bytes: &[u8]) -> Self {
        let Self(mut a, mut b) = self;
        for pair in bytes.as_chunks::<8>().0 {
            let [x, y] = [&pair[..4], &pair[4..]]
                .map(|word| u32::from_be_bytes(*word.first_chunk().unwrap()));
            a = a.wrapping_add(x).wrapping_add(b);
            b = b.wrapping_add(y).wrapping_add(a);
        }
        Self(a, b)
    }

    fn bytes(self) -> [u8; 8] {
        let Self(a, b) = self;
        (u64::from(a) << 32 | u64::from(b)).to_be_bytes()
    }
}

/// What a page of zeros does to a checksum. Each pair of words maps it linearly, so that the pairs of a page do
/// what one of them does, 8,192 times.
struct Zeros([[u32; 2]; 2]);

impl Zeros {
    fn of_a_page() -> Self {
        let mut power = [[1_u32, 1], [1, 2]];
        for _ in 0..(PAGE / 8).ilog2() {
            let cell = |row: usize, column: usize| {
                let products = [0, 1].map(|k| power[row][k].wrapping_mul(power[k][column]));
                products[0].wrapping_add(products[1])
            };
            power = [[cell(0, 0), cell(0, 1)], [cell(1, 0), cell(1, 1)]];
        }
        Self(power)
    }

    fn add_to(&self, Sum(a, b): Sum) -> Sum {
        let row = |[x, y]: [u32; 2]| x.wrapping_mul(a).wrapping_add(y.wrapping_mul(b));
        Sum(row(self.0[0]), row(self.0[1]))
    }
}

/// A WAL file as Litestream 0.3 stores it, segment by segment.
struct Wal<'a> {
    folder: &'a Path,
    sum: Sum,
    offset: u64,
    segment: FrameEncoder<Vec<u8>>,
}

impl<'a> Wal<'a> {
    fn begin(folder: &'a Path) -> Self {
        let mut header = Vec::new();
        for word in [0x377f_0683, 3_007_000, PAGE as u32, 0, 7, 8] {
            header.extend_from_slice(&word.to_be_bytes());
        }
        let sum = Sum(0, 0).add(&header);
        header.extend_from_slice(&sum.bytes());
        let mut segment = FrameEncoder::new(Vec::new());
        segment.write_all(&header).unwrap();
        Self {
            folder,
            sum,
            offset: 0,
            segment,
        }
    }

    /// A transaction that writes the second page.
    fn commit(&mut self, page: &[u8], sum_of_page: impl Fn(Sum) -> Sum) {
        let mut header = [0; 24];
        header[3] = 2;
        header[7] = 2;
        header[11] = 7;
        header[15] = 8;
        self.sum = sum_of_page(self.sum.add(&header[..8]));
        header[16..].copy_from_slice(&self.sum.bytes());
        self.segment.write_all(&header).unwrap();
        self.segment.write_all(page).unwrap();
    }

    /// Stores what has come so far as one segment; `next` is where the one behind it starts.
    fn store(&mut self, next: u64) {
        let segment = std::mem::replace(&mut self.segment, FrameEncoder::new(Vec::new()));
        let name = format!("00000000_{:08x}.wal.lz4", self.offset);
        fs::write(self.folder.join(name), segment.finish().unwrap()).unwrap();
        self.offset = next;
    }
}

#[tokio::test]
async fn a_wal_beyond_4_gib_is_restored_to_its_last_transaction() {
    let dir = evertide_testkit::memory_dir();
    let generation = dir.path().join("replica/generations/0123456789abcdef");
    for folder in ["snapshots", "wal"] {
        fs::create_dir_all(generation.join(folder)).unwrap();
    }
    let mut snapshot = FrameEncoder::new(Vec::new());
    snapshot.write_all(&database(dir.path(), 1)).unwrap();
    let snapshot = snapshot.finish().unwrap();
    fs::write(generation.join("snapshots/00000000.snapshot.lz4"), snapshot).unwrap();
    let last = database(dir.path(), 2);

    let folder = generation.join("wal");
    let (mut wal, page) = (Wal::begin(&folder), Zeros::of_a_page());
    let zeros = vec![0; PAGE];
    assert_eq!(
        page.add_to(Sum(1, 2)).bytes(),
        Sum(1, 2).add(&zeros).bytes()
    );
    let mut frames = 0;
    while 32 + frames * FRAME <= u64::from(u32::MAX) {
        for _ in 0..FRAMES {
            wal.commit(&zeros, |sum| page.add_to(sum));
        }
        frames += FRAMES;
        wal.store(32 + frames * FRAME);
    }
    wal.commit(&last[PAGE..], |sum| sum.add(&last[PAGE..]));
    wal.store(0);
    let far = format!("00000000_{:08x}.wal.lz4", 32 + frames * FRAME);
    assert!(far.len() > "00000000_00000000.wal.lz4".len() && folder.join(&far).exists());

    let (replica, output) = (dir.path().join("replica"), dir.path().join("out.db"));
    restore(&replica, &output, RestoreTarget::Latest)
        .await
        .unwrap();
    assert!(fs::read(&output).unwrap() == last);
}
