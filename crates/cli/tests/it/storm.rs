//! Weeks of bad weather in a minute: a replica in S3 behind a network and a service that fail in every
//! way, while writers go on and the backup is killed now and then.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Output,
    time::{Duration, Instant},
};

use evertide_testkit::{
    ChildProcess, DatabaseOptions, Fault, FaultProxy, S3Kind, S3Server, Weather, WriterOptions,
    WriterThread, assert_same_database, create_database, litestream_command, wait_until,
};

use super::support::{PATIENCE, Workplace, most_memory};

/// What the backup may have resident at most, in KiB. A build without optimisation, with no store that
/// is far away: what matters is that it does not grow with an outage.
const MOST_MEMORY: u64 = 320 << 10;

struct Storm {
    place: Workplace,
    server: S3Server,
    proxy: FaultProxy,
    random: fastrand::Rng,
    /// The most memory that a backup had resident, in KiB.
    memory: u64,
    kills: u32,
    /// Changes of the weather so far.
    changes: usize,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let server = S3Server::start(S3Kind::Ministack);
        let address = server.endpoint().trim_start_matches("http://");
        let proxy = FaultProxy::start(address.parse().unwrap(), seed).unwrap();
        let storm = Self {
            place: Workplace::new(),
            server,
            proxy,
            random: fastrand::Rng::with_seed(seed),
            memory: 0,
            kills: 0,
            changes: 0,
        };
        let (direct, proxied) = (storm.server.endpoint(), storm.proxy.address());
        let url = storm.url().replace(direct, &format!("http://{proxied}"));
        // Ten times as fast as the defaults, and more.
        storm.place.write(
            "litestream.yml",
            &format!(
                "levels: [{{interval: 1s}}, {{interval: 5s}}]\nsnapshot: {{interval: 10s}}\nl0-retention: 3s\n\
                 dbs: [{{path: app.db, replica: {{url: '{url}', sync-interval: 100ms}}}}]\n"
            ),
        );
        storm
    }

    /// Of the replica, past all weather.
    fn url(&self) -> String {
        self.server.replica_url("backup/app")
    }

    fn start(&self) -> ChildProcess {
        let mut command = self
            .place
            .command(&["replicate", "--config", "litestream.yml"]);
        // One for each life: who is killed may not have said anything yet.
        let log = self.place.path(&format!("log-{}", self.kills));
        ChildProcess::spawn_logged(command.envs(S3Server::environment()), &log).unwrap()
    }

    /// Changes the weather, and kills the backup in one case out of eight.
    fn change(&mut self, backup: &mut ChildProcess) {
        let random = &mut self.random;
        let weather = match self.changes % 3 {
            0 => Weather::Only(Fault::ALL[self.changes / 3 % Fault::ALL.len()]),
            1 => Weather::Mixed(random.u8(10..60)),
            _ => Weather::Fair,
        };
        self.changes += 1;
        self.proxy.set_weather(weather);
        std::thread::sleep(Duration::from_millis(self.random.u64(300..1_300)));
        self.memory = self.memory.max(most_memory(backup));
        if self.random.u8(0..8) == 0 {
            backup.kill().unwrap();
            // What it had sent arrives before another one starts. Later it would do no harm to a restore,
            // but `verify` cannot tell it from what a second writer stores.
            let proxy = &self.proxy;
            wait_until(PATIENCE, "what is under way", || proxy.under_way() == 0);
            self.kills += 1;
            *backup = self.start();
        }
    }

    fn evertide(&self, arguments: &[&str]) -> Output {
        let mut command = self.place.command(arguments);
        command.envs(S3Server::environment()).output().unwrap()
    }

    fn assert_restores(&self) {
        let url = self.url();
        for arguments in [
            &["verify", "--deep", &url][..],
            &["restore", &url, "-o", "ours.db"],
        ] {
            let run = self.evertide(arguments);
            let files =
                || String::from_utf8_lossy(&self.evertide(&["ltx", &url]).stdout).into_owned();
            assert!(run.status.success(), "{run:?}\n{}", files());
        }
        let mut official = litestream_command();
        official
            .args(["restore", "-o", "official.db", &url])
            .current_dir(self.place.path(""))
            .envs(S3Server::environment());
        let run = official.output().unwrap();
        assert!(run.status.success(), "{run:?}");
        for restored in ["ours.db", "official.db"] {
            assert_same_database(self.place.path("app.db"), self.place.path(restored));
        }
    }

    /// No LTX file was stored twice, in one request or in parts. To complete the same upload again, when
    /// the answer was lost, stores nothing new.
    fn assert_nothing_was_replaced(&self) {
        let mut stored: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (number, request) in self.proxy.take_answered().into_iter().enumerate() {
            let (path, parameters) = request.uri.split_once('?').unwrap_or((&request.uri, ""));
            let upload = parameters.split('&').find(|p| p.starts_with("uploadId="));
            let store = match (request.method.as_str(), upload) {
                ("PUT", None) => number.to_string(),
                ("POST", Some(upload)) => upload.to_owned(),
                _ => continue,
            };
            if request.status.is_success() && path.ends_with(".ltx") {
                stored.entry(path.to_owned()).or_default().insert(store);
            }
        }
        assert!(stored.len() > 20, "{stored:?}");
        stored.retain(|_, stores| stores.len() > 1);
        assert!(stored.is_empty(), "replaced: {stored:?}");
    }
}

#[test]
fn storms_lose_nothing_replace_nothing_and_need_no_operator() {
    let seed = evertide_testkit::seed();
    let seconds = std::env::var("EVERTIDE_STORM_SECONDS");
    let seconds = seconds.map_or(60, |seconds| seconds.parse().unwrap());
    let mut storm = Storm::new(seed);
    let database = storm.place.path("app.db");
    create_database(&database, DatabaseOptions::default()).unwrap();
    let writer = WriterOptions {
        max_bytes: 8 << 20,
        pause: Duration::from_millis(20),
        ..WriterOptions::seeded(seed)
    };
    let writer = WriterThread::start(&database, writer).unwrap();
    let mut backup = storm.start();
    let end = Instant::now() + Duration::from_secs(seconds);
    // A backup that has failed pauses, and may sleep through some weather.
    while Instant::now() < end || storm.proxy.faults().len() < Fault::ALL.len() {
        storm.change(&mut backup);
    }
    storm.proxy.set_weather(Weather::Fair);
    writer.stop().unwrap();
    // One that is stopped before it has begun has nothing to finish.
    wait_until(PATIENCE, "the last start", || {
        backup.log().contains("running daemons=1")
    });
    let status = backup.terminate(PATIENCE).unwrap();
    assert!(status.success(), "{status}\n{}", backup.log());
    let faults = storm.proxy.faults();
    eprintln!(
        "{seconds} s, {faults:?}, {} kills, {} KiB at most",
        storm.kills, storm.memory
    );
    assert!(storm.memory < MOST_MEMORY, "{} KiB", storm.memory);
    storm.assert_restores();
    storm.assert_nothing_was_replaced();
}
