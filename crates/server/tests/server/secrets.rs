//! Nothing that an embedding program can look at, log or export shows a secret of its replicas.

use std::{
    io,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use evertide::Replication;
use evertide_server::{BackupDaemon, settings::parse_toml};
use evertide_testkit::{QuotingServer, planted_secret, temp_dir};
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    set_global_recorder,
};
use rusqlite::Connection;
use tracing_subscriber::fmt::MakeWriter;

const PATIENCE: Duration = Duration::from_secs(60);
/// Where a process finds the server.
const SERVER: &str = "EVERTIDE_QUOTING_SERVER";

/// Everything that is logged or measured in this process.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<u8>>>);

impl Told {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn note(&self, key: &Key) {
        self.0.lock().unwrap().extend(format!("{key:?}\n").bytes());
    }
}

impl io::Write for Told {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Told {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Recorder for Told {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.note(key);
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.note(key);
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.note(key);
        Histogram::noop()
    }
}

/// Logs all that there is to log in this process, of libraries, too.
fn log_everything(to: impl for<'a> MakeWriter<'a> + Send + Sync + 'static) {
    let _ = tracing_subscriber::fmt()
        // The library for NATS quotes what servers say: its log is for the program to switch off, as the
        // command-line tool does.
        .with_env_filter("trace,async_nats=off")
        .with_ansi(false)
        .with_writer(to)
        .try_init();
}

/// Keys of the environment cannot be tried here: processes of their own do.
#[tokio::test(flavor = "multi_thread")]
async fn no_status_metric_log_or_debug_output_shows_a_secret_whatever_servers_quote() {
    let told = Told::default();
    log_everything(told.clone());
    set_global_recorder(told.clone()).unwrap();
    let server = QuotingServer::start();
    let folder = temp_dir();
    let path = folder.path().join("app.db");
    let application = Connection::open(&path).unwrap();
    let pragmas = evertide::recommended_pragmas();
    application.execute_batch(&pragmas).unwrap();
    application.execute_batch("CREATE TABLE t(x)").unwrap();

    let mut options = parse_toml(&server.replicas("replicas")).unwrap();
    // Those look for keys in the environment, and leave this machine for that.
    let alone = ["s3-2", "s3-3", "oss-2", "gs-1"];
    let replicas = &mut options.replicas;
    replicas.retain(|replica| !alone.contains(&replica.name.as_str()));
    let builder = Replication::builder(&path).options(options.clone());
    let mut shown = format!("{options:#?} {builder:#?}");
    let backup = builder.build().unwrap();
    backup.start().await.unwrap();
    let failed = backup.wait_for(|status| {
        let mut replicas = status.replicas.iter();
        replicas.all(|replica| replica.error.is_some())
    });
    let status = tokio::time::timeout(PATIENCE, failed).await.unwrap();
    for replica in &status.replicas {
        shown += &format!("{} {:?}\n", replica.location, replica.error);
    }
    let daemon = BackupDaemon::new(backup);
    shown += &format!("{status:#?} {daemon:#?} {:#?}", daemon.replication());
    for text in [shown, told.text()] {
        assert!(text.contains("webdav-1"), "{text}");
        assert_eq!(planted_secret(&text), None);
    }
    assert!(told.text().contains("evertide_requests_total"));
}

#[tokio::test]
#[ignore = "not a test: the process that the test below starts"]
async fn a_program_whose_keys_are_looked_for() {
    log_everything(io::stdout);
    let url = std::env::var(SERVER).unwrap();
    let address = url.trim_start_matches("http://");
    let mut options = parse_toml(&QuotingServer::replicas_at(address, "replicas")).unwrap();
    options.replicas.retain(|replica| replica.name == "s3-3");
    let folder = temp_dir();
    let path = folder.path().join("app.db");
    let application = Connection::open(&path).unwrap();
    application.execute_batch("CREATE TABLE t(x)").unwrap();
    let backup = Replication::builder(&path)
        .options(options)
        .build()
        .unwrap();
    backup.start().await.unwrap();
    let failed = backup.wait_for(|status| {
        let mut replicas = status.replicas.iter();
        replicas.all(|replica| replica.error.is_some())
    });
    tokio::time::timeout(PATIENCE, failed).await.unwrap();
}

/// The token of a machine is a secret, and so is what it is given for.
#[test]
fn no_log_of_an_embedding_program_shows_what_a_metadata_service_gave() {
    let server = QuotingServer::start();
    let mut program = Command::new(std::env::current_exe().unwrap());
    program
        .args(["--exact", "secrets::a_program_whose_keys_are_looked_for"])
        .args(["--ignored", "--nocapture"])
        .envs(server.environment())
        .env(SERVER, server.url());
    let output = program.output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success());
    assert_eq!(planted_secret(&said), None);
    assert!(said.contains("reqsign_core"), "libraries log nothing here");
    assert!(said.contains("IMDS access denied"), "it was not asked");
}
