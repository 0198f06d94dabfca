//! Databases that are read as a whole while they are in use.

use std::sync::Arc;

use crate::{
    DEADLINE, Scene, durable,
    gate::{Gate, GatedDisk},
    insert,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_may_be_written_to_all_the_time_it_is_read() {
    let (scene, conn) = Scene::with_rows(0);
    conn.execute("INSERT INTO t (b) VALUES (randomblob(12000000))", [])
        .unwrap();
    let gate = Arc::new(Gate::default());
    let disk = GatedDisk {
        folders: vec![scene.replica.join("ltx")],
        gate: Arc::clone(&gate),
    };
    let backup = scene.builder().disk(Arc::new(disk)).build().unwrap();
    gate.close();
    backup.start().await.unwrap();
    tokio::task::block_in_place(|| gate.until_somebody_waits());
    // What is read is far larger than what fits on its way.
    for _ in 0..20 {
        assert!(evertide_testkit::another_process_can_write(&scene.db));
        insert(&conn, 1);
    }
    assert_eq!(
        backup.status().replicas[0].txid.get(),
        0,
        "it is being read"
    );
    gate.open();
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}
