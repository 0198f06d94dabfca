//! What is never overwritten, and what cannot be followed.

use std::{fs, sync::Arc, time::Duration};

use evertide::{ExistingOutput, FollowError};
use rusqlite::Connection;
use tokio::sync::Notify;

use crate::scene::{Process, Scene, check, follow_until, options, paths, version};

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

#[test]
#[ignore = "a process that other tests start"]
fn refused_process() {
    let [replica, copy] = paths();
    let begun = Arc::new(Notify::new());
    let tell = Arc::clone(&begun);
    let options = options(&replica, &copy).on_event(move |_| tell.notify_one());
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let following = evertide::follow(options, async move { begun.notified().await });
    let error = runtime.unwrap().block_on(following).unwrap_err();
    assert!(matches!(error, FollowError::AlreadyFollowed(_)), "{error}");
}

/// Another process is refused the copy.
async fn refuses_another_process(scene: &Scene) {
    let (replica, copy) = (scene.path("replica"), scene.path("copy.db"));
    let other = Process::start("refusals::refused_process", &[&replica, &copy]);
    let refused = tokio::task::spawn_blocking(move || other.assert_good());
    refused.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_followed_once_whatever_links_lead_to_it() {
    let mut scene = Scene::new(4096).await;
    scene.write_durably(1).await;
    scene.follow_to_the_end().await.unwrap();
    let link = scene.path("link");
    std::os::unix::fs::symlink(scene.dir.path(), &link).unwrap();
    let ready = Arc::new(Notify::new());
    let tell = Arc::clone(&ready);
    let first = scene.options().on_event(move |_| tell.notify_one());
    let first = tokio::spawn(evertide::follow(first, std::future::pending()));
    ready.notified().await;
    let linked = options(&scene.path("replica"), &link.join("copy.db"));
    let linked = async {
        let followed = follow_until(linked, |_| true).await;
        followed.map(|_| ()).unwrap_err()
    };
    let (same, linked, ()) = tokio::join!(refused(&scene), linked, refuses_another_process(&scene));
    for error in [same, linked] {
        assert!(matches!(error, FollowError::AlreadyFollowed(_)), "{error}");
    }
    scene.write_durably(1).await;
    let copy = scene.path("copy.db");
    evertide_testkit::wait_until(Duration::from_secs(20), "the change", || {
        version(&copy) == 2
    });
    first.abort();
    check(&copy, 2);
}

/// A reader has the last change of the old follower wait, on a thread that nobody waits for any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_was_dropped_never_lets_go_of_the_lock_of_the_next_one() {
    let mut scene = Scene::new(4096).await;
    scene.write_durably(1).await;
    scene.follow_to_the_end().await.unwrap();
    let copy = scene.path("copy.db");
    let reader = Connection::open(&copy).unwrap();
    reader
        .execute_batch("BEGIN; SELECT n FROM version")
        .unwrap();
    scene.write_durably(1).await;
    let position = || fs::read(scene.path(".copy.db-evertide-follow")).unwrap();
    let at_rest = position();
    let old = tokio::spawn(evertide::follow(scene.options(), std::future::pending()));
    // It is written right before the lock is asked for, which takes half a second.
    evertide_testkit::wait_until(Duration::from_secs(20), "a change", || {
        position() != at_rest
    });
    old.abort();
    assert!(old.await.unwrap_err().is_cancelled());

    let (ready, stop) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, stopped) = (Arc::clone(&ready), Arc::clone(&stop));
    let next = scene.options().on_event(move |_| tell.notify_one());
    let next = evertide::follow(next, async move { stopped.notified().await });
    let next = tokio::spawn(next);
    ready.notified().await;
    refuses_another_process(&scene).await;
    reader.execute_batch("COMMIT").unwrap();
    evertide_testkit::wait_until(Duration::from_secs(20), "the change", || {
        version(&copy) == 2
    });
    stop.notify_one();
    assert!(next.await.unwrap().unwrap().files == 1);
    scene.assert_current().await;
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
