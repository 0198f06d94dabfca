//! What holds for the replicas in every store: the official Litestream restores what we wrote, and we go on
//! with what it wrote.

use std::{process::Command, time::Duration};

use evertide_testkit::{ChildProcess, litestream_command, litestream_v3_command, wait_until};

use super::support::{PATIENCE, Run, Workplace, insert};

/// A place in a store, and one to run programs in that may use it.
pub(crate) struct Store {
    pub(crate) place: Workplace,
    /// The replica's URL, as Evertide takes it.
    pub(crate) url: String,
    /// As Litestream takes it, with the password if there is one.
    pub(crate) official_url: String,
    /// The file of settings that Litestream takes in place of a URL, where a URL does not say all.
    pub(crate) official_config: Option<&'static str>,
    /// What both programs find in their environment.
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Store {
    /// A replica with one URL for both programs.
    pub(crate) fn new(url: String, environment: Vec<(&'static str, String)>) -> Self {
        Self {
            place: Workplace::new(),
            official_url: url.clone(),
            official_config: None,
            url,
            environment,
        }
    }

    pub(crate) fn evertide(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments))
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.command(arguments);
        command.envs(self.environment.clone());
        command
    }

    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let run = self.evertide(arguments);
        assert_eq!(run.code, Some(0), "{run:?}");
        run.out
    }

    /// Litestream, with this command, what belongs to it, and where the replica is.
    fn litestream(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = litestream_command();
        command.arg(verb);
        match self.official_config {
            // It names the database as well.
            Some(config) if verb == "replicate" => command.args(["-config", config]),
            Some(config) => {
                let database = self.place.path("app.db");
                command
                    .args(["-config", config])
                    .args(arguments)
                    .arg(database)
            }
            None => command.args(arguments).arg(&self.official_url),
        };
        command
            .current_dir(self.place.path(""))
            .envs(self.environment.clone());
        command
    }

    /// Restores with Litestream.
    #[track_caller]
    pub(crate) fn restore_with_litestream(&self, arguments: &[&str]) {
        let mut restore = self.litestream("restore", arguments);
        let run = restore.output().unwrap();
        assert!(run.status.success(), "{run:?}");
    }
}

/// We write, both programs restore the newest state and one in between.
pub(crate) fn both_programs_restore_what_we_wrote(store: &Store) {
    let (place, url) = (&store.place, &store.url);
    let database = place.database("app.db", 3);
    store.ok(&["replicate", "--once", "app.db", url]);
    std::thread::sleep(Duration::from_millis(1_100)); // Litestream's clock has whole seconds
    let between = jiff::Timestamp::now().to_string();
    std::thread::sleep(Duration::from_millis(1_100));
    insert(&database, 2);
    store.ok(&["replicate", "--once", "app.db", url]);

    store.ok(&["restore", url, "-o", "newest.db"]);
    assert_eq!(place.rows("newest.db"), 5);
    store.ok(&["restore", url, "-o", "then.db", "--timestamp", &between]);
    assert_eq!(place.rows("then.db"), 3);
    store.ok(&["verify", url]);

    store.restore_with_litestream(&["-o", "official-newest.db"]);
    assert_eq!(place.rows("official-newest.db"), 5);
    store.restore_with_litestream(&["-o", "official-then.db", "-timestamp", &between]);
    assert_eq!(place.rows("official-then.db"), 3);
}

/// Litestream writes, we restore it and write on, and both programs restore that.
pub(crate) fn we_go_on_with_what_litestream_wrote(store: &Store) {
    let (place, url) = (&store.place, &store.url);
    let database = place.database("app.db", 3);
    let mut official = store.litestream("replicate", &["app.db"]);
    let log = place.path("official.log");
    let mut official = ChildProcess::spawn_logged(&mut official, &log).unwrap();
    wait_until(PATIENCE, "Litestream's first upload", || {
        store
            .evertide(&["restore", url, "-o", "probe.db", "--force"])
            .code
            == Some(0)
    });
    insert(&database, 4);
    official.terminate(PATIENCE).unwrap();
    store.ok(&["restore", url, "-o", "theirs.db"]);
    assert_eq!(place.rows("theirs.db"), 7);

    insert(&database, 1);
    store.ok(&["replicate", "--once", "app.db", url]);
    store.ok(&["restore", url, "-o", "ours.db"]);
    assert_eq!(place.rows("ours.db"), 8);
    store.restore_with_litestream(&["-o", "official.db"]);
    assert_eq!(place.rows("official.db"), 8);
}

/// Litestream 0.3 writes, with these settings of its replica; we restore and verify it, and take it for a backup where we
/// write on.
pub(crate) fn what_litestream_0_3_wrote_we_restore(store: &Store, replica: &str) {
    let (place, url) = (&store.place, &store.url);
    let database = place.database("app.db", 3);
    let path = place.path("app.db");
    let settings = format!(
        "dbs: [{{path: '{}', replicas: [{{{replica}, sync-interval: 100ms}}]}}]\n",
        path.display()
    );
    place.write("litestream-0.3.yml", &settings);
    let mut official = litestream_v3_command();
    official
        .args(["replicate", "-config", "litestream-0.3.yml"])
        .current_dir(place.path(""))
        .envs(store.environment.clone());
    let log = place.path("litestream-0.3.log");
    let mut official = ChildProcess::spawn_logged(&mut official, &log).unwrap();
    let restored = |rows| {
        wait_until(PATIENCE, "what Litestream 0.3 uploaded", || {
            let restore = ["restore", url, "-o", "theirs.db", "--force"];
            store.evertide(&restore).code == Some(0) && place.rows("theirs.db") == rows
        });
    };
    restored(3);
    insert(&database, 4);
    restored(7);
    official.terminate(PATIENCE).unwrap();
    drop(database);
    store.ok(&["verify", "--deep", url]);
    std::thread::sleep(Duration::from_millis(1_100)); // a listing may have whole seconds
    let before = jiff::Timestamp::now().to_string();

    // The disk is lost: nothing new is begun where there is a backup.
    for file in ["app.db", "app.db-wal", "app.db-shm"] {
        let _ = std::fs::remove_file(place.path(file));
    }
    let back = [
        "replicate",
        "--once",
        "--restore-if-db-not-exists",
        "app.db",
        url,
    ];
    store.ok(&back);
    assert_eq!(place.rows("app.db"), 7);
    insert(&rusqlite::Connection::open(&path).unwrap(), 1);
    store.ok(&["replicate", "--once", "app.db", url]);
    store.ok(&["restore", url, "-o", "ours.db"]);
    assert_eq!(place.rows("ours.db"), 8);
    // What is older is still there, as Litestream 0.3 wrote it.
    store.ok(&["restore", url, "-o", "older.db", "--timestamp", &before]);
    assert_eq!(place.rows("older.db"), 7);
}
