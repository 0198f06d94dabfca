//! Replicas on a WebDAV share, together with the official Litestream.

use evertide_testkit::{WebdavKind, WebdavServer};

use super::interop::{self, Store};

/// A share, and a place to run programs that know its password.
fn share() -> (WebdavServer, Store) {
    let server = WebdavServer::start(WebdavKind::Rclone);
    let (user, password, address) = (WebdavServer::USER, WebdavServer::PASSWORD, server.address());
    let url = format!("webdav://{user}@{address}/backup/app");
    let mut store = Store::new(url, vec![("WEBDAV_PASSWORD", password.to_owned())]);
    store.official_url = format!("webdav://{user}:{password}@{address}/backup/app");
    (server, store)
}

#[test]
fn what_we_wrote_to_a_share_both_programs_restore() {
    let (_server, store) = share();
    interop::both_programs_restore_what_we_wrote(&store);
}

#[test]
fn what_litestream_wrote_to_a_share_we_restore_and_continue() {
    let (_server, store) = share();
    interop::we_go_on_with_what_litestream_wrote(&store);
}

#[test]
fn a_share_is_set_in_either_language_and_its_password_is_shown_nowhere() {
    let (server, store) = share();
    let place = &store.place;
    drop(place.database("app.db", 3));
    let settings = |path: &str| {
        format!(
            "[[databases]]\npath = \"app.db\"\n[[databases.replicas]]\nname = \"it\"\ntype = \"webdav\"\n\
             webdav_url = \"{}\"\nwebdav_path = \"{path}\"\nwebdav_username = \"{}\"\n\
             webdav_password = \"{}\"\n",
            server.url(),
            WebdavServer::USER,
            WebdavServer::PASSWORD,
        )
    };
    place.write("evertide.toml", &settings("toml"));
    let yaml = format!(
        "dbs: [{{path: app.db, replica: {{type: webdav, webdav-url: '{}', path: /yaml, \
         webdav-username: {}, webdav-password: {}}}}}]\n",
        server.url(),
        WebdavServer::USER,
        WebdavServer::PASSWORD,
    );
    place.write("litestream.yml", &yaml);
    for (file, path) in [("evertide.toml", "toml"), ("litestream.yml", "yaml")] {
        let from = ["--config", file, "--log-level", "trace"];
        let run = place.run(&[&["replicate", "--once"][..], &from].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(!format!("{run:?}").contains(WebdavServer::PASSWORD));
        let url = store.url.replace("backup/app", path);
        store.ok(&["restore", &url, "-o", path]);
        assert_eq!(place.rows(path), 3);
    }
    let run = place.run(&["restore", &store.url, "-o", "out.db"]);
    run.failed(1, &["check user and password"]);
}
