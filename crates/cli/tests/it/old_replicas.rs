//! A replica that Litestream 0.3.13 wrote, through the command line.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use super::support::{Workplace, bytes};

/// The golden replica of the engine's tests, with the times that its files had.
fn replica(place: &Workplace) -> std::path::PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/restore_v3/golden");
    let to = place.path("replica");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(golden.join("replica"))
        .arg(&to)
        .status();
    assert!(copied.unwrap().success());
    for line in fs::read_to_string(golden.join("times")).unwrap().lines() {
        let (name, micros) = line.split_once(' ').unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(micros.parse().unwrap());
        let file = fs::File::options().write(true).open(to.join(name)).unwrap();
        file.set_modified(time).unwrap();
    }
    golden
}

#[test]
fn a_replica_of_litestream_0_3_is_planned_restored_and_described() {
    let place = Workplace::new();
    let golden = replica(&place);
    let plan = place.json(&["restore", "replica", "-o", "out.db", "--dry-run", "--json"]);
    let files = plan["files"].as_array().unwrap();
    assert!(files.len() > 2 && plan["max_txid"].is_null(), "{plan}");
    assert!(
        files[0]["name"]
            .as_str()
            .unwrap()
            .ends_with(".snapshot.lz4")
    );
    let last = files.last().unwrap()["name"].as_str().unwrap();
    let arguments = [
        "restore",
        "replica",
        "-o",
        "out.db",
        "--integrity-check",
        "full",
    ];
    let said = place.ok(&arguments);
    assert!(
        said.contains(last) && said.contains("Litestream 0.3"),
        "{said}"
    );
    assert!(bytes(&place.path("out.db")) == bytes(&golden.join("restored.db")));

    let earlier = files[1]["timestamp"].as_str().unwrap();
    let at = [
        "restore",
        "replica",
        "-o",
        "at.db",
        "--json",
        "--timestamp",
        earlier,
    ];
    let report = place.json(&at);
    assert_eq!(report["v3_file"], files[1]["name"]);
    assert!(report["txid"].is_null());

    let refused = ["restore", "replica", "-o", "no.db", "--txid", "1"];
    place
        .run(&refused)
        .failed(1, &["Litestream 0.3", "--timestamp"]);
    let refused = ["restore", "replica", "-o", "no.db", "--follow"];
    place
        .run(&refused)
        .failed(1, &["Litestream 0.3", "without `--follow`"]);
    let early = [
        "restore",
        "replica",
        "-o",
        "no.db",
        "--timestamp",
        "2020-01-01T00:00:00Z",
    ];
    place
        .run(&early)
        .failed(1, &["no snapshot", "its oldest one is of 20"]);
    let missing = files[2]["name"].as_str().unwrap();
    fs::remove_file(place.path("replica").join(missing)).unwrap();
    let gap = ["restore", "replica", "-o", "no.db"];
    place.run(&gap).failed(1, &["gap", missing, "--timestamp"]);
    assert!(!place.exists("no.db"));
}

#[test]
fn every_file_of_litestream_0_3_is_verified() {
    let place = Workplace::new();
    replica(&place);
    let said = place.ok(&["verify", "--deep", "replica"]);
    for text in [
        "is sound",
        "of Litestream 0.3 there are",
        "the newest state was restored",
    ] {
        assert!(said.contains(text), "`{text}` is not said: {said}");
    }
    let sound = place.json(&["verify", "replica", "--json"]);
    let old = &sound["replicas"][0]["litestream_v3"];
    assert_eq!(
        (old["generations"].as_u64(), sound["sound"].as_bool()),
        (Some(2), Some(true))
    );
    let listed = place.json(&["restore", "replica", "-o", "out.db", "--dry-run", "--json"]);
    let last = listed["files"].as_array().unwrap().last().unwrap();
    let last = last["name"].as_str().unwrap();
    let file = place.path("replica").join(last);
    let mut content = bytes(&file);
    let place_of_content = content.len() - 12;
    content[place_of_content] ^= 1;
    fs::write(&file, content).unwrap();
    let run = place.run(&["verify", "replica"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.out.contains(&format!("problem: {last}: ")), "{run:?}");
}
