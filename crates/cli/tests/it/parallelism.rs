//! `--parallelism`, as the server sees it.

use evertide_testkit::{Fault, FaultProxy, Weather, WebdavKind, WebdavServer};

use super::support::{Run, Workplace, insert};

#[test]
fn as_many_requests_as_the_command_line_says_are_under_way_and_no_more() {
    let place = Workplace::new();
    let server = WebdavServer::start(WebdavKind::Rclone);
    let proxy = FaultProxy::start(server.address().parse().unwrap(), 1).unwrap();
    let replica = server.folder().join("app").display().to_string();
    let database = place.database("app.db", 1);
    // Each run leaves a file more, and each is read with one request.
    for _ in 0..9 {
        place.ok(&["replicate", "--once", "app.db", &replica]);
        insert(&database, 1);
    }
    // Or one would be done before the next one has begun.
    proxy.set_weather(Weather::Only(Fault::Slow));
    let url = format!("webdav://{}@{}/app", WebdavServer::USER, proxy.address());
    for (number, parallelism) in [1, 3, 5].into_iter().enumerate() {
        let (text, output) = (parallelism.to_string(), format!("{number}.db"));
        let arguments = ["restore", &url, "-o", &output, "--parallelism", &text];
        let mut command = place.command(&arguments);
        command.env("WEBDAV_PASSWORD", WebdavServer::PASSWORD);
        let run = Run::of(&mut command);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(proxy.take_most_reads(), parallelism, "{run:?}");
        assert_eq!(place.rows(&output), 9);
    }
}
