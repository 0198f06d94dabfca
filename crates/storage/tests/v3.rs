//! Files that Litestream 0.3 left.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // behind the product's back

use std::{fs, path::Path, sync::Arc};

use evertide_storage::{
    CountingClient, FileClient, FileOptions, OsDisk, ReplicaClient, V3Key, V3Part, collect,
};

fn client(root: &Path) -> FileClient {
    let path = root.to_path_buf();
    FileClient::new(FileOptions { path }, Arc::new(OsDisk))
}

fn write(root: &Path, name: &str, content: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[tokio::test]
async fn the_files_of_all_generations_are_listed_in_order_and_strangers_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    assert_eq!(client(root).list_v3().await.unwrap(), []);
    let (first, second) = (
        "generations/00000000000000aa",
        "generations/00000000000000bb",
    );
    for name in [
        format!("{second}/snapshots/00000000.snapshot.lz4"),
        format!("{first}/wal/00000001_00000000.wal.lz4"),
        format!("{first}/wal/00000000_100000000.wal.lz4"),
        format!("{first}/wal/00000000_00001038.wal.lz4"),
        format!("{first}/wal/00000000_00000000.wal.lz4"),
        format!("{first}/snapshots/00000000.snapshot.lz4"),
        format!("{first}/snapshots/00000001.snapshot.lz4.tmp"),
        format!("{first}/wal/00000002_00000000.wal.lz4.tmp"),
        "generations/short/snapshots/00000000.snapshot.lz4".to_owned(),
        "generations/00000000000000cc".to_owned(),
        "ltx/0/0000000000000001-0000000000000001.ltx".to_owned(),
    ] {
        write(root, &name, &name);
    }
    // A client that passes calls on passes these on too.
    let client = CountingClient::new(Arc::new(client(root)));
    let objects = client.list_v3().await.unwrap();
    let found: Vec<_> = objects
        .iter()
        .map(|object| (object.key.generation(), object.key.part()))
        .collect();
    let (snapshot, segment) = (
        |index| V3Part::Snapshot { index },
        |index, offset| V3Part::Segment { index, offset },
    );
    assert_eq!(
        found,
        [
            (0xaa, snapshot(0)),
            (0xaa, segment(0, 0)),
            (0xaa, segment(0, 0x1038)),
            (0xaa, segment(0, 0x1_0000_0000)),
            (0xaa, segment(1, 0)),
            (0xbb, snapshot(0)),
        ]
    );
    for object in objects {
        assert_eq!(object.size, object.key.as_str().len() as u64);
        let content = client.get_v3(&object.key, None).await.unwrap();
        assert_eq!(
            collect(content, 1 << 20).await.unwrap(),
            object.key.as_str()
        );
        let part = client.get_v3(&object.key, Some(3..7)).await.unwrap();
        assert_eq!(collect(part, 1 << 20).await.unwrap(), "erat");
    }
    let missing = V3Key::parse(&format!("{first}/wal/00000009_00000000.wal.lz4")).unwrap();
    let error = client.get_v3(&missing, None).await.map(drop).unwrap_err();
    assert!(error.is_not_found(), "{error}");
}
