//! Permissions that are lost and come back, and a database on a file system that cannot be written to.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::Command,
    sync::Arc,
};

use evertide::{DatabaseState, DatabaseStatus, ExistingOutput, Replication, RestoreOptions};
use evertide_storage::OsDisk;

use crate::{DEADLINE, Restorer, Scene, check_rows, fail::durable, insert};

/// The folder that the processes work in.
const DIR: &str = "EVERTIDE_FAULTS_DIR";
/// A user who is not the superuser, to whom permissions mean nothing.
const NOBODY: u32 = 65_534;

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

async fn until(
    backup: &Replication,
    wanted: impl FnMut(&DatabaseStatus) -> bool,
) -> DatabaseStatus {
    let waited = tokio::time::timeout(DEADLINE, backup.wait_for(wanted)).await;
    waited.unwrap_or_else(|_| panic!("never came: {:#?}", backup.status()))
}

/// Loses the right to one folder after the other, says so, and goes on once it has it again.
#[tokio::test]
#[ignore = "the process that a test below starts"]
async fn the_process_without_rights() {
    let dir = std::env::var(DIR).expect("started by a test below");
    let scene = Scene::at(Path::new(&dir));
    let conn = scene.open();
    conn.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
        .unwrap();
    insert(&conn, 5);
    let backup = scene.replication(Arc::new(OsDisk));
    backup.start().await.unwrap();
    assert!(durable(&backup, DEADLINE).await);
    insert(&conn, 1);
    assert!(durable(&backup, DEADLINE).await);

    // The replica.
    let level = scene.replica.join("ltx/0");
    allow(&level, 0o500);
    insert(&conn, 3);
    let status = until(&backup, |status| status.replicas[0].error.is_some()).await;
    let error = status.replicas[0].error.clone().unwrap();
    assert!(
        error.contains("ltx/0") && error.contains("ermission"),
        "{error}"
    );
    assert_eq!(status.state, DatabaseState::Running, "capture goes on");
    allow(&level, 0o700);
    assert!(durable(&backup, DEADLINE).await, "{:#?}", backup.status());
    scene.check_restore(Restorer::Own).await.unwrap();

    // The local state, where captured transactions go, and then all of it.
    for (folder, mode) in [(scene.state().join("ltx/0"), 0o500), (scene.state(), 0o000)] {
        allow(&folder, mode);
        insert(&conn, 3);
        let status = until(&backup, |status| status.state == DatabaseState::Failing).await;
        let error = status.error.clone().unwrap();
        assert!(
            error.contains("app.db-evertide") && error.contains("ermission"),
            "{error}"
        );
        allow(&folder, 0o700);
        assert!(durable(&backup, DEADLINE).await, "{:#?}", backup.status());
        scene.check_restore(Restorer::Own).await.unwrap();
    }

    // The database, which is open already: its application does not notice, either.
    allow(&scene.db, 0o000);
    insert(&conn, 3);
    assert!(durable(&backup, DEADLINE).await, "{:#?}", backup.status());
    allow(&scene.db, 0o600);
    scene.check_restore(Restorer::Own).await.unwrap();
    backup.stop(DEADLINE).await.unwrap();

    restore_without_rights(&scene).await;

    // A database that was never open here.
    let folder = scene.dir.join("second");
    fs::create_dir(&folder).unwrap();
    let second = Scene::at(&folder);
    drop(second.open());
    allow(&second.db, 0o000);
    let backup = second.replication(Arc::new(OsDisk));
    let error = backup.start().await.unwrap_err().to_string();
    assert!(error.contains("second/app.db"), "{error}");
    allow(&second.db, 0o600);
    let conn = second.open();
    conn.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
        .unwrap();
    insert(&conn, 2);
    backup.start().await.unwrap();
    assert!(durable(&backup, DEADLINE).await);
    second.check_restore(Restorer::Own).await.unwrap();
    backup.stop(DEADLINE).await.unwrap();
    println!("it had its rights again");
}

