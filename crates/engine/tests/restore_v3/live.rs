//! Live: written by Litestream 0.3.13 now, restored by both.

use std::{fs, path::Path, time::Duration};

use evertide::{RestoreTarget, Txid};
use evertide_testkit::{
    AutoVacuum, DatabaseOptions, Writer, WriterOptions, assert_same_database, create_database,
};

use crate::scene::{Replicating, files, modified, restore, restore_with_theirs};

/// Has Litestream replicate a database while it is written to, several times over when
/// `generations` is above one: between the runs the database changes where nobody watches.
fn replicate(dir: &Path, page_size: u32, seed: u64, generations: u64) {
    let (db, replica) = (dir.join("app.db"), dir.join("replica"));
    let options = DatabaseOptions {
        page_size,
        auto_vacuum: AutoVacuum::Full,
    };
    create_database(&db, options).unwrap();
    for generation in 0..generations {
        let litestream = Replicating::start(&db, &replica);
        let mut writer = Writer::open(&db, WriterOptions::seeded(seed + generation)).unwrap();
        for _ in 0..20 {
            writer.run_steps(6).unwrap();
            std::thread::sleep(Duration::from_millis(120));
        }
        drop(writer);
        litestream.stop();
        if generation + 1 < generations {
            let unwatched = WriterOptions::seeded(seed + 100 + generation);
            let mut writer = Writer::open(&db, unwatched).unwrap();
            writer.run_steps(30).unwrap();
        }
    }
}

fn same(ours: &Path, theirs: &Path) {
    let same = fs::read(ours).unwrap() == fs::read(theirs).unwrap();
    assert!(same, "{} is another content", ours.display());
}

#[tokio::test]
async fn what_litestream_0_3_replicated_is_restored_page_for_page() {
    let seed = fastrand::u64(..1 << 32);
    eprintln!("seed {seed}");
    let sizes = [512, 4096, 65536].map(|page_size| {
        tokio::task::spawn_blocking(move || {
            let dir = evertide_testkit::temp_dir();
            replicate(dir.path(), page_size, seed, 1);
            dir
        })
    });
    for dir in sizes {
        let dir = dir.await.unwrap();
        let at = |name: &str| dir.path().join(name);
        let report = restore(&at("replica"), &at("ours.db"), RestoreTarget::Latest).await;
        let report = report.unwrap();
        assert_eq!(report.txid, Txid::ZERO);
        assert!(report.files > 3, "{report:?}");
        assert!(restore_with_theirs(&at("replica"), &at("theirs.db"), None));
        same(&at("ours.db"), &at("theirs.db"));
        assert_same_database(at("app.db"), at("ours.db"));
    }
}

#[tokio::test]
async fn several_generations_and_points_in_time_are_restored_as_litestream_0_3_does() {
    let seed = fastrand::u64(..1 << 32);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tokio::task::spawn_blocking(move || {
        let dir = evertide_testkit::temp_dir();
        replicate(dir.path(), 4096, seed, 3);
        dir
    });
    let dir = dir.await.unwrap();
    let at = |name: &str| dir.path().join(name);
    let generations = fs::read_dir(at("replica/generations")).unwrap().count();
    assert!(generations >= 2, "{generations} generations");
    let mut times: Vec<_> = files(&at("replica")).iter().map(|f| modified(f)).collect();
    random.shuffle(&mut times);
    times.truncate(12);
    times.extend([0, 1].map(|place: usize| times[place] + Duration::from_micros(1)));
    let mut restored = 0;
    for (number, time) in times.into_iter().enumerate() {
        let (ours, theirs) = (format!("ours{number}.db"), format!("theirs{number}.db"));
        let target = RestoreTarget::Timestamp(time);
        let done = restore(&at("replica"), &at(&ours), target).await;
        // Where it refuses, ours has the newest state before that time, or refuses as well.
        if restore_with_theirs(&at("replica"), &at(&theirs), Some(time)) {
            done.unwrap();
            same(&at(&ours), &at(&theirs));
            restored += 1;
        }
    }
    assert!(restored > 6, "only {restored} were compared");
    let done = restore(&at("replica"), &at("newest.db"), RestoreTarget::Latest).await;
    done.unwrap();
    assert_same_database(at("app.db"), at("newest.db"));
}
