//! Whatever byte of whatever file is not as it was written: verification and restore both notice.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use evertide::{
    FindingKind, ReplicaOptions, Replication, RestoreError, RestoreOptions, RestoreTarget, restore,
};
use evertide_ltx::{Header, Level, LtxName, PageIndex, Trailer};
use evertide_storage::Destination;
use evertide_testkit::wait_until;

use crate::{
    connect, kinds, objects,
    replicas::{Scene, of_evertide, of_litestream},
    verified,
};

/// A way to damage a file.
struct Damage {
    what: String,
    /// The file as it is then.
    content: Vec<u8>,
    /// Whether the damage may be without any effect: LZ4 can say one thing in several ways.
    may_mean_nothing: bool,
}

/// Every class of bytes that a file has.
fn damages(good: &[u8], random: &mut fastrand::Rng) -> Vec<Damage> {
    let mut all = Vec::new();
    let mut flip = |what: String, at: usize, may_mean_nothing: bool| {
        let bit = random.u8(..8);
        let mut content = good.to_vec();
        content[at] ^= 1 << bit;
        all.push(Damage {
            what: format!("{what}, bit {bit} of byte {at} of {}", good.len()),
            content,
            may_mean_nothing,
        });
    };
    let fields = [
        ("magic", 0..4),
        ("flags", 4..8),
        ("page size", 8..12),
        ("commit", 12..16),
        ("min TXID", 16..24),
        ("max TXID", 24..32),
        ("timestamp", 32..40),
        ("pre-apply checksum", 40..48),
        ("WAL offset", 48..56),
        ("WAL size", 56..64),
        ("WAL salts", 64..72),
        ("node", 72..80),
        ("reserved", 80..100),
    ];
    let mut places = fastrand::Rng::with_seed(7);
    for (field, range) in fields {
        for _ in 0..2 {
            flip(field.to_owned(), places.usize(range.clone()), false);
        }
    }
    let index = PageIndex::read(&mut std::io::Cursor::new(good)).unwrap();
    let pages: Vec<_> = index.iter().collect();
    for at in [0, pages.len() / 2, pages.len() - 1] {
        let (pgno, frame) = pages[at].clone();
        let start = frame.start as usize;
        for (field, range) in [("number", 0..4), ("flags", 4..6), ("size", 6..10)] {
            let place = start + places.usize(range);
            flip(format!("{field} of page {pgno}"), place, false);
        }
        for _ in 0..3 {
            let place = places.usize(start + 10..frame.end as usize);
            flip(format!("content of page {pgno}"), place, true);
        }
    }
    let end = pages.last().unwrap().1.end as usize;
    let tail = good.len() - Trailer::LEN;
    flip("end of pages".into(), places.usize(end..end + 6), false);
    for _ in 0..3 {
        flip("index".into(), places.usize(end + 6..tail - 8), false);
    }
    flip(
        "length of the index".into(),
        places.usize(tail - 8..tail),
        false,
    );
    flip(
        "post-apply checksum".into(),
        places.usize(tail..tail + 8),
        false,
    );
    flip(
        "file checksum".into(),
        places.usize(tail + 8..good.len()),
        false,
    );
    let other = |what: &str, content: &[u8]| Damage {
        what: what.to_owned(),
        content: content.to_vec(),
        may_mean_nothing: false,
    };
    for keep in [
        0,
        50,
        Header::LEN,
        end / 2,
        end,
        end + 6,
        tail,
        good.len() - 1,
    ] {
        all.push(other(&format!("cut off at {keep}"), &good[..keep]));
    }
    for more in [1, 16, 5_000] {
        let content = [good, &vec![0; more]].concat();
        all.push(other(&format!("{more} bytes more"), &content));
    }
    all.push(other("twice", &[good, good].concat()));
    all
}

/// Restores the state that this file leads to, with no other file that does.
async fn restored_with(
    replica: &Path,
    file: &(Level, LtxName, PathBuf),
) -> Result<Vec<u8>, RestoreError> {
    let dir = tempfile::tempdir().unwrap();
    for (level, name, path) in objects(replica) {
        if name.max < file.1.max || path == file.2 {
            let folder = dir.path().join(format!("replica/ltx/{level}"));
            fs::create_dir_all(&folder).unwrap();
            fs::hard_link(&path, folder.join(name.to_string())).unwrap();
        }
    }
    let output = dir.path().join("restored.db");
    let mut options = RestoreOptions::new(connect(&dir.path().join("replica")), &output);
    options.target = RestoreTarget::Txid(file.1.max);
    restore(options).await.map(|_| fs::read(&output).unwrap())
}

