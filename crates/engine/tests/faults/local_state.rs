//! Files of the local state that are missing, damaged or somebody else's: each is a cache, so the
//! backup is whole again after the next start, and is never wrong.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use evertide::Durability;
use evertide_ltx::{Checksum, Pgno};
use evertide_storage::OsDisk;
use evertide_testkit::{WebdavKind, WebdavServer};
use futures_util::future::join_all;
use rusqlite::Connection;

use crate::{DEADLINE, Restorer, SHORT_LEASE, Scene, insert, names};

const OFFICIAL_EVERY: u64 = 10;

/// What the replica had when the state was damaged, and what happened to the database then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Situation {
    /// The replica had everything.
    Complete,
    /// It could not be reached for a while, so captured files wait for it.
    Behind,
    /// It had everything, and then the WAL was restarted and written to.
    Unwatched,
}

const SITUATIONS: [Situation; 3] = [Situation::Complete, Situation::Behind, Situation::Unwatched];

/// A file of the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum File {
    Lock,
    Identity,
    /// Only with a store that replaces whatever has come since it was looked at.
    Leases,
    Position,
    Pages,
    /// The oldest staged file.
    Oldest,
    /// The newest one.
    Newest,
    /// All of them.
    Folder,
}

/// What happens to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Damage {
    Deleted,
    Emptied,
    Halved,
    /// One bit, anywhere, is another.
    Flipped(u64),
    /// It is the one of a copy of the database that went another way.
    Foreign,
    /// It is the one of a database that has nothing in common with this one, not even the size of a page.
    Unrelated,
    /// It is the one of some commits before.
    Old,
    /// It says to be in a format of the future.
    Newer,
}

/// A scene to damage again and again, a copy of its database that went another way, another database, and a state of
/// before.
struct Scenes {
    situation: Situation,
    scene: Scene,
    /// The scene before the damage.
    intact: PathBuf,
    twin: Scene,
    unrelated: Scene,
    old: PathBuf,
}

impl Scenes {
    /// Of scenes that this makes, each with its own replica.
    async fn new(situation: Situation, make: impl Fn() -> Scene) -> Self {
        let scene = make();
        let conn = scene.fill(20);
        for _ in 0..2 {
            scene.replicate_one_more_commit(&conn).await.unwrap();
        }
        let (twin, old) = (make(), scene.dir.join("old"));
        copy(&scene.state(), &old);
        for suffix in ["", "-wal"] {
            std::fs::copy(scene.beside(suffix), twin.beside(suffix)).unwrap();
        }
        copy(&scene.state(), &twin.state());
        copy(&scene.replica, &twin.replica);
        // As many transactions on both sides, of other pages.
        {
            let twin_conn = twin.open();
            for row in [1, 18, 1] {
                change(&twin_conn, row, "twin");
                twin.replicate_one_more_commit(&twin_conn).await.unwrap();
            }
            change(&twin_conn, 3, "twin");
            Self::capture_only(&twin).await;
        }
        for row in [18, 1, 18] {
            change(&conn, row, "ours");
            scene.replicate_one_more_commit(&conn).await.unwrap();
        }
        if situation == Situation::Behind {
            change(&conn, 1, "staged");
            Self::capture_only(&scene).await;
        }
        let intact = scene.dir.join("intact");
        copy(&scene.state(), &intact.join("state"));
        copy(&scene.replica, &intact.join("replica"));
        scene.copy_database(&intact);
        Self {
            situation,
            scene,
            intact,
            twin,
            unrelated: Self::unrelated(make()).await,
            old,
        }
    }

    /// A database with pages of another size, of which something waits for its replica.
    async fn unrelated(scene: Scene) -> Scene {
        let conn = Connection::open(&scene.db).unwrap();
        conn.execute_batch(
            "PRAGMA page_size = 1024; CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)",
        )
        .unwrap();
        drop(conn);
        let conn = scene.open();
        insert(&conn, 30);
        for row in [1, 9, 4] {
            change(&conn, row, "unrelated");
            scene.replicate_one_more_commit(&conn).await.unwrap();
        }
        change(&conn, 2, "unrelated");
        Self::capture_only(&scene).await;
        scene
    }

