//! Start in order, drain, stop in reverse: steered through the handle, without signals.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{Act, Client, Journal, Recorder, address, any_port, get, is_refused, spawn};
use axum::routing::get as on_get;
use axum::{Extension, Router};
use evertide_server::{
    Cut, Daemon, DaemonError, DaemonFailure, NotRunning, Phase, Server, ServerError, ServerHandle,
    async_trait,
};
use evertide_testkit::error_with_causes;
use tokio::net::TcpSocket;
use tokio::sync::Notify;
use tokio::time::Instant;

fn hello() -> Router {
    Router::new().route("/", on_get(|| async { "hello" }))
}

/// Calls back when it starts and when it stops.
struct Callbacks<S, E>(S, E);

#[async_trait]
impl<S, SF, E, EF> Daemon for Callbacks<S, E>
where
    S: Fn() -> SF + Send + Sync + 'static,
    SF: Future<Output = ()> + Send,
    E: Fn() -> EF + Send + Sync + 'static,
    EF: Future<Output = ()> + Send,
{
    fn name(&self) -> &str {
        "callbacks"
    }
    async fn start(&self) -> Result<(), DaemonError> {
        self.0().await;
        Ok(())
    }
    async fn stop(&self, _deadline: Duration) -> Result<(), DaemonError> {
        self.1().await;
        Ok(())
    }
}

#[tokio::test]
async fn no_request_is_served_before_every_daemon_runs() {
    let journal = Journal::default();
    let server = Server::new(hello()).listen(any_port()).without_signals();
    let handle = server.handle();
    let probe = {
        let (handle, journal) = (handle.clone(), journal.clone());
        move || {
            let (handle, journal) = (handle.clone(), journal.clone());
            async move {
                let address = handle.local_addr().unwrap();
                journal.note(format!("refused: {}", is_refused(address).await));
            }
        }
    };
    let server = server
        .add_daemon(Recorder::new("first", &journal))
        .add_daemon(Callbacks(probe, || async {}))
        .add_daemon(Recorder::new("last", &journal));
    let running = tokio::spawn(server.run());

    assert_eq!(get(address(&handle).await, "/").await, "hello");
    assert_eq!(
        journal.entries(),
        [
            "first starts",
            "first runs",
            "refused: true",
            "last starts",
            "last runs"
        ]
    );
    assert_eq!(handle.phase(), Phase::Serving);
    handle.shut_down();
    running.await.unwrap().unwrap();
    assert_eq!(handle.phase(), Phase::Ended);
    assert_eq!(
        journal.entries()[5..],
        ["last stops", "last stopped", "first stops", "first stopped"]
    );
}

#[tokio::test]
async fn a_failed_start_leaves_no_daemon_running_and_nothing_listening() {
    let journal = Journal::default();
    let (handle, running) = spawn(
        Server::new(hello())
            .add_daemon(Recorder::new("one", &journal))
            .add_daemon(Recorder::new("two", &journal).stop(Act::Fail("two will not stop")))
            .add_daemon(Recorder::new("bad", &journal).start(Act::Fail("no such bucket")))
            .add_daemon(Recorder::new("never", &journal)),
    );
    assert_eq!(handle.serving().await, Err(NotRunning));
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(
        error_with_causes(&error),
        "daemon \"bad\" did not start (and then: daemon \"two\" did not stop: two will not stop): \
         no such bucket"
    );
    assert!(matches!(error, ServerError::Start { daemon, .. } if daemon == "bad"));
    assert_eq!(
        journal.entries(),
        [
            "one starts",
            "one runs",
            "two starts",
            "two runs",
            "bad starts",
            "two stops",
            "one stops",
            "one stopped"
        ]
    );
    assert!(is_refused(handle.local_addr().unwrap()).await);
}

#[tokio::test]
async fn a_daemon_that_panics_in_start_is_an_error_not_a_hang() {
    let journal = Journal::default();
    let (_, running) = spawn(
        Server::new(hello())
            .add_daemon(Recorder::new("one", &journal))
            .add_daemon(Recorder::new("bad", &journal).start(Act::Panic("index 7"))),
    );
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(
        error_with_causes(&error),
        "daemon \"bad\" did not start: it panicked: index 7"
    );
    assert_eq!(journal.entries().last().unwrap(), "one stopped");
}

