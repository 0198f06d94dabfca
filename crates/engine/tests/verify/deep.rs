//! The deep proof: restore, check, compare, and leave nothing behind.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex},
};

use evertide::{
    FindingKind, VerifyDepth, VerifyError, VerifyOptions, VerifyReport, VerifyStage, verify,
};
use evertide_ltx::{Encoder, Header, PageSize, Pgno, Txid};
use evertide_storage::{DirEntry, Disk, DiskFile, Fault, FaultDisk, Metadata, OsDisk};

use crate::{
    broken::{Made, usual},
    connect, objects,
    replicas::{of_evertide, of_litestream},
};

const ENOSPC: i32 = 28;

fn options(replica: &Path, temporary: &Path) -> VerifyOptions {
    let mut options = VerifyOptions::new(connect(replica));
    options.depth = VerifyDepth::Restore;
    options.temporary = temporary.to_owned();
    options
}

/// Verifies, and makes sure that nothing stays behind.
async fn proven(replica: &Path) -> Result<VerifyReport, VerifyError> {
    let temporary = tempfile::tempdir().unwrap();
    let done = verify(options(replica, temporary.path())).await;
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    done
}

#[tokio::test]
async fn what_the_real_programs_wrote_is_restored_and_checked() {
    let theirs = tokio::task::spawn_blocking(|| of_litestream(4096, 3, 5));
    for scene in [of_evertide().await, theirs.await.unwrap()] {
        let report = proven(&scene.replica).await.unwrap();
        assert_eq!(report.findings, []);
        let restored = report.restored.unwrap();
        assert_eq!(restored.txid, report.txid);
        assert_eq!(Some(restored.database_checksum), report.database_checksum);
        let page_size = u64::from(report.page_size.unwrap().get());
        assert_eq!(restored.database_bytes, u64::from(report.pages) * page_size);
    }
}

#[tokio::test]
async fn files_that_make_no_database_are_found_though_every_checksum_is_right() {
    // Pages of one repeated byte are no database to SQLite.
    let made = usual().await;
    assert!(crate::verified(&made.replica()).await.is_sound());
    let report = proven(&made.replica()).await.unwrap();
    let [finding] = &report.findings[..] else {
        panic!("{:?}", report.findings);
    };
    assert_eq!(finding.kind, FindingKind::Restore);
    assert!(finding.problem.contains("not a database"), "{finding}");
    assert_eq!(report.restored, None);
}

#[tokio::test]
async fn an_index_that_disagrees_with_its_table_is_found() {
    let scene = of_evertide().await;
    let report = crate::verified(&scene.replica).await;
    let (page_size, next) = (report.page_size.unwrap(), report.txid.next());
    let dir = tempfile::tempdir().unwrap();
    let wrong = dir.path().join("wrong.db");
    let conn = rusqlite::Connection::open(&wrong).unwrap();
    conn.execute_batch(&format!(
        "PRAGMA page_size = {page_size}; CREATE TABLE t (a, b); CREATE INDEX i ON t (a);
         INSERT INTO t VALUES (1, 2); PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON t (b)' WHERE type = 'index'"
    ))
    .unwrap();
    drop(conn);
    put_snapshot(&scene.replica, &wrong, page_size, next);
    let report = proven(&scene.replica).await.unwrap();
    let kinds = crate::kinds(&report);
    assert_eq!(kinds, [FindingKind::Restore], "{:?}", report.findings);
    assert!(
        report.findings[0].problem.contains("corrupt"),
        "{:?}",
        report.findings
    );
}

/// Puts a file of the whole database on level 9, as transaction `txid`.
fn put_snapshot(replica: &Path, database: &Path, page_size: PageSize, txid: Txid) {
    let content = fs::read(database).unwrap();
    let pages = content.chunks(page_size.len()).zip(1..);
    let commit = (content.len() / page_size.len()) as u32;
    let header = Header::new(page_size, commit, Txid::FIRST, txid);
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    for (page, number) in pages {
        encoder
            .encode_page(Pgno::new(number).unwrap(), page)
            .unwrap();
    }
    let (file, summary) = encoder.finish().unwrap();
    let name = summary.header.name().to_string();
    fs::write(replica.join("ltx/9").join(name), file).unwrap();
}

#[tokio::test]
async fn damage_is_a_finding_of_the_deep_proof_too() {
    let scene = of_evertide().await;
    let snapshot = objects(&scene.replica).pop().unwrap().2;
    let good = fs::read(&snapshot).unwrap();
    // The second one claims more pages than any disk has.
    for place in [good.len() - 1, 12] {
        let mut content = good.clone();
        content[place] ^= 0x40;
        fs::write(&snapshot, content).unwrap();
        let kinds = crate::kinds(&proven(&scene.replica).await.unwrap());
        assert_eq!(
            kinds,
            [FindingKind::Restore, FindingKind::Damaged],
            "byte {place}"
        );
    }
    let empty = Made::of(&[]).await;
    let kinds = crate::kinds(&proven(&empty.replica()).await.unwrap());
    assert_eq!(kinds, [FindingKind::NoBackup]);
}

