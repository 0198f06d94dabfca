//! On a file system that is full nothing is saved, and nothing is lost.

use std::{fs, path::PathBuf, process::Command};

use evertide_testkit::{Filler, error_with_causes, with_small_disk};
use evertide_vault::ConfigFormat;

use crate::{FOLDER, Place, read, text};

const DONE: &str = "refused, and nothing was lost";

/// With ever more room that runs out.
#[test]
#[ignore = "the process that the test below starts"]
fn child_that_saves_on_a_full_disk() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return; // by itself, not a test
    };
    let place = Place::within(&folder.join("small"));
    let application = place.connect();
    let store = place.store();
    let (mut saved, mut refused, mut in_a_row) = (0, 0, 0);
    for room in 0.. {
        let filler = Filler::new(place.dir.path(), room);
        let content = text(saved + 1);
        let result = store.save("litestream", content.as_bytes(), &ConfigFormat::Toml, None);
        match &result {
            Ok(_) => (saved, in_a_row) = (saved + 1, in_a_row + 1),
            Err(error) => {
                let said = error_with_causes(error);
                assert!(said.contains("app.db"), "{said}");
                assert!(
                    said.contains("disk is full") || said.contains("disk I/O error"),
                    "{said}"
                );
                (refused, in_a_row) = (refused + 1, 0);
            }
        }
        // Whoever asks while it is full gets what there is.
        if saved > 0 {
            assert_eq!(read(&store, 0), text(saved));
        }
        drop(filler);
        for generation in 0..saved {
            assert_eq!(
                read(&place.store(), generation as u32),
                text(saved - generation)
            );
        }
        let check: String = application
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok");
        // Frames of before would leave room in the WAL.
        application
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
        if in_a_row == 3 {
            break;
        }
    }
    assert!(refused > 3, "{refused}");
    eprintln!("{refused} were {DONE}");
}

#[test]
fn a_save_on_a_full_file_system_is_refused_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("small")).unwrap();
    let mut command: Command = with_small_disk("8m", &std::env::current_exe().unwrap());
    let output = command
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("full::child_that_saves_on_a_full_disk")
        .env(FOLDER, dir.path())
        .current_dir(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains(DONE), "{output:?}");
}
