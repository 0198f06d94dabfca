//! A follower that is killed, again and again, while readers go on.

use std::{fs, time::Duration};

use evertide::follow;

use crate::scene::{Process, Scene, check, options, paths, version};

#[test]
#[ignore = "a process that other tests start"]
fn follower_process() {
    let [replica, copy] = paths();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let following = follow(options(&replica, &copy), std::future::pending());
    runtime.unwrap().block_on(following).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_killed_at_any_moment_leaves_a_whole_copy_and_goes_on() {
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let mut scene = Scene::new(1024).await;
    scene.write_durably(3).await;
    scene.follow_to_the_end().await.unwrap();
    let (copy, stop) = (scene.path("copy.db"), scene.path("stop"));
    let mut reader = Process::start("readers::reader_process", &[&copy, &stop]);
    let replica = scene.path("replica");
    let mut behind = 0;
    for round in 0..25 {
        let mut follower = Process::start("kills::follower_process", &[&replica, &copy]);
        // Some rounds are killed while the start reads the copy, most of them at work.
        let pause = random.u64(..400);
        let until = std::time::Instant::now() + Duration::from_millis(pause);
        while std::time::Instant::now() < until {
            scene.write_durably(1).await;
        }
        assert!(!follower.is_over(), "it ended by itself in round {round}");
        follower.kill();
        behind += usize::from(version(&copy) < version(&scene.path("app.db")));
        assert!(
            !reader.is_over(),
            "the reader found something in round {round}"
        );
    }
    assert!(behind > 0, "no kill hit anything");
    fs::write(&stop, "").unwrap();
    reader.assert_good();
    scene.write_durably(1).await;
    let followed = scene.follow_to_the_end().await.unwrap();
    assert!(
        followed.events[0].starts_with("Resumed"),
        "{:?}",
        followed.events
    );
    scene.assert_current().await;
    let left = scene.beside_copy();
    assert_eq!(left, [".copy.db-evertide-follow", "copy.db"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_killed_in_the_middle_of_a_change_is_undone_by_whoever_reads_next() {
    let mut scene = Scene::new(1024).await;
    scene.write_durably(3).await;
    scene.follow_to_the_end().await.unwrap();
    let (copy, replica) = (scene.path("copy.db"), scene.path("replica"));
    let journal = scene.path("copy.db-journal");
    let mut hot = 0;
    for round in 0..60 {
        let follower = Process::start("kills::follower_process", &[&replica, &copy]);
        let before = version(&copy);
        // Large enough to take some milliseconds.
        scene
            .source
            .execute_batch(
                "CREATE TABLE IF NOT EXISTS large (content);
                 INSERT INTO large VALUES (randomblob(900000)), (randomblob(900000));",
            )
            .unwrap();
        scene.write_durably(1).await;
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !journal.exists() && std::time::Instant::now() < deadline {
            std::hint::spin_loop();
        }
        std::thread::sleep(Duration::from_micros(300 * (round % 10)));
        follower.kill();
        hot += usize::from(journal.exists());
        check(&copy, before);
        assert!(!journal.exists(), "the reader has undone the change");
        if hot >= 5 && round >= 9 {
            break;
        }
    }
    assert!(hot >= 5, "only {hot} kills hit a change");
    scene.follow_to_the_end().await.unwrap();
    scene.assert_current().await;
}
