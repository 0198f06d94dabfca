//! Replicas on servers with SSH, on real ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)] // a test

use std::{
    os::unix::fs::PermissionsExt,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    Destination, Error, OsDisk, Precondition, ReplicaClient, Secret, SftpOptions, SmallKey,
    bytes_stream, conformance::Replicas,
};
use evertide_testkit::{SftpKind, SftpServer};

/// OpenSSH's server, with a key.
mod openssh {
    evertide_storage::conformance!(super::Folders::on(evertide_testkit::SftpKind::OpenSsh));
}

/// Rclone's, with a password and without hard links.
mod rclone {
    evertide_storage::conformance!(super::Folders::on(evertide_testkit::SftpKind::Rclone));
}

/// Replicas below a folder of a test's own, on one server.
struct Folders {
    server: Arc<SftpServer>,
    kind: SftpKind,
    folder: String,
    full: OnceLock<SftpServer>,
}

impl Folders {
    fn on(kind: SftpKind) -> Self {
        Self::of(SftpServer::shared(kind), kind)
    }

    fn of(server: Arc<SftpServer>, kind: SftpKind) -> Self {
        Self {
            server,
            kind,
            folder: format!("{:016x}", fastrand::u64(..)),
            full: OnceLock::new(),
        }
    }

    fn options(&self, path: &str) -> SftpOptions {
        self.options_at(&self.server, &format!("{}/{path}", self.folder))
    }

    fn options_at(&self, server: &SftpServer, path: &str) -> SftpOptions {
        let path = format!("{}/{path}", server.folder());
        let mut options = SftpOptions::new(&server.address(), &path).unwrap();
        options.user = Some(server.user());
        options.host_key = Some(server.host_key());
        match self.kind {
            SftpKind::OpenSsh => options.key_path = Some(server.key_path()),
            SftpKind::Rclone => {
                options.password = Some(Secret::new(SftpServer::PASSWORD));
                options.conditional_writes = false;
            }
        }
        options
    }
}

impl Replicas for Folders {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        connect(self.options(path))
    }

    fn full(&self) -> Option<Arc<dyn ReplicaClient>> {
        // A server may not look again into a folder that it knows.
        let server = self.full.get_or_init(|| SftpServer::start(self.kind));
        let level = server.files().join("full/ltx/0");
        std::fs::create_dir_all(&level).unwrap();
        for txid in 1..=5_000 {
            std::fs::write(level.join(name(txid).to_string()), "x").unwrap();
        }
        Some(connect(self.options_at(server, "full")))
    }

    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }
}

fn connect(options: SftpOptions) -> Arc<dyn ReplicaClient> {
    Destination::Sftp(options)
        .connect(Arc::new(OsDisk))
        .unwrap()
}

fn name(txid: u64) -> LtxName {
    LtxName::new(Txid::new(txid), Txid::new(txid))
}

async fn put(client: &Arc<dyn ReplicaClient>, txid: u64) -> Result<(), Error> {
    let body = bytes_stream("x".into());
    let put = client.put(Level::L0, name(txid), SystemTime::UNIX_EPOCH, body);
    put.await.map(drop)
}

/// What a client says when it is to list a replica.
async fn refusal(options: SftpOptions) -> String {
    let client = connect(options.clone());
    let error = client.list(Level::L0, None).await.unwrap_err();
    format!("{error} {error:?} {client:?} {options:?}")
}