    /// Makes everything as it was before the damage, and returns the application's connection.
    fn mend(&self) -> Connection {
        let scene = &self.scene;
        for (name, dir) in [("state", scene.state()), ("replica", scene.replica.clone())] {
            let _ = std::fs::remove_dir_all(&dir);
            copy(&self.intact.join(name), &dir);
        }
        scene.put_database_back(&self.intact);
        scene.open()
    }

    async fn recover_from(
        &self,
        file: File,
        damage: Damage,
        restorer: Restorer,
    ) -> Result<(), String> {
        let conn = self.mend();
        self.damage(file, damage);
        if self.situation == Situation::Unwatched {
            change(&conn, 3, "unwatched");
            let truncate = "PRAGMA wal_checkpoint(TRUNCATE)";
            conn.query_row(truncate, [], |_| Ok(())).unwrap();
            change(&conn, 5, "unwatched");
        }
        becomes_durable(&self.scene, restorer).await?;
        self.scene.recover(&conn, restorer).await
    }

    /// Captures while the replica cannot be reached.
    async fn capture_only(scene: &Scene) {
        let away = scene.dir.join("away");
        std::fs::rename(&scene.replica, &away).unwrap();
        std::fs::write(&scene.replica, "in the way").unwrap();
        let backup = scene.replication(Arc::new(OsDisk));
        backup.start().await.unwrap();
        backup.sync().await.unwrap();
        insert(&scene.open(), 1);
        backup.sync().await.unwrap();
        let stopped = backup.stop(Duration::from_millis(1)).await;
        assert!(stopped.is_err(), "nothing is staged");
        std::fs::remove_file(&scene.replica).unwrap();
        std::fs::rename(&away, &scene.replica).unwrap();
    }

    fn damage(&self, file: File, damage: Damage) {
        let state = self.scene.state();
        let path = path(&state, file);
        let content = || std::fs::read(&path).unwrap();
        match damage {
            Damage::Deleted if file == File::Folder => std::fs::remove_dir_all(&path).unwrap(),
            Damage::Deleted => std::fs::remove_file(&path).unwrap(),
            Damage::Emptied => std::fs::write(&path, "").unwrap(),
            Damage::Halved => {
                let content = content();
                std::fs::write(&path, &content[..content.len() / 2]).unwrap();
            }
            Damage::Flipped(seed) => {
                let mut content = content();
                let mut rng = fastrand::Rng::with_seed(seed);
                let at = rng.usize(..content.len());
                content[at] ^= 1 << rng.u8(..8);
                std::fs::write(&path, content).unwrap();
            }
            Damage::Foreign | Damage::Unrelated | Damage::Old => {
                let from = match damage {
                    Damage::Old => &self.old,
                    Damage::Unrelated => &self.unrelated.state(),
                    _ => &self.twin.state(),
                };
                // The file of the same name where there is one.
                let same = from.join(path.strip_prefix(&state).unwrap());
                let from = match same.exists() {
                    true => same,
                    false => self::path(from, file),
                };
                if file == File::Folder {
                    std::fs::remove_dir_all(&path).unwrap();
                    copy(&from, &path);
                } else {
                    std::fs::copy(from, &path).unwrap();
                }
            }
            Damage::Newer => {
                let mut content = content();
                make_newer(&mut content, file);
                std::fs::write(&path, content).unwrap();
            }
        }
    }
}

/// Where the file is, in a state of this folder.
fn path(state: &Path, file: File) -> PathBuf {
    let stage = state.join("ltx/0");
    let mut staged = names(&stage);
    staged.sort();
    match file {
        File::Lock => state.join("lock"),
        File::Identity => state.join("identity"),
        File::Leases => state.join("leases"),
        File::Position => state.join("position"),
        File::Pages => state.join("pages"),
        File::Oldest => stage.join(&staged[0]),
        File::Newest => stage.join(staged.last().unwrap()),
        File::Folder => state.to_owned(),
    }
}

