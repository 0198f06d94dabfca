//! A service that refuses requests for a while (429, 503) when the backup is told to stop.

use evertide_testkit::{ChildProcess, Fault, FaultProxy, S3Kind, S3Server, Weather, wait_until};
use rusqlite::Connection;

use super::support::{PATIENCE, Run, Workplace, insert};

/// A backup to S3, with its first commit on the replica.
struct Scene {
    place: Workplace,
    server: S3Server,
    proxy: FaultProxy,
    database: Connection,
    backup: ChildProcess,
}

impl Scene {
    fn new() -> Self {
        let server = S3Server::start(S3Kind::Ministack);
        let address = server.endpoint().trim_start_matches("http://");
        let proxy = FaultProxy::start(address.parse().unwrap(), 1).unwrap();
        let place = Workplace::new();
        let database = place.database("app.db", 1);
        let backup = start(&place, &server, &proxy);
        let scene = Self {
            place,
            server,
            proxy,
            database,
            backup,
        };
        scene.wait_for_rows(1);
        scene
    }

    /// The rows that a restore past all faults gives, once there is something to restore.
    fn rows(&self) -> Option<i64> {
        let url = self.server.replica_url("backup/app");
        let mut restore = self
            .place
            .command(&["restore", &url, "-o", "restored.db", "--force"]);
        let run = Run::of(restore.envs(S3Server::environment()));
        (run.code == Some(0)).then(|| self.place.rows("restored.db"))
    }

    fn wait_for_rows(&self, rows: i64) {
        wait_until(PATIENCE, &format!("{rows} rows"), || {
            self.rows() == Some(rows)
        });
    }

    /// Commits while the service refuses, and has the backup stop. Gives its exit status.
    fn stop_while(&mut self, weather: Weather) -> Option<i32> {
        self.proxy.set_weather(weather);
        insert(&self.database, 5);
        self.backup.terminate(PATIENCE).unwrap().code()
    }
}

fn start(place: &Workplace, server: &S3Server, proxy: &FaultProxy) -> ChildProcess {
    let proxied = format!("http://{}", proxy.address());
    let url = server
        .replica_url("backup/app")
        .replace(server.endpoint(), &proxied);
    let mut command = place.command(&["replicate", "app.db", &url]);
    let log = place.path("log");
    ChildProcess::spawn_logged(command.envs(S3Server::environment()), &log).unwrap()
}

#[test]
fn a_service_that_throttles_for_a_while_at_the_end_gets_the_last_commits_all_the_same() {
    for fault in [Fault::TooManyRequests, Fault::Unavailable] {
        let mut scene = Scene::new();
        let code = scene.stop_while(Weather::Next(fault, 6));
        assert_eq!(code, Some(0), "{}", scene.backup.log());
        assert_eq!(scene.proxy.faults()[&fault], 6);
        assert_eq!(scene.rows(), Some(6));
    }
}

#[test]
fn a_service_that_throttles_to_the_end_holds_up_no_shutdown_and_what_it_lacks_is_named() {
    let mut scene = Scene::new();
    let code = scene.stop_while(Weather::Only(Fault::TooManyRequests));
    let log = scene.backup.log();
    assert_eq!(code, Some(1), "{log}");
    for said in ["not replicated", "has 000000000000000", "429"] {
        assert!(log.contains(said), "`{said}` is not said: {log}");
    }
    assert_eq!(scene.rows(), Some(1));
    scene.proxy.set_weather(Weather::Fair);
    scene.backup = start(&scene.place, &scene.server, &scene.proxy);
    scene.wait_for_rows(6);
}