/// Damages one file of each level, the largest one there, in all ways.
async fn assert_every_damage_is_detected(replica: &Path) {
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let files = objects(replica);
    let (mut detected, mut meaningless) = (0, 0);
    for level in Level::all() {
        let on_level = files.iter().filter(|file| file.0 == level);
        let size = |file: &&(Level, LtxName, PathBuf)| fs::metadata(&file.2).unwrap().len();
        let Some(file) = on_level.max_by_key(size) else {
            continue;
        };
        let good = fs::read(&file.2).unwrap();
        let expected = restored_with(replica, file).await.unwrap();
        for damage in damages(&good, &mut random) {
            let what = format!("{} of {} on level {level}", damage.what, file.1);
            fs::write(&file.2, &damage.content).unwrap();
            let report = verified(replica).await;
            let restored = restored_with(replica, file).await;
            if damage.may_mean_nothing && report.is_sound() {
                meaningless += 1;
                assert!(restored.unwrap() == expected, "{what}");
                continue;
            }
            detected += 1;
            let error = restored.expect_err(&what);
            let names_it = error.to_string().contains(&file.1.to_string());
            assert!(names_it, "{what}: {error}");
            assert!(!report.is_sound(), "{what}");
            let named = report.problems().find(|found| {
                found.object.contains(&file.1.to_string())
                    && [FindingKind::Damaged, FindingKind::Misplaced].contains(&found.kind)
            });
            let named = named.unwrap_or_else(|| panic!("{what}: {:?}", report.findings));
            let says = &named.meaning;
            assert!(
                says.contains("delete it") || says.contains("cannot be restored"),
                "{says}"
            );
        }
        fs::write(&file.2, &good).unwrap();
    }
    assert!(
        kinds(&verified(replica).await).is_empty(),
        "all is well again"
    );
    assert!(detected > 10 * meaningless, "{detected} and {meaningless}");
}

#[tokio::test]
async fn every_class_of_damage_to_files_of_the_engine_is_detected() {
    assert_every_damage_is_detected(&of_evertide().await.replica).await;
}

#[tokio::test]
async fn every_class_of_damage_to_files_of_litestream_is_detected() {
    let scene = tokio::task::spawn_blocking(|| of_litestream(4096, 5, 12));
    let scene = scene.await.unwrap();
    let levels: std::collections::BTreeSet<_> =
        objects(&scene.replica).iter().map(|file| file.0).collect();
    assert!(levels.len() > 2, "Litestream has compacted: {levels:?}");
    assert_every_damage_is_detected(&scene.replica).await;
}

/// Adds what a drill leaves beside the files.
async fn drill(scene: &Scene) {
    let mut options = ReplicaOptions::new("local", Destination::file(&scene.replica).unwrap());
    options.drill_interval = Some(Duration::from_millis(10));
    let builder = Replication::builder(&scene.db).replica(options);
    let backup = builder.build().unwrap();
    backup.start().await.unwrap();
    wait_until(Duration::from_secs(60), "a drill", || {
        scene.replica.join("evertide/drill").exists()
    });
    backup.stop(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn a_flipped_bit_of_any_object_beside_the_files_is_noticed_and_no_restore_depends_on_it() {
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let scene = of_evertide().await;
    drill(&scene).await;
    assert_eq!(kinds(&verified(&scene.replica).await), []);
    let newest = objects(&scene.replica)
        .into_iter()
        .max_by_key(|file| file.1.max)
        .unwrap();
    let expected = restored_with(&scene.replica, &newest).await.unwrap();
    let client = connect(&scene.replica);
    let keys = client.list_small().await.unwrap();
    let names: Vec<_> = keys.iter().map(|key| key.as_str()).collect();
    assert_eq!(names, ["checksums", "drill", "lease"]);
    for name in names {
        let object = scene.replica.join("evertide").join(name);
        let good = fs::read(&object).unwrap();
        for at in 0..good.len() {
            let mut damaged = good.clone();
            damaged[at] ^= 1 << random.u8(..8);
            fs::write(&object, &damaged).unwrap();
            let report = verified(&scene.replica).await;
            let found: Vec<_> = report.findings.iter().collect();
            let [found] = found[..] else {
                panic!("byte {at} of {name}: {found:?}")
            };
            assert_eq!(found.kind, FindingKind::Record, "byte {at} of {name}");
            assert_eq!(found.object, format!("evertide/{name}"), "byte {at}");
            assert!(name != "checksums" || report.proven == 0, "byte {at}");
        }
        let restored = restored_with(&scene.replica, &newest).await.unwrap();
        assert!(restored == expected, "{name}");
        fs::write(&object, &good).unwrap();
    }
    assert!(verified(&scene.replica).await.findings.is_empty());
}
