//! What the local state knows of leases in a store without conditions (`leases`), damaged: it may cost a wait for a
//! lease to end, and nothing else.

use std::{fs, path::PathBuf, thread, time::Duration};

use evertide_ltx::{Checksum, Pgno};
use evertide_testkit::{ChildProcess, S3Kind, S3Server, seed, wait_until};
use rusqlite::Connection;

use super::{
    interop::Store,
    support::{PATIENCE, Workplace, insert},
};

const TITLE: &str = "evertide leases 1\n";

/// What happens to the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Damage {
    Deleted,
    Emptied,
    Halved,
    /// One bit, anywhere, is another.
    Flipped(u64),
    /// It is the one of another database with another replica.
    Foreign,
    /// It names the lease of before the last renewal.
    Old,
    /// It says to be in a format of the future.
    Newer,
}

/// A database, and a replica that only its owner's lease keeps others from.
struct Scene {
    store: Store,
    database: Connection,
    /// What was known of the first lease.
    first: Vec<u8>,
}

impl Scene {
    /// Killed while its lease lasts, after it was renewed.
    fn new(server: &S3Server, name: &str) -> Self {
        let environment = S3Server::environment().map(|(name, value)| (name, value.to_owned()));
        let store = Store::new(server.replica_url(name), environment.to_vec());
        let place = &store.place;
        let database = place.database("app.db", 3);
        let settings = format!(
            "[[databases]]\npath = \"{}\"\n[[databases.replicas]]\nname = \"replica\"\ntype = \"s3\"\n\
             s3_bucket = \"{}\"\ns3_path = \"{name}\"\ns3_endpoint = \"{}\"\n\
             s3_conditional_writes = false\nsync_interval = \"50ms\"\nlease_duration = \"1s\"\n",
            place.path("app.db").display(),
            S3Server::BUCKET,
            server.endpoint()
        );
        place.write("evertide.toml", &settings);
        let mut scene = Self {
            store,
            database,
            first: Vec::new(),
        };
        let mut process = scene.start();
        wait_until(PATIENCE, "a lease is known", || {
            scene.first = scene.known();
            scene.first.starts_with(TITLE.as_bytes())
        });
        // Only who writes renews it.
        wait_until(PATIENCE, "it is renewed", || {
            insert(&scene.database, 1);
            thread::sleep(Duration::from_millis(100));
            scene.known() != scene.first
        });
        process.kill().unwrap();
        scene
    }

    fn start(&self) -> ChildProcess {
        let mut command = self
            .store
            .command(&["replicate", "--config", "evertide.toml"]);
        ChildProcess::spawn_logged(&mut command, &self.place().path("log")).unwrap()
    }

    fn place(&self) -> &Workplace {
        &self.store.place
    }

    fn path(&self) -> PathBuf {
        self.place().path(".app.db-evertide/leases")
    }

    fn known(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap_or_default()
    }

    /// Whether the replica has all rows.
    fn is_complete(&self) -> bool {
        let count = "SELECT count(*) FROM t";
        let rows = self.database.query_row(count, [], |row| row.get(0));
        self.restored_rows() == Some(rows.unwrap())
    }

    /// The rows of what the replica holds now; `None` while it holds nothing.
    fn restored_rows(&self) -> Option<i64> {
        let output = self.place().path("restored.db");
        let _ = fs::remove_file(&output);
        let restored = self
            .store
            .evertide(&["restore", &self.store.url, "-o", "restored.db"]);
        (restored.code == Some(0)).then(|| self.place().rows("restored.db"))
    }

    fn damage(&self, damage: Damage, foreign: &[u8]) {
        let path = self.path();
        let mut content = self.known();
        let len = content.len();
        match damage {
            Damage::Deleted => return fs::remove_file(&path).unwrap(),
            Damage::Emptied => content.clear(),
            Damage::Halved => content.truncate(len / 2),
            Damage::Flipped(seed) => {
                let mut random = fastrand::Rng::with_seed(seed);
                content[random.usize(..len)] ^= 1 << random.u8(..8);
            }
            Damage::Foreign => content = foreign.to_vec(),
            Damage::Old => content.clone_from(&self.first),
            Damage::Newer => content = newer(&content),
        }
        fs::write(&path, content).unwrap();
    }

    fn recovers_from(&self, damage: Damage, foreign: &[u8]) {
        self.damage(damage, foreign);
        insert(&self.database, 3);
        let mut process = self.start();
        let what = format!("{damage:?}: all is there");
        wait_until(PATIENCE, &what, || self.is_complete());
        let ended = process.terminate(PATIENCE).unwrap();
        assert!(ended.success(), "{damage:?}: {}", process.log());
        assert!(self.is_complete(), "{damage:?}");
        self.store.ok(&["verify", &self.store.url]);
        let known = self.known();
        assert!(known.starts_with(TITLE.as_bytes()), "{damage:?}: {known:?}");
    }
}

/// The same with the number of a later version, and the checksum that belongs to it.
fn newer(content: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(content).unwrap();
    let (body, _) = text.split_once("crc ").unwrap();
    let newer = body.replacen("leases 1", "leases 2", 1);
    assert_ne!(newer, body);
    let checksum = Checksum::page(Pgno::FIRST, newer.as_bytes());
    format!("{newer}crc {checksum}\n").into_bytes()
}

#[test]
fn no_damage_to_what_is_known_of_leases_makes_a_wrong_backup_or_holds_it_up_for_ever() {
    let server = &S3Server::start(S3Kind::Rclone);
    let foreign = &Scene::new(server, "foreign").known();
    let seed = seed();
    let damages = [
        Damage::Deleted,
        Damage::Emptied,
        Damage::Halved,
        Damage::Flipped(seed),
        Damage::Flipped(seed.wrapping_add(1)),
        Damage::Foreign,
        Damage::Old,
        Damage::Newer,
    ];
    thread::scope(|scope| {
        for (number, damage) in damages.into_iter().enumerate() {
            scope.spawn(move || {
                Scene::new(server, &format!("replica-{number}")).recovers_from(damage, foreign);
            });
        }
    });
}
