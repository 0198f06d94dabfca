//! Replicas in S3, on a real server, together with the official Litestream.

use evertide_testkit::{ChildProcess, S3Kind, S3Server, wait_until};
use serde_json::Value;

use super::{
    interop::{self, Store},
    support::{PATIENCE, insert},
};

/// A server, and a place to run programs that know its access key.
fn cloud() -> (S3Server, Store) {
    let server = S3Server::start(S3Kind::Ministack);
    let environment = S3Server::environment().map(|(name, value)| (name, value.to_owned()));
    let store = Store::new(server.replica_url("backup/app"), environment.to_vec());
    (server, store)
}

/// Starts `replicate` with these settings, whose log shows every compaction.
fn replicate(cloud: &Store, settings: &str, log: &str) -> ChildProcess {
    cloud.place.write("litestream.yml", settings);
    let arguments = [
        "replicate",
        "--config",
        "litestream.yml",
        "--log-level",
        "debug",
    ];
    let mut command = cloud.command(&arguments);
    ChildProcess::spawn_logged(&mut command, &cloud.place.path(log)).unwrap()
}

#[test]
fn what_we_wrote_to_s3_both_programs_restore() {
    let (_server, cloud) = cloud();
    interop::both_programs_restore_what_we_wrote(&cloud);
}

#[test]
fn what_litestream_wrote_to_s3_we_restore_and_continue() {
    let (_server, cloud) = cloud();
    interop::we_go_on_with_what_litestream_wrote(&cloud);
}

#[test]
fn what_litestream_0_3_wrote_to_s3_we_restore() {
    let (server, cloud) = cloud();
    let settings = format!(
        "type: s3, bucket: {}, path: backup/app, endpoint: '{}', region: us-east-1, force-path-style: true",
        S3Server::BUCKET,
        server.endpoint()
    );
    interop::what_litestream_0_3_wrote_we_restore(&cloud, &settings);
}

/// Every snapshot but the first would be paid for twice: to be read, and to be written.
#[test]
fn snapshots_of_a_large_database_download_nothing() {
    let (_server, cloud) = cloud();
    let (place, url) = (&cloud.place, &cloud.url);
    let database = place.database("app.db", 1);
    let large = "CREATE TABLE large (x); INSERT INTO large VALUES (randomblob(5000000))";
    database.execute_batch(large).unwrap();
    let settings = format!(
        "levels: [{{interval: 1s}}]\nsnapshot: {{interval: 2s}}\ndbs: [{{path: app.db, replica: {{url: '{url}'}}}}]\n"
    );
    let mut replicate = replicate(&cloud, &settings, "log");
    let mut rows = 1;
    wait_until(PATIENCE, "two snapshots from the database", || {
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
    cloud.restore_with_litestream(&["-o", "official.db"]);
    for restored in ["ours.db", "official.db"] {
        evertide_testkit::assert_same_database(place.path("app.db"), place.path(restored));
        assert_eq!(place.rows(restored), rows);
    }
}

/// What was captured stays on local disk until it is compacted, also over a restart.
#[test]
fn compaction_of_what_is_on_local_disk_downloads_nothing() {
    let (_server, cloud) = cloud();
    let (place, url) = (&cloud.place, &cloud.url);
    let database = place.database("app.db", 1);
    let settings =
        format!("levels: [{{interval: 2s}}]\ndbs: [{{path: app.db, replica: {{url: '{url}'}}}}]\n");
    for run in 0..2 {
        let mut replicate = replicate(&cloud, &settings, &format!("log-{run}"));
        let compacted = |log: &str| log.matches("level=1").count();
        wait_until(PATIENCE, "two compactions", || {
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

/// The one replica in what a verification says.
fn verified(cloud: &Store, arguments: &[&str], code: i32) -> Value {
    let run = cloud.evertide(&[&["verify", &cloud.url, "--json"], arguments].concat());
    assert_eq!(run.code, Some(code), "{run:?}");
    let mut document: Value = serde_json::from_str(&run.out).unwrap();
    document["replicas"][0].take()
}

#[test]
fn what_is_in_s3_is_proven_by_verification_and_by_drills_and_damage_is_found_by_both() {
    let (server, cloud) = cloud();
    let (place, url) = (&cloud.place, &cloud.url);
    let database = place.database("app.db", 3);
    for _ in 0..2 {
        cloud.ok(&["replicate", "--once", "app.db", url]);
        insert(&database, 1);
    }
    // A listing tells when an object was stored, which is not when it was captured.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let files: Value = serde_json::from_str(&cloud.ok(&["ltx", url, "--json"])).unwrap();
    let key = |file: &Value| {
        let level = file["level"].as_u64().unwrap();
        let [min, max] = ["min_txid", "max_txid"].map(|key| file[key].as_str().unwrap());
        format!("backup/app/{level:04x}/{min}-{max}.ltx")
    };
    let keys: Vec<String> = files.as_array().unwrap().iter().map(key).collect();
    keys.iter().for_each(|key| server.store_again(key, 0));
    for arguments in [&[][..], &["--deep"]] {
        let found = verified(&cloud, arguments, 0);
        assert_eq!(found["findings"], serde_json::json!([]), "{found}");
        assert_eq!(found["files"], keys.len());
        let restored = if arguments.is_empty() {
            &Value::Null
        } else {
            &found["txid"]
        };
        assert_eq!(&found["restored"]["txid"], restored);
    }

    let snapshot = keys.iter().find(|key| key.contains("/0009/")).unwrap();
    server.store_again(snapshot, 1);
    for arguments in [&[][..], &["--deep"]] {
        let found = verified(&cloud, arguments, 1);
        let kinds: Vec<_> = found["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| &f["kind"])
            .collect();
        assert!(kinds.contains(&&"damaged".into()), "{found}");
    }
    let drills =
        format!("dbs: [{{path: app.db, replica: {{url: '{url}', drill-interval: 1d}}}}]\n");
    for (log, said) in [
        (
            "damaged",
            "a drill could not prove that the replica can be restored",
        ),
        (
            "sound",
            "a drill restored the replica, and nothing is wrong with it",
        ),
    ] {
        let mut replicate = replicate(&cloud, &drills, log);
        wait_until(PATIENCE, "a drill", || place.read(log).contains("a drill "));
        replicate.terminate(PATIENCE).unwrap();
        let log = place.read(log);
        let said = log.lines().find(|line| line.contains(said));
        assert!(said.is_some(), "{log}");
        server.store_again(snapshot, 1);
    }
}

#[test]
fn a_bucket_that_is_not_there_and_a_wrong_key_are_named_and_no_secret_is_shown() {
    let (_server, cloud) = cloud();
    let missing = cloud.url.replace(S3Server::BUCKET, "nowhere");
    let run = cloud.evertide(&["restore", &missing, "-o", "out.db"]);
    run.failed(1, &["nowhere", "create the bucket"]);
    assert!(
        !format!("{run:?}").contains(S3Server::SECRET_ACCESS_KEY),
        "{run:?}"
    );
}
