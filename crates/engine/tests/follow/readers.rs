//! Readers while the copy is being updated.

use std::{cell::Cell, fs, os::unix::fs::FileExt, path::Path, time::Duration};

use evertide_testkit::another_process_finds_it_open;
use rusqlite::Connection;

use crate::scene::{Process, Scene, check, follow_until, judge_until, paths, read_copy, version};

#[test]
#[ignore = "a process that other tests start"]
fn reader_process() {
    let [copy, stop] = paths();
    let seen = judge_until(&copy, &stop);
    assert!(seen > 0, "nothing was seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reader_ever_sees_a_torn_state_or_an_older_one() {
    for page_size in [512, 4096] {
        let mut scene = Scene::new(page_size).await;
        scene.write_durably(3).await;
        scene.follow_to_the_end().await.unwrap();
        let (copy, stop) = (scene.path("copy.db"), scene.path("stop"));
        let processes =
            [(); 2].map(|()| Process::start("readers::reader_process", &[&copy, &stop]));
        let thread = std::thread::spawn({
            let (copy, stop) = (copy.clone(), stop.clone());
            move || judge_until(&copy, &stop)
        });
        let following = tokio::spawn({
            let (options, stop) = (scene.options(), stop.clone());
            follow_until(options, move |_| stop.exists())
        });
        for _ in 0..100 {
            scene.write_durably(1).await;
        }
        let wanted = version(&scene.path("app.db"));
        while version(&copy) < wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        fs::write(&stop, "").unwrap();
        let followed = following.await.unwrap().unwrap();
        let applied = followed
            .events
            .iter()
            .filter(|event| event.contains("Applied"));
        assert!(applied.count() > 5, "{:#?}", followed.events);
        assert!(thread.join().unwrap() > 3);
        for process in processes {
            process.assert_good();
        }
        fs::remove_file(&stop).unwrap();
        scene.assert_current().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stays_keeps_its_state_and_delays_the_update_no_longer_than_that() {
    let mut scene = Scene::new(4096).await;
    scene.write_durably(2).await;
    scene.follow_to_the_end().await.unwrap();
    let copy = scene.path("copy.db");
    let reader = Connection::open(&copy).unwrap();
    reader.busy_timeout(Duration::from_secs(20)).unwrap();
    let read = || reader.query_row("SELECT n FROM version", [], |row| row.get::<_, i64>(0));
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(read(), Ok(2));
    let following = tokio::spawn(follow_until(scene.options(), |path| version(path) == 5));
    scene.write_durably(3).await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(read(), Ok(2));
        assert_eq!(check(&copy, 2), 2, "others can still read");
    }
    reader.execute_batch("COMMIT").unwrap();
    following.await.unwrap().unwrap();
    assert_eq!(read(), Ok(5));
    scene.assert_current().await;
}

/// The application's reader and the follower are in one process here, where a file that is closed drops the
/// locks of both.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_the_copy_keeps_its_lock_whatever_follower_comes_and_goes() {
    let mut scene = Scene::new(4096).await;
    scene.write_durably(2).await;
    scene.follow_to_the_end().await.unwrap();
    let copy = scene.path("copy.db");
    let reader = Connection::open(&copy).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let read = || reader.query_row("SELECT n FROM version", [], |row| row.get::<_, i64>(0));
    assert_eq!(read(), Ok(2));
    let held = |when: &str| {
        assert!(another_process_finds_it_open(&copy), "{when}");
        assert_eq!(read(), Ok(2), "{when}");
    };
    held("at first");
    // With nothing new, and with a change that has to wait for the reader.
    for changes in 0..3 {
        scene.write_durably(changes).await;
        let seen = Cell::new(0);
        let looks_a_while = |_: &Path| {
            held("while it is followed");
            seen.set(seen.get() + 1);
            seen.get() > 5
        };
        follow_until(scene.options(), looks_a_while).await.unwrap();
        held("after the follower has stopped");
    }
    reader.execute_batch("COMMIT").unwrap();
    assert!(!another_process_finds_it_open(&copy), "the probe works");
    scene.follow_to_the_end().await.unwrap();
    assert_eq!(read(), Ok(5));
    scene.assert_current().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_written_without_the_locks_are_noticed_by_these_readers() {
    let mut scene = Scene::new(512).await;
    let (copy, stop) = (scene.path("copy.db"), scene.path("stop"));
    let mut states = Vec::new();
    for _ in 0..2 {
        scene.write_durably(3).await;
        scene.follow_to_the_end().await.unwrap();
        states.push(read_copy(&copy));
    }
    let mut reader = Process::start("readers::reader_process", &[&copy, &stop]);
    let file = fs::File::options().write(true).open(&copy).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    'torn: loop {
        for state in &states {
            for (number, page) in state.chunks(512).enumerate() {
                file.write_all_at(page, number as u64 * 512).unwrap();
                if reader.is_over() {
                    break 'torn;
                }
            }
        }
        assert!(std::time::Instant::now() < deadline, "nobody noticed");
    }
    reader.assert_bad();
}
