//! Replicas in an object store of NATS JetStream, together with the official Litestream.

use evertide_testkit::NatsServer;

use super::interop::{self, Store};

/// A server that asks for nothing, as the official Litestream takes user and password from settings alone; and a
/// place to run programs.
fn open_server() -> (NatsServer, Store) {
    let server = NatsServer::start_open();
    server.create_bucket("app");
    let url = format!("nats://{}/app", server.address());
    (server, Store::new(url, Vec::new()))
}

#[test]
fn what_we_wrote_to_nats_both_programs_restore() {
    let (_server, store) = open_server();
    interop::both_programs_restore_what_we_wrote(&store);
}

#[test]
fn what_litestream_wrote_to_nats_we_restore_and_continue() {
    let (_server, store) = open_server();
    interop::we_go_on_with_what_litestream_wrote(&store);
}

#[test]
fn an_object_store_of_nats_is_set_in_either_language_and_its_password_is_shown_nowhere() {
    let server = NatsServer::start();
    let (user, password, address) = (NatsServer::USER, NatsServer::PASSWORD, server.address());
    let url = format!("nats://{user}@{address}/app");
    let store = Store::new(url, vec![("NATS_PASSWORD", password.to_owned())]);
    let place = &store.place;
    drop(place.database("app.db", 3));
    let toml = format!(
        "[[databases]]\npath = \"app.db\"\n[[databases.replicas]]\nname = \"it\"\ntype = \"nats\"\n\
         nats_host = \"{address}\"\nnats_bucket = \"app\"\nnats_username = \"{user}\"\n\
         nats_password = \"{password}\"\n"
    );
    place.write("evertide.toml", &toml);
    let yaml = format!(
        "dbs: [{{path: app.db, replica: {{url: 'nats://{address}', bucket: other, \
         username: {user}, password: {password}}}}}]\n"
    );
    place.write("litestream.yml", &yaml);
    for (file, bucket) in [("evertide.toml", "app"), ("litestream.yml", "other")] {
        server.create_bucket(bucket);
        let from = ["--config", file, "--log-level", "trace"];
        let run = place.run(&[&["replicate", "--once"][..], &from].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(!format!("{run:?}").contains(password));
        let url = store.url.replace("/app", &format!("/{bucket}"));
        store.ok(&["restore", &url, "-o", bucket]);
        assert_eq!(place.rows(bucket), 3);
    }
    let run = place.run(&["restore", &store.url, "-o", "out.db"]);
    run.failed(1, &["check user and password"]);
}
