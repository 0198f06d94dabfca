//! What only the file replica promises: Litestream's layout, permissions, leftovers.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // behind the product's back

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    Error, FileClient, FileOptions, OsDisk, Precondition, ReplicaClient, SmallKey, bytes_stream,
    conformance::{Gauge, Pieces},
};

fn name(n: u64) -> LtxName {
    LtxName::new(Txid::new(n), Txid::new(n))
}

fn client(root: &Path) -> FileClient {
    FileClient::new(
        FileOptions {
            path: root.to_path_buf(),
        },
        Arc::new(OsDisk),
    )
}

async fn put(client: &FileClient, n: u64) -> Result<(), Error> {
    let created = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567_890_123);
    client
        .put(Level::L0, name(n), created, bytes_stream("content".into()))
        .await
        .map(drop)
}

/// All files and directories below a directory.
fn tree(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            found.insert(path.strip_prefix(root).unwrap().display().to_string());
            if path.is_dir() {
                todo.push(path);
            }
        }
    }
    found
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn litestream_finds_every_file_where_it_looks_for_it() {
    let root = tempfile::tempdir().unwrap();
    let client = client(&root.path().join("replica"));
    put(&client, 1).await.unwrap();
    let snapshot = LtxName::new(Txid::new(1), Txid::new(0xabc));
    let body = bytes_stream("snapshot".into());
    client
        .put(Level::SNAPSHOT, snapshot, SystemTime::UNIX_EPOCH, body)
        .await
        .unwrap();
    let lease = SmallKey::new("lease.json").unwrap();
    client
        .put_small(&lease, "{}".into(), Precondition::Absent)
        .await
        .unwrap();
    let expected = [
        "replica",
        "replica/evertide",
        "replica/evertide/.lock",
        "replica/evertide/lease.json",
        "replica/ltx",
        "replica/ltx/0",
        "replica/ltx/0/0000000000000001-0000000000000001.ltx",
        "replica/ltx/9",
        "replica/ltx/9/0000000000000001-0000000000000abc.ltx",
    ];
    assert_eq!(tree(root.path()), set(&expected));
    let file = root.path().join(expected[6]);
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(since, Duration::from_millis(1_234_567_890_123));
}

#[tokio::test]
async fn a_replica_is_as_private_as_its_database() {
    let root = tempfile::tempdir().unwrap();
    let database = root.path().join("data/app.db");
    fs::create_dir(root.path().join("data")).unwrap();
    let options = FileOptions {
        path: root.path().join("replica"),
    };
    let client = FileClient::for_database(options, &database, Arc::new(OsDisk));
    // Not there yet: nobody else may read it.
    put(&client, 1).await.unwrap();
    fs::write(&database, "").unwrap();
    for (n, file_mode, dir_mode) in [(2, 0o640, 0o750), (3, 0o600, 0o700)] {
        fs::set_permissions(&database, fs::Permissions::from_mode(file_mode)).unwrap();
        let dir = fs::Permissions::from_mode(dir_mode);
        fs::set_permissions(database.parent().unwrap(), dir).unwrap();
        let options = FileOptions {
            path: root.path().join(format!("replica {n}")),
        };
        let client = FileClient::for_database(options.clone(), &database, Arc::new(OsDisk));
        put(&client, n).await.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(
            mode(&options.path.join(format!("ltx/0/{}", name(n)))),
            file_mode
        );
        for dir in ["", "ltx", "ltx/0"] {
            assert_eq!(mode(&options.path.join(dir)), dir_mode, "{dir}");
        }
    }
    let first = root.path().join(format!("replica/ltx/0/{}", name(1)));
    assert_eq!(fs::metadata(first).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(
        fs::metadata(root.path().join("replica/ltx"))
            .unwrap()
            .mode()
            & 0o7777,
        0o700
    );
}

#[tokio::test]
async fn what_a_killed_process_left_is_removed_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let level = root.path().join("ltx/0");
    fs::create_dir_all(&level).unwrap();
    let leftovers = [
        ".0000000000000001-0000000000000001.ltx.0123456789abcdef-0.evertide-tmp",
        ".0000000000000007-0000000000000009.ltx.ffffffffffffffff-18.evertide-tmp",
    ];
    let foreign = [
        "0000000000000001-0000000000000001.ltx.tmp",
        ".0000000000000001-0000000000000001.ltx.0123456789abcdef-0.other-tmp",
        "0000000000000001-0000000000000001.ltx.0123456789abcdef-0.evertide-tmp",
        ".0000000000000001-0000000000000001.ltx.0123-0.evertide-tmp",
        ".evertide-tmp",
        "notes.txt",
    ];
    for file in leftovers.iter().chain(&foreign) {
        fs::write(level.join(file), "half").unwrap();
    }
    let client = client(root.path());
    // A reader changes nothing.
    assert_eq!(client.list(Level::L0, None).await.unwrap(), []);
    assert_eq!(tree(&level).len(), leftovers.len() + foreign.len());
    put(&client, 5).await.unwrap();
    let mut expected = set(&foreign);
    expected.insert(name(5).to_string());
    assert_eq!(tree(&level), expected);
}

