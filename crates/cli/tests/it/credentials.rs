//! Keys that change under a running process, and servers whose certificates are of an authority of the user's own.

use std::{fs, process::Command};

use evertide_testkit::{Authority, ChildProcess, S3Kind, S3Server, StsServer, wait_until};

use super::support::{PATIENCE, Run, Workplace, insert};

const NEW_ID: &str = "AKIDANOTHER12345";
const NEW_SECRET: &str = "ANOTHERSECRETSECRET";

/// A process that finds no keys but those of these files.
fn with_files(place: &Workplace, mut command: Command) -> Command {
    command
        .env("AWS_SHARED_CREDENTIALS_FILE", place.path("credentials"))
        .env("AWS_CONFIG_FILE", place.path("config"))
        .env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

/// Where a key stands that programs find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kept {
    /// In the file of credentials, which does not say for how long it is good.
    InFile,
    /// In what a process prints, good for ever as it says.
    PrintedForEver,
    /// The same, good for half a minute.
    PrintedForAWhile,
    /// With a service that gives it for the token in a file, good for half a minute.
    GivenForToken,
}

/// The service that gives keys for tokens, and the authority that vouches for it.
fn service() -> (Authority, StsServer) {
    let authority = Authority::new();
    let service = StsServer::start(&authority);
    (authority, service)
}

impl Kept {
    fn write(self, place: &Workplace, service: Option<&StsServer>, [id, secret]: [&str; 2]) {
        if let Some(service) = service {
            // Those who give tokens replace them, too.
            place.write("token", &format!("token-for-{id}"));
            place.write("config", "");
            place.write("credentials", "");
            return service.give([id, secret]);
        }
        let expiration = match self {
            Self::InFile => {
                let keys = format!("aws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
                place.write("config", "");
                return place.write("credentials", &format!("[default]\n{keys}"));
            }
            Self::PrintedForEver => "'2100-01-01T00:00:00Z'",
            Self::PrintedForAWhile | Self::GivenForToken => {
                "$(date -u -d '+30 seconds' +%Y-%m-%dT%H:%M:%SZ)"
            }
        };
        let script = format!(
            "echo run >> '{}'\ncat <<END\n{{\"Version\": 1, \"AccessKeyId\": \"{id}\", \
             \"SecretAccessKey\": \"{secret}\", \"SessionToken\": \"t\", \"Expiration\": \"{}\"}}\nEND\n",
            place.path("runs").display(),
            expiration.trim_matches('\''),
        );
        place.write("print", &script);
        let process = format!("credential_process = sh {}", place.path("print").display());
        place.write("config", &format!("[default]\n{process}\n"));
        place.write("credentials", "");
    }
}

/// The server takes the old key until it takes the new one only; what is committed meanwhile is not lost, and nobody
/// restarts anything.
fn replication_goes_on_with_another_key(kept: Kept) {
    let mut server = S3Server::start(S3Kind::Rclone);
    let place = Workplace::new();
    let database = place.database("app.db", 1);
    let url = server.replica_url("backup/app") + "&conditionalWrites=false";
    let settings =
        format!("dbs: [{{path: app.db, replica: {{url: '{url}', sync-interval: 100ms}}}}]\n");
    place.write("litestream.yml", &settings);
    let old = [S3Server::ACCESS_KEY_ID, S3Server::SECRET_ACCESS_KEY];
    let new = [NEW_ID, NEW_SECRET];
    let given = (kept == Kept::GivenForToken).then(service);
    let service = given.as_ref().map(|(_, service)| service);
    kept.write(&place, service, old);
    let command = place.command(&["replicate", "--config", "litestream.yml"]);
    let mut command = with_files(&place, command);
    if let Some((authority, service)) = &given {
        command
            .env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/backup")
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", place.path("token"))
            .env("SSL_CERT_FILE", authority.certificate())
            .env("HTTPS_PROXY", service.proxy());
    }
    let mut backup = ChildProcess::spawn_logged(&mut command, &place.path("log")).unwrap();
    let files = server.files().join("backup/app/0000");
    let stored = || fs::read_dir(&files).map_or(0, Iterator::count);
    let mut rows = 1;
    wait_until(PATIENCE, "two files with the first key", || {
        insert(&database, 1);
        rows += 1;
        stored() >= 2
    });

    if kept == Kept::PrintedForEver {
        assert_eq!(place.read("runs").lines().count(), 1);
    }
    server.change_key(new);
    wait_until(PATIENCE, "the old key is refused", || {
        insert(&database, 1);
        rows += 1;
        place.read("log").contains("check the access key")
    });
    let before = stored();
    kept.write(&place, service, new);
    wait_until(PATIENCE, "files with the second key", || {
        insert(&database, 1);
        rows += 1;
        stored() >= before + 2
    });
    backup.terminate(PATIENCE).unwrap();
    if let Some(service) = service {
        let asked = service.asked();
        for id in [old[0], new[0]] {
            assert!(
                asked.contains(&format!("WebIdentityToken=token-for-{id}")),
                "{asked}"
            );
        }
        assert!(!place.read("log").contains("token-for-"));
    }

    let restore = |output: &str, key: [&str; 2]| {
        let mut command = place.command(&["restore", &url, "-o", output]);
        let names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        command.envs(names.into_iter().zip(key));
        command.output().unwrap()
    };
    let refused = restore("refused.db", old);
    assert!(!refused.status.success(), "{refused:?}");
    let restored = restore("restored.db", [NEW_ID, NEW_SECRET]);
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(place.rows("restored.db"), rows);
    evertide_testkit::assert_same_database(place.path("app.db"), place.path("restored.db"));
    for secret in [NEW_SECRET, S3Server::SECRET_ACCESS_KEY] {
        assert!(!place.read("log").contains(secret));
    }
}

#[test]
fn a_key_that_is_replaced_in_its_file_is_found_without_a_restart() {
    replication_goes_on_with_another_key(Kept::InFile);
}

#[test]
fn a_key_that_a_process_prints_is_printed_again_when_it_is_refused() {
    replication_goes_on_with_another_key(Kept::PrintedForEver);
}

#[test]
fn a_key_that_expires_is_renewed_under_a_running_process() {
    replication_goes_on_with_another_key(Kept::PrintedForAWhile);
}

#[test]
fn a_key_that_is_given_for_the_token_of_a_web_identity_is_renewed_under_a_running_process() {
    replication_goes_on_with_another_key(Kept::GivenForToken);
}

#[test]
fn a_server_with_a_certificate_of_an_authority_of_our_own_is_trusted_when_we_say_so() {
    let authority = Authority::new();
    let server = S3Server::start_encrypted(&authority);
    let place = Workplace::new();
    place.database("app.db", 3);
    let url = server.replica_url("backup/app") + "&conditionalWrites=false";
    let replicate = |trusted: bool| {
        let mut command = place.command(&["replicate", "--once", "app.db", &url]);
        command.envs(S3Server::environment());
        match trusted {
            true => command.env("SSL_CERT_FILE", authority.certificate()),
            false => command.env_remove("SSL_CERT_FILE"),
        };
        command.output().unwrap()
    };
    let refused = replicate(false);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains("SSL_CERT_FILE"), "{said}");
    assert!(!server.files().join("backup").exists(), "it got something");
    let done = replicate(true);
    assert!(done.status.success(), "{done:?}");
    assert!(!String::from_utf8_lossy(&done.stderr).contains("skip_verify"));
    let mut restore = place.command(&["restore", &url, "-o", "restored.db"]);
    restore.envs(S3Server::environment());
    restore.env("SSL_CERT_FILE", authority.certificate());
    let restored = restore.output().unwrap();
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(place.rows("restored.db"), 3);
}

