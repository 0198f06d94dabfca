//! The real binary, ended with SIGKILL at any of the things that it tells its log: each step of capture with its locks,
//! each lease, compaction, snapshot and end of a start or stop is told there.

use std::{fs, os::unix::process::ExitStatusExt, time::Duration};

use evertide_testkit::{ChildProcess, assert_same_database, restore_with_litestream};
use rusqlite::Connection;

use super::support::{PATIENCE, Workplace, insert};

/// In each test run; `EVERTIDE_POINTS` says how many more.
const POINTS: usize = 6;
/// Commits in the life of a process that is not killed.
const COMMITS: u32 = 60;

/// A database and its replica, with intervals so short that all of maintenance comes within a second.
struct Scene {
    place: Workplace,
    database: Connection,
}

impl Scene {
    fn new() -> Self {
        let place = Workplace::new();
        let database = place.database("app.db", 5);
        let (path, replica) = (place.path("app.db"), place.path("replica"));
        place.write(
            "settings.toml",
            &format!(
                "[[databases]]\npath = \"{}\"\nlevels = [{{ interval = \"100ms\" }}, {{ interval = \"300ms\" }}]\n\
                 level_0_retention = \"50ms\"\ncheckpoint_interval = \"100ms\"\n\
                 [[databases.replicas]]\nname = \"replica\"\ntype = \"file\"\nfile_path = \"{}\"\n\
                 sync_interval = \"10ms\"\nsnapshot_interval = \"300ms\"\nretention = \"1s\"\n\
                 retention_check_interval = \"100ms\"\n",
                path.display(),
                replica.display(),
            ),
        );
        Self { place, database }
    }

    /// Commits while the binary runs, which is killed at this point or stopped in order. Whether it was killed.
    fn live(&self, point: Option<u64>) -> bool {
        let arguments = ["replicate", "--config", "settings.toml"];
        let told = ["--log-level", "trace"];
        let mut command = self.place.command(&[&arguments[..], &told].concat());
        if let Some(point) = point {
            command.env("EVERTIDE_DIES_AT", point.to_string());
        }
        let log = self.place.path("log");
        let mut process = ChildProcess::spawn_logged(&mut command, &log).unwrap();
        // Enough frames for the WAL to start over.
        let large = "INSERT INTO t VALUES (randomblob(100000))";
        for _ in 0..COMMITS {
            self.database.execute(large, []).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            if !process.is_running().unwrap() {
                break;
            }
        }
        let status = process.terminate(PATIENCE).unwrap();
        assert!(
            status.success() || status.signal() == Some(9),
            "{status}: {}",
            process.log()
        );
        status.signal() == Some(9)
    }

    /// What is on the replica is a state that the database had, and the next start makes it the present one.
    fn assert_whole_again(&self) {
        let restored = self.place.replicated_rows("replica");
        let rows = self.place.rows("app.db");
        assert!(restored <= rows, "{restored} of {rows} rows");
        let any = self.levels().contains(&"9");
        assert!(restored >= 5 || !any, "{restored} rows are on the replica");
        // Its locks went with it: the WAL may start over before the next one comes.
        let truncate = "PRAGMA wal_checkpoint(TRUNCATE)";
        self.database.query_row(truncate, [], |_| Ok(())).unwrap();
        insert(&self.database, 1);
        let arguments = ["replicate", "--once", "--config", "settings.toml"];
        self.place.ok(&arguments);
        let output = self.place.path("restored.db");
        restore_with_litestream(self.place.path("replica"), &output);
        assert_same_database(self.place.path("app.db"), &output);
    }

    /// What it told the log, of each line what it is about.
    fn told(&self) -> Vec<String> {
        let log = self.place.read("log");
        log.lines().map(str::to_owned).collect()
    }

    /// The levels that have files.
    fn levels(&self) -> Vec<&'static str> {
        let has_files = |level: &&str| {
            let folder = self.place.path("replica/ltx").join(level);
            let mut names = fs::read_dir(folder).into_iter().flatten();
            names.any(|entry| entry.unwrap().path().extension() == Some("ltx".as_ref()))
        };
        ["0", "1", "2", "9"].into_iter().filter(has_files).collect()
    }
}

#[test]
fn the_binary_killed_at_anything_it_tells_its_log_leaves_a_replica_that_the_next_start_completes() {
    let scene = Scene::new();
    assert!(!scene.live(None), "nobody killed it");
    scene.assert_whole_again();
    let told = scene.told();
    for what in ["ReleasePin", "TakePin", "compacted", "daemon stopped"] {
        assert!(
            told.iter().any(|line| line.contains(what)),
            "{what}: {told:#?}"
        );
    }
    assert!(scene.levels().contains(&"2"), "{:?}", scene.levels());

    let points = std::env::var("EVERTIDE_POINTS").ok();
    let points = points.map_or(POINTS, |points| points.parse().unwrap());
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let mut kills = 0;
    for _ in 0..points {
        let point = random.u64(1..=told.len() as u64);
        let scene = Scene::new();
        if scene.live(Some(point)) {
            kills += 1;
            eprintln!("{point}: {}", scene.told().last().unwrap());
        }
        scene.assert_whole_again();
    }
    eprintln!("{kills} kills at {points} of {} points", told.len());
    // How much there is to tell depends on how quick everything is.
    assert!(kills * 2 > points, "{kills} of {points} were killed");
}