/// Where nothing may be written nothing is left, and nothing is taken of what is there.
async fn restore_without_rights(scene: &Scene) {
    let folder = scene.dir.join("restored");
    fs::create_dir(&folder).unwrap();
    let output = folder.join("app.db");
    let destination = evertide_storage::Destination::file(&scene.replica).unwrap();
    let restore = || {
        let client = destination.connect(Arc::new(OsDisk)).unwrap();
        let mut options = RestoreOptions::new(client, &output);
        options.existing = ExistingOutput::Replace;
        evertide::restore(options)
    };
    for old in [None, Some("of before")] {
        if let Some(old) = old {
            fs::write(&output, old).unwrap();
        }
        allow(&folder, 0o500);
        let error = restore().await.unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("restored") && error.contains("ermission"),
            "{error}"
        );
        let left = fs::read_dir(&folder).unwrap().count();
        assert_eq!(left, usize::from(old.is_some()));
        assert_eq!(fs::read_to_string(&output).ok().as_deref(), old);
        allow(&folder, 0o700);
        restore().await.unwrap();
        assert!(fs::metadata(&output).unwrap().len() > 4_096);
        fs::remove_file(&output).unwrap();
    }
}

/// Runs a test of this file, in a process of its own.
pub(crate) fn run(command: &mut Command, name: &str, dir: &Path, said: &str) {
    let output = command
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env(DIR, dir)
        .current_dir(dir)
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && out.contains(said), "{out}{err}");
}

#[test]
fn lost_permissions_are_named_and_whoever_gets_them_back_has_a_whole_backup() {
    let dir = tempfile::tempdir().unwrap();
    // The test program may lie where others have no way to.
    let program = dir.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let work = dir.path().join("work");
    fs::create_dir(&work).unwrap();
    let mut command = Command::new(&program);
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&work).unwrap());
    if owner == 0 {
        allow(dir.path(), 0o755);
        std::os::unix::fs::chown(&work, Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    let name = "rights::the_process_without_rights";
    run(&mut command, name, &work, "it had its rights again");
}

/// Everything is on a file system that can only be read.
#[tokio::test]
#[ignore = "the process that the test below starts"]
async fn the_process_that_can_only_read() {
    let dir = std::env::var(DIR).expect("started by the test below");
    let scene = Scene::at(&Path::new(&dir).join("read-only"));
    let probe = fs::write(scene.dir.join("probe"), "").unwrap_err();
    assert_eq!(probe.raw_os_error(), Some(30), "EROFS: {probe}");
    let backup = scene.replication(Arc::new(OsDisk));
    let error = backup.start().await.unwrap_err().to_string();
    assert!(
        error.contains("app.db") && error.contains("Read-only file system"),
        "{error}"
    );
    // What was replicated before can be restored to elsewhere.
    let destination = evertide_storage::Destination::file(&scene.replica).unwrap();
    let output = Path::new(&dir).join("restored.db");
    let client = destination.connect(Arc::new(OsDisk)).unwrap();
    evertide::restore(RestoreOptions::new(client, &output))
        .await
        .unwrap();
    check_rows(&crate::Restored(output), 6).unwrap();
    println!("it was restored");
}

#[tokio::test]
async fn a_database_on_a_read_only_file_system_is_a_clear_error_and_its_replica_can_be_restored() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("read-only");
    fs::create_dir(&folder).unwrap();
    let scene = Scene::at(&folder);
    let conn = scene.open();
    conn.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
        .unwrap();
    insert(&conn, 5);
    scene.replicate_one_more_commit(&conn).await.unwrap();
    drop(conn);
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "sh", "-c"])
        .arg("mount --bind read-only read-only && mount -o remount,bind,ro read-only && exec \"$0\" \"$@\"")
        .arg(std::env::current_exe().unwrap());
    let name = "rights::the_process_that_can_only_read";
    run(&mut command, name, dir.path(), "it was restored");
}