/// Both position records, intact, with the magic number of a later version; an identity or leases, intact, with the
/// number of one; of an LTX file, that of its first bytes; of a table, which has none, an entry of another shape.
fn make_newer(content: &mut Vec<u8>, file: File) {
    match file {
        File::Position => {}
        File::Identity => return *content = newer_text(content, "identity"),
        File::Leases => return *content = newer_text(content, "leases"),
        File::Pages => return content[3] ^= 1,
        _ => return content[..4].copy_from_slice(b"LTX2"),
    }
    for at in RECORDS {
        let record = content[at..].first_chunk_mut().unwrap();
        record[7] += 1;
        seal(record);
    }
}

/// A file of text with the number of a later version, and the checksum that belongs to it.
fn newer_text(content: &[u8], what: &str) -> Vec<u8> {
    let text = std::str::from_utf8(content).unwrap();
    let (body, _) = text.rsplit_once("crc ").unwrap();
    let sealed = |body: &str| {
        let checksum = Checksum::page(Pgno::FIRST, body.as_bytes());
        format!("{body}crc {checksum}\n")
    };
    assert_eq!(sealed(body), text);
    let newer = body.replacen(&format!("{what} 1"), &format!("{what} 2"), 1);
    assert_ne!(newer, body);
    sealed(&newer).into_bytes()
}

/// Where the two records of a position file are, and what is in each.
const LEN: usize = 384;
const RECORDS: [usize; 2] = [0, 4_096];
const SEQUENCE: Range<usize> = 8..16;
const TXID: Range<usize> = 16..24;
const TIMESTAMP: Range<usize> = 64..72;
const STAGED_MIN: Range<usize> = 80..88;

/// The newest position record of the state in this folder.
fn newest_record(state: &Path) -> [u8; LEN] {
    let content = std::fs::read(path(state, File::Position)).unwrap();
    let records = RECORDS.map(|at| *content[at..].first_chunk::<LEN>().unwrap());
    let sequence = |record: &[u8; LEN]| u64::from_le_bytes(record[SEQUENCE].try_into().unwrap());
    records.into_iter().max_by_key(sequence).unwrap()
}

/// Makes the checksum of a position record right.
fn seal(record: &mut [u8; LEN]) {
    let checksum = Checksum::page(Pgno::FIRST, &record[..LEN - 8]).get();
    record[LEN - 8..].copy_from_slice(&checksum.to_le_bytes());
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

fn change(conn: &Connection, row: i64, to: &str) {
    let sql = format!("UPDATE t SET b = '{to}' || hex(randomblob(50)) WHERE a = ?1");
    conn.execute(&sql, [row]).unwrap();
}

/// Whether what is reported durable is, without any further commit.
async fn becomes_durable(scene: &Scene, restorer: Restorer) -> Result<(), String> {
    let backup = scene.replication(Arc::new(OsDisk));
    let failed = |error: evertide::Error| error.to_string();
    backup.start().await.map_err(failed)?;
    let durable = tokio::time::timeout(DEADLINE, backup.wait_durable(Durability::All)).await;
    let wedged = |_| format!("wedged: {:#?}", backup.status());
    durable.map_err(wedged)?.map_err(failed)?;
    scene.check_restore(restorer).await?;
    backup.stop(DEADLINE).await.map_err(failed)
}

#[tokio::test]
async fn no_damage_to_the_local_state_makes_a_wrong_backup() {
    let mut rng = fastrand::Rng::with_seed(evertide_testkit::seed());
    let mut damages = vec![
        (File::Folder, Damage::Foreign),
        (File::Folder, Damage::Unrelated),
        (File::Folder, Damage::Old),
        (File::Folder, Damage::Deleted),
        (File::Identity, Damage::Newer),
        (File::Position, Damage::Newer),
        (File::Pages, Damage::Newer),
        (File::Newest, Damage::Newer),
        (File::Lock, Damage::Deleted),
        (File::Lock, Damage::Foreign),
    ];
    for file in [
        File::Identity,
        File::Position,
        File::Pages,
        File::Oldest,
        File::Newest,
    ] {
        let all = [
            Damage::Deleted,
            Damage::Emptied,
            Damage::Halved,
            Damage::Foreign,
            Damage::Unrelated,
            Damage::Old,
            Damage::Flipped(rng.u64(..)),
            Damage::Flipped(rng.u64(..)),
        ];
        damages.extend(all.map(|damage| (file, damage)));
    }
    let situations = SITUATIONS.map(|situation| {
        let damages = damages.clone();
        async move {
            let scenes = Scenes::new(situation, Scene::new).await;
            let mut outcomes = Vec::new();
            for (number, (file, damage)) in (0..).zip(damages) {
                let restorer = Restorer::official_every(OFFICIAL_EVERY, number);
                let outcome = scenes.recover_from(file, damage, restorer).await;
                let case = format!("{situation:?}, {file:?} {damage:?}");
                outcomes.push(outcome.map_err(|error| format!("{case}: {error}")));
            }
            outcomes
        }
    });
    assert_all_recovered(&join_all(situations).await.concat());
}

fn assert_all_recovered(outcomes: &[Result<(), String>]) {
    let failures: Vec<&str> = outcomes
        .iter()
        .filter_map(|outcome| outcome.as_ref().err().map(String::as_str))
        .collect();
    println!("{} cases", outcomes.len());
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        outcomes.len(),
        failures.join("\n")
    );
}

