//! What a writer reads of its replica is what everybody reads.

use std::{fs, path::Path};

use super::*;
use crate::{FileClient, FileOptions, OsDisk, collect};

/// A file that is not ours.
#[allow(clippy::disallowed_methods)] // a file of the test's own
fn write(file: &Path) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, "by somebody else").unwrap();
}

#[tokio::test]
async fn a_writer_misses_nothing_that_its_replica_holds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let v3 = "generations/00000000000000aa/snapshots/00000000.snapshot.lz4";
    for file in [v3, "ltx/notes.txt"] {
        write(&path.join(file));
    }
    let store = Arc::new(FileClient::new(FileOptions { path }, Arc::new(OsDisk)));
    let writer = Writer::over(store.clone());
    writer.claim().await.unwrap();
    writer.put(1).await.unwrap();
    let client = &writer.client;
    assert_eq!(client.location(), store.location());
    assert_eq!(client.capabilities(), store.capabilities());

    let listed = client.list(Level::L0, None).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(client.find(Level::L0, &[name(1)]).await.unwrap(), listed);
    let dated = client.list_dated(Level::L0, None).await.unwrap();
    assert_eq!(client.date(listed.clone()).await.unwrap(), dated);
    assert_eq!(dated, store.date(listed).await.unwrap());
    let content = client.get(Level::L0, name(1), None).await.unwrap();
    assert_eq!(collect(content, 100).await.unwrap(), "content");

    let key = SmallKey::lease();
    assert!(client.get_small(&key).await.unwrap().is_some());
    assert_eq!(client.list_small().await.unwrap(), [key]);
    let strays = client.list_strays().await.unwrap();
    let keys: Vec<_> = strays.iter().map(|stray| &stray.key[..]).collect();
    assert_eq!(keys, ["generations/", "ltx/notes.txt"]);
    let [old] = &client.list_v3().await.unwrap()[..] else {
        panic!("there is one");
    };
    let content = client.get_v3(&old.key, None).await.unwrap();
    assert_eq!(collect(content, 100).await.unwrap(), "by somebody else");
}

#[tokio::test]
async fn a_writer_is_told_when_something_was_stored_where_its_store_knows() {
    let writer = Writer::over(Odd::new(true));
    writer.claim().await.unwrap();
    let key = SmallKey::lease();
    assert_eq!(writer.client.small_stored(&key).await.unwrap(), None);
    writer.put(1).await.unwrap();
    let stored = writer.client.small_stored(&key).await.unwrap();
    assert_eq!(stored, Some(SystemTime::UNIX_EPOCH));
}
