//! What a destination can do, tried on real ones: directories, and servers that refuse what a policy does not allow.

use std::collections::BTreeMap;

use evertide_testkit::{FaultProxy, S3Kind, S3Server, with_clock};
use serde_json::Value;

use super::{
    interop::Store,
    support::{Run, Workplace, insert},
};

/// The outcome of each check.
fn outcomes(run: &Run) -> BTreeMap<String, String> {
    let document: Value = serde_json::from_str(&run.out).unwrap();
    let replica = &document["replicas"][0];
    assert_eq!(document["works"], replica["works"]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let checks = replica["checks"].as_array().unwrap();
    let checks = checks.iter().map(|check| {
        let outcome = text(&check["outcome"]);
        // What does not work is explained.
        let bad = ["fails", "ignored", "skewed"].contains(&outcome.as_str());
        assert_eq!(check["problem"].is_string(), bad, "{check}");
        assert!(!bad || check["meaning"].is_string(), "{check}");
        (text(&check["check"]), outcome)
    });
    checks.collect()
}

/// Those with this outcome.
fn with(outcomes: &BTreeMap<String, String>, wanted: &str) -> Vec<String> {
    let found = outcomes.iter().filter(|(_, outcome)| *outcome == wanted);
    found.map(|(check, _)| check.clone()).collect()
}

#[test]
fn a_directory_is_tried_and_left_as_it_was() {
    let place = Workplace::new();
    let out = place.ok(&["doctor", "not/there/yet"]);
    assert!(out.contains("can do all that is needed"), "{out}");
    assert!(!place.exists("not"), "{:?}", place.names());

    let database = place.database("app.db", 3);
    place.ok(&["replicate", "--once", "app.db", "replica"]);
    drop(database);
    let files = || {
        let mut find = std::process::Command::new("find");
        let found = find.arg(place.path("replica")).output().unwrap();
        let mut lines: Vec<_> = String::from_utf8(found.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let before = files();
    let run = place.run(&["doctor", "replica", "--json"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(with(&outcomes(&run), "not_promised"), ["clock"]);
    assert_eq!(with(&outcomes(&run), "works").len(), 6, "{run:?}");
    assert_eq!(files(), before);
}

#[test]
fn a_directory_that_cannot_be_written_to_is_named_with_what_that_means() {
    let place = Workplace::new();
    // Not even an administrator makes a directory there.
    let run = place.run(&["doctor", "/proc/evertide/replica"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.out.contains("fails         put: "), "{run:?}");
    assert!(run.out.contains("Nothing can be replicated"), "{run:?}");
    let run = place.run(&["doctor", "/proc/evertide/replica", "--json"]);
    let found = outcomes(&run);
    assert_eq!(with(&found, "fails"), ["put"]);
    assert_eq!(with(&found, "works"), ["get", "list"]);
    let run = place.run(&["doctor", "s3://"]);
    assert_eq!(run.code, Some(2), "{run:?}");
}

/// The policy of the documentation, for the bucket and this path.
fn documented_policy(path: &str) -> Value {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/s3.md");
    let document = std::fs::read_to_string(document).unwrap();
    let (_, from) = document.split_once("```json\n").unwrap();
    let (policy, _) = from.split_once("```").unwrap();
    let policy = policy.replace("BUCKET", S3Server::BUCKET);
    serde_json::from_str(&policy.replace("PATH", path)).unwrap()
}

#[test]
fn the_documented_policy_is_enough_and_what_is_taken_from_it_is_named() {
    let server = S3Server::start(S3Kind::Enforcing);
    let url = server.replica_url("backup/app");
    let everything = documented_policy("backup/app");
    let without = |action: &str| {
        let mut policy = everything.clone();
        for statement in policy["Statement"].as_array_mut().unwrap() {
            let actions = &mut statement["Action"];
            if actions == action {
                *actions = Value::Array(Vec::new());
            } else if let Some(actions) = actions.as_array_mut() {
                actions.retain(|allowed| allowed != action);
            }
        }
        let statements = policy["Statement"].as_array_mut().unwrap();
        statements.retain(|statement| statement["Action"] != Value::Array(Vec::new()));
        assert_ne!(policy, everything);
        policy
    };
    let store = |name: &str, policy: &Value| {
        let environment = server.user(name, &policy.to_string());
        Store::new(url.clone(), environment.to_vec())
    };

    let cloud = store("all", &everything);
    let run = cloud.evertide(&["doctor", &url, "--json"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(with(&outcomes(&run), "works").len(), 7, "{run:?}");
    let database = cloud.place.database("app.db", 5);
    // More than one part.
    let large = "CREATE TABLE large (x); INSERT INTO large VALUES (randomblob(9000000))";
    database.execute_batch(large).unwrap();
    cloud.ok(&["replicate", "--once", "app.db", &url]);
    insert(&database, 1);
    cloud.ok(&["replicate", "--once", "app.db", &url]);
    cloud.ok(&["restore", &url, "-o", "restored.db"]);
    assert_eq!(cloud.place.rows("restored.db"), 6);
    cloud.ok(&["verify", &url]);

    let run = store("keeper", &without("s3:DeleteObject")).evertide(&["doctor", &url, "--json"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(with(&outcomes(&run), "fails"), ["delete"], "{run:?}");

    let run = store("reader", &without("s3:PutObject")).evertide(&["doctor", &url, "--json"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let found = outcomes(&run);
    assert_eq!(with(&found, "fails"), ["put"], "{run:?}");
    assert_eq!(with(&found, "works"), ["get", "list"], "{run:?}");

    // What cannot be read has no time that could be asked for, either.
    for (name, action, fails) in [
        ("blind", "s3:GetObject", &["clock", "get"][..]),
        ("lost", "s3:ListBucket", &["list"]),
    ] {
        let run = store(name, &without(action)).evertide(&["doctor", &url, "--json"]);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert_eq!(with(&outcomes(&run), "fails"), fails, "{action}: {run:?}");
        assert!(run.out.contains(action), "{action}: {run:?}");
    }

    let elsewhere = store("stranger", &documented_policy("backup/other"));
    let run = elsewhere.evertide(&["doctor", &url]);
    assert_eq!(run.code, Some(1), "{run:?}");
    for text in ["fails         put", "s3:PutObject", "check the access key"] {
        assert!(run.out.contains(text), "{text}: {run:?}");
    }

    let mut wrong = cloud.command(&["doctor", &url, "--json"]);
    let run = wrong.env("AWS_ACCESS_KEY_ID", "AKIANOBODYKNOWSIT000");
    let output = run.output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{out}");
    assert!(out.contains("\"works\": false"), "{out}");
    let missing = url.replace(S3Server::BUCKET, "nowhere");
    let run = cloud.evertide(&["doctor", &missing]);
    assert_eq!(run.code, Some(1), "{run:?}");

    // Only what the replica is made of is left.
    let left = cloud.evertide(&["verify", &url, "--json"]);
    assert!(!left.out.contains("doctor-"), "{left:?}");
}

#[test]
fn a_store_that_ignores_conditions_is_found_out_and_a_wrong_secret_is_not_shown() {
    let server = S3Server::start(S3Kind::Rclone);
    let url = server.replica_url("backup/app");
    let cloud = Store::new(url.clone(), key_of_servers());
    let run = cloud.evertide(&["doctor", &url, "--json"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let ignored = ["compare and set", "conditional create"];
    assert_eq!(with(&outcomes(&run), "ignored"), ignored, "{run:?}");

    let honest = format!("{url}&conditionalWrites=false");
    let run = cloud.evertide(&["doctor", &honest, "--json"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(with(&outcomes(&run), "not_promised"), ignored, "{run:?}");

    let mut wrong = cloud.command(&["doctor", &url]);
    wrong.env("AWS_SECRET_ACCESS_KEY", "NOT-THE-SECRET");
    let output = wrong.output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{out}");
    for check in ["list", "put", "get"] {
        assert!(out.contains(&format!("fails         {check}: ")), "{out}");
    }
    let taken_for = "taken for     MinIO, or what else has a port of its own: region us-east-1, \
                     bucket in the path";
    assert!(out.contains(taken_for), "{out}");
    assert!(!out.contains("NOT-THE-SECRET"), "{out}");
}

#[test]
fn a_store_that_says_it_deleted_and_did_not_is_found_out() {
    let server = S3Server::shared(S3Kind::Ministack);
    let address = server.endpoint().replace("http://", "");
    let proxy = FaultProxy::start(address.parse().unwrap(), 1).unwrap();
    let url = server.replica_url("liar/app");
    let url = url.replace(&address, &proxy.address().to_string());
    let cloud = Store::new(url.clone(), key_of_servers());
    let run = cloud.evertide(&["doctor", &url, "--json"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    proxy.keep_what_is_deleted();
    let run = cloud.evertide(&["doctor", &url, "--json"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(with(&outcomes(&run), "fails"), ["delete"], "{run:?}");
    assert!(run.out.contains("evertide/doctor-"), "{run:?}");
}

#[test]
fn a_clock_that_is_an_hour_off_is_found_out_with_its_direction() {
    const HOUR_MS: i64 = 3_600_000;
    let server = S3Server::shared(S3Kind::Ministack);
    let url = server.replica_url("clock/app");
    let cloud = Store::new(url.clone(), key_of_servers());
    let run = |offset: &str, arguments: &[&str]| {
        Run::of(&mut with_clock(&cloud.command(arguments), offset))
    };
    // It is this machine's that is changed.
    for (offset, ahead, said) in [("+1h", -HOUR_MS, "behind"), ("-1h", HOUR_MS, "ahead")] {
        let json = run(offset, &["doctor", &url, "--json"]);
        assert_eq!(json.code, Some(1), "{json:?}");
        assert_eq!(with(&outcomes(&json), "skewed"), ["clock"], "{json:?}");
        let document: Value = serde_json::from_str(&json.out).unwrap();
        let found = document["replicas"][0]["clock_ahead_ms"].as_i64().unwrap();
        assert!((found - ahead).abs() < 60_000, "{offset}: {found}");
        let text = run(offset, &["doctor", &url]);
        assert_eq!(text.code, Some(1), "{text:?}");
        let line = text
            .out
            .lines()
            .find(|line| line.contains("skewed        clock"));
        let line = line.unwrap_or_else(|| panic!("{text:?}"));
        assert!(line.contains(said), "{line}");
        assert!(text.out.contains("time server"), "{text:?}");
    }
    let right = run("+0", &["doctor", &url, "--json"]);
    assert_eq!(right.code, Some(0), "{right:?}");
    assert!(with(&outcomes(&right), "works").contains(&"clock".to_owned()));
}

fn key_of_servers() -> Vec<(&'static str, String)> {
    let key = S3Server::environment().map(|(name, value)| (name, value.to_owned()));
    key.to_vec()
}
