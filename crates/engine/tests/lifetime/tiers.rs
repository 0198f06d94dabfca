//! Weeks of a replica with tiers of retention, in which every promised point is restored.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide::{
    Destination, Maintenance, ReplicaOptions, RestoreTarget, RetentionTier, Txid, restore_plan,
};
use evertide_ltx::{Encoder, Header, Level, LtxName, PageSize, Pgno};
use evertide_storage::{ManualClock, ReplicaClient, bytes_stream};

use crate::shaky::Shaky;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// Midnight of some day.
const BEGINNING: Duration = Duration::from_secs(20_000 * 86_400);

/// A file with the only page of a database.
fn ltx(txid: u64, at: SystemTime) -> (LtxName, Vec<u8>) {
    let size = PageSize::new(512).unwrap();
    let mut header = Header::new(size, 1, Txid::new(txid), Txid::new(txid));
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    header.timestamp_ms = i64::try_from(since.as_millis()).unwrap();
    let name = header.name();
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    let mut page = vec![0; size.len()];
    page[..8].copy_from_slice(&txid.to_be_bytes());
    encoder.encode_page(Pgno::new(1).unwrap(), &page).unwrap();
    (name, encoder.finish().unwrap().0)
}

fn options() -> ReplicaOptions {
    let mut options = ReplicaOptions::new("local", Destination::file("/nowhere").unwrap());
    options.levels = vec![MINUTE, 10 * MINUTE, HOUR];
    options.retention = Some(DAY);
    options.retention_tiers = vec![
        RetentionTier::new(HOUR, 3 * DAY),
        RetentionTier::new(DAY, 8 * DAY),
    ];
    options
}

struct Replica {
    client: Arc<dyn ReplicaClient>,
    clock: Arc<ManualClock>,
    /// When each transaction was captured.
    captured: Vec<SystemTime>,
}

impl Replica {
    fn now(&self) -> SystemTime {
        evertide_storage::Clock::now(&*self.clock)
    }

    async fn capture(&mut self, maintenance: &mut Maintenance) {
        self.captured.push(self.now());
        let (name, bytes) = ltx(self.captured.len() as u64, self.now());
        let body = bytes_stream(bytes.into());
        let put = self.client.put(Level::L0, name, self.now(), body).await;
        maintenance.arrived(put.unwrap());
    }

    /// The last transaction before a time.
    fn last_before(&self, time: SystemTime) -> Txid {
        Txid::new(self.captured.partition_point(|at| *at < time) as u64)
    }

    /// Restores what is promised now; how many points that are.
    async fn check(&self) -> usize {
        let of_tier = |every: Duration, keep: Duration| {
            let first = (self.now() - keep)
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap();
            let first = first.as_secs() / every.as_secs() * every.as_secs();
            let points = (first..).step_by(every.as_secs() as usize);
            let points = points.map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at));
            let last = self.now();
            points.take_while(move |at| *at <= last)
        };
        let mut points = 0;
        let all = [(7 * MINUTE, DAY), (HOUR, 3 * DAY), (DAY, 8 * DAY)];
        for at in all
            .into_iter()
            .flat_map(|(every, keep)| of_tier(every, keep))
        {
            let expected = self.last_before(at);
            if expected == Txid::ZERO {
                continue;
            }
            let target = RestoreTarget::Timestamp(at - Duration::from_millis(1));
            let plan = restore_plan(Arc::clone(&self.client), target).await;
            let plan = plan.unwrap_or_else(|error| panic!("{at:?}, now {:?}: {error}", self.now()));
            assert_eq!(plan.txid(), expected, "{at:?}, now {:?}", self.now());
            points += 1;
        }
        points
    }

    async fn files(&self) -> Vec<usize> {
        let mut counts = Vec::new();
        for level in Level::all() {
            counts.push(self.client.list(level, None).await.unwrap().len());
        }
        counts
    }
}

#[tokio::test]
async fn a_day_of_minutes_days_of_hours_and_a_week_of_days_can_be_restored_at_any_time() {
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let begun = SystemTime::UNIX_EPOCH + BEGINNING;
    let mut replica = Replica {
        client: Arc::new(Shaky::new(random.fork()).with_late_listings(50 * MINUTE)),
        clock: Arc::new(ManualClock::new(begun)),
        captured: Vec::new(),
    };
    let new = |replica: &Replica| {
        let (client, clock) = (Arc::clone(&replica.client), Arc::clone(&replica.clock));
        Maintenance::new(client, &options(), clock)
    };
    let mut maintenance = new(&replica);
    let mut checked = 0;
    for hour in 0..16 * 24 {
        // Some hours and one whole day are quiet.
        let busy = hour / 24 != 5 && random.u8(..5) > 0;
        for _ in 0..if busy { random.u32(1..12) } else { 0 } {
            replica.clock.advance(MINUTE * random.u32(1..5));
            replica.capture(&mut maintenance).await;
            if random.bool() {
                maintenance.run().await.unwrap();
            }
        }
        let next = begun + HOUR * (hour + 1) + MINUTE * random.u32(..3);
        replica.clock.set(next.max(replica.now()));
        if random.u8(..10) == 0 {
            maintenance = new(&replica); // as after a restart
        }
        maintenance.run().await.unwrap();
        if hour % 24 == 7 || random.u8(..40) == 0 {
            checked += replica.check().await;
        }
    }
    checked += replica.check().await;
    assert!(checked > 3_000, "{checked}");
    // What is left: the files of a day, and of older ones those of hours and days.
    let files = replica.files().await;
    let [snapshots, hours] = [files[9], files[3]];
    assert!((8..=10).contains(&snapshots), "{files:?}");
    assert!(hours <= 4 * 24 + 1, "{files:?}");
    // An idle replica gets there, too, and comes to rest.
    for _ in 0..400 {
        let Some(next) = maintenance.run().await.unwrap() else {
            break;
        };
        replica.clock.set(next);
        assert!(next < replica.captured.last().copied().unwrap() + 11 * DAY);
    }
    assert_eq!(maintenance.run().await.unwrap(), None);
    let files = replica.files().await;
    assert_eq!(files.iter().sum::<usize>(), 2, "{files:?}");
    assert_eq!((files[0], files[9]), (1, 1));
}