#[tokio::test]
async fn a_daemon_that_panics_in_stop_does_not_keep_the_others_running() {
    let journal = Journal::default();
    let (handle, running) = spawn(
        Server::new(hello())
            .add_daemon(Recorder::new("one", &journal))
            .add_daemon(Recorder::new("bad", &journal).stop(Act::Panic("index 7"))),
    );
    address(&handle).await;
    handle.shut_down();
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the shutdown is incomplete: daemon \"bad\" did not stop: it panicked: index 7"
    );
    assert_eq!(journal.entries().last().unwrap(), "one stopped");
}

#[tokio::test]
async fn a_commit_of_the_last_request_is_there_when_the_daemons_are_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let open = {
        let path = path.clone();
        move || rusqlite::Connection::open(&path).unwrap()
    };
    open().execute_batch("CREATE TABLE t(x)").unwrap();

    let journal = Journal::default();
    let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (open, entered, go_on) = (open.clone(), Arc::clone(&entered), Arc::clone(&go_on));
        move || {
            let (open, entered, go_on) = (open.clone(), Arc::clone(&entered), Arc::clone(&go_on));
            async move {
                entered.notify_one();
                go_on.notified().await;
                open().execute("INSERT INTO t VALUES (1)", ()).unwrap();
                "committed"
            }
        }
    };
    let count_at_stop = {
        let journal = journal.clone();
        move || {
            let rows = open().query_row("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0));
            journal.note(format!("stop sees {} row", rows.unwrap()));
            async {}
        }
    };
    let (handle, running) = spawn(
        Server::new(Router::new().route("/slow", on_get(slow)))
            .add_daemon(Callbacks(|| async {}, count_at_stop)),
    );
    let address = address(&handle).await;
    let mut client = Client::connect(address).await.unwrap();
    client.request("/slow").await;
    entered.notified().await;

    handle.shut_down();
    while handle.phase() != Phase::Draining || !is_refused(address).await {
        tokio::task::yield_now().await;
    }
    assert!(
        journal.entries().is_empty(),
        "stopped while a request was being served"
    );
    go_on.notify_one();
    let response = client.rest().await;
    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    assert!(response.contains("connection: close"), "{response}");
    assert!(response.ends_with("committed"), "{response}");
    running.await.unwrap().unwrap();
    assert_eq!(journal.entries(), ["stop sees 1 row"]);
}