/// The leases that are known: of a store that cannot compare what is there with what it replaces.
#[tokio::test]
async fn no_damage_to_the_leases_that_are_known_makes_a_wrong_backup_and_they_are_noted_again() {
    let mut rng = fastrand::Rng::with_seed(evertide_testkit::seed());
    let damages = [
        Damage::Deleted,
        Damage::Emptied,
        Damage::Halved,
        Damage::Foreign,
        Damage::Unrelated,
        Damage::Old,
        Damage::Flipped(rng.u64(..)),
        Damage::Newer,
    ];
    let server = WebdavServer::shared(WebdavKind::Wsgidav);
    let make = || Scene {
        lease: SHORT_LEASE,
        ..Scene::on(Arc::clone(&server))
    };
    let make = &make;
    let situations = SITUATIONS.map(|situation| async move {
        let scenes = Scenes::new(situation, make).await;
        let file = path(&scenes.scene.state(), File::Leases);
        let before = std::fs::read(path(&scenes.intact.join("state"), File::Leases)).unwrap();
        let mut outcomes = Vec::new();
        for damage in damages {
            let recovered = scenes.recover_from(File::Leases, damage, Restorer::Own);
            let mut outcome = recovered.await;
            let noted = std::fs::read(&file).unwrap_or_default();
            let is_new = noted.starts_with(b"evertide leases 1\n") && noted != before;
            if outcome.is_ok() && !is_new {
                outcome = Err(format!("noted: {:?}", String::from_utf8_lossy(&noted)));
            }
            let case = format!("{situation:?}, leases {damage:?}");
            outcomes.push(outcome.map_err(|error| format!("{case}: {error}")));
        }
        outcomes
    });
    assert_all_recovered(&join_all(situations).await.concat());
}

/// The canary: a state that says, with all its checksums right, that the replica's newest
/// transaction has a commit which came after it.
#[tokio::test]
async fn a_state_that_lies_fails_the_test_above() {
    let (scene, conn) = Scene::with_rows(20);
    for _ in 0..2 {
        scene.replicate_one_more_commit(&conn).await.unwrap();
    }
    let (replica, state) = (scene.dir.join("replica-then"), scene.dir.join("state-then"));
    copy(&scene.replica, &replica);
    copy(&scene.state(), &state);
    change(&conn, 3, "captured");
    scene.replicate_one_more_commit(&conn).await.unwrap();

    let mut position = newest_record(&scene.state());
    let then = newest_record(&state);
    assert_ne!(position[TXID], then[TXID]);
    for field in [TXID, TIMESTAMP, STAGED_MIN] {
        position[field.clone()].copy_from_slice(&then[field]);
    }
    seal(&mut position);
    std::fs::copy(path(&scene.state(), File::Pages), path(&state, File::Pages)).unwrap();
    for dir in [scene.state(), scene.replica.clone()] {
        std::fs::remove_dir_all(dir).unwrap();
    }
    copy(&replica, &scene.replica);
    copy(&state, &scene.state());
    std::fs::write(path(&scene.state(), File::Position), position).unwrap();

    let outcome = becomes_durable(&scene, Restorer::Own).await;
    let error = outcome.unwrap_err();
    assert!(error.contains("differ"), "{error}");
}
