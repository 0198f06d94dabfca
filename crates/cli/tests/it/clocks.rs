//! Machines whose clock is wrong, and keys that are exchanged for tokens by what such a clock has signed.

use std::path::PathBuf;

use evertide_testkit::{
    Authority, AzureServer, FaultProxy, GcsServer, GoogleHosts, OssServer, S3Kind, S3Server,
    with_clock,
};

use super::{oss, support::Workplace};

/// A store, and how wrong a clock may be there, as arguments of `faketime`.
struct Timed<'a> {
    url: &'a str,
    /// This has the key to it.
    environment: &'a [(&'a str, String)],
    secret: &'a str,
    refused: &'a [&'a str],
    /// What is not noticed.
    taken: &'a [&'a str],
}

/// What is signed by a wrong clock is refused by the store, and nothing comes of it.
fn the_clock_is_named(store: &Timed<'_>) {
    let place = Workplace::new();
    place.database("app.db", 3);
    let run = |offset: &str, arguments: &[&str]| {
        let mut command = place.command(arguments);
        command.envs(store.environment.iter().map(|(name, value)| (name, value)));
        let output = with_clock(&command, offset).output().unwrap();
        let shown = [&*output.stdout, &output.stderr].concat();
        (output.status.success(), String::from_utf8(shown).unwrap())
    };
    let replicate = ["replicate", "--once", "app.db", store.url];
    let restore = |to| ["restore", store.url, "-o", to];
    for offset in store.refused {
        for arguments in [&replicate[..], &["doctor", store.url], &restore("no.db")] {
            let (done, said) = run(offset, arguments);
            assert!(!done, "{offset} {arguments:?}: {said}");
            for what in ["by the server's clock", "set the clock of this machine"] {
                assert!(said.contains(what), "{offset} {arguments:?}: {said}");
            }
            assert!(!said.contains(store.secret), "{said}");
        }
    }
    let (done, said) = run("+0", &restore("no.db"));
    assert!(
        !done && said.contains("no backup"),
        "it got something: {said}"
    );
    for offset in store.taken {
        let (done, said) = run(offset, &replicate);
        assert!(done, "{offset}: {said}");
    }
    let (done, said) = run("+0", &restore("restored.db"));
    assert!(done, "{said}");
    assert_eq!(place.rows("restored.db"), 3);
}

#[test]
fn a_request_signed_by_a_wrong_clock_is_refused_and_the_clock_is_named() {
    let server = S3Server::start(S3Kind::Rclone);
    the_clock_is_named(&Timed {
        url: &(server.replica_url("backup/app") + "&conditionalWrites=false"),
        environment: &S3Server::environment().map(|(name, value)| (name, value.to_owned())),
        secret: S3Server::SECRET_ACCESS_KEY,
        refused: &["+1h", "-1h"],
        taken: &["+5m", "-5m"],
    });
}

#[test]
fn a_request_to_oss_signed_by_a_wrong_clock_is_refused_and_the_clock_is_named() {
    let server = OssServer::start();
    let store = oss::store(&server);
    the_clock_is_named(&Timed {
        url: &store.url,
        environment: &store.environment,
        secret: OssServer::KEY_SECRET,
        refused: &["+1h", "-1h"],
        taken: &["+5m", "-5m"],
    });
}

/// The emulator does not look at the time of a request, so what stands before it does.
#[test]
fn a_request_to_azure_signed_by_a_clock_that_is_behind_is_refused_and_the_clock_is_named() {
    let server = AzureServer::start();
    let proxy = FaultProxy::start(server.address(), 1).unwrap();
    proxy.mind_dates();
    let (account, container) = (AzureServer::ACCOUNT, AzureServer::CONTAINER);
    let endpoint = format!("http://{}/{account}", proxy.address());
    the_clock_is_named(&Timed {
        url: &format!("abs://{account}@{container}/backup/app?endpoint={endpoint}"),
        environment: &[("AZURE_STORAGE_KEY", AzureServer::KEY.to_owned())],
        secret: AzureServer::KEY,
        refused: &["-1h", "-16m"],
        // It is not said that one which is ahead is refused.
        taken: &["+5m", "-5m"],
    });
}

/// Google's hosts, as programs find them that have the key of this service account.
struct Google {
    server: GcsServer,
    authority: Authority,
    hosts: GoogleHosts,
    files: Workplace,
}

impl Google {
    fn start() -> Self {
        let (authority, server) = (Authority::new(), GcsServer::start());
        let hosts = GoogleHosts::start(&authority, &server);
        let files = Workplace::new();
        Self {
            server,
            authority,
            hosts,
            files,
        }
    }

    /// The environment of a program with the key of an account in this file.
    fn environment(&self, key_file: &str) -> [(&'static str, String); 3] {
        self.files.write("account.json", key_file);
        let file = |path: PathBuf| path.display().to_string();
        let key_file = file(self.files.path("account.json"));
        [
            ("GOOGLE_APPLICATION_CREDENTIALS", key_file),
            ("SSL_CERT_FILE", file(self.authority.certificate())),
            ("HTTPS_PROXY", self.hosts.proxy()),
        ]
    }
}

/// A token is asked for with what the key has signed, which says when that was.
#[test]
fn a_token_of_google_asked_for_by_a_wrong_clock_is_refused_and_the_clock_is_named() {
    let google = Google::start();
    let (key_file, key) = google.hosts.key_file();
    the_clock_is_named(&Timed {
        url: &format!("gs://{}/backup/app", GcsServer::BUCKET),
        environment: &google.environment(&key_file),
        secret: &key[100..150],
        refused: &["+1h", "-61m"],
        taken: &["-5m"],
    });
}

#[test]
fn a_key_that_google_gives_no_token_for_is_named_and_not_shown() {
    let google = Google::start();
    let unknown = GoogleHosts::start(&google.authority, &google.server);
    let (key_file, key) = unknown.key_file();
    let place = Workplace::new();
    let url = format!("gs://{}/backup/app", GcsServer::BUCKET);
    let mut restore = place.command(&["restore", &url, "-o", "no.db"]);
    let output = restore.envs(google.environment(&key_file)).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("check the access key"), "{said}");
    assert!(said.contains("Signature is invalid"), "{said}");
    assert!(!said.contains(&key[100..150]), "{said}");
}

#[test]
fn a_certificate_that_is_not_valid_by_the_clock_of_this_machine_is_said_to_be() {
    let google = Google::start();
    let (key_file, _) = google.hosts.key_file();
    let place = Workplace::new();
    let url = format!("gs://{}/backup/app", GcsServer::BUCKET);
    let mut restore = place.command(&["restore", &url, "-o", "no.db"]);
    restore.envs(google.environment(&key_file));
    for offset in ["-3d", "+9d"] {
        let output = with_clock(&restore, offset).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{offset}: {said}");
        for what in ["set the clock of this machine", "is not valid now"] {
            assert!(said.contains(what), "{offset}: {said}");
        }
    }
}
