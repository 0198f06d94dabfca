//! Reloading: who is asked, what is reported, and what a shutdown in the middle does.

use std::time::Duration;

use axum::Router;
use evertide_server::{NotRunning, Phase, Reloaded, Server};

use crate::support::{Act, Journal, Recorder, address, spawn};

#[tokio::test]
async fn a_refused_reload_names_the_daemon_and_does_not_keep_the_others_from_reloading() {
    let journal = Journal::default();
    let (handle, running) = spawn(
        Server::new(Router::new())
            .add_daemon(Recorder::new("bad", &journal).reload(Act::Fail("line 3: no such key")))
            .add_daemon(Recorder::new("mad", &journal).reload(Act::Panic("index 7")))
            .add_daemon(Recorder::new("good", &journal)),
    );
    address(&handle).await;
    let report = handle.reload().await.unwrap();
    assert!(!report.is_ok());
    let said: Vec<_> = report
        .outcomes
        .iter()
        .map(|outcome| match &outcome.result {
            Ok(reloaded) => format!("{}: {reloaded}", outcome.daemon),
            Err(failure) => format!("{}: {failure}", outcome.daemon),
        })
        .collect();
    assert_eq!(
        said,
        [
            "bad: line 3: no such key",
            "mad: it panicked: index 7",
            "good: new settings: all of them"
        ]
    );
    assert_eq!(
        handle.phase(),
        Phase::Serving,
        "a bad reload must not end the server"
    );
    handle.shut_down();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_daemon_without_settings_need_not_know_about_reloads() {
    struct Plain;

    #[evertide_server::async_trait]
    impl evertide_server::Daemon for Plain {
        fn name(&self) -> &str {
            "plain"
        }
        async fn start(&self) -> Result<(), evertide_server::DaemonError> {
            Ok(())
        }
        async fn stop(&self, _deadline: Duration) -> Result<(), evertide_server::DaemonError> {
            Ok(())
        }
    }

    let (handle, running) = spawn(Server::new(Router::new()).add_daemon(Plain));
    let report = handle.reload().await.unwrap();
    assert!(matches!(
        report.outcomes[0].result,
        Ok(Reloaded::Unsupported)
    ));
    handle.shut_down();
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn reloads_asked_for_while_daemons_start_are_answered_once_they_run() {
    let journal = Journal::default();
    let second = Duration::from_secs(1);
    let (handle, running) = spawn(
        Server::new(Router::new())
            .add_daemon(Recorder::new("slow", &journal).start(Act::Take(second))),
    );
    let (one, two) = tokio::join!(handle.reload(), handle.reload());
    assert!(one.unwrap().is_ok() && two.unwrap().is_ok());
    assert_eq!(
        journal.entries(),
        ["slow starts", "slow runs", "slow reloads", "slow reloaded"],
        "two requests that wait share one reload"
    );
    handle.shut_down();
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_daemon_is_not_stopped_in_the_middle_of_its_reload() {
    let journal = Journal::default();
    let second = Duration::from_secs(1);
    let (handle, running) = spawn(
        Server::new(Router::new())
            .add_daemon(Recorder::new("slow", &journal).reload(Act::Take(second))),
    );
    address(&handle).await;
    let reload = tokio::spawn({
        let handle = handle.clone();
        async move { handle.reload().await }
    });
    tokio::time::sleep(second / 2).await;
    handle.shut_down();
    running.await.unwrap().unwrap();
    assert!(reload.await.unwrap().unwrap().is_ok());
    assert_eq!(
        journal.entries()[2..],
        [
            "slow reloads",
            "slow reloaded",
            "slow stops",
            "slow stopped"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_hangs_does_not_keep_the_server_from_ending() {
    let journal = Journal::default();
    let (handle, running) = spawn(
        Server::new(Router::new())
            .add_daemon(Recorder::new("stuck", &journal).reload(Act::Hang))
            .shutdown_deadline(Duration::from_secs(4)),
    );
    address(&handle).await;
    let reload = tokio::spawn({
        let handle = handle.clone();
        async move { handle.reload().await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    handle.shut_down();
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the shutdown is incomplete: a reload of the settings was cut off"
    );
    assert_eq!(reload.await.unwrap().unwrap_err(), NotRunning);
    assert_eq!(journal.entries().last().unwrap(), "stuck stopped");
}

#[tokio::test]
async fn a_server_that_has_ended_says_so_instead_of_reloading_for_ever() {
    let (handle, running) = spawn(Server::new(Router::new()));
    address(&handle).await;
    handle.shut_down();
    running.await.unwrap().unwrap();
    assert_eq!(handle.reload().await.unwrap_err(), NotRunning);
}
