//! What happens to files that are there before, and what is there after.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use evertide::{ExistingOutput, IntegrityCheck, RestoreError, RestoreTarget, restore};
use evertide_ltx::Txid;
use evertide_storage::{FaultDisk, OsDisk};
use evertide_testkit::another_process_finds_it_open;
use rusqlite::Connection;

use crate::scene::{Scene, name};

fn write(path: impl AsRef<Path>, content: &str) {
    fs::write(path, content).unwrap();
}

#[tokio::test]
async fn an_existing_file_is_not_touched() {
    let scene = Scene::usual().await;
    write(scene.output(), "precious");
    let error = scene.restore().await.unwrap_err();
    assert!(matches!(error, RestoreError::OutputExists(_)), "{error}");
    assert_eq!(scene.left(), ["app.db"]);
    assert_eq!(fs::read(scene.output()).unwrap(), b"precious");
}

#[tokio::test]
async fn a_file_that_appears_during_the_restore_is_not_touched() {
    let scene = Scene::usual().await;
    let output = scene.output();
    let options = scene.options().on_progress(move |now| {
        if now.files == now.total_files {
            write(&output, "precious");
        }
    });
    let error = restore(options).await.unwrap_err();
    assert!(matches!(error, RestoreError::OutputExists(_)), "{error}");
    assert_eq!(scene.left(), ["app.db"]);
    assert_eq!(fs::read(scene.output()).unwrap(), b"precious");
}

#[tokio::test]
async fn a_leftover_journal_is_not_played_into_the_restored_database() {
    for suffix in ["-wal", "-journal"] {
        let scene = Scene::usual().await;
        let journal = scene.out().join(format!("app.db{suffix}"));
        write(&journal, "of another database");
        let error = scene.restore().await.unwrap_err();
        assert!(matches!(error, RestoreError::LeftoverJournal(_)), "{error}");
        assert!(journal.exists());
        // An empty one is harmless, and common.
        write(&journal, "");
        scene.restore().await.unwrap();
        assert_eq!(scene.left().len(), 2);
    }
}

#[tokio::test]
async fn force_replaces_a_database_with_all_that_belongs_to_it() {
    let scene = Scene::usual().await;
    for suffix in ["", "-wal", "-shm", "-journal"] {
        write(scene.out().join(format!("app.db{suffix}")), "old");
    }
    fs::set_permissions(scene.output(), fs::Permissions::from_mode(0o640)).unwrap();
    let mut options = scene.options();
    options.existing = ExistingOutput::Replace;
    restore(options).await.unwrap();
    scene.assert_restored();
    assert_eq!(
        scene.output().metadata().unwrap().permissions().mode() & 0o777,
        0o640
    );
}

#[tokio::test]
async fn force_that_fails_leaves_the_former_database_whole() {
    let scene = Scene::usual().await;
    fs::remove_file(scene.object(0, name(3, 3))).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        write(scene.out().join(format!("app.db{suffix}")), suffix);
    }
    let mut options = scene.options();
    options.existing = ExistingOutput::Replace;
    restore(options).await.unwrap_err();
    assert_eq!(scene.left(), ["app.db", "app.db-shm", "app.db-wal"]);
    assert_eq!(fs::read(scene.out().join("app.db-wal")).unwrap(), b"-wal");
}

#[tokio::test]
async fn a_directory_at_the_output_is_refused() {
    let scene = Scene::usual().await;
    fs::create_dir(scene.output()).unwrap();
    for existing in [ExistingOutput::Refuse, ExistingOutput::Replace] {
        let mut options = scene.options();
        options.existing = existing;
        let error = restore(options).await.unwrap_err();
        assert!(matches!(error, RestoreError::OutputNotAFile(_)), "{error}");
    }
}

#[tokio::test]
async fn a_new_database_is_its_owners_and_its_folder_is_made() {
    let scene = Scene::usual().await;
    let mut options = scene.options();
    options.output = scene.out().join("deep/er/app.db");
    restore(options).await.unwrap();
    let found = scene.out().join("deep/er/app.db").metadata().unwrap();
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
}

/// Another process, which restores to a file until it is dropped.
struct Elsewhere(Child);

