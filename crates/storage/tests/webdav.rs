//! Replicas on WebDAV shares, on real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)] // a test

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use evertide_ltx::{Encoder, Header, Level, LtxName, PageSize, Pgno, Txid};
use evertide_storage::{
    Destination, Error, OsDisk, Precondition, ReplicaClient, Secret, SmallKey, WebdavOptions,
    bytes_stream, collect,
    conformance::{Gauge, Pieces, Replicas},
};
use evertide_testkit::{Fault, FaultProxy, Weather, WebdavKind, WebdavServer};
use futures_util::future::join_all;

/// Wants a password.
mod rclone {
    evertide_storage::conformance!(super::Shares::on(evertide_testkit::WebdavKind::Rclone));
}

/// Honours conditions. Those cases of the suite that look at times are left out: this server has none but
/// its own, and the contents of the cases are no LTX files.
mod wsgidav {
    macro_rules! cases {
        ($($case:ident)*) => {
            $(
                #[tokio::test]
                async fn $case() {
                    let shares = super::Shares::on(evertide_testkit::WebdavKind::Wsgidav);
                    evertide_storage::conformance::$case(&shares).await;
                }
            )*
        };
    }
    cases!(
        five_thousand_objects_are_listed_in_order
        a_range_gives_those_bytes_and_no_others
        a_missing_object_is_not_found
        a_deleted_object_is_gone
        a_large_body_is_streamed_in_bounded_memory
        a_put_that_waits_for_its_body_and_is_dropped_leaves_nothing
        a_body_that_fails_leaves_nothing
        odd_paths_are_ordinary_paths
        small_objects_are_stored_apart
        an_object_that_somebody_changed_is_not_replaced
        an_examination_finds_what_the_store_promises
    );
}

/// Replicas below a folder of a test's own, on one share.
struct Shares {
    server: Arc<WebdavServer>,
    kind: WebdavKind,
    folder: String,
    full: OnceLock<WebdavServer>,
}

impl Shares {
    fn on(kind: WebdavKind) -> Self {
        let server = WebdavServer::shared(kind);
        let folder = format!("{:016x}", fastrand::u64(..));
        Self {
            server,
            kind,
            folder,
            full: OnceLock::new(),
        }
    }

    fn options(&self, path: &str) -> WebdavOptions {
        let path = format!("{}/{path}", self.folder);
        let mut options = WebdavOptions::new(&self.server.url(), &path).unwrap();
        if self.kind == WebdavKind::Rclone {
            options.username = Some(WebdavServer::USER.into());
            options.password = Some(Secret::new(WebdavServer::PASSWORD));
        }
        options
    }
}

impl Replicas for Shares {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        connect(self.options(path))
    }

    fn full(&self) -> Option<Arc<dyn ReplicaClient>> {
        // A server may not look again into a folder that it knows.
        let server = self.full.get_or_init(|| WebdavServer::start(self.kind));
        let level = server.folder().join("full/ltx/0");
        std::fs::create_dir_all(&level).unwrap();
        for txid in 1..=5_000 {
            std::fs::write(level.join(name(txid).to_string()), "x").unwrap();
        }
        let mut options = self.options("full");
        (options.host, options.path) = (server.address(), "full".into());
        Some(connect(options))
    }

    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }
}

fn connect(options: WebdavOptions) -> Arc<dyn ReplicaClient> {
    Destination::Webdav(options)
        .connect(Arc::new(OsDisk))
        .unwrap()
}

const EACH: [WebdavKind; 2] = [WebdavKind::Rclone, WebdavKind::Wsgidav];

fn name(txid: u64) -> LtxName {
    LtxName::new(Txid::new(txid), Txid::new(txid))
}

async fn put(client: &Arc<dyn ReplicaClient>, txid: u64, content: Bytes) -> bool {
    let body = bytes_stream(content);
    let put = client.put(Level::L0, name(txid), SystemTime::UNIX_EPOCH, body);
    match put.await {
        Ok(_) => true,
        Err(error) if error.is_already_exists() => false,
        Err(error) => panic!("{error}"),
    }
}

async fn content(client: &Arc<dyn ReplicaClient>, txid: u64) -> Bytes {
    let body = client.get(Level::L0, name(txid), None).await.unwrap();
    collect(body, usize::MAX).await.unwrap()
}

/// One that is too long to be kept until it is whole.
#[tokio::test]
async fn a_long_body_that_fails_or_is_given_up_leaves_nothing() {
    let long = Pieces {
        count: 120,
        size: 100_000,
    };
    for kind in EACH {
        let shares = Shares::on(kind);
        let client = shares.open("one");
        let body = long.failing(std::io::ErrorKind::ConnectionReset);
        let failed = client.put(Level::L0, name(1), SystemTime::UNIX_EPOCH, body);
        let error = failed.await.unwrap_err();
        assert!(matches!(error, Error::Body { .. }), "{kind:?}: {error:?}");
        assert_eq!(client.list(Level::L0, None).await.unwrap(), []);

        let gauge = Gauge::default();
        let body = long.stalling(&gauge);
        let mut given_up = client.put(Level::L0, name(1), SystemTime::UNIX_EPOCH, body);
        while gauge.made() < long.count {
            let ended = tokio::time::timeout(Duration::from_millis(1), &mut given_up);
            assert!(ended.await.is_err(), "the body never ended");
        }
        drop(given_up);
        assert_eq!(client.list(Level::L0, None).await.unwrap(), []);
        assert!(put(&client, 1, long.content().into()).await);
        assert!(content(&client, 1).await == long.content());
    }
}

