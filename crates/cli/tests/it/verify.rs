//! `evertide verify`

use serde_json::Value;

use super::{
    restore::{damage, on_a_terminal},
    support::{Run, Workplace, insert},
};

/// A replica with four states; the second is what the first stop leaves for Litestream.
fn replica(place: &Workplace, name: &str) {
    let database = place.database("app.db", 3);
    for _ in 0..2 {
        place.ok(&["replicate", "--once", "app.db", name]);
        insert(&database, 1);
    }
    place.ok(&["replicate", "--once", "app.db", name]);
}

/// A verification that ended with status 1: its document, and what it said on standard error.
fn unsound(run: &Run) -> Value {
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.err.starts_with("evertide: "), "{run:?}");
    assert_eq!(run.err.lines().count(), 1, "{run:?}");
    serde_json::from_str(&run.out).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

#[test]
fn a_sound_replica_is_described_and_is_success() {
    let place = Workplace::new();
    replica(&place, "replica");
    let run = place.run(&["verify", "replica"]);
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
    assert_eq!(run.out.lines().count(), 1, "{run:?}");
    for text in [
        "is sound",
        "4 files",
        "4 states",
        "transaction 0000000000000004",
    ] {
        assert!(run.out.contains(text), "`{text}` is not said: {run:?}");
    }
    let document = place.json(&["verify", "replica", "--json"]);
    assert_eq!(document["sound"], true);
    let [one] = &document["replicas"].as_array().unwrap()[..] else {
        panic!("{document}");
    };
    let files = place.json(&["ltx", "replica", "--json"]);
    let last = files
        .as_array()
        .unwrap()
        .iter()
        .find(|f| f["max_txid"] == one["txid"])
        .unwrap();
    assert_eq!(one["replica"], last["replica"]);
    assert_eq!(one["timestamp"], last["timestamp"]);
    assert_eq!(one["error"], Value::Null);
    assert_eq!((&one["files"], &one["states"]), (&4.into(), &4.into()));
    assert!(one["proven"].as_u64().unwrap() >= 1, "{one}");
    assert_eq!(one["findings"], serde_json::json!([]));
    assert_eq!(one["database_checksum"].as_str().unwrap().len(), 16);
    assert_eq!(
        place.names(),
        [".app.db-evertide", "app.db", "replica"],
        "nothing else is made"
    );
}

