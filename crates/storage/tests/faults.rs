//! Every file operation of the file replica fails once, and fails for ever, in turn.
#![allow(clippy::unwrap_used)] // a test

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    Disk, Error, Fault, FaultDisk, FileClient, FileOptions, OsDisk, ReplicaClient, bytes_stream,
    collect,
    conformance::{Gauge, Pieces},
};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;
const NAME: LtxName = LtxName::new(Txid::FIRST, Txid::FIRST);

fn created() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// One replica on a disk that fails.
struct Setup {
    folder: tempfile::TempDir,
    disk: Arc<FaultDisk>,
    client: FileClient,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
        let options = FileOptions {
            path: folder.path().join("replica"),
        };
        let client = FileClient::new(options, disk.clone());
        Self {
            folder,
            disk,
            client,
        }
    }

    /// A client as another process would have it.
    fn fresh(&self) -> FileClient {
        let options = FileOptions {
            path: self.folder.path().join("replica"),
        };
        FileClient::new(options, Arc::new(OsDisk))
    }

    /// What a restore would see.
    async fn stored(&self) -> Option<Bytes> {
        let client = self.fresh();
        let objects = client.list(Level::L0, None).await.unwrap();
        assert!(objects.len() <= 1, "{objects:?}");
        let object = objects.first()?;
        assert_eq!((object.name, object.created), (NAME, created()));
        let body = client.get(Level::L0, NAME, None).await.unwrap();
        Some(collect(body, usize::MAX).await.unwrap())
    }

    fn temporary_files(&self) -> usize {
        let level = self.folder.path().join("replica/ltx/0");
        let entries = OsDisk.read_dir(&level).unwrap_or_default();
        entries
            .iter()
            .filter(|entry| entry.name.to_string_lossy().starts_with('.'))
            .count()
    }
}

#[tokio::test]
async fn whichever_operation_of_a_put_fails_nothing_torn_is_visible_and_the_next_put_works() {
    // Written in one go, and streamed.
    for pieces in [
        Pieces {
            count: 3,
            size: 1_000,
        },
        Pieces {
            count: 15,
            size: 100_000,
        },
    ] {
        for fault in [Fault::Once, Fault::Forever] {
            for errno in [ENOSPC, EIO] {
                let runs = every_fault_of_a_put(pieces, fault, errno).await;
                // mkdir, open, write, set time, fsync, rename, fsync of the directory, at the very
                // least.
                assert!(runs > 7, "only {runs} operations");
            }
        }
    }
}

async fn every_fault_of_a_put(pieces: Pieces, fault: Fault, errno: i32) -> u64 {
    for n in 1.. {
        let setup = Setup::new();
        let put = || {
            let body = pieces.body(&Gauge::default());
            setup.client.put(Level::L0, NAME, created(), body)
        };
        setup.disk.fail_at(n, fault, errno);
        let first = put().await;
        let tripped = setup.disk.tripped();
        let context = format!("{fault:?} {errno} at {n}: {:?}", setup.disk.log());
        setup.disk.heal();
        let stored = setup.stored().await;
        match &first {
            Ok(object) => {
                assert_eq!(object.size, pieces.content().len() as u64, "{context}");
                assert!(stored.is_some(), "{context}");
            }
            Err(Error::Io { source, .. }) => {
                assert_eq!(source.raw_os_error(), Some(errno), "{context}");
                assert!(fault == Fault::Forever || stored.is_none(), "{context}");
            }
            Err(error) => panic!("{context}: {error:?}"),
        }
        assert!(
            stored.is_none_or(|stored| stored == pieces.content()),
            "torn: {context}"
        );
        // Only a disk that fails for ever keeps the client from clearing up.
        assert!(
            fault == Fault::Forever || setup.temporary_files() == 0,
            "{context}"
        );
        match put().await {
            Ok(_) => assert!(first.is_err(), "{context}"),
            Err(error) => assert!(error.is_already_exists(), "{context}: {error:?}"),
        }
        assert!(
            setup.stored().await.unwrap() == pieces.content(),
            "{context}"
        );
        if !tripped {
            first.unwrap();
            return n - 1;
        }
        // The next process clears up what this one could not.
        drop(setup.client);
        let folder = setup.folder;
        let options = FileOptions {
            path: folder.path().join("replica"),
        };
        let next = FileClient::new(options, Arc::new(OsDisk));
        let name = LtxName::new(Txid::new(2), Txid::new(2));
        next.put(Level::L0, name, created(), bytes_stream("x".into()))
            .await
            .unwrap();
        let entries = OsDisk
            .read_dir(&folder.path().join("replica/ltx/0"))
            .unwrap();
        assert_eq!(entries.len(), 2, "{context}: {entries:?}");
    }
    unreachable!()
}

#[tokio::test]
async fn a_failed_fsync_is_final_for_the_file_it_failed_for() {
    let setup = Setup::new();
    let put = || {
        let body = bytes_stream("content".into());
        setup.client.put(Level::L0, NAME, created(), body)
    };
    setup.disk.fail_at(u64::MAX, Fault::Once, EIO);
    put().await.unwrap();
    setup.fresh().delete(Level::L0, &[NAME]).await.unwrap();
    let log = setup.disk.log();
    // The directory is ready now: from here on each put is a look whether it is still there, and the
    // last operations of the log.
    let create = log.iter().rposition(|op| *op == "create_new").unwrap();
    let sync = log.iter().rposition(|op| *op == "sync_all").unwrap();
    setup
        .disk
        .fail_at((sync - create + 2) as u64, Fault::Once, EIO);
    put().await.unwrap_err();
    assert!(setup.disk.tripped());
    let log = setup.disk.log();
    assert_eq!(
        log.iter().filter(|op| **op == "sync_all").count(),
        1,
        "asked again: {log:?}"
    );
    assert!(
        log.iter().all(|op| *op != "rename_noreplace"),
        "made visible: {log:?}"
    );
    assert_eq!(setup.stored().await, None);
    // The next one writes everything anew.
    put().await.unwrap();
    let log = setup.disk.log();
    assert_eq!(
        log.iter().filter(|op| **op == "create_new").count(),
        2,
        "{log:?}"
    );
}

#[tokio::test]
async fn reading_and_deleting_fail_with_the_reason_and_work_again_afterwards() {
    let setup = Setup::new();
    let content = Pieces {
        count: 20,
        size: 100_000,
    };
    let body = content.body(&Gauge::default());
    setup
        .client
        .put(Level::L0, NAME, created(), body)
        .await
        .unwrap();
    for n in 1.. {
        setup.disk.fail_at(n, Fault::Once, EIO);
        let listed = setup.client.list(Level::L0, None).await;
        let read = match setup.client.get(Level::L0, NAME, None).await {
            Ok(body) => collect(body, usize::MAX)
                .await
                .map_err(|error| error.raw_os_error()),
            Err(Error::Io { source, .. }) => Err(source.raw_os_error()),
            Err(error) => panic!("{error:?}"),
        };
        match &read {
            Ok(read) => assert!(
                *read == content.content(),
                "a wrong answer without an error"
            ),
            Err(errno) => assert_eq!(*errno, Some(EIO)),
        }
        if !setup.disk.tripped() {
            assert_eq!(listed.unwrap().len(), 1);
            read.unwrap();
            break;
        }
    }
    for n in 1.. {
        setup.disk.fail_at(n, Fault::Once, EIO);
        let deleted = setup.client.delete(Level::L0, &[NAME]).await;
        if deleted.is_ok() {
            assert!(!setup.disk.tripped());
            assert_eq!(setup.stored().await, None);
            break;
        }
    }
}