#[tokio::test]
async fn a_second_client_does_not_remove_what_the_first_is_writing() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (client(root.path()), client(root.path()));
    let pieces = Pieces {
        count: 30,
        size: 100_000,
    };
    let gauge = Gauge::default();
    let mut slow = first.put(
        Level::L0,
        name(1),
        SystemTime::UNIX_EPOCH,
        pieces.stalling(&gauge),
    );
    while tree(root.path())
        .iter()
        .all(|path| !path.ends_with(".evertide-tmp"))
    {
        tokio::select! {
            biased;
            put = &mut slow => panic!("the body never ended, and yet: {put:?}"),
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
    put(&second, 2).await.unwrap();
    let temporary = |path: &String| path.ends_with(".evertide-tmp");
    assert_eq!(
        tree(root.path())
            .iter()
            .filter(|path| temporary(path))
            .count(),
        1
    );
    // Given up, its file goes too: the writer notices in its own time.
    drop(slow);
    while tree(root.path()).iter().any(temporary) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(second.list(Level::L0, None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn foreign_names_are_not_listed() {
    let root = tempfile::tempdir().unwrap();
    let client = client(root.path());
    put(&client, 3).await.unwrap();
    let level = root.path().join("ltx/0");
    for foreign in [
        "0000000000000003-0000000000000002.ltx",
        "0000000000000000-0000000000000001.ltx",
        "000000000000000A-000000000000000B.ltx",
        "0000000000000004-0000000000000004.ltx.tmp",
        "0000000000000004-0000000000000004",
        "4-4.ltx",
        "lock.json",
    ] {
        fs::write(level.join(foreign), "x").unwrap();
    }
    fs::create_dir(level.join("0000000000000005-0000000000000005.ltx")).unwrap();
    let listed = client.list(Level::L0, None).await.unwrap();
    assert_eq!(
        listed
            .into_iter()
            .map(|object| object.name)
            .collect::<Vec<_>>(),
        [name(3)]
    );
}

#[tokio::test]
async fn a_reader_creates_nothing() {
    let root = tempfile::tempdir().unwrap();
    let client = client(&root.path().join("replica"));
    assert_eq!(client.list(Level::L0, None).await.unwrap(), []);
    assert!(client.get(Level::L0, name(1), None).await.is_err());
    assert_eq!(client.list_small().await.unwrap(), []);
    client.delete(Level::L0, &[name(1)]).await.unwrap();
    assert_eq!(tree(root.path()), set(&[]));
}

#[tokio::test]
async fn a_replica_removed_by_hand_is_made_anew() {
    let root = tempfile::tempdir().unwrap();
    let replica = root.path().join("replica");
    let client = client(&replica);
    put(&client, 1).await.unwrap();
    fs::remove_dir_all(&replica).unwrap();
    // Who stores small objects neither begins a part of it anew nor takes the news from the other.
    let key = SmallKey::new("checksums").unwrap();
    for _ in 0..2 {
        let small = client.put_small(&key, "x".into(), Precondition::None);
        assert!(small.await.is_err());
    }
    // Said once, so that the caller can look what is missing now.
    let error = put(&client, 2).await.unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    put(&client, 2).await.unwrap();
    assert_eq!(client.list(Level::L0, None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_error_names_the_replica_the_file_and_the_reason() {
    let root = tempfile::tempdir().unwrap();
    let replica = root.path().join("replica");
    fs::write(&replica, "a file where a directory should be").unwrap();
    let error = put(&client(&replica), 1).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&format!("file://{}", replica.display())),
        "{text}"
    );
    assert!(
        text.contains(&replica.join("ltx").display().to_string()),
        "{text}"
    );
    assert!(text.contains("Not a directory"), "{text}");
}
