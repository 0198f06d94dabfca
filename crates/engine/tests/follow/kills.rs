//! A follower that is killed, again and again, while readers go on.

use std::{fs, time::Duration};

use evertide::follow;

use crate::scene::{Process, Scene, options, paths, version};

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
    let seed = fastrand::u64(..);
    eprintln!("seed of the kills {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut scene = Scene::new(1024).await;
    scene.write_durably(3).await;
    scene.follow_to_the_end().await.unwrap();
    let (copy, stop) = (scene.path("copy.db"), scene.path("stop"));
    let mut reader = Process::start("readers::reader_process", &[&copy, &stop]);
    let replica = scene.path("replica");
    let (mut behind, mut hot) = (0, 0);
    for round in 0..25 {
        let mut follower = Process::start("kills::follower_process", &[&replica, &copy]);
        // Some rounds are killed while the start reads the copy, most of them at work.
        let pause = random.u64(..400);
        let until = std::time::Instant::now() + Duration::from_millis(pause);
        while std::time::Instant::now() < until {
            scene.write();
            tokio::time::sleep(Duration::from_millis(random.u64(1..15))).await;
        }
        assert!(!follower.is_over(), "it ended by itself in round {round}");
        follower.kill();
        hot += usize::from(scene.path("copy.db-journal").exists());
        behind += usize::from(version(&copy) < version(&scene.path("app.db")));
        assert!(
            !reader.is_over(),
            "the reader found something in round {round}"
        );
    }
    eprintln!("{hot} times a journal was left, {behind} times the copy was behind");
    assert!(behind > 0);
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