/// Not promised for every server, and true of these.
#[tokio::test]
async fn an_object_that_is_there_is_not_replaced() {
    for kind in EACH {
        let shares = Shares::on(kind);
        let client = shares.open("one");
        assert!(put(&client, 1, "first".into()).await);
        assert!(!put(&client, 1, "second".into()).await, "{kind:?}");
        assert_eq!(content(&client, 1).await, "first");
        let key = SmallKey::new("lease").unwrap();
        for (content, created) in [("one", true), ("two", false)] {
            let put = client.put_small(&key, content.into(), Precondition::Absent);
            assert_eq!(put.await.is_ok(), created, "{kind:?}");
        }
    }
}

/// A server that is asked by many at once may answer that it is busy.
#[tokio::test]
async fn of_many_who_create_one_object_at_the_same_time_one_wins_on_a_server_with_locks() {
    let shares = Shares::on(WebdavKind::Rclone);
    for round in 1..=10 {
        let creators = (0..6_u8).map(|n| {
            let client = shares.open("one");
            async move { put(&client, round, vec![n; 100].into()).await }
        });
        let won = join_all(creators).await;
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "{won:?}");
    }
}

/// Servers date files when they are uploaded.
#[tokio::test]
async fn the_time_of_an_ltx_file_is_that_of_its_header() {
    for kind in EACH {
        let shares = Shares::on(kind);
        let client = shares.open("one");
        let mut header = Header::new(PageSize::new(512).unwrap(), 1, Txid::FIRST, Txid::FIRST);
        header.timestamp_ms = 1_700_000_000_123;
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        encoder
            .encode_page(Pgno::new(1).unwrap(), &[7; 512])
            .unwrap();
        let (file, _) = encoder.finish().unwrap();
        assert!(put(&client, 1, file.into()).await);
        let listed = client.list_dated(Level::L0, None).await.unwrap();
        let expected = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        assert_eq!(listed[0].created, expected, "{kind:?}");
    }
}

#[tokio::test]
async fn a_server_that_says_it_deleted_and_did_not_is_found_out() {
    let shares = Shares::on(WebdavKind::Rclone);
    let proxy = FaultProxy::start(shares.server.address().parse().unwrap(), 1).unwrap();
    let mut options = shares.options("one");
    options.host = proxy.address().to_string();
    let client = connect(options);
    for txid in 1..=2 {
        assert!(put(&client, txid, "x".into()).await);
    }
    client.delete(Level::L0, &[name(1)]).await.unwrap();
    proxy.keep_what_is_deleted();
    let error = client.delete(Level::L0, &[name(2)]).await.unwrap_err();
    assert!(matches!(error, Error::NotDeleted { .. }), "{error:?}");
    assert!(error.to_string().contains("0000000000000002"), "{error}");
    assert_eq!(content(&client, 2).await, "x");
}

/// The server is gone when an upload is given up.
#[tokio::test]
async fn what_could_not_be_deleted_is_when_the_server_is_back() {
    /// The upload, its renaming, which is refused, and a look whether it was renamed.
    const BEFORE: u32 = 3;
    for kind in EACH {
        let shares = Shares::on(kind);
        let server = shares.server.address().parse().unwrap();
        let proxy = FaultProxy::start(server, 1).unwrap();
        let mut options = shares.options("one");
        options.host = proxy.address().to_string();
        let client = connect(options);
        assert!(put(&client, 1, "first".into()).await);
        proxy.set_weather(Weather::From(BEFORE, Fault::Unavailable));
        assert!(!put(&client, 1, "second".into()).await, "{kind:?}");
        let level = shares
            .server
            .folder()
            .join(&shares.folder)
            .join("one/ltx/0");
        let count = || std::fs::read_dir(&level).unwrap().count();
        let tries = || proxy.faults().get(&Fault::Unavailable).copied();
        while tries() < Some(4) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(count(), 2, "{kind:?}: it has deleted it");
        proxy.set_weather(Weather::Fair);
        assert!(put(&client, 2, "third".into()).await);
        assert_eq!(count(), 2, "{kind:?}: something is left");
    }
}

/// A killed process cannot delete what it was writing.
#[tokio::test]
async fn what_a_killed_process_left_behind_is_removed_and_nothing_else_is() {
    let shares = Shares::on(WebdavKind::Wsgidav);
    let folder = shares
        .server
        .folder()
        .join(&shares.folder)
        .join("one/ltx/0");
    put(&shares.open("one"), 1, "x".into()).await;
    let files = [
        ".0000000000000002-0000000000000002.ltx.0123456789abcdef-7.evertide-tmp",
        "notes.txt",
    ];
    for file in files {
        std::fs::write(folder.join(file), "x").unwrap();
    }
    put(&shares.open("one"), 2, "x".into()).await;
    let left = files.map(|file| folder.join(file).exists());
    assert_eq!(left, [false, true]);
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_shown() {
    const SECRET: &str = "planted-hunter2";
    let shares = Shares::on(WebdavKind::Rclone);
    let mut wrong = shares.options("x");
    wrong.password = Some(Secret::new(SECRET));
    let mut nobody_there = wrong.clone();
    nobody_there.host = "127.0.0.1:1".into();
    for (options, said) in [
        (wrong, "check user and password"),
        (nobody_there, "127.0.0.1:1"),
    ] {
        let client = connect(options.clone());
        let error = client.list(Level::L0, None).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        let text = format!("{error} {error:?} {client:?} {options:?}");
        // Base64 of the user and the password, as it is sent.
        for secret in [SECRET, "YmFja3VwOnBsYW50ZWQtaHVudGVyMg=="] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
