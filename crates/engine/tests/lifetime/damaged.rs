//! A file of the replica that is damaged: it is made again where that can be, and in nothing's way where not.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use evertide::{
    Maintenance, ReplicaOptions, RestoreError, RestoreOptions, RestoreTarget, Txid, restore,
};
use evertide_ltx::{Level, LtxName};
use evertide_storage::{
    Destination, LtxObject, ManualClock, MemoryClient, ReplicaClient, bytes_stream, collect,
};
use fastrand::Rng;

use crate::model::Model;

fn second(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

struct Scene {
    model: Model,
    client: Arc<MemoryClient>,
    clock: Arc<ManualClock>,
    maintenance: Maintenance,
}

impl Scene {
    /// A replica that is compacted into levels of 30 seconds and of 5 minutes, with a commit in each 10 seconds
    /// of the first two minutes.
    async fn new() -> Self {
        let random = Rng::with_seed(evertide_testkit::seed());
        let model = Model::new(random, second(1));
        let client = Arc::new(MemoryClient::new("replica"));
        let clock = Arc::new(ManualClock::new(second(1)));
        let mut options = ReplicaOptions::new("local", Destination::file("/nowhere").unwrap());
        options.levels = vec![Duration::from_secs(30), Duration::from_secs(300)];
        options.snapshot_interval = Duration::from_secs(1_000_000);
        let maintenance = Maintenance::new(client.clone(), &options, clock.clone());
        let mut scene = Self {
            model,
            client,
            clock,
            maintenance,
        };
        scene.upload(Level::SNAPSHOT, Txid::FIRST).await;
        scene.live(10, 120).await;
        scene
    }

    async fn upload(&mut self, level: Level, txid: Txid) {
        let name = LtxName::new(txid, txid);
        let body = bytes_stream(self.model.file(name));
        let put = self.client.put(level, name, self.model.created(txid), body);
        self.maintenance.arrived(put.await.unwrap());
    }

    /// Commits in each 10 seconds.
    async fn live(&mut self, from: u64, to: u64) {
        for at in (from..to).step_by(10) {
            self.clock.set(second(at));
            let txid = self.model.commit(second(at));
            self.upload(Level::L0, txid).await;
            self.maintenance.run().await.unwrap();
        }
        self.run(to).await;
    }

    /// When there will be something to do.
    async fn run(&mut self, at: u64) -> Option<SystemTime> {
        self.clock.set(second(at));
        self.maintenance.run().await.unwrap()
    }

    async fn at(&self, level: u8) -> Vec<LtxObject> {
        let level = Level::new(level).unwrap();
        self.client.list(level, None).await.unwrap()
    }

    async fn content(&self, object: &LtxObject) -> Bytes {
        let content = self.client.get(object.level, object.name, None).await;
        collect(content.unwrap(), usize::MAX).await.unwrap()
    }

    async fn replace(&self, object: &LtxObject, content: Bytes) {
        let (level, name) = (object.level, object.name);
        self.client.delete(level, &[name]).await.unwrap();
        let body = bytes_stream(content);
        let put = self.client.put(level, name, object.created, body);
        put.await.unwrap();
    }

    /// Flips a bit in the middle of a file; gives what it was before.
    async fn damage(&self, object: &LtxObject) -> Bytes {
        let good = self.content(object).await;
        let mut bad = good.to_vec();
        let middle = bad.len() / 2;
        bad[middle] ^= 4;
        self.replace(object, bad.into()).await;
        good
    }

    /// Restores a state, and compares it with the model's.
    async fn restored(&self, txid: Txid) -> Result<(), RestoreError> {
        let dir = evertide_testkit::memory_dir();
        let output = dir.path().join("restored.db");
        let mut options = RestoreOptions::new(self.client.clone(), &output);
        options.target = RestoreTarget::Txid(txid);
        restore(options).await?;
        assert!(
            std::fs::read(&output).unwrap() == self.model.content(txid),
            "{txid}"
        );
        Ok(())
    }

    fn damaged(&self) -> Vec<LtxObject> {
        self.maintenance.damaged().cloned().collect()
    }
}

#[tokio::test]
async fn a_damaged_file_is_made_again_while_others_hold_the_same() {
    let mut scene = Scene::new().await;
    let level_1 = scene.at(1).await;
    assert_eq!(level_1.len(), 4);
    let mut good = Vec::new();
    for object in &level_1[1..3] {
        good.push(scene.damage(object).await);
        assert!(scene.restored(object.name.max).await.is_err());
    }
    // The end of the window of level 2 reads them.
    scene.run(300).await;
    for (object, good) in level_1[1..3].iter().zip(good) {
        assert!(scene.content(object).await == good, "{object:?}");
    }
    assert_eq!(scene.damaged(), []);
    assert_eq!(scene.at(2).await.len(), 1);
    scene.run(1_000).await;
    assert_eq!(scene.at(0).await.len(), 1);
    for object in level_1 {
        scene.restored(object.name.max).await.unwrap();
    }
}

#[tokio::test]
async fn a_damaged_file_that_nothing_else_holds_is_in_the_way_of_nothing_else() {
    let mut scene = Scene::new().await;
    let mut longer = ReplicaOptions::new("local", Destination::file("/nowhere").unwrap());
    longer.levels = vec![Duration::from_secs(30), Duration::from_secs(3_600)];
    longer.level_0_retention = Duration::from_secs(60);
    longer.snapshot_interval = Duration::from_secs(7_200);
    let client = scene.client.clone();
    scene.maintenance = Maintenance::new(client, &longer, scene.clock.clone());
    // Level 0 goes before the window of level 2 is over.
    scene.run(400).await;
    assert_eq!(scene.at(0).await.len(), 1);
    let level_1 = scene.at(1).await;
    let lost = &level_1[1];
    let good = scene.damage(lost).await;
    scene.live(2_000, 2_100).await;
    scene.live(4_000, 4_100).await;
    assert_eq!(scene.damaged().first(), Some(lost));
    let level_2: Vec<LtxName> = scene.at(2).await.iter().map(|file| file.name).collect();
    let (before, after) = (level_1[0].name, level_1[2].name);
    assert_eq!(level_2[0], before, "{level_2:?}");
    assert_eq!(level_2[1].min, after.min, "{level_2:?}");
    // The rest of level 0 was compacted, and goes.
    scene.run(5_000).await;
    assert_eq!(scene.at(0).await.len(), 1);
    assert!(
        scene.at(1).await.contains(lost),
        "it may be of use to somebody"
    );
    // Before it all can be restored, and behind it nothing can, and that is said.
    scene.restored(before.max).await.unwrap();
    let error = scene.restored(scene.model.newest()).await.unwrap_err();
    assert!(
        error.to_string().contains(&lost.name.to_string()),
        "{error}"
    );

    // Put back from a copy, it is as any other within an hour.
    scene.replace(lost, good).await;
    assert_eq!(scene.run(7_200).await, Some(second(7_600)));
    assert_eq!(scene.damaged(), std::slice::from_ref(lost));
    scene.run(7_600).await;
    assert_eq!(scene.damaged(), []);
    let snapshots = scene.at(9).await;
    assert_eq!(snapshots.last().unwrap().name.max, scene.model.newest());
    for txid in [lost.name.max, after.max, scene.model.newest()] {
        scene.restored(txid).await.unwrap();
    }
}

/// An operator has put it back, as the status says.
#[tokio::test]
async fn what_was_damaged_and_is_whole_again_is_not_deleted_as_useless() {
    for put_back in (4_200..5_300).step_by(35) {
        let mut scene = Scene::new().await;
        let mut options = ReplicaOptions::new("local", Destination::file("/nowhere").unwrap());
        options.levels = vec![Duration::from_secs(30), Duration::from_secs(3_600)];
        options.level_0_retention = Duration::from_secs(60);
        options.snapshot_interval = Duration::from_secs(1_000_000);
        options.retention = Some(Duration::from_secs(5_000));
        options.retention_check_interval = Duration::from_secs(600);
        let client = scene.client.clone();
        scene.maintenance = Maintenance::new(client, &options, scene.clock.clone());
        scene.run(400).await;
        assert_eq!(scene.at(0).await.len(), 1);
        let lost = scene.at(1).await[1].clone();
        let good = scene.damage(&lost).await;
        scene.live(2_000, 2_100).await;
        scene.live(4_000, 4_100).await;
        assert_eq!(scene.damaged(), std::slice::from_ref(&lost));
        // The newest state is safe.
        let newest = scene.model.newest();
        let name = LtxName::new(Txid::FIRST, newest);
        let body = bytes_stream(scene.model.file(name));
        let put = scene
            .client
            .put(Level::SNAPSHOT, name, scene.model.created(newest), body);
        scene.maintenance.arrived(put.await.unwrap());
        let mut good = Some(good);
        for at in (4_105..5_900).step_by(5) {
            if at == put_back {
                scene.replace(&lost, good.take().unwrap()).await;
            }
            scene.run(at).await;
        }
        assert_eq!(scene.damaged(), [], "{put_back}");
        let mut behind = 0;
        for level in 0..=2 {
            for file in scene.at(level).await {
                if file.created > second(900) {
                    scene.restored(file.name.max).await.unwrap();
                    behind += u32::from(file.name.max < newest);
                }
            }
        }
        assert!(behind > 0, "{put_back}");
    }
}

#[tokio::test]
async fn a_damaged_snapshot_is_made_again_of_the_one_before() {
    let mut scene = Scene::new().await;
    let mut options = ReplicaOptions::new("local", Destination::file("/nowhere").unwrap());
    options.levels = vec![Duration::from_secs(30)];
    options.snapshot_interval = Duration::from_secs(200);
    let client = scene.client.clone();
    scene.maintenance = Maintenance::new(client, &options, scene.clock.clone());
    scene.run(200).await;
    let snapshots = scene.at(9).await;
    assert_eq!(snapshots.len(), 2);
    let good = scene.damage(&snapshots[1]).await;
    assert!(scene.restored(scene.model.newest()).await.is_err());
    scene.live(210, 300).await;
    scene.run(400).await;
    assert!(scene.content(&snapshots[1]).await == good);
    assert_eq!(scene.at(9).await.len(), 3);
    scene.restored(scene.model.newest()).await.unwrap();
}

#[tokio::test]
async fn no_snapshot_goes_for_a_newer_one_that_is_cut_off() {
    for cut in [false, true] {
        let mut scene = Scene::new().await;
        let mut options = ReplicaOptions::new("local", Destination::file("/nowhere").unwrap());
        options.levels = vec![Duration::from_secs(30)];
        options.snapshot_interval = Duration::from_secs(200);
        let new = |options: &ReplicaOptions, scene: &Scene| {
            Maintenance::new(scene.client.clone(), options, scene.clock.clone())
        };
        scene.maintenance = new(&options, &scene);
        scene.run(200).await;
        let snapshots = scene.at(9).await;
        let good = scene.content(&snapshots[1]).await;
        if cut {
            scene
                .replace(&snapshots[1], good.slice(..good.len() - 1))
                .await;
        }
        // A process that has stored nothing of that.
        options.retention = Some(Duration::from_secs(600));
        scene.maintenance = new(&options, &scene);
        scene.run(1_000).await;
        // Before the first one went, the second one was made again of it.
        assert_eq!(scene.at(9).await, snapshots[1..]);
        assert!(scene.content(&snapshots[1]).await == good);
        scene.restored(scene.model.newest()).await.unwrap();
    }
}
