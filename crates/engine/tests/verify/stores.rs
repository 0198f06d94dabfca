//! Verification while the store changes, fails, or holds more than memory should.

use std::{
    fs, io,
    ops::Range,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use evertide::{FindingKind, VerifyError, VerifyOptions, VerifyReport, verify};
use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    ByteStream, Capabilities, Error, Fault, FaultClient, LtxObject, Precondition, ReplicaClient,
    SmallKey, SmallObject, Version, failing_runs,
};

use crate::{
    broken::{Made, Name, usual},
    connect,
};

/// What happens at each read of a file.
type Event = Box<dyn FnMut(Level, LtxName) -> Result<(), io::Error> + Send>;

/// A store to which something happens at each read, and whose listings know no times.
struct Eventful {
    inner: Arc<dyn ReplicaClient>,
    event: Mutex<Event>,
}

impl std::fmt::Debug for Eventful {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Eventful")
    }
}

#[async_trait]
impl ReplicaClient for Eventful {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    /// With other times than the objects have, as of many services.
    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        let mut objects = self.inner.list(level, after).await?;
        for object in &mut objects {
            object.created = SystemTime::now();
        }
        Ok(objects)
    }

    async fn date(&self, mut objects: Vec<LtxObject>) -> Result<Vec<LtxObject>, Error> {
        for object in &mut objects {
            let listed = self.inner.list(object.level, None).await?;
            let mut listed = listed.into_iter();
            if let Some(same) = listed.find(|other| other.name == object.name) {
                object.created = same.created;
            }
        }
        Ok(objects)
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        let happened = (self.event.lock().unwrap())(level, name);
        happened.map_err(|source| Error::Io {
            location: self.location(),
            action: "read",
            path: name.to_string().into(),
            source,
        })?;
        self.inner.get(level, name, range).await
    }

    async fn put(
        &self,
        _: Level,
        _: LtxName,
        _: SystemTime,
        _: ByteStream,
    ) -> Result<LtxObject, Error> {
        unreachable!("verification writes nothing")
    }

    async fn delete(&self, _: Level, _: &[LtxName]) -> Result<(), Error> {
        unreachable!("verification deletes nothing")
    }

    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, Error> {
        self.inner.get_small(key).await
    }

    async fn put_small(&self, _: &SmallKey, _: Bytes, _: Precondition) -> Result<Version, Error> {
        unreachable!("verification writes nothing")
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        self.inner.list_small().await
    }

    async fn delete_small(&self, _: &SmallKey) -> Result<(), Error> {
        unreachable!("verification deletes nothing")
    }
}

async fn verified(
    made: &Made,
    event: impl FnMut(Level, LtxName) -> Result<(), io::Error> + Send + 'static,
) -> Result<VerifyReport, VerifyError> {
    let store = Eventful {
        inner: connect(&made.replica()),
        event: Mutex::new(Box::new(event)),
    };
    let mut options = VerifyOptions::new(Arc::new(store));
    options.parallelism = 1;
    verify(options).await
}

fn is(level: Level, name: LtxName, file: Name) -> bool {
    (level.get(), name.min.get(), name.max.get()) == file
}

#[tokio::test]
async fn times_that_a_listing_does_not_tell_are_asked_for_and_compared() {
    let made = usual().await;
    let report = verified(&made, |_, _| Ok(())).await.unwrap();
    assert_eq!(report.findings, []);
    let file = fs::File::options().append(true).open(made.path((0, 3, 3)));
    file.unwrap().set_modified(SystemTime::now()).unwrap();
    let report = verified(&made, |_, _| Ok(())).await.unwrap();
    let found: Vec<_> = report.findings.iter().map(|found| found.kind).collect();
    assert_eq!(found, [FindingKind::Time]);
}

