//! Reloads of several databases that hand replicas to each other.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use evertide::{ReplicaOptions, Replication, ReplicationOptions};
use evertide_server::{
    Daemon, FleetDaemon, Reloaded,
    settings::{DatabaseSettings, FleetSettings},
};
use evertide_storage::Destination;
use evertide_testkit::{TempDir, temp_dir};
use rusqlite::Connection;

const DEADLINE: Duration = Duration::from_secs(60);

/// Databases, and places for their replicas.
struct Site {
    folder: TempDir,
    settings: Arc<Mutex<FleetSettings>>,
}

impl Site {
    /// With these databases, each at its place, running.
    async fn start(pairs: &[(&str, &str)]) -> (Self, FleetDaemon) {
        let folder = temp_dir();
        for (database, _) in pairs {
            let connection = Connection::open(folder.path().join(database)).unwrap();
            connection.execute_batch("CREATE TABLE t(x)").unwrap();
        }
        let settings = Arc::new(Mutex::new(FleetSettings::from(Vec::new())));
        let site = Self { folder, settings };
        site.set(pairs);
        let settings = Arc::clone(&site.settings);
        let read = move || Ok(settings.lock().unwrap().clone());
        let fleet = FleetDaemon::new(read().unwrap()).unwrap().reloading(read);
        fleet.start().await.unwrap();
        (site, fleet)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn set(&self, pairs: &[(&str, &str)]) {
        let database = |(database, place): &(&str, &str)| {
            DatabaseSettings::new(self.path(database), options(&self.path(place)))
        };
        let databases: Vec<_> = pairs.iter().map(database).collect();
        *self.settings.lock().unwrap() = databases.into();
    }

    async fn reload(&self, fleet: &FleetDaemon, pairs: &[(&str, &str)]) -> Reloaded {
        self.set(pairs);
        fleet.reload().await.unwrap()
    }

    /// That each database runs with its place, as it says and as it is, and no other database does.
    async fn assert_settled(&self, fleet: &FleetDaemon, pairs: &[(&str, &str)]) {
        let members = fleet.members().await;
        let found: Vec<_> = members.iter().map(|member| member.path()).collect();
        let wanted: Vec<_> = pairs.iter().map(|(name, _)| self.path(name)).collect();
        assert_eq!(found, wanted);
        for (member, (_, place)) in members.iter().zip(pairs) {
            assert_eq!(member.options(), options(&self.path(place)));
            let location = &member.status().replicas[0].location;
            assert!(location.ends_with(place), "{location} for {place}");
            member.sync().await.unwrap();
        }
    }
}

fn options(place: &Path) -> ReplicationOptions {
    let destination = Destination::file(place).unwrap();
    let mut options = ReplicationOptions::default();
    options.monitor_interval = Duration::from_millis(50);
    options
        .replicas
        .push(ReplicaOptions::new("it", destination));
    options
}

#[tokio::test]
async fn a_replica_goes_from_a_database_that_is_removed_to_one_that_stays_in_one_reload() {
    let (site, fleet) = Site::start(&[("a.db", "x"), ("b.db", "y")]).await;
    let reloaded = site.reload(&fleet, &[("b.db", "x")]).await;
    assert!(matches!(reloaded, Reloaded::Changed(_)), "{reloaded}");
    site.assert_settled(&fleet, &[("b.db", "x")]).await;
    fleet.give_up();
    let _ = fleet.stop(DEADLINE).await;
}

#[tokio::test]
async fn databases_exchange_their_replicas_in_one_reload() {
    let (site, fleet) = Site::start(&[("a.db", "x"), ("b.db", "y"), ("c.db", "z")]).await;
    for pairs in [
        // Two change places, then all three in a circle; then one after the other, as a place is free.
        [("a.db", "y"), ("b.db", "x"), ("c.db", "z")],
        [("a.db", "z"), ("b.db", "y"), ("c.db", "x")],
        [("a.db", "y"), ("b.db", "free"), ("c.db", "z")],
    ] {
        let reloaded = site.reload(&fleet, &pairs).await;
        site.assert_settled(&fleet, &pairs).await;
        assert!(!reloaded.to_string().is_empty());
        assert!(matches!(fleet.reload().await.unwrap(), Reloaded::Unchanged));
    }
    fleet.give_up();
    let _ = fleet.stop(DEADLINE).await;
}

#[tokio::test]
async fn settings_that_a_reload_could_not_give_to_a_database_are_given_later() {
    let (site, fleet) = Site::start(&[("a.db", "x"), ("b.db", "y")]).await;
    // Of the same program, and not of the fleet.
    let other = site.path("other.db");
    let connection = Connection::open(&other).unwrap();
    connection.execute_batch("CREATE TABLE t(x)").unwrap();
    let holder = Replication::builder(&other).options(options(&site.path("z")));
    let holder = holder.build().unwrap();
    holder.start().await.unwrap();

    let wanted = [("a.db", "z"), ("b.db", "y")];
    let reloaded = site.reload(&fleet, &wanted).await;
    let Reloaded::Partly { failed, .. } = &reloaded else {
        panic!("{reloaded}")
    };
    assert!(failed.contains("other.db"), "{failed}");
    site.assert_settled(&fleet, &[("a.db", "x"), ("b.db", "y")])
        .await;
    holder.stop(DEADLINE).await.unwrap();
    let member = fleet.members().await.remove(0);
    let moved = member.wait_for(|status| status.replicas[0].location.ends_with("/z"));
    tokio::time::timeout(DEADLINE, moved).await.unwrap();
    site.assert_settled(&fleet, &wanted).await;
    fleet.give_up();
    let _ = fleet.stop(DEADLINE).await;
}