#[tokio::test]
async fn a_disk_that_fails_at_any_operation_leaves_nothing_behind_and_blames_no_replica() {
    let scene = of_evertide().await;
    for lasts in [Fault::Once, Fault::Forever] {
        let mut said_how_much = false;
        for at in 1.. {
            let temporary = tempfile::tempdir().unwrap();
            let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
            disk.fail_at(at, lasts, ENOSPC);
            let mut options = options(&scene.replica, temporary.path());
            options.disk = disk.clone();
            let done = verify(options.clone()).await;
            let failed = disk.tripped();
            if let Err(error) = &done {
                let text = error.to_string();
                assert!(failed && text.contains("TMPDIR"), "{text}");
                said_how_much |= text.contains("the restore needs ");
            }
            if let Ok(report) = done {
                assert_eq!(report.findings, [], "operation {at}");
            }
            // What could not be removed is there: that was the operation that failed, or all did from then on.
            let left = || OsDisk.read_dir(temporary.path()).unwrap();
            let removal = disk.log().get(at as usize - 1) == Some(&"remove_file");
            let stays = failed && (removal || lasts == Fault::Forever);
            assert!(left().is_empty() || stays, "operation {at}: {:?}", left());
            if !failed {
                assert!(at > 8 && said_how_much, "only {at} operations were tried");
                break;
            }
            let before = left().len();
            disk.heal();
            let report = verify(options).await.unwrap();
            assert_eq!(report.findings, [], "operation {at}, mended");
            assert!(report.restored.is_some());
            assert!(left().len() <= before, "operation {at}, mended");
        }
    }
}

/// A disk on which a bit of what was restored is another one whenever it is opened to be read.
#[derive(Debug)]
struct RottenDisk {
    /// The bit, counted from the beginning of the database.
    bit: u64,
    /// Where what is read instead is kept.
    instead: tempfile::TempDir,
}

impl Disk for RottenDisk {
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        if path.file_name().is_none_or(|name| name != "restored.db") {
            return OsDisk.open_read(path);
        }
        let mut content = fs::read(path)?;
        content[self.bit as usize / 8] ^= 1 << (self.bit % 8);
        let instead = self.instead.path().join("rotten.db");
        fs::write(&instead, content)?;
        OsDisk.open_read(&instead)
    }

    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        OsDisk.open_rw(path)
    }

    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        OsDisk.create_new(path, mode)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename_noreplace(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove_dir(path)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        OsDisk.create_dir(path, mode)
    }

    fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> io::Result<()> {
        OsDisk.set_owner(path, uid, gid)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.sync_dir(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        OsDisk.read_dir(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        OsDisk.metadata(path)
    }
}

#[tokio::test]
async fn a_restored_database_that_differs_in_one_bit_from_what_its_files_hold_is_found() {
    let scene = of_evertide().await;
    let sound = proven(&scene.replica).await.unwrap();
    let bits = 8 * sound.restored.unwrap().database_bytes;
    for bit in [0, 8 * 4096 + 3, bits / 2, bits - 1] {
        let temporary = tempfile::tempdir().unwrap();
        let mut options = options(&scene.replica, temporary.path());
        options.disk = Arc::new(RottenDisk {
            bit,
            instead: tempfile::tempdir().unwrap(),
        });
        let report = verify(options).await.unwrap();
        let [finding] = &report.findings[..] else {
            panic!("bit {bit}: {:?}", report.findings);
        };
        assert_eq!(finding.kind, FindingKind::Restore);
        assert!(finding.problem.contains("has the checksum"), "{finding}");
    }
}

#[tokio::test]
async fn a_proof_that_is_given_up_leaves_nothing_behind() {
    let scene = of_evertide().await;
    let temporary = tempfile::tempdir().unwrap();
    let (sender, mut restoring) = tokio::sync::mpsc::unbounded_channel();
    let options = options(&scene.replica, temporary.path()).on_progress(move |progress| {
        if progress.stage == VerifyStage::Restoring {
            let _ = sender.send(());
        }
    });
    let stages = Arc::new(Mutex::new(false));
    tokio::select! {
        _ = verify(options) => *stages.lock().unwrap() = true,
        _ = restoring.recv() => {}
    }
    evertide_testkit::wait_until(
        std::time::Duration::from_secs(10),
        "nothing is left",
        || fs::read_dir(temporary.path()).unwrap().count() == 0,
    );
}