impl Elsewhere {
    fn restoring(file: &Path) -> Self {
        const SCRIPT: &str = "import fcntl, sys
file = open(sys.argv[1], 'w')
fcntl.lockf(file, fcntl.LOCK_EX, 1)
print('locked', flush=True)
sys.stdin.read()";
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut said = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut said).unwrap();
        assert_eq!(said, "locked\n");
        Self(child)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn what_a_killed_restore_left_is_removed_by_the_next_one_and_nothing_else_is() {
    let scene = Scene::usual().await;
    write(
        scene.out().join(".app.db.restoring-0123456789abcdef"),
        "half a database",
    );
    let elsewhere = scene.out().join(".app.db.restoring-fedcba9876543210");
    let elsewhere = Elsewhere::restoring(&elsewhere);
    write(scene.out().join(".app.db.other"), "precious");
    write(
        scene.out().join(".other.db.restoring-0123456789abcdef"),
        "precious",
    );
    // A restore that still runs, stopped in its last step.
    let (entered, wait) = std::sync::mpsc::channel();
    let (go_on, told) = std::sync::mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let running = scene.options().on_progress(move |now| {
        if now.files == now.total_files && entered.send(()).is_ok() {
            let _ = told.lock().unwrap().recv();
        }
    });
    let running = tokio::spawn(restore(running));
    tokio::task::spawn_blocking(move || wait.recv().unwrap())
        .await
        .unwrap();
    let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
    let mut options = scene.options();
    options.disk = disk.clone();
    restore(options).await.unwrap();
    let left = scene.left();
    assert_eq!(left.len(), 5, "{left:?}");
    assert!(!left.contains(&".app.db.restoring-0123456789abcdef".into()));
    // The one of this process may be the application's database when it would be closed again.
    let log = disk.log();
    let opened = log.iter().filter(|operation| **operation == "open_rw");
    assert_eq!(opened.count(), 1, "that of the process elsewhere");
    drop(go_on);
    let error = running.await.unwrap().unwrap_err();
    assert!(matches!(error, RestoreError::OutputExists(_)), "{error}");
    assert_eq!(scene.left().len(), 4);
    drop(elsewhere);
}

#[tokio::test]
async fn what_a_killed_restore_set_aside_goes_when_the_database_is_replaced_and_not_before() {
    let scene = Scene::usual().await;
    let aside = ".app.db.replaced-0123456789abcdef";
    write(scene.out().join(aside), "WAL of the former database");
    write(scene.out().join(".other.db.replaced-0123456789abcdef"), "");
    write(scene.output(), "former");
    // Whoever comes to put the former database together again finds all of it.
    scene.restore().await.unwrap_err();
    let mut options = scene.options();
    options.existing = ExistingOutput::Replace;
    options.target = RestoreTarget::Txid(Txid::new(1_000));
    restore(options).await.unwrap_err();
    assert!(scene.left().contains(&aside.into()), "{:?}", scene.left());
    let mut options = scene.options();
    options.existing = ExistingOutput::Replace;
    restore(options).await.unwrap();
    let left = scene.left();
    assert_eq!(left, [".other.db.replaced-0123456789abcdef", "app.db"]);
}

/// A replica of a real database in WAL mode, whose index lacks an entry if `corrupt`.
async fn real(corrupt: bool) -> Scene {
    let scene = Scene::empty();
    let path = scene.dir.path().join("source #1?.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL;
         CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT); CREATE INDEX i ON t(b);
         INSERT INTO t(b) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n
         WHERE i < 500) SELECT 'row ' || i FROM n;",
    )
    .unwrap();
    if corrupt {
        conn.execute_batch(
            "PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'i';",
        )
        .unwrap();
    }
    drop(conn);
    let pages = fs::read(&path).unwrap();
    let size = evertide_ltx::PageSize::new(4096).unwrap();
    let first = evertide_ltx::Txid::FIRST;
    let header = evertide_ltx::Header::new(size, (pages.len() / 4096) as u32, first, first);
    let mut encoder = evertide_ltx::Encoder::new(Vec::new(), header).unwrap();
    for (number, page) in (1..).zip(pages.chunks(4096)) {
        encoder
            .encode_page(evertide_ltx::Pgno::new(number).unwrap(), page)
            .unwrap();
    }
    scene.put(9, name(1, 1), encoder.finish().unwrap().0).await;
    Scene {
        expected: pages,
        ..scene
    }
}

#[tokio::test]
async fn a_corrupt_database_is_found_before_it_gets_its_name() {
    for check in [IntegrityCheck::Quick, IntegrityCheck::Full] {
        let scene = real(true).await;
        let mut options = scene.options();
        options.integrity_check = check;
        let error = restore(options).await.unwrap_err();
        assert!(matches!(error, RestoreError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("never used"), "{error}");
        scene.assert_nothing_left();
    }
    // Without a check nobody looks: the files are as they were written.
    let scene = real(true).await;
    scene.restore().await.unwrap();
    scene.assert_restored();
}

#[tokio::test]
async fn a_check_leaves_nothing_beside_the_database() {
    for check in [IntegrityCheck::Quick, IntegrityCheck::Full] {
        let scene = real(false).await;
        let mut options = scene.options();
        options.integrity_check = check;
        options.output = scene.out().join("a b%20?#.db");
        restore(options).await.unwrap();
        assert_eq!(scene.left(), ["a b%20?#.db"]);
    }
}

/// Closing any descriptor of a file drops the locks that SQLite has on it in the same process.
#[tokio::test]
async fn who_opens_the_database_as_soon_as_it_has_its_name_keeps_its_locks() {
    for existing in [ExistingOutput::Refuse, ExistingOutput::Replace] {
        let mut operations = Vec::new();
        for at in 1.. {
            let scene = real(false).await;
            let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
            let application: Arc<Mutex<Option<Connection>>> = Arc::default();
            let (path, opened) = (scene.output(), Arc::clone(&application));
            disk.call_at(at, move |_| {
                if path.exists() {
                    let conn = Connection::open(&path).unwrap();
                    let rows = conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0));
                    assert_eq!(rows, Ok(500));
                    *opened.lock().unwrap() = Some(conn);
                }
            });
            let mut options = scene.options();
            (options.disk, options.existing) = (disk.clone(), existing);
            restore(options).await.unwrap();
            let Some(operation) = disk.log().get(at as usize - 1).copied() else {
                break;
            };
            if let Some(conn) = application.lock().unwrap().take() {
                let open = || another_process_finds_it_open(&scene.output());
                assert!(open(), "no lock is left after {operation}, {existing:?}");
                drop(conn);
                assert!(!open(), "the probe works");
                operations.push(operation);
            }
        }
        assert!(operations.contains(&"sync_dir"), "{operations:?}");
    }
}

#[tokio::test]
async fn what_is_no_database_fails_the_check() {
    let scene = Scene::usual().await;
    let mut options = scene.options();
    options.integrity_check = IntegrityCheck::Quick;
    let error = restore(options).await.unwrap_err();
    assert!(matches!(error, RestoreError::Check(_)), "{error}");
    scene.assert_nothing_left();
}
