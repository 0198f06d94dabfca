//! A replica made by hand, and a folder to restore it into.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide::{RestoreError, RestoreOptions, RestoreReport, restore};
use evertide_ltx::{Encoder, Header, Level, LtxName, PageSize, Pgno, Txid, merge};
use evertide_storage::{Destination, OsDisk, ReplicaClient, bytes_stream};
use tempfile::TempDir;

pub(crate) const PAGE: usize = 512;

/// A transaction: the size of the database after it, and the pages it writes.
pub(crate) type Change<'a> = (u32, &'a [u32]);

/// Some transactions that grow, shrink and grow again.
pub(crate) const USUAL: [Change<'static>; 6] = [
    (5, &[1, 2, 3, 4, 5]),
    (5, &[1, 3]),
    (8, &[1, 6, 7, 8]),
    (3, &[1, 2]),
    (6, &[1, 4, 5, 6]),
    (6, &[6]),
];

pub(crate) struct Scene {
    pub(crate) dir: TempDir,
    pub(crate) replica: Arc<dyn ReplicaClient>,
    /// What the restored database must be.
    pub(crate) expected: Vec<u8>,
}

/// The replica in this folder.
pub(crate) fn connect(folder: &Path) -> Arc<dyn ReplicaClient> {
    let url = format!("file://{}", folder.display());
    Destination::parse(&url)
        .unwrap()
        .connect(Arc::new(OsDisk))
        .unwrap()
}

/// When a transaction was captured.
pub(crate) fn created(txid: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + txid)
}

/// The content of a page after a transaction: half of it does not compress.
pub(crate) fn page(size: usize, number: u32, txid: u64) -> Vec<u8> {
    let mut page = vec![0; size];
    let mut random = fastrand::Rng::with_seed(txid << 32 | u64::from(number));
    random.fill(&mut page[..size / 2]);
    page
}

/// An LTX file of pages as they are after transaction `max`.
pub(crate) fn ltx(size: usize, range: (u64, u64), commit: u32, numbers: &[u32]) -> Vec<u8> {
    let page_size = PageSize::new(size as u32).unwrap();
    let (min, max) = (Txid::new(range.0), Txid::new(range.1));
    let mut encoder = Encoder::new(Vec::new(), Header::new(page_size, commit, min, max)).unwrap();
    for number in numbers {
        let pgno = Pgno::new(*number).unwrap();
        encoder
            .encode_page(pgno, &page(size, *number, range.1))
            .unwrap();
    }
    encoder.finish().unwrap().0
}

pub(crate) fn name(min: u64, max: u64) -> LtxName {
    LtxName::new(Txid::new(min), Txid::new(max))
}

impl Scene {
    /// An empty replica.
    pub(crate) fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let replica = connect(&dir.path().join("replica"));
        fs::create_dir(dir.path().join("out")).unwrap();
        Self {
            dir,
            replica,
            expected: Vec::new(),
        }
    }

    /// A replica with these transactions, one file each, the first one a snapshot.
    pub(crate) async fn with(changes: &[Change<'_>]) -> Self {
        let mut scene = Self::empty();
        let mut pages = BTreeMap::new();
        for ((commit, numbers), txid) in changes.iter().zip(1..) {
            let file = ltx(PAGE, (txid, txid), *commit, numbers);
            scene
                .put(if txid == 1 { 9 } else { 0 }, name(txid, txid), file)
                .await;
            pages.extend(
                numbers
                    .iter()
                    .map(|number| (*number, page(PAGE, *number, txid))),
            );
            pages.retain(|number, _| number <= commit);
        }
        scene.expected = pages.into_values().flatten().collect();
        scene
    }

    pub(crate) async fn usual() -> Self {
        Self::with(&USUAL).await
    }

    /// A replica with one snapshot large enough for several threads, and a file that changes some
    /// of it.
    pub(crate) async fn large() -> Self {
        let mut scene = Self::empty();
        let numbers: Vec<u32> = (1..=3000).collect();
        let changed: Vec<u32> = (1..=3000).step_by(2).collect();
        scene
            .put(9, name(1, 1), ltx(4096, (1, 1), 3000, &numbers))
            .await;
        scene
            .put(0, name(2, 2), ltx(4096, (2, 2), 3000, &changed))
            .await;
        let pages = numbers
            .iter()
            .map(|n| page(4096, *n, if n % 2 == 1 { 2 } else { 1 }));
        scene.expected = pages.flatten().collect();
        scene
    }

    pub(crate) async fn put(&self, level: u8, name: LtxName, file: Vec<u8>) {
        let level = Level::new(level).unwrap();
        let body = bytes_stream(file.into());
        self.replica
            .put(level, name, created(name.max.get()), body)
            .await
            .unwrap();
    }

    /// Merges the files of these transactions into one of this level, captured when the last of them was. They stay.
    pub(crate) fn compact(&self, level: u8, range: (u64, u64)) {
        let parts = (range.0..=range.1).map(|txid| {
            let level = if txid == 1 { 9 } else { 0 };
            fs::read(self.object(level, name(txid, txid))).unwrap()
        });
        let parts: Vec<Vec<u8>> = parts.collect();
        let (whole, _) = merge(parts.iter().map(Vec::as_slice), Vec::new()).unwrap();
        let path = self.object(level, name(range.0, range.1));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, whole).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(created(range.1)).unwrap();
    }

    /// Where a file of the replica is.
    pub(crate) fn object(&self, level: u8, name: LtxName) -> PathBuf {
        self.dir.path().join(format!("replica/ltx/{level}/{name}"))
    }

    /// All files of the replica.
    pub(crate) fn objects(&self) -> Vec<PathBuf> {
        let folder = self.dir.path().join("replica/ltx");
        let levels = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let files = levels.flat_map(|level| fs::read_dir(level).unwrap());
        files.map(|entry| entry.unwrap().path()).collect()
    }

    /// The folder that only the restored database may be in.
    pub(crate) fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.out().join("app.db")
    }

    pub(crate) fn options(&self) -> RestoreOptions {
        RestoreOptions::new(Arc::clone(&self.replica), self.output())
    }

    pub(crate) async fn restore(&self) -> Result<RestoreReport, RestoreError> {
        restore(self.options()).await
    }

    /// The names of all files in the folder of the output, sorted.
    pub(crate) fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.out()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.left(), Vec::<String>::new());
    }

    pub(crate) fn assert_restored(&self) {
        assert_eq!(self.left(), ["app.db"]);
        assert!(
            fs::read(self.output()).unwrap() == self.expected,
            "another content"
        );
    }
}
