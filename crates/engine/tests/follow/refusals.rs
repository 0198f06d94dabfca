//! What is never overwritten, and what cannot be followed.

use std::{fs, sync::Arc, time::Duration};

use evertide::{ExistingOutput, FollowError};
use rusqlite::Connection;
use tokio::sync::Notify;

use crate::scene::{Scene, check, follow_until, version};

async fn refused(scene: &Scene) -> FollowError {
    let followed = follow_until(scene.options(), |_| false).await;
    followed.map(|_| ()).unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_no_copy_is_left_alone_unless_forced() {
    let mut scene = Scene::new(4096).await;
    scene.write_durably(1).await;
    let copy = scene.path("copy.db");
    let other = Connection::open(&copy).unwrap();
    other.execute_batch("CREATE TABLE precious (x)").unwrap();
    drop(other);
    let before = fs::read(&copy).unwrap();
    let error = refused(&scene).await;
    assert!(matches!(error, FollowError::NotACopy(_)), "{error}");
    assert!(fs::read(&copy).unwrap() == before);
    let mut options = scene.options();
    options.restore.existing = ExistingOutput::Replace;
    follow_until(options, |path| version(path) == 1)
        .await
        .unwrap();
    scene.assert_current().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_somebody_wrote_to_is_left_alone_unless_forced() {
    let mut scene = Scene::new(4096).await;
    scene.write_durably(1).await;
    scene.follow_to_the_end().await.unwrap();
    // Promoted: it is the database now.
    let promoted = Connection::open(scene.path("copy.db")).unwrap();
    promoted.execute_batch("CREATE TABLE precious (x)").unwrap();
    drop(promoted);
    scene.write_durably(1).await;
    let error = refused(&scene).await;
    assert!(matches!(error, FollowError::Changed(_)), "{error}");
    let copy = Connection::open(scene.path("copy.db")).unwrap();
    copy.execute_batch("SELECT * FROM precious").unwrap();
    drop(copy);
    let mut options = scene.options();
    options.restore.existing = ExistingOutput::Replace;
    follow_until(options, |path| version(path) == 2)
        .await
        .unwrap();
    scene.assert_current().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_to_the_copy_while_it_is_followed_is_noticed_before_anything_is_overwritten() {
    let mut scene = Scene::new(4096).await;
    scene.write_durably(1).await;
    let options = scene.options();
    let following = tokio::spawn(follow_until(options, |_| false));
    let copy = scene.path("copy.db");
    while !copy.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let writer = Connection::open(&copy).unwrap();
    writer.busy_timeout(Duration::from_secs(10)).unwrap();
    writer.execute_batch("CREATE TABLE precious (x)").unwrap();
    scene.write_durably(1).await;
    let error = following.await.unwrap().map(|_| ()).unwrap_err();
    assert!(matches!(error, FollowError::Changed(_)), "{error}");
    writer.execute_batch("SELECT * FROM precious").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_followed_once() {
    let mut scene = Scene::new(4096).await;
    scene.write_durably(1).await;
    scene.follow_to_the_end().await.unwrap();
    let first = tokio::spawn(follow_until(scene.options(), |path| version(path) == 2));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let error = refused(&scene).await;
    assert!(matches!(error, FollowError::AlreadyFollowed(_)), "{error}");
    let replica = scene.path("replica");
    let other = crate::scene::Process::start(
        "kills::follower_process",
        &[&replica, &scene.path("copy.db")],
    );
    tokio::task::spawn_blocking(move || other.assert_bad())
        .await
        .unwrap();
    scene.write_durably(1).await;
    first.await.unwrap().unwrap();
    check(&scene.path("copy.db"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follow_that_nobody_waits_for_leaves_a_copy_that_can_be_followed_on() {
    let mut scene = Scene::new(1024).await;
    scene.write_durably(3).await;
    for pause in [1, 5, 20, 40, 80, 160, 320] {
        let following = evertide::follow(scene.options(), std::future::pending());
        let _ = tokio::time::timeout(Duration::from_millis(pause), following).await;
        scene.write_durably(2).await;
        // A change that had begun goes on by itself.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    scene.follow_to_the_end().await.unwrap();
    scene.assert_current().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_comes_before_the_copy_is_ready_is_no_failure() {
    let scene = Scene::new(4096).await;
    let report = evertide::follow(scene.options(), std::future::ready(())).await;
    assert!(report.is_ok(), "{report:?}");
    scene.follow_to_the_end().await.unwrap();
    scene.assert_current().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stops_as_soon_as_the_copy_is_ready_is_told_what_it_has() {
    let mut scene = Scene::new(4096).await;
    scene.write_durably(1).await;
    for begun in ["restored", "resumed"] {
        let ready = Arc::new(Notify::new());
        let tell = Arc::clone(&ready);
        let options = scene.options().on_event(move |_| tell.notify_one());
        let stop = async move { ready.notified().await };
        let report = evertide::follow(options, stop).await.unwrap();
        assert!(report.txid.is_some(), "{begun}");
    }
}
