//! Replicas in S3, on a real server, together with the official Litestream.

use std::{process::Command, time::Duration};

use evertide_testkit::{ChildProcess, S3Kind, S3Server, litestream_command};

use super::support::{PATIENCE, Run, Workplace, insert};

/// A server, and a place to run programs that know its access key.
struct Cloud {
    server: S3Server,
    place: Workplace,
}

impl Cloud {
    fn new() -> Self {
        Self {
            server: S3Server::start(S3Kind::Ministack),
            place: Workplace::new(),
        }
    }

    fn url(&self) -> String {
        self.server.replica_url("backup/app")
    }

    fn with_key(command: &mut Command) -> &mut Command {
        command.envs(S3Server::environment())
    }

    fn evertide(&self, arguments: &[&str]) -> Run {
        let mut command = self.place.command(arguments);
        let output = Self::with_key(&mut command).output().unwrap();
        Run {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let run = self.evertide(arguments);
        assert_eq!(run.code, Some(0), "{run:?}\n{}", self.server.log());
        run.out
    }

    /// Starts `replicate` with these settings, whose log shows every compaction.
    fn replicate(&self, settings: &str, log: &str) -> ChildProcess {
        self.place.write("litestream.yml", settings);
        let arguments = [
            "replicate",
            "--config",
            "litestream.yml",
            "--log-level",
            "debug",
        ];
        let mut command = self.place.command(&arguments);
        ChildProcess::spawn_logged(Self::with_key(&mut command), &self.place.path(log)).unwrap()
    }

    fn litestream(&self, arguments: &[&str]) -> Command {
        let mut command = litestream_command();
        command.args(arguments).current_dir(self.place.path(""));
        Self::with_key(&mut command);
        command
    }
}

#[test]
fn what_we_wrote_to_s3_both_programs_restore() {
    let cloud = Cloud::new();
    let (place, url) = (&cloud.place, &cloud.url());
    let database = place.database("app.db", 3);
    cloud.ok(&["replicate", "--once", "app.db", url]);
    std::thread::sleep(Duration::from_millis(1_100)); // Litestream's clock has whole seconds
    let between = jiff::Timestamp::now().to_string();
    std::thread::sleep(Duration::from_millis(1_100));
    insert(&database, 2);
    cloud.ok(&["replicate", "--once", "app.db", url]);

    cloud.ok(&["restore", url, "-o", "newest.db"]);
    assert_eq!(place.rows("newest.db"), 5);
    cloud.ok(&["restore", url, "-o", "then.db", "--timestamp", &between]);
    assert_eq!(place.rows("then.db"), 3);
    cloud.ok(&["verify", url]);

    for (name, timestamp, rows) in [("newest", None, 5), ("then", Some(&between), 3)] {
        let output = format!("official-{name}.db");
        let mut arguments = vec!["restore", "-o", &output];
        arguments.extend(
            timestamp
                .iter()
                .flat_map(|time| ["-timestamp", time.as_str()]),
        );
        arguments.push(url);
        let run = cloud.litestream(&arguments).output().unwrap();
        assert!(run.status.success(), "{run:?}");
        assert_eq!(place.rows(&output), rows, "{name}");
    }
}

#[test]
fn what_litestream_wrote_to_s3_we_restore_and_continue() {
    let cloud = Cloud::new();
    let (place, url) = (&cloud.place, &cloud.url());
    let database = place.database("app.db", 3);
    let mut official = cloud.litestream(&["replicate", "app.db", url]);
    let log = place.path("official.log");
    let mut official = ChildProcess::spawn_logged(&mut official, &log).unwrap();
    evertide_testkit::wait_until(PATIENCE, "Litestream's first upload", || {
        cloud
            .evertide(&["restore", url, "-o", "probe.db", "--force"])
            .code
            == Some(0)
    });
    insert(&database, 4);
    official.terminate(PATIENCE).unwrap();
    cloud.ok(&["restore", url, "-o", "theirs.db"]);
    assert_eq!(place.rows("theirs.db"), 7);

    insert(&database, 1);
    cloud.ok(&["replicate", "--once", "app.db", url]);
    cloud.ok(&["restore", url, "-o", "ours.db"]);
    assert_eq!(place.rows("ours.db"), 8);
    let run = cloud
        .litestream(&["restore", "-o", "official.db", url])
        .output()
        .unwrap();
    assert!(run.status.success(), "{run:?}");
    assert_eq!(place.rows("official.db"), 8);
}

/// Every snapshot but the first would be paid for twice: to be read, and to be written.
#[test]
fn snapshots_of_a_large_database_download_nothing() {
    let cloud = Cloud::new();
    let (place, url) = (&cloud.place, &cloud.url());
    let database = place.database("app.db", 1);
    let large = "CREATE TABLE large (x); INSERT INTO large VALUES (randomblob(5000000))";
    database.execute_batch(large).unwrap();
    let settings = format!(
        "levels: [{{interval: 1s}}]\nsnapshot: {{interval: 2s}}\ndbs: [{{path: app.db, replica: {{url: '{url}'}}}}]\n"
    );
    let mut replicate = cloud.replicate(&settings, "log");
    let mut rows = 1;
    evertide_testkit::wait_until(PATIENCE, "two snapshots from the database", || {
        insert(&database, 1);
        rows += 1;
        place.read("log").matches("origin=Database").count() >= 2
    });
    replicate.terminate(PATIENCE).unwrap();
    let log = place.read("log");
    let from_replica = |line: &&str| line.contains("level=9") && line.contains("origin=Replica");
    assert_eq!(log.lines().find(from_replica), None);
    cloud.ok(&["verify", "--deep", url]);
    cloud.ok(&["restore", url, "-o", "ours.db"]);
    let run = cloud
        .litestream(&["restore", "-o", "official.db", url])
        .output()
        .unwrap();
    assert!(run.status.success(), "{run:?}");
    for restored in ["ours.db", "official.db"] {
        evertide_testkit::assert_same_database(place.path("app.db"), place.path(restored));
        assert_eq!(place.rows(restored), rows);
    }
}

/// What was captured stays on local disk until it is compacted, also over a restart.
#[test]
fn compaction_of_what_is_on_local_disk_downloads_nothing() {
    let cloud = Cloud::new();
    let (place, url) = (&cloud.place, &cloud.url());
    let database = place.database("app.db", 1);
    let settings =
        format!("levels: [{{interval: 2s}}]\ndbs: [{{path: app.db, replica: {{url: '{url}'}}}}]\n");
    for run in 0..2 {
        let mut replicate = cloud.replicate(&settings, &format!("log-{run}"));
        let compacted = |log: &str| log.matches("level=1").count();
        evertide_testkit::wait_until(PATIENCE, "two compactions", || {
            insert(&database, 1);
            compacted(&place.read(&format!("log-{run}"))) >= 2
        });
        // The last commits are in a window that ends after the restart.
        replicate.terminate(PATIENCE).unwrap();
    }
    for run in 0..2 {
        let log = place.read(&format!("log-{run}"));
        let merged = log.lines().filter(|line| line.contains("level=1"));
        for line in merged {
            assert!(line.contains("downloaded=0"), "{line}\n{log}");
        }
    }
    cloud.ok(&["verify", "--deep", url]);
}

#[test]
fn a_bucket_that_is_not_there_and_a_wrong_key_are_named_and_no_secret_is_shown() {
    let cloud = Cloud::new();
    let missing = cloud.url().replace(S3Server::BUCKET, "nowhere");
    let run = cloud.evertide(&["restore", &missing, "-o", "out.db"]);
    run.failed(1, &["nowhere", "create the bucket"]);
    assert!(
        !format!("{run:?}").contains(S3Server::SECRET_ACCESS_KEY),
        "{run:?}"
    );
}