#[test]
fn a_server_that_nobody_vouches_for_is_believed_only_where_the_settings_say_so_and_loudly() {
    let server = S3Server::start_encrypted(&Authority::new());
    let place = Workplace::new();
    place.database("app.db", 3);
    let checked = server.replica_url("backup/app") + "&conditionalWrites=false";
    let run = |url: &str, arguments: &[&str]| {
        let settings = format!("dbs: [{{path: app.db, replica: {{url: '{url}'}}}}]\n");
        place.write("litestream.yml", &settings);
        let mut command = place.command(arguments);
        command.envs(S3Server::environment());
        let output = command.env_remove("SSL_CERT_FILE").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    let replicate = ["replicate", "--once", "--config", "litestream.yml"];
    for url in [checked.clone(), checked.clone() + "&skipVerify=false"] {
        let (done, said) = run(&url, &replicate);
        assert!(!done && !said.contains("skip_verify"), "{said}");
    }
    assert!(!server.files().join("backup").exists(), "it got something");
    let unchecked = checked + "&skipVerify=true";
    for arguments in [
        &replicate[..],
        &["restore", &unchecked, "-o", "restored.db"],
    ] {
        let (done, said) = run(&unchecked, arguments);
        assert!(done, "{said}");
        assert_eq!(
            said.matches("certificates are not checked").count(),
            1,
            "{said}"
        );
    }
    assert_eq!(place.rows("restored.db"), 3);
}

/// Libraries would show everything they know of each place, on many lines, for each request.
#[test]
fn without_credentials_it_is_said_in_lines_of_our_own_where_they_were_looked_for() {
    let nowhere = "endpoint=http://127.0.0.1:1";
    let urls = [
        format!("s3://bucket/app?{nowhere}"),
        "gs://bucket/app".to_owned(),
        format!("abs://account@container/app?{nowhere}"),
        format!("oss://bucket/app?{nowhere}"),
    ];
    std::thread::scope(|scope| {
        for url in urls {
            scope.spawn(move || {
                let place = Workplace::new();
                drop(place.database("app.db", 1));
                let arguments = [
                    "replicate",
                    "--once",
                    "--log-level",
                    "trace",
                    "app.db",
                    &url,
                ];
                let mut command = place.command(&arguments);
                // Nothing of the tests leaves this machine.
                let ways = ["HTTP_PROXY", "HTTPS_PROXY"];
                command.envs(ways.map(|way| (way, "http://127.0.0.1:1")));
                command.env("HOME", place.path(""));
                command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1");
                let run = Run::of(&mut command);
                assert_eq!(run.code, Some(1), "{run:?}");
                let said = "no credentials from there source=\"the machine's metadata service\"";
                assert_eq!(run.err.matches(said).count(), 1, "{url}: {run:?}");
                for ours in run.err.lines() {
                    let begins = ours.starts_with("20") || ours.starts_with("evertide: ");
                    assert!(begins && !ours.contains("CredentialProvider"), "{ours}");
                }
            });
        }
    });
}
