//! Whatever is wrong with a replica is an error, and never a database.

use std::fs;

use evertide::{RestoreError, RestoreTarget, restore};
use evertide_ltx::Txid;

use crate::scene::{PAGE, Scene, created, ltx, name};

/// Breaks the file with number `at`, counted in the order of the listing; whether there is one.
fn break_file(scene: &Scene, at: usize, change: impl Fn(&mut Vec<u8>)) -> bool {
    let mut files = scene.objects();
    files.sort();
    let Some(path) = files.get(at) else {
        return false;
    };
    let mut content = fs::read(path).unwrap();
    change(&mut content);
    fs::write(path, content).unwrap();
    true
}

async fn assert_refused(scene: &Scene, what: &str) -> RestoreError {
    let error = scene.restore().await.expect_err(what);
    scene.assert_nothing_left();
    let text = error.to_string();
    assert!(
        text.contains("0000") || text.contains("page"),
        "{what}: nothing is named: {text}"
    );
    error
}

#[tokio::test]
async fn a_flipped_bit_in_any_file_is_never_restored() {
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    for at in 0..6 {
        // Header, structure and trailer wherever they are, content at random: LZ4 has some bits
        // that mean nothing, so content is tried at the checksum's mercy elsewhere.
        for place in [0, 5, 11, 15, 23, 31, 85, 103, 105, 109] {
            let scene = Scene::usual().await;
            let bit = 1 << random.u8(..8);
            assert!(break_file(&scene, at, |file| file[place] ^= bit));
            assert_refused(
                &scene,
                &format!("bit {bit:#x} of byte {place} of file {at}"),
            )
            .await;
        }
        for from_end in [1, 8, 9, 16, 17, 24, 25, 27] {
            let scene = Scene::usual().await;
            let bit = 1 << random.u8(..8);
            assert!(break_file(&scene, at, |file| {
                let place = file.len() - from_end;
                file[place] ^= bit;
            }));
            assert_refused(
                &scene,
                &format!("bit {bit:#x}, {from_end} from the end of {at}"),
            )
            .await;
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_large_file_is_found_by_whichever_thread_decodes_it() {
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let scene = Scene::large().await;
    let path = scene.object(9, name(1, 1));
    let good = fs::read(&path).unwrap();
    for _ in 0..12 {
        // Random content is stored as literals, in which every bit counts.
        let mut bad = good.clone();
        let place = random.usize(200..good.len() - 100_000);
        bad[place] ^= 0x10;
        fs::write(&path, bad).unwrap();
        match scene.restore().await {
            Err(error) => {
                assert!(matches!(error, RestoreError::Damaged { .. }), "{error}");
                scene.assert_nothing_left();
            }
            Ok(_) => {
                // A bit of LZ4 that means nothing: then everything else must be right.
                scene.assert_restored();
                fs::remove_file(scene.output()).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_is_cut_off_or_goes_on_is_never_restored() {
    for at in 0..6 {
        for keep in [0, 50, 100, 106, 200] {
            let scene = Scene::usual().await;
            break_file(&scene, at, |file| file.truncate(keep));
            assert_refused(&scene, &format!("{keep} bytes of file {at}")).await;
        }
        let scene = Scene::usual().await;
        break_file(&scene, at, |file| file.truncate(file.len() - 1));
        assert_refused(&scene, "the last byte is missing").await;
        let scene = Scene::usual().await;
        break_file(&scene, at, |file| file.push(0));
        assert_refused(&scene, "one byte too many").await;
    }
}

#[tokio::test]
async fn a_file_that_is_missing_in_the_middle_is_a_gap() {
    for lost in 2..6 {
        let scene = Scene::usual().await;
        fs::remove_file(scene.object(0, name(lost, lost))).unwrap();
        let error = assert_refused(&scene, "a gap").await;
        assert!(matches!(error, RestoreError::Gap { .. }), "{error}");
        // Whoever asks by time is told by time, and can have what is named.
        let mut options = scene.options();
        options.target = RestoreTarget::Timestamp(created(6));
        let error = restore(options.clone()).await.unwrap_err().to_string();
        let [before, behind] =
            [lost - 1, lost + 1].map(|txid| humantime::format_rfc3339_millis(created(txid)));
        let advice = format!("`--timestamp {before}`");
        assert!(error.contains(&advice), "{error}");
        assert!(error.contains(&format!(".ltx of {behind}")), "{error}");
        options.target = RestoreTarget::Timestamp(created(lost - 1));
        let report = restore(options).await.unwrap();
        assert_eq!(report.txid, Txid::new(lost - 1));
    }
    let scene = Scene::usual().await;
    fs::remove_file(scene.object(9, name(1, 1))).unwrap();
    let error = scene.restore().await.unwrap_err();
    assert!(
        matches!(error, RestoreError::NoSnapshot { first: None, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_under_the_name_of_another_is_refused() {
    let scene = Scene::usual().await;
    fs::copy(scene.object(0, name(3, 3)), scene.object(0, name(4, 4))).unwrap();
    let error = assert_refused(&scene, "another file").await;
    assert!(matches!(error, RestoreError::Misplaced { .. }), "{error}");
}

#[tokio::test]
async fn a_change_of_the_page_size_in_the_middle_is_refused() {
    let scene = Scene::with(&[(2, &[1, 2])]).await;
    scene
        .put(0, name(2, 2), ltx(2 * PAGE, (2, 2), 2, &[1]))
        .await;
    let error = assert_refused(&scene, "another page size").await;
    assert!(matches!(error, RestoreError::Misplaced { .. }), "{error}");
}

#[tokio::test]
async fn growth_without_its_pages_is_never_filled_with_zeros_or_old_content() {
    // Page 4 was there, was cut off, and is there again without having been written.
    let scene = Scene::with(&[(4, &[1, 2, 3, 4]), (2, &[1]), (5, &[1, 3, 5])]).await;
    let error = assert_refused(&scene, "a page is missing").await;
    let RestoreError::Incomplete { page, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(page.get(), 4);
}

#[tokio::test]
async fn pages_missing_from_growth_may_come_later_or_be_cut_off() {
    let scene = Scene::with(&[(2, &[1, 2]), (5, &[1, 5]), (5, &[3, 4])]).await;
    scene.restore().await.unwrap();
    scene.assert_restored();
    let scene = Scene::with(&[(2, &[1, 2]), (5, &[1, 5]), (2, &[1])]).await;
    scene.restore().await.unwrap();
    scene.assert_restored();
}

#[tokio::test]
async fn the_damage_names_the_file_and_the_replica() {
    let scene = Scene::usual().await;
    break_file(&scene, 2, |file| file[103] ^= 1);
    let error = assert_refused(&scene, "damage").await.to_string();
    assert!(error.contains("replica"), "{error}");
    assert!(
        error.contains("0000000000000004-0000000000000004.ltx"),
        "{error}"
    );
}
