//! Real signals to a real process: this test binary, started again to run one server.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use evertide_server::{Daemon, DaemonError, Reloaded, Server, async_trait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Set in the process that is the server; its value is the case.
const CASE: &str = "EVERTIDE_TEST_SIGNAL_CASE";

/// Tells the test what happens, a line each.
#[expect(clippy::print_stdout, reason = "the test reads it from the pipe")]
fn tell(what: &str) {
    println!("\n> {what}");
}

struct Teller;

#[async_trait]
impl Daemon for Teller {
    fn name(&self) -> &str {
        "teller"
    }
    async fn start(&self) -> Result<(), DaemonError> {
        tell("starts");
        if std::env::var(CASE).as_deref() == Ok("hanging start") {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
    async fn stop(&self, _deadline: Duration) -> Result<(), DaemonError> {
        tell("stops");
        Ok(())
    }
    async fn reload(&self) -> Result<Reloaded, DaemonError> {
        tell("reloads");
        Err("replica \"s3\": key `bucket` is missing".into())
    }
}

#[test]
#[ignore = "not a test: the process that the tests of this file start"]
fn server_process() {
    async fn slow() -> &'static str {
        tell("slow request");
        tokio::time::sleep(Duration::from_millis(500)).await;
        tell("slow request done");
        "done"
    }
    async fn wedge() -> &'static str {
        tell("wedged");
        std::thread::sleep(Duration::from_secs(600));
        "never"
    }

    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false);
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    // One thread, so that a handler that blocks takes the whole runtime with it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ended = runtime.block_on(async {
        let router = Router::new()
            .route("/slow", get(slow))
            .route("/wedge", get(wedge));
        let server = Server::new(router)
            .listen(([127, 0, 0, 1], 0))
            .add_daemon(Teller);
        let handle = server.handle();
        tokio::spawn(async move {
            if let Ok(Some(address)) = handle.serving().await {
                tell(&format!("serving {address}"));
            }
        });
        server.run().await
    });
    tell(&format!("ended {ended:?}"));
    if std::env::var(CASE).as_deref() == Ok("lives on") {
        std::thread::sleep(Duration::from_secs(600));
    }
}

struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    fn start(case: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "signals::server_process",
                "--ignored",
                "--nocapture",
            ])
            .env(CASE, case)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// What the process tells next.
    fn told(&mut self) -> String {
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).unwrap();
            assert!(read > 0, "the process ended");
            if let Some(told) = line.strip_prefix("> ") {
                return told.trim_end().to_owned();
            }
        }
    }

    fn told_address(&mut self) -> String {
        assert_eq!(self.told(), "starts");
        self.told().strip_prefix("serving ").unwrap().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            signal,
        )
        .unwrap();
    }

    /// How it ended, and what it logged.
    fn ended(mut self) -> (ExitStatus, String) {
        let mut log = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        (self.child.wait().unwrap(), log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After a failed assertion; otherwise it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn request(address: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: t\r\n\r\n").as_bytes())
        .await
        .unwrap();
    stream
}

#[tokio::test]
async fn sigterm_and_sigint_finish_the_request_and_then_stop_the_daemons() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut process = Process::start("");
        let address = process.told_address();
        let mut slow = request(&address, "/slow").await;
        assert_eq!(process.told(), "slow request");
        process.signal(signal);
        assert_eq!(process.told(), "slow request done");
        assert_eq!(process.told(), "stops");
        assert_eq!(process.told(), "ended Ok(())");
        let mut response = String::new();
        slow.read_to_string(&mut response).await.unwrap();
        assert!(response.ends_with("done"), "{signal}: {response}");
        let (status, log) = process.ended();
        assert!(status.success(), "{signal}: {status} {log}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_a_process_whose_runtime_is_blocked_and_names_what_is_lost() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut process = Process::start("");
        let address = process.told_address();
        let _wedge = request(&address, "/wedge").await;
        assert_eq!(process.told(), "wedged");
        process.signal(signal);
        // Two signals sent at once may arrive as one.
        tokio::time::sleep(Duration::from_millis(200)).await;
        process.signal(signal);
        let (status, log) = process.ended();
        assert_eq!(status.signal(), Some(signal as i32), "{log}");
        assert!(
            log.contains(&format!("{signal} again: ending at once")),
            "{log}"
        );
        assert!(log.contains("request GET /wedge"), "{log}");
    }
}

#[test]
fn a_signal_during_a_hanging_start_stops_the_daemon() {
    let mut process = Process::start("hanging start");
    assert_eq!(process.told(), "starts");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.told(), "stops");
    assert_eq!(process.told(), "ended Ok(())");
    assert!(process.ended().0.success());
}

#[tokio::test]
async fn sighup_reloads_and_a_refused_reload_is_logged_and_ends_nothing() {
    let mut process = Process::start("");
    let address = process.told_address();
    process.signal(Signal::SIGHUP);
    assert_eq!(process.told(), "reloads");
    let _slow = request(&address, "/slow").await;
    assert_eq!(process.told(), "slow request");
    process.signal(Signal::SIGHUP);
    assert_eq!(process.told(), "reloads");
    assert_eq!(process.told(), "slow request done");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.told(), "stops");
    assert_eq!(process.told(), "ended Ok(())");
    let (status, log) = process.ended();
    assert!(status.success(), "{log}");
    let refused = "ERROR evertide_server::supervisor: \
                   reload refused, the running settings stay: replica \"s3\": key `bucket` is missing";
    assert!(log.contains(refused), "{log}");
}

#[test]
fn a_program_that_lives_on_after_its_server_can_still_be_ended() {
    let mut process = Process::start("lives on");
    process.told_address();
    process.signal(Signal::SIGTERM);
    assert_eq!(process.told(), "stops");
    assert_eq!(process.told(), "ended Ok(())");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.ended().0.signal(), Some(Signal::SIGTERM as i32));
}
