//! `evertide ltx`

use std::fs;

use super::support::{Workplace, insert};

/// A replica with a snapshot, what the stop after it leaves for Litestream, and two more files.
fn replica(place: &Workplace) {
    let database = place.database("app.db", 3);
    for _ in 0..2 {
        place.ok(&["replicate", "--once", "app.db", "replica"]);
        insert(&database, 1);
    }
    place.ok(&["replicate", "--once", "app.db", "replica"]);
}

#[test]
fn every_file_is_listed_with_its_level_transactions_size_and_time() {
    let place = Workplace::new();
    replica(&place);
    let files = place.json(&["ltx", "replica", "--json"]);
    let files = files.as_array().unwrap();
    assert_eq!(files.len(), 4, "{files:?}");
    for file in files {
        let name = format!(
            "{}-{}.ltx",
            file["min_txid"].as_str().unwrap(),
            file["max_txid"].as_str().unwrap()
        );
        let path = place
            .path("replica/ltx")
            .join(file["level"].to_string())
            .join(name);
        assert_eq!(
            file["size"].as_u64().unwrap(),
            fs::metadata(&path).unwrap().len()
        );
        let time: jiff::Timestamp = file["timestamp"].as_str().unwrap().parse().unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(jiff::Timestamp::try_from(modified).unwrap(), time);
        let url = format!("file://{}", place.path("replica").display());
        assert_eq!(file["replica"], url);
    }
    let table = place.ok(&["ltx", "replica"]);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 5, "{table}");
    assert!(lines[0].contains("LEVEL  MIN TXID"), "{table}");
    assert!(table.contains("0000000000000004"), "{table}");
}

#[test]
fn one_level_is_only_that_level() {
    let place = Workplace::new();
    replica(&place);
    let files = |level| place.json(&["ltx", "replica", "--level", level, "--json"]);
    assert_eq!(files("9").as_array().unwrap().len(), 1);
    assert_eq!(files("0").as_array().unwrap().len(), 3);
    assert_eq!(files("1"), serde_json::json!([]));
    assert_eq!(files("all").as_array().unwrap().len(), 4);
    place
        .run(&["ltx", "replica", "--level", "10"])
        .failed(2, &["10", "0 to 9", "`all`"]);
}

#[test]
fn an_empty_replica_is_an_empty_list_and_is_not_created() {
    let place = Workplace::new();
    assert_eq!(
        place.json(&["ltx", "nowhere", "--json"]),
        serde_json::json!([])
    );
    let run = place.run(&["ltx", "nowhere"]);
    assert_eq!((run.code, run.out.lines().count()), (Some(0), 1), "{run:?}");
    assert!(
        run.err
            .contains("nowhere has no LTX files; check the address"),
        "{run:?}"
    );
    assert_eq!(place.names(), [] as [&str; 0]);
}

#[test]
fn a_replica_that_cannot_be_read_is_an_error_that_names_it() {
    let place = Workplace::new();
    place.write("file", "not a directory");
    place
        .run(&["ltx", "file", "--json"])
        .failed(1, &["file", "Not a directory"]);
}

#[test]
fn the_replicas_of_settings_are_listed_by_name() {
    let place = Workplace::new();
    replica(&place);
    let settings = place.settings(&["replica", "empty"]);
    place.store(&settings);
    let stored = ["ltx", "--age-key", "age.key", "--db", "app.db", "--json"];
    let files = place.json(&stored);
    assert_eq!(files.as_array().unwrap().len(), 4);
    assert_eq!(files[0]["replica"], "replica");
    let empty = place.json(&[&stored[..], &["--replica", "empty"]].concat());
    assert_eq!(empty, serde_json::json!([]));
    let unknown = [&stored[..], &["--replica", "other"]].concat();
    place.run(&unknown).failed(2, &["other", "replica, empty"]);
    let table = place.ok(&stored[..5]);
    assert!(
        table.lines().next().unwrap().starts_with("REPLICA"),
        "{table}"
    );
}