#[test]
fn damage_is_named_with_what_it_means_and_is_failure() {
    let place = Workplace::new();
    replica(&place, "replica");
    damage(&place, "replica/ltx/0");
    let run = place.run(&["verify", "replica"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(run.err, "evertide: the replica is not sound\n");
    for text in [
        "problem: 0000000000000002-0000000000000002.ltx on level 0: ",
        "problem: 0000000000000003-0000000000000003.ltx on level 0: ",
        "problem: 0000000000000004-0000000000000004.ltx on level 0: ",
        "the 3 states from transaction 0000000000000002 to 0000000000000004 cannot be restored",
        "the newest one that can is that of transaction 0000000000000001",
        "is not sound, 3 problems",
    ] {
        assert!(run.out.contains(text), "`{text}` is not said: {run:?}");
    }
    let document = unsound(&place.run(&["verify", "replica", "--json"]));
    assert_eq!(document["sound"], false);
    let found = &document["replicas"][0]["findings"][0];
    assert_eq!(
        (&found["severity"], &found["kind"]),
        (&"problem".into(), &"damaged".into())
    );
    assert_eq!(document["replicas"][0]["txid"], "0000000000000001");
}

#[test]
fn a_note_is_no_failure() {
    let place = Workplace::new();
    replica(&place, "replica");
    place.write("replica/notes.txt", "mine");
    let said = place.ok(&["verify", "replica"]);
    assert!(
        said.contains("note: notes.txt: it is not part of a replica"),
        "{said}"
    );
    assert!(said.contains("is sound"), "{said}");
}

#[test]
fn nothing_to_restore_is_a_failure() {
    let place = Workplace::new();
    let document = unsound(&place.run(&["verify", "nowhere", "--json"]));
    assert_eq!(document["replicas"][0]["findings"][0]["kind"], "no_backup");
    assert_eq!(place.names(), [] as [&str; 0], "the replica is not created");
    place.write("file", "not a directory");
    let document = unsound(&place.run(&["verify", "file", "--json"]));
    let error = document["replicas"][0]["error"].as_str().unwrap();
    assert!(error.contains("Not a directory"), "{error}");
}

#[test]
fn all_replicas_of_settings_are_verified_and_one_bad_one_is_failure() {
    let place = Workplace::new();
    place.store(&place.settings(&["good", "bad"]));
    drop(place.database("app.db", 3));
    place.ok(&["replicate", "--once", "app.db", "good", "bad"]);
    let stored = ["verify", "--age-key", "age.key", "--db", "app.db"];
    assert_eq!(place.ok(&stored).lines().count(), 2);
    damage(&place, "bad/ltx/9");
    let run = place.run(&stored);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.err.contains("1 of 2 replicas"), "{run:?}");
    assert!(
        run.out.contains("good (file://") && run.out.contains("bad (file://"),
        "{run:?}"
    );
    place.ok(&[&stored[..], &["--replica", "good"]].concat());
    let unknown = [&stored[..], &["--replica", "other"]].concat();
    place.run(&unknown).failed(2, &["other", "good, bad"]);
    place.write("file.toml", &{
        let path = place.path("app.db");
        let database = format!("[[databases]]\npath = \"{}\"\n", path.display());
        database + &place.replica_toml("databases.replicas", "good")
    });
    let document = place.json(&["verify", "--config", "file.toml", "app.db", "--json"]);
    assert_eq!(document["replicas"][0]["replica"], "good");
    assert!(
        document["replicas"][0]["database"]
            .as_str()
            .unwrap()
            .ends_with("app.db")
    );
    place.run(&["verify"]).failed(2, &["no replica is given"]);
}

#[test]
fn what_the_official_litestream_wrote_is_verified() {
    let place = Workplace::new();
    drop(place.database("app.db", 20));
    let url = format!("file://{}", place.path("theirs").display());
    let output = evertide_testkit::litestream_command()
        .args(["replicate", "-once", "app.db", &url])
        .current_dir(place.path(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(place.ok(&["verify", &url]).contains("is sound"));
    damage(&place, "theirs/ltx/0");
    let document = unsound(&place.run(&["verify", &url, "--json"]));
    assert_eq!(document["replicas"][0]["findings"][0]["kind"], "damaged");
}

#[test]
fn a_deep_verification_restores_and_leaves_nothing_behind() {
    let place = Workplace::new();
    replica(&place, "replica");
    std::fs::create_dir(place.path("tmp")).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        let output = command.env("TMPDIR", place.path("tmp")).output().unwrap();
        assert_eq!(std::fs::read_dir(place.path("tmp")).unwrap().count(), 0);
        Run {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    };
    let said = run(&["verify", "replica", "--deep"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    assert!(
        said.out
            .contains("transaction 0000000000000004 was restored"),
        "{said:?}"
    );
    let said = run(&["verify", "replica", "--deep", "--json"]);
    let document: Value = serde_json::from_str(&said.out).unwrap();
    let one = &document["replicas"][0];
    assert_eq!(one["restored"]["txid"], one["txid"]);
    assert_eq!(
        one["restored"]["database_checksum"],
        one["database_checksum"]
    );
    damage(&place, "replica/ltx/9");
    let document = unsound(&run(&["verify", "replica", "--deep", "--json"]));
    assert_eq!(document["replicas"][0]["findings"][0]["kind"], "restore");
    assert_eq!(document["replicas"][0]["restored"], Value::Null);
    std::fs::remove_dir(place.path("tmp")).unwrap();
    let document = {
        let mut command = place.command(&["verify", "replica", "--deep", "--json"]);
        let output = command.env("TMPDIR", place.path("tmp")).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let error = document["replicas"][0]["error"].as_str().unwrap();
    assert!(error.contains("TMPDIR") && error.contains("tmp"), "{error}");
}

#[test]
fn progress_of_a_verification_is_shown_on_a_terminal() {
    let place = Workplace::new();
    replica(&place, "replica");
    let shown = on_a_terminal(&place, &["verify", "replica"]);
    assert!(shown.contains("verifying"), "{shown:?}");
}
