//! The backup as a daemon: settings from the encrypted store, a real database, a real replica, and the
//! official Litestream as the witness of what is on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get as on_get;
use evertide::{CONFIG_SCOPE, Durability, Replication, ReplicationOptions};
use evertide_server::{
    BackupDaemon, BackupError, Daemon, FleetDaemon, Reloaded, Server,
    settings::{DatabaseSettings, parse_toml},
};
use evertide_testkit::{
    OssServer, Road, TempDir, WireProxy, another_process_can_truncate, another_process_can_write,
    another_process_finds_a_lock_of, another_process_finds_it_open, error_with_causes,
    restore_with_litestream, temp_dir,
};
use evertide_vault::{AgeKeyFile, ConfigFormat, SecureConfigStore};
use rusqlite::Connection;
use tokio::sync::Notify;

use crate::support::{Client, address, spawn};

/// A folder with a database, a key and the store.
struct Site {
    folder: TempDir,
    store: SecureConfigStore,
}

impl Site {
    fn new() -> Self {
        let folder = temp_dir();
        let key = AgeKeyFile::new(folder.path().join("age.key"));
        key.generate().unwrap();
        let store = SecureConfigStore::create(folder.path().join("app.db"), key).unwrap();
        let site = Self { folder, store };
        site.connect().execute_batch("CREATE TABLE t(x)").unwrap();
        site
    }

