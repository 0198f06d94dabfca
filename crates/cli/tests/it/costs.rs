//! What a service is asked for, as its network sees it. What that comes to in hours and months is counted where time
//! can be simulated.

use std::time::{Duration, Instant};

use evertide_testkit::{Answered, ChildProcess, FaultProxy, S3Kind, S3Server, wait_until};

use super::support::{PATIENCE, Workplace, insert};

/// Whether it asks which objects there are.
fn is_listing(request: &Answered) -> bool {
    request.method == "GET" && request.uri.contains("list-type=")
}

/// Compaction has its own times, which a test cannot choose.
fn is_compaction(request: &Answered) -> bool {
    ["/0001/", "/0002/", "/0003/", "/0009/"]
        .iter()
        .any(|level| request.uri.contains(level))
}

#[test]
fn a_busy_database_costs_one_put_for_each_sync_interval_and_an_idle_one_nothing() {
    let server = S3Server::start(S3Kind::Ministack);
    let address = server.endpoint().trim_start_matches("http://");
    let proxy = FaultProxy::start(address.parse().unwrap(), 1).unwrap();
    let place = Workplace::new();
    let database = place.database("app.db", 1);
    let proxied = format!("http://{}", proxy.address());
    let url = server
        .replica_url("backup/app")
        .replace(server.endpoint(), &proxied);
    let settings =
        format!("dbs: [{{path: app.db, replica: {{url: '{url}', sync-interval: 500ms}}}}]\n");
    place.write("litestream.yml", &settings);
    let mut command = place.command(&["replicate", "--config", "litestream.yml"]);
    let command = command.envs(S3Server::environment());
    let mut backup = ChildProcess::spawn_logged(command, &place.path("log")).unwrap();
    let stored = |answered: &[Answered], level: &str| {
        let puts = answered.iter().filter(|request| request.method == "PUT");
        puts.filter(|request| request.uri.contains(level)).count()
    };
    let mut begun = Vec::new();
    wait_until(PATIENCE, "the first snapshot and a file after it", || {
        insert(&database, 1);
        begun.extend(proxy.take_answered());
        stored(&begun, "/0009/") > 0 && stored(&begun, "/0000/") > 0
    });

    let (from, length) = (Instant::now(), Duration::from_secs(3));
    proxy.take_answered();
    while from.elapsed() < length {
        insert(&database, 1);
        std::thread::sleep(Duration::from_millis(20));
    }
    let answered = proxy.take_answered();
    let intervals = from.elapsed().as_millis() / 500;
    let puts = stored(&answered, "/0000/") as u128;
    assert!(0 < puts && puts <= intervals + 1, "{puts}: {answered:?}");
    let others = answered.iter().filter(|request| !is_compaction(request));
    let others = others.filter(|request| !request.uri.contains("/0000/"));
    assert!(others.count() <= 2, "lease and checksums: {answered:?}");
    assert!(!answered.iter().any(is_listing), "{answered:?}");

    // The last commit arrives; from then on there is nothing to pay for.
    std::thread::sleep(Duration::from_secs(2));
    let last = proxy.take_answered();
    assert!(stored(&last, "/0000/") <= 2, "{last:?}");
    std::thread::sleep(Duration::from_secs(2));
    let mut idle = proxy.take_answered();
    idle.retain(|request| !is_compaction(request));
    assert_eq!(idle, []);
    backup.terminate(PATIENCE).unwrap();
}
