//! Replicas on a server with SSH, together with the official Litestream.

use evertide_testkit::{SftpKind, SftpServer};

use super::interop::{self, Store};

/// A server, and a place to run programs that know its key and the user's password.
fn server() -> (SftpServer, Store) {
    let server = SftpServer::start(SftpKind::Rclone);
    let (user, password, address) = (server.user(), SftpServer::PASSWORD, server.address());
    let path = format!("{address}{}/backup/app", server.folder());
    let mut store = Store::new(
        // Rclone's server has no hard links.
        format!("sftp://{user}@{path}?known-hosts=known_hosts&conditionalWrites=false"),
        vec![("SFTP_PASSWORD", password.to_owned())],
    );
    let (host, port) = address.split_once(':').unwrap();
    let known = format!("[{host}]:{port} {}\n", server.host_key());
    store.place.write("known_hosts", &known);
    store.official_url = format!("sftp://{user}:{password}@{path}");
    (server, store)
}

#[test]
fn what_we_wrote_to_a_server_with_ssh_both_programs_restore() {
    let (_server, store) = server();
    interop::both_programs_restore_what_we_wrote(&store);
}

#[test]
fn what_litestream_wrote_to_a_server_with_ssh_we_restore_and_continue() {
    let (_server, store) = server();
    interop::we_go_on_with_what_litestream_wrote(&store);
}

#[test]
fn what_litestream_0_3_wrote_to_a_server_with_ssh_we_restore() {
    let (server, store) = server();
    let settings = format!(
        "type: sftp, host: '{}', user: {}, password: {}, path: '{}/backup/app'",
        server.address(),
        server.user(),
        SftpServer::PASSWORD,
        server.folder()
    );
    interop::what_litestream_0_3_wrote_we_restore(&store, &settings);
}

#[test]
fn an_unknown_server_is_not_talked_to_and_the_error_says_what_to_do() {
    let (_server, store) = server();
    store.place.write("known_hosts", "");
    let run = store.evertide(&["restore", &store.url, "-o", "out.db"]);
    run.failed(1, &["no key of the server is known", "ssh-keyscan"]);
}

/// With OpenSSH's server and a key, in both languages of settings.
#[test]
fn a_server_with_ssh_is_set_in_either_language_and_no_secret_is_shown() {
    let server = SftpServer::start(SftpKind::OpenSsh);
    let store = Store::new(String::new(), Vec::new());
    let place = &store.place;
    drop(place.database("app.db", 3));
    let key = std::fs::read_to_string(server.key_path()).unwrap();
    let lines = key.lines().filter(|line| !line.starts_with("-----"));
    let key: String = lines.collect();
    let (address, user, folder) = (server.address(), server.user(), server.folder());
    let (host_key, key_path) = (server.host_key(), server.key_path());
    let toml = format!(
        "[[databases]]\npath = \"app.db\"\n[[databases.replicas]]\nname = \"it\"\ntype = \"sftp\"\n\
         sftp_host = \"{address}\"\nsftp_path = \"{folder}/toml\"\nsftp_user = \"{user}\"\n\
         sftp_private_key = \"{key}\"\nsftp_host_key = \"{host_key}\"\n"
    );
    place.write("evertide.toml", &toml);
    let yaml = format!(
        "dbs: [{{path: app.db, replica: {{type: sftp, host: '{address}', path: '{folder}/yaml', \
         user: {user}, key-path: '{}', host-key: '{host_key}'}}}}]\n",
        key_path.display()
    );
    place.write("litestream.yml", &yaml);
    for (file, path) in [("evertide.toml", "toml"), ("litestream.yml", "yaml")] {
        let from = ["--config", file, "--log-level", "trace"];
        let run = place.run(&[&["replicate", "--once"][..], &from].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(!format!("{run:?}").contains(&key), "{run:?}");
        let restore = ["restore", "--config", file, "app.db", "-o", path];
        place.ok(&restore);
        assert_eq!(place.rows(path), 3);
    }
}