#[tokio::test]
async fn a_server_that_cannot_prove_who_it_is_gets_nothing() {
    let folders = Folders::on(SftpKind::Rclone);
    let another = SftpServer::start(SftpKind::Rclone);
    let mut options = folders.options("x");
    options.host_key = Some(another.host_key());
    let refused = refusal(options.clone()).await;
    assert!(refused.contains("not the one that is known"), "{refused}");

    // Known by a file: not at all, by another key, by its own among others.
    let dir = evertide_testkit::temp_dir();
    let known_hosts = dir.path().join("known_hosts");
    options.host_key = None;
    options.known_hosts = Some(known_hosts.clone());
    assert!(
        refusal(options.clone())
            .await
            .contains("no key of the server is known")
    );
    let [host, port] = [0, 1].map(|at| {
        let address = folders.server.address();
        address.split(':').nth(at).unwrap().to_owned()
    });
    let line = |key: &str| format!("[{host}]:{port} {key}\n");
    std::fs::write(&known_hosts, line(&another.host_key())).unwrap();
    assert!(
        refusal(options.clone())
            .await
            .contains("not the one that is known")
    );
    let revoked = format!("@revoked {}", line(&folders.server.host_key()));
    std::fs::write(&known_hosts, revoked).unwrap();
    assert!(
        refusal(options.clone())
            .await
            .contains("no key of the server is known")
    );
    let both = line(&another.host_key()) + &line(&folders.server.host_key());
    std::fs::write(&known_hosts, both).unwrap();
    put(&connect(options), 1).await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_or_key_is_refused_and_not_shown() {
    const SECRET: &str = "planted-hunter2";
    let folders = Folders::on(SftpKind::Rclone);
    let mut wrong = folders.options("x");
    wrong.password = Some(Secret::new(SECRET));
    let mut nobody_there = wrong.clone();
    nobody_there.host = "127.0.0.1:1".into();
    let mut no_key = wrong.clone();
    no_key.private_key = Some(Secret::new(SECRET));
    let mut nobody = wrong.clone();
    nobody.user = None;
    for (options, said) in [
        (wrong, "does not let the user in"),
        (nobody_there, "refused"),
        (no_key, "the private key cannot be read"),
        (nobody, "name the user"),
    ] {
        let refused = refusal(options).await;
        assert!(refused.contains(said), "{refused}");
        assert!(!refused.contains(SECRET), "{refused}");
    }
}

#[tokio::test]
async fn a_private_key_may_be_given_by_its_content() {
    let folders = Folders::on(SftpKind::OpenSsh);
    let mut options = folders.options("x");
    let key = std::fs::read_to_string(options.key_path.take().unwrap()).unwrap();
    // As settings have it, which know no lines.
    let lines = key.lines().filter(|line| !line.starts_with("-----"));
    let joined: String = lines.collect();
    for key in [key.as_str(), &joined] {
        options.private_key = Some(Secret::new(key));
        connect(options.clone())
            .list(Level::L0, None)
            .await
            .unwrap();
    }
}

/// A server without hard links cannot keep a second writer away, which has to be said by the user.
#[tokio::test]
async fn a_server_without_hard_links_is_not_taken_for_one_that_has_them() {
    let mut options = Folders::on(SftpKind::Rclone).options("x");
    options.conditional_writes = true;
    let server = SftpServer::shared(SftpKind::Rclone);
    options.host = server.address();
    options.host_key = Some(server.host_key());
    let error = put(&connect(options), 1).await.unwrap_err();
    assert!(
        error.to_string().contains("conditionalWrites=false"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_stored_is_the_users_alone_and_nothing_is_left_over() {
    let folders = Folders::on(SftpKind::OpenSsh);
    let client = folders.open("one");
    let key = SmallKey::new("lease").unwrap();
    put(&client, 1).await.unwrap();
    assert!(put(&client, 1).await.unwrap_err().is_already_exists());
    let stored = client.put_small(&key, "one".into(), Precondition::Absent);
    let version = stored.await.unwrap();
    let stored = client.put_small(&key, "two".into(), Precondition::Unchanged(version.clone()));
    stored.await.unwrap();
    let stored = client.put_small(&key, "three".into(), Precondition::Unchanged(version));
    assert!(stored.await.unwrap_err().is_conflict());
    let root = folders.server.files().join(&folders.folder).join("one");
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&root), 0o700);
    for (folder, only) in [("ltx/0", name(1).to_string()), ("evertide", "lease".into())] {
        let names = || {
            let entries = std::fs::read_dir(root.join(folder)).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect::<Vec<_>>()
        };
        // What was refused is deleted a moment later.
        evertide_testkit::wait_until(Duration::from_secs(30), "it is tidy", || {
            names() == [only.clone()]
        });
        assert_eq!(mode(&root.join(folder).join(&only)), 0o600);
    }
}

#[tokio::test]
async fn a_server_that_says_it_deleted_and_did_not_is_found_out() {
    let liar = Arc::new(SftpServer::start_lying());
    let folders = Folders::of(liar, SftpKind::OpenSsh);
    let client = folders.open("one");
    put(&client, 1).await.unwrap();
    let error = client.delete(Level::L0, &[name(1)]).await.unwrap_err();
    assert!(matches!(error, Error::NotDeleted { .. }), "{error:?}");
    assert!(error.to_string().contains("0000000000000001"), "{error}");
    // Nor does it say so of what is not there.
    client.delete(Level::L0, &[name(2)]).await.unwrap();
}

/// A process that dies while it replaces a small object leaves a lock.
#[tokio::test]
async fn the_lock_of_a_dead_process_is_broken_when_it_is_old_and_not_before() {
    let folders = Folders::on(SftpKind::OpenSsh);
    let client = folders.open("one");
    let key = SmallKey::new("lease").unwrap();
    let stored = client.put_small(&key, "one".into(), Precondition::Absent);
    let version = stored.await.unwrap();
    let root = folders.server.files().join(&folders.folder).join("one");
    let lock = root.join("evertide/.lease.lock");
    std::fs::write(&lock, "half").unwrap();
    let replace = || client.put_small(&key, "two".into(), Precondition::Unchanged(version.clone()));
    let error = replace().await.unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    assert!(lock.exists());
    let old = SystemTime::now() - Duration::from_secs(3_600);
    let file = std::fs::File::options().write(true).open(&lock).unwrap();
    file.set_modified(old).unwrap();
    replace().await.unwrap();
    let found = client.get_small(&key).await.unwrap().unwrap();
    assert_eq!(found.content, Bytes::from("two"));
    assert!(!lock.exists());
}

/// A daemon outlives the servers it talks to.
#[tokio::test]
async fn a_connection_that_broke_is_made_anew() {
    // Other tests keep theirs.
    let kind = SftpKind::OpenSsh;
    let folders = Folders::of(Arc::new(SftpServer::start(kind)), kind);
    let client = folders.open("one");
    put(&client, 1).await.unwrap();
    folders.server.drop_connections();
    assert_eq!(client.list(Level::L0, None).await.unwrap().len(), 1);
    folders.server.drop_connections();
    // What is written is not written twice: whoever is the first to notice fails.
    let mut tries = 0;
    while put(&client, 2).await.is_err() {
        tries += 1;
        assert!(tries < 3, "it is not made anew");
    }
    assert_eq!(client.list(Level::L0, None).await.unwrap().len(), 2);
}

/// The engine's runtime ends when nothing is replicated any more, and another one begins with the next restore.
#[test]
fn a_client_outlives_the_runtime_that_it_has_connected_on() {
    let folders = Folders::on(SftpKind::OpenSsh);
    let client = folders.open("one");
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    first.block_on(put(&client, 1)).unwrap();
    // Nobody drives it any more, and yet it has not ended.
    let second = runtime();
    let listed = second.block_on(client.list(Level::L0, None)).unwrap();
    assert_eq!(listed.len(), 1);
    second.block_on(put(&client, 2)).unwrap();
    drop(first);
    second.block_on(put(&client, 3)).unwrap();
}