#[tokio::test]
async fn files_deleted_by_compaction_meanwhile_are_made_up_for_by_what_took_their_place() {
    let made = usual().await;
    // Level 1 and the snapshot come only when level 0 goes.
    let (late, kept) = (made.path((2, 2, 4)), made.dir.path().join("kept"));
    fs::rename(&late, &kept).unwrap();
    let paths = [(0, 3, 3), (0, 4, 4), (1, 2, 3), (9, 1, 4)].map(|name| made.path(name));
    let event = move |level, name| {
        if is(level, name, (0, 3, 3)) && kept.exists() {
            paths.iter().for_each(|path| fs::remove_file(path).unwrap());
            fs::rename(&kept, &late).unwrap();
        }
        Ok(())
    };
    let report = verified(&made, event).await.unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.txid.get(), report.pages), (4, 4));
    assert!(report.database_checksum.is_some());
}

#[tokio::test]
async fn files_that_keep_vanishing_leave_the_end_unproven_and_that_is_said() {
    let made = usual().await;
    for name in [(1, 2, 3), (2, 2, 4), (9, 1, 4)] {
        fs::remove_file(made.path(name)).unwrap();
    }
    // It is listed each time, and never there.
    let (path, kept) = (made.path((0, 3, 3)), made.dir.path().join("kept"));
    let event = move |level, name| {
        if is(level, name, (0, 3, 3)) {
            fs::rename(&path, &kept).unwrap();
        } else if kept.exists() {
            fs::rename(&kept, &path).unwrap();
        }
        Ok(())
    };
    let report = verified(&made, event).await.unwrap();
    let kinds = crate::kinds(&report);
    assert_eq!(kinds, [FindingKind::Vanished], "{:?}", report.findings);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_a_finding_and_the_rest_is_still_checked() {
    let made = usual().await;
    let event = |level, name| match is(level, name, (0, 2, 2)) {
        true => Err(io::ErrorKind::PermissionDenied.into()),
        false => Ok(()),
    };
    let report = verified(&made, event).await.unwrap();
    let found: Vec<_> = report.problems().collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].kind, FindingKind::Unreadable);
    let said = found[0].to_string();
    assert!(said.contains("permission denied"), "{said}");
    assert!(
        said.contains("the state after transaction 0000000000000002 cannot"),
        "{said}"
    );
    assert_eq!(report.txid.get(), 4);
}

#[tokio::test]
async fn a_store_that_is_down_is_an_error_and_not_a_list_of_lost_files() {
    let made = usual().await;
    let event = |_, _| Err(io::ErrorKind::PermissionDenied.into());
    let error = verified(&made, event).await.unwrap_err();
    assert!(matches!(error, VerifyError::Unreadable { .. }), "{error}");
}

/// Whether a verification came to the N-th request.
async fn refused(made: &Made, n: u64, lasts: Fault) -> bool {
    let client = Arc::new(FaultClient::new(connect(&made.replica())));
    client.refuse_request_at(n, lasts);
    let mut options = VerifyOptions::new(client.clone());
    options.parallelism = 1;
    match verify(options.clone()).await {
        Ok(report) => {
            // A file that is refused is said to be unreadable, and nothing else is said of any.
            let mut problems = report.problems();
            let unreadable = problems.all(|found| found.kind == FindingKind::Unreadable);
            assert!(unreadable, "{n}: {:?}", report.findings);
            let (found, proven) = (report.problems().count(), report.database_checksum);
            assert!(found > 0 || proven.is_some(), "{n}");
            assert!(
                found > 0 || lasts == Fault::Once || !client.tripped(),
                "{n}"
            );
        }
        Err(error) => {
            let reads = matches!(
                error,
                VerifyError::Replica(_) | VerifyError::Unreadable { .. }
            );
            assert!(client.tripped() && reads, "{n}: {error}");
            assert!(client.is_named_in(&error.to_string()), "{n}: {error}");
        }
    }
    let tripped = client.tripped();
    client.heal();
    let report = verify(options).await.unwrap();
    assert_eq!((report.findings, report.txid.get()), (Vec::new(), 4));
    tripped
}

#[tokio::test]
async fn whichever_request_is_refused_a_verification_accuses_nothing_and_is_whole_once_the_store_works()
 {
    let made = usual().await;
    for lasts in [Fault::Once, Fault::Forever] {
        let requests = failing_runs(4, |n| refused(&made, n, lasts)).await;
        assert!(requests > 8, "only {requests}");
    }
}