    fn connect(&self) -> Connection {
        let connection = Connection::open(self.database()).unwrap();
        connection
            .execute_batch(&evertide::recommended_pragmas())
            .unwrap();
        connection
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    fn replica(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn save(&self, toml: &str) {
        self.store
            .save(CONFIG_SCOPE, toml.as_bytes(), &ConfigFormat::Toml, None)
            .unwrap();
    }

    /// Settings with these replicas. After the first upload the next one is due in an hour, so that
    /// whatever arrives earlier was asked for.
    fn settings(&self, names: &[&str]) -> String {
        let replica = |name: &&str| {
            let path = self.replica(name);
            let path = path.display();
            format!(
                "[[replicas]]\nname = \"{name}\"\ntype = \"file\"\nsync_interval = \"1h\"\n\
                 file_path = \"{path}\"\n"
            )
        };
        names.iter().map(replica).collect()
    }

    async fn daemon(&self) -> Result<BackupDaemon, BackupError> {
        let key = self.store.key().clone();
        BackupDaemon::from_store(self.database(), key, CONFIG_SCOPE).await
    }

    fn rows_on(&self, replica: &str) -> i64 {
        let output = self.folder.path().join(format!("{replica}.restored"));
        restore_with_litestream(self.replica(replica), &output);
        rows(&output)
    }
}

fn rows(database: &Path) -> i64 {
    let connection = Connection::open(database).unwrap();
    connection
        .query_row("SELECT count(*) FROM t", (), |row| row.get(0))
        .unwrap()
}

#[tokio::test]
async fn the_commit_of_the_last_request_is_on_the_replica_when_run_returns() {
    let site = Site::new();
    site.save(&site.settings(&["local"]));
    let backup = site.daemon().await.unwrap();
    let replication = backup.replication();

    let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (entered, go_on, database) = (entered.clone(), go_on.clone(), site.database());
        move || async move {
            entered.notify_one();
            go_on.notified().await;
            let connection = Connection::open(database).unwrap();
            connection.execute("INSERT INTO t VALUES (1)", ()).unwrap();
            "committed"
        }
    };
    let router = Router::new().route("/", on_get(slow));
    let (handle, running) = spawn(Server::new(router).add_daemon(backup));
    let mut client = Client::connect(address(&handle).await).await.unwrap();
    replication.wait_durable(Durability::All).await.unwrap();
    client.request("/").await;
    entered.notified().await;

    handle.shut_down();
    go_on.notify_one();
    assert!(client.rest().await.ends_with("committed"));
    running.await.unwrap().unwrap();
    assert_eq!(site.rows_on("local"), 1);
}

#[tokio::test]
async fn a_reload_adds_and_removes_replicas_without_a_restart() {
    let site = Site::new();
    site.save(&site.settings(&["one", "two"]));
    let backup = site.daemon().await.unwrap();
    let replication = backup.replication();
    let (handle, running) = spawn(Server::new(Router::new()).add_daemon(backup));
    address(&handle).await;
    replication.wait_durable(Durability::All).await.unwrap();

    site.save(&site.settings(&["two", "three"]));
    let report = handle.reload().await.unwrap();
    match &report.outcomes[0].result {
        Ok(Reloaded::Changed(what)) => {
            assert_eq!(what, "replica added: three; replica removed: one");
        }
        other => panic!("{other:?}"),
    }
    site.connect()
        .execute("INSERT INTO t VALUES (1)", ())
        .unwrap();
    replication.wait_durable(Durability::All).await.unwrap();
    let names: Vec<_> = replication
        .status()
        .replicas
        .into_iter()
        .map(|r| r.name)
        .collect();
    assert_eq!(names, ["two", "three"]);
    assert_eq!(site.rows_on("two"), 1);
    assert_eq!(site.rows_on("three"), 1);

    handle.shut_down();
    running.await.unwrap().unwrap();
    assert_eq!(site.rows_on("one"), 0, "the removed replica was written to");
}

/// Seen from another process, as only that one shows POSIX locks; settings are read from the same file meanwhile.
#[tokio::test]
async fn the_applications_locks_survive_reloads_that_work_and_fail_and_the_shutdown() {
    const READ_MARKS: std::ops::Range<u32> = 124..128;
    let site = Site::new();
    site.save(&site.settings(&["one"]));
    let backup = site.daemon().await.unwrap();
    let replication = backup.replication();
    let (handle, running) = spawn(Server::new(Router::new()).add_daemon(backup));
    address(&handle).await;
    replication.wait_durable(Durability::All).await.unwrap();

    let (reader, writer) = (site.connect(), site.connect());
    let insert = || writer.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    let read = || -> i64 {
        let count = "SELECT count(*) FROM t";
        reader.query_row(count, (), |row| row.get(0)).unwrap()
    };
    insert();
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(read(), 1);
    let (database, index) = (site.database(), site.replica("app.db-shm"));
    let us = Some(std::process::id().cast_signed());
    let is_ours = |slot: &u32| another_process_finds_a_lock_of(&index, *slot) == us;
    let slot = READ_MARKS.into_iter().find(is_ours).unwrap();
    insert();
    let assert_held = |after: &str| {
        assert!(!another_process_can_write(&database), "after {after}");
        assert!(another_process_finds_it_open(&database), "after {after}");
        assert!(is_ours(&slot), "the reader after {after}");
        assert_eq!(read(), 1, "after {after}");
    };
    for (settings, works) in [
        (site.settings(&["one", "two"]), true),
        ("monitor_interval = \"soon\"\n".to_owned(), false),
        (site.settings(&["two"]), true),
    ] {
        site.save(&settings);
        writer.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(handle.reload().await.unwrap().is_ok(), works);
        assert_held(if works { "a reload" } else { "one that failed" });
        writer.execute_batch("COMMIT").unwrap();
    }
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    handle.shut_down();
    running.await.unwrap().unwrap();
    assert_held("the shutdown");
    writer.execute_batch("COMMIT").unwrap();
    assert!(another_process_can_write(&database), "the probe works");
    assert!(!another_process_can_truncate(&database), "the reader's WAL");
    reader.execute_batch("COMMIT").unwrap();
    assert!(another_process_can_truncate(&database), "the probe works");
}

#[tokio::test]
async fn a_reload_of_wrong_settings_lists_every_mistake_and_changes_nothing() {
    let site = Site::new();
    let good = site.settings(&["local"]);
    site.save(&good);
    let backup = site.daemon().await.unwrap();
    let replication = backup.replication();
    let (handle, running) = spawn(Server::new(Router::new()).add_daemon(backup));
    address(&handle).await;

    site.save(&format!(
        "monitor_interval = \"soon\"\n{good}sync_intervall = \"1s\"\n"
    ));
    let report = handle.reload().await.unwrap();
    let refused = error_with_causes(report.outcomes[0].result.as_ref().unwrap_err());
    assert!(
        refused.contains("line 1: monitor_interval: `soon`"),
        "{refused}"
    );
    assert!(
        refused.contains("line 7: replicas[0].sync_intervall: unknown key"),
        "{refused}"
    );

    site.connect()
        .execute("INSERT INTO t VALUES (1)", ())
        .unwrap();
    replication.wait_durable(Durability::All).await.unwrap();
    assert_eq!(
        site.rows_on("local"),
        1,
        "the running settings did not stay"
    );

    site.save(&good);
    let report = handle.reload().await.unwrap();
    assert!(
        matches!(report.outcomes[0].result, Ok(Reloaded::Unchanged)),
        "{report:?}"
    );
    handle.shut_down();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reload_without_its_key_goes_on_with_the_running_settings() {
    let site = Site::new();
    site.save(&site.settings(&["local"]));
    let backup = site.daemon().await.unwrap();
    let (handle, running) = spawn(Server::new(Router::new()).add_daemon(backup));
    address(&handle).await;

    std::fs::remove_file(site.store.key().path()).unwrap();
    let report = handle.reload().await.unwrap();
    let refused = error_with_causes(report.outcomes[0].result.as_ref().unwrap_err());
    assert!(refused.contains("age.key"), "{refused}");
    handle.shut_down();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_application_without_valid_settings_does_not_start_unprotected() {
    let site = Site::new();
    let error = error_with_causes(&site.daemon().await.unwrap_err());
    assert!(
        error.contains("no configuration is stored for scope `litestream`"),
        "{error}"
    );

    site.save("[[replicas]]\nname = \"local\"\ntype = \"file\"\n");
    let error = site.daemon().await.unwrap_err();
    let BackupError::Settings { source, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(source.mistakes().len(), 1);
    let error = error_with_causes(&error);
    assert!(
        error.contains("app.db (scope \"litestream\", stored 2"),
        "{error}"
    );
    assert!(
        error.contains("replicas[0].file_path: is missing"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_not_replicated_at_the_deadline_is_named() {
    let site = Site::new();
    // A file where the replica's directory should be.
    std::fs::write(site.replica("blocked"), "in the way").unwrap();
    site.save(&site.settings(&["blocked"]));
    let backup = site.daemon().await.unwrap();
    let (handle, running) = spawn(
        Server::new(Router::new())
            .add_daemon(backup)
            .shutdown_deadline(Duration::from_secs(5)),
    );
    address(&handle).await;
    handle.shut_down();
    let error = running.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("blocked"), "{error}");
}

/// What the end of a server is told when the replica of its daemon does not answer any more, as in an outage of the
/// network: connections stay, and nothing comes back on them.
async fn end_in_an_outage<D: Daemon>(
    daemon: impl AsyncFnOnce(PathBuf, ReplicationOptions) -> (D, Replication),
) -> String {
    let (site, server) = (Site::new(), OssServer::start());
    let proxy = WireProxy::start(server.address()).unwrap();
    let toml = format!(
        "[[replicas]]\nname = \"remote\"\ntype = \"oss\"\noss_bucket = \"{}\"\noss_path = \"app\"\n\
         oss_region = \"{}\"\noss_endpoint = \"http://{}\"\noss_access_key_id = \"{}\"\n\
         oss_access_key_secret = \"{}\"\n",
        OssServer::BUCKET,
        OssServer::REGION,
        proxy.address(),
        OssServer::KEY_ID,
        OssServer::KEY_SECRET,
    );
    let insert = || {
        let inserted = site.connect().execute("INSERT INTO t VALUES (1)", ());
        assert_eq!(inserted.unwrap(), 1);
    };
    let (daemon, replication) = daemon(site.database(), parse_toml(&toml).unwrap()).await;
    let (handle, running) = spawn(
        Server::new(Router::new())
            .add_daemon(daemon)
            .shutdown_deadline(Duration::from_secs(10)),
    );
    address(&handle).await;
    // By then it has a lease to let go of, and a checksum to publish.
    for _ in 0..2 {
        insert();
        replication.wait_durable(Durability::All).await.unwrap();
    }
    proxy.set_road(Road::Silent);
    insert();
    let txid = replication.sync().await.unwrap();
    handle.shut_down();
    let error = running.await.unwrap().unwrap_err().to_string();
    assert!(
        error.contains(&format!("not replicated up to {txid}")),
        "{error}"
    );
    error
}

#[tokio::test]
async fn a_replica_that_does_not_answer_is_named_when_stopping_and_the_stop_is_not_cut_off() {
    let backup = end_in_an_outage(async |database, options| {
        let replication = Replication::builder(database).options(options);
        let backup = BackupDaemon::new(replication.build().unwrap());
        let replication = backup.replication();
        (backup, replication)
    });
    let fleet = end_in_an_outage(async |database, options| {
        let settings = vec![DatabaseSettings::new(database, options)];
        let fleet = FleetDaemon::new(settings.into()).unwrap();
        let replication = fleet.members().await.remove(0);
        (fleet, replication)
    });
    let (backup, fleet) = tokio::join!(backup, fleet);
    for error in [backup, fleet] {
        assert!(!error.contains("cut off"), "{error}");
        assert!(error.contains("replica `remote` has"), "{error}");
    }
}