#[tokio::test(start_paused = true)]
async fn a_response_body_still_being_sent_is_not_cut() {
    let go_on = Arc::new(Notify::new());
    let stream = {
        let go_on = Arc::clone(&go_on);
        move || {
            let go_on = Arc::clone(&go_on);
            async move {
                let parts = futures_util::stream::unfold(0, move |part| {
                    let go_on = Arc::clone(&go_on);
                    async move {
                        if part == 1 {
                            go_on.notified().await;
                        }
                        (part < 2)
                            .then(|| (Ok::<_, std::io::Error>(format!("part{part} ")), part + 1))
                    }
                });
                axum::body::Body::from_stream(parts)
            }
        }
    };
    let (handle, running) = spawn(Server::new(Router::new().route("/", on_get(stream))));
    let mut client = Client::connect(address(&handle).await).await.unwrap();
    client.request("/").await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    handle.shut_down();
    // Longer than connections without a request are given to close.
    tokio::time::sleep(Duration::from_secs(5)).await;
    go_on.notify_one();
    assert!(client.rest().await.contains("part1"));
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn idle_and_half_open_connections_do_not_hold_up_the_shutdown() {
    let (handle, running) = spawn(Server::new(hello()));
    let address = address(&handle).await;
    let mut idle = Client::connect(address).await.unwrap();
    idle.request("/").await;
    idle.response().await;
    let mut fresh = Client::connect(address).await.unwrap();
    let mut half = Client::connect(address).await.unwrap();
    half.send("GET / HTTP/1.1\r\nho").await;
    tokio::time::sleep(Duration::from_millis(10)).await;

    let began = Instant::now();
    handle.shut_down();
    running.await.unwrap().unwrap();
    assert!(
        began.elapsed() <= Duration::from_secs(1),
        "took {:?}",
        began.elapsed()
    );
    assert_eq!(idle.rest().await, "");
    assert_eq!(fresh.rest().await, "");
    drop(half);
}

#[tokio::test(start_paused = true)]
async fn a_request_completed_just_after_the_shutdown_began_is_answered() {
    let slow = || async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        "answered"
    };
    let (handle, running) = spawn(Server::new(Router::new().route("/", on_get(slow))));
    let mut client = Client::connect(address(&handle).await).await.unwrap();
    client.send("GET / HTTP/1.1\r\nho").await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    handle.shut_down();
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.send("st: test\r\n\r\n").await;
    assert!(client.rest().await.ends_with("answered"));
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_deadline_holds_for_the_whole_and_names_everything_it_cut_off() {
    let journal = Journal::default();
    let hang = || async { std::future::pending::<&str>().await };
    let (handle, running) = spawn(
        Server::new(Router::new().route("/export/{id}", on_get(hang)))
            .add_daemon(Recorder::new("good", &journal))
            .add_daemon(Recorder::new("stuck", &journal).stop(Act::Hang))
            .add_daemon(Recorder::new("wedged", &journal).stop(Act::Hang))
            .shutdown_deadline(Duration::from_secs(12)),
    );
    let mut client = Client::connect(address(&handle).await).await.unwrap();
    client.request("/export/7?token=secret").await;
    tokio::time::sleep(Duration::from_secs(3)).await;

    let began = Instant::now();
    handle.shut_down();
    let error = running.await.unwrap().unwrap_err();
    let took = began.elapsed();
    assert!(took <= Duration::from_secs(12), "took {took:?}");

    let ServerError::Incomplete { cut } = &error else {
        panic!("{error}")
    };
    let [request, wedged, stuck] = cut.as_slice() else {
        panic!("{error}")
    };
    match request {
        Cut::Request {
            method,
            path,
            running,
            ..
        } => {
            assert_eq!((method.as_str(), path.as_str()), ("GET", "/export/7"));
            assert_eq!(running.as_secs(), 9, "3 s before and half of 12 s");
        }
        other => panic!("{other}"),
    }
    // The time one does not use goes to those after it: 6 s / 3, then 4 s / 2.
    for (cut, expected) in [(wedged, "wedged"), (stuck, "stuck")] {
        match cut {
            Cut::Daemon {
                name,
                failure: DaemonFailure::TimedOut(share),
            } => {
                assert_eq!((name.as_str(), share.as_secs()), (expected, 2));
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(
        journal.entries().last().unwrap(),
        "good stopped",
        "a hung daemon took its time"
    );
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_uses_all_its_time_still_reports_what_it_left() {
    struct Backup;

    #[async_trait]
    impl Daemon for Backup {
        fn name(&self) -> &str {
            "backup"
        }
        async fn start(&self) -> Result<(), DaemonError> {
            Ok(())
        }
        async fn stop(&self, deadline: Duration) -> Result<(), DaemonError> {
            tokio::time::sleep(deadline).await;
            Err("TXID 12 to 15 are not on replica \"s3\"".into())
        }
    }

    let (handle, running) = spawn(Server::new(hello()).add_daemon(Backup));
    address(&handle).await;
    handle.shut_down();
    let error = running.await.unwrap().unwrap_err().to_string();
    assert!(
        error.ends_with("TXID 12 to 15 are not on replica \"s3\""),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_during_a_hanging_start_stops_that_daemon_and_those_before_it() {
    let journal = Journal::default();
    let (handle, running) = spawn(
        Server::new(hello())
            .add_daemon(Recorder::new("one", &journal))
            .add_daemon(Recorder::new("slow", &journal).start(Act::Hang))
            .add_daemon(Recorder::new("never", &journal)),
    );
    while handle.phase()
        != (Phase::Starting {
            daemon: "slow".to_owned(),
        })
    {
        tokio::task::yield_now().await;
    }
    handle.shut_down();
    running.await.unwrap().unwrap();
    assert_eq!(
        journal.entries(),
        [
            "one starts",
            "one runs",
            "slow starts",
            "slow stops",
            "slow stopped",
            "one stops",
            "one stopped"
        ]
    );
}

#[tokio::test]
async fn a_taken_address_starts_no_daemon() {
    let taken = tokio::net::TcpListener::bind(any_port()).await.unwrap();
    let address = taken.local_addr().unwrap();
    let journal = Journal::default();
    let server = Server::new(hello()).listen(address).without_signals();
    let error = server
        .add_daemon(Recorder::new("one", &journal))
        .run()
        .await
        .unwrap_err();
    assert!(matches!(&error, ServerError::Listen { address: named, .. } if *named == address));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert!(journal.entries().is_empty());
}

#[tokio::test]
async fn an_address_lost_while_daemons_start_stops_them_again() {
    let rival = TcpSocket::new_v4().unwrap();
    rival.set_reuseaddr(true).unwrap();
    rival.bind(any_port()).unwrap();
    let address = rival.local_addr().unwrap();
    let rival = std::sync::Mutex::new(Some(rival));
    let taken = Arc::new(std::sync::Mutex::new(None));
    let take = {
        let taken = Arc::clone(&taken);
        move || {
            let listener = rival.lock().unwrap().take().unwrap().listen(1).unwrap();
            *taken.lock().unwrap() = Some(listener);
            async {}
        }
    };
    let journal = Journal::default();
    let server = Server::new(hello()).listen(address).without_signals();
    let error = server
        .add_daemon(Recorder::new("one", &journal))
        .add_daemon(Callbacks(take, || async {}))
        .run()
        .await
        .unwrap_err();
    assert!(matches!(error, ServerError::Listen { .. }), "{error}");
    assert_eq!(journal.entries().last().unwrap(), "one stopped");
}

#[tokio::test]
async fn daemons_that_no_error_could_tell_apart_are_refused() {
    let journal = Journal::default();
    let server = Server::new(hello()).listen(any_port()).without_signals();
    let error = server
        .add_daemon(Recorder::new("backup", &journal))
        .add_daemon(Recorder::new("backup", &journal))
        .run()
        .await
        .unwrap_err();
    assert!(matches!(error, ServerError::DuplicateDaemon { name } if name == "backup"));
    assert!(journal.entries().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_event_stream_that_ends_on_the_shutdown_does_not_hold_it_up() {
    async fn events(Extension(server): Extension<ServerHandle>) -> &'static str {
        server.shutting_down().await;
        "goodbye"
    }
    let (handle, running) = spawn(Server::new(Router::new().route("/", on_get(events))));
    let mut client = Client::connect(address(&handle).await).await.unwrap();
    client.request("/").await;
    tokio::time::sleep(Duration::from_secs(60)).await;

    let began = Instant::now();
    handle.shut_down();
    assert!(client.rest().await.ends_with("goodbye"));
    running.await.unwrap().unwrap();
    assert!(
        began.elapsed() <= Duration::from_secs(1),
        "took {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn nobody_waits_for_ever_for_a_server_that_was_never_run() {
    let server = Server::new(hello());
    let handle = server.handle();
    drop(server);
    assert_eq!(handle.serving().await, Err(NotRunning));
    handle.shutting_down().await;
}

#[tokio::test]
async fn a_server_without_http_runs_its_daemons_and_nothing_else() {
    let journal = Journal::default();
    let server = Server::without_http().without_signals();
    let server = server.add_daemon(Recorder::new("one", &journal));
    let handle = server.handle();
    let running = tokio::spawn(server.run());
    assert_eq!(handle.serving().await, Ok(None));
    handle.shut_down();
    running.await.unwrap().unwrap();
    assert_eq!(
        journal.entries(),
        ["one starts", "one runs", "one stops", "one stopped"]
    );
}

#[tokio::test]
async fn a_panicking_handler_takes_down_its_connection_only() {
    async fn broken() -> &'static str {
        panic!("a bug in a handler")
    }
    let (handle, running) = spawn(Server::new(hello().route("/broken", on_get(broken))));
    let address = address(&handle).await;
    let mut client = Client::connect(address).await.unwrap();
    client.request("/broken").await;
    assert_eq!(client.rest().await, "");
    assert_eq!(get(address, "/").await, "hello");
    handle.shut_down();
    running.await.unwrap().unwrap();
}
