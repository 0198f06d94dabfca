//! Nothing that the program prints, logs or stores shows a secret, whatever the kind of replica and whatever
//! is wrong.

use std::{fs, path::Path};

use evertide_testkit::{ChildProcess, QuotingServer, S3Kind, S3Server, planted_secret, wait_until};

use super::support::{PATIENCE, Run, Workplace, insert};

/// Planted: neither of them is anywhere else.
const SECRETS: [&str; 2] = ["planted-hunter2-identity", "planted-hunter2-secret"];
/// Where nobody answers.
const NOWHERE: &str = "127.0.0.1:1";

/// A replica of each kind, with secrets in all places that could be meant for them. Kinds and keys that
/// this version does not know are refused, and must not be quoted either.
fn kinds() -> Vec<(&'static str, String)> {
    let [id, secret] = SECRETS;
    let with = |kind: &str, lines: &[(&str, &str)]| -> String {
        let lines = lines
            .iter()
            .map(|(key, value)| format!("{kind}_{key} = \"{value}\"\n"));
        lines.collect()
    };
    let s3 = [
        ("bucket", "bucket"),
        ("path", "app"),
        ("endpoint", "http://127.0.0.1:1"),
        ("access_key_id", id),
        ("secret_access_key", secret),
    ];
    let account = [
        ("bucket", "bucket"),
        ("container", "container"),
        ("account_name", "account"),
        ("account_key", secret),
        ("sas_token", secret),
        ("endpoint", "http://127.0.0.1:1"),
        ("credentials", secret),
        ("service_account_key", secret),
        ("access_key_id", id),
        ("access_key_secret", secret),
        ("secret_access_key", secret),
    ];
    let alibaba = [
        ("bucket", "bucket"),
        ("path", "app"),
        ("endpoint", "http://127.0.0.1:1"),
        ("access_key_id", id),
        ("access_key_secret", secret),
    ];
    let share = [
        ("url", "http://127.0.0.1:1"),
        ("path", "/app"),
        ("username", "user"),
        ("password", secret),
    ];
    let server = [
        ("host", NOWHERE),
        ("path", "/app"),
        ("user", "user"),
        ("password", secret),
        ("private_key", secret),
        ("key_passphrase", secret),
        (
            "host_key",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ",
        ),
    ];
    let login = [
        ("host", NOWHERE),
        ("path", "app"),
        ("bucket", "bucket"),
        ("username", "user"),
        ("password", secret),
        ("token", secret),
        ("jwt", secret),
        ("seed", secret),
    ];
    vec![
        ("s3", with("s3", &s3)),
        ("gs", with("gs", &account)),
        ("abs", with("abs", &account)),
        ("oss", with("oss", &alibaba)),
        ("sftp", with("sftp", &server)),
        ("webdav", with("webdav", &share)),
        ("nats", with("nats", &login)),
        (
            "file",
            format!("file_path = \"/nowhere\"\npassword = \"{secret}\"\n"),
        ),
    ]
}

/// A replica of this kind as one table, with this line at its end.
fn settings(kind: &str, lines: &str, end: &str) -> String {
    format!("[[replicas]]\nname = \"it\"\ntype = \"{kind}\"\n{lines}{end}\n")
}

#[track_caller]
fn assert_silent(run: &Run, what: &str) {
    let shown = format!("{}{}", run.out, run.err);
    for secret in SECRETS {
        assert!(!shown.contains(secret), "{what}: {run:?}");
    }
}

/// That no file holds a secret, but those that the user wrote.
fn assert_no_file_holds_a_secret(folder: &Path, secrets: &[&str], ours: &[&str]) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            assert_no_file_holds_a_secret(&path, secrets, ours);
        } else if !ours.contains(&name) {
            let bytes = fs::read(&path).unwrap();
            for secret in secrets {
                let found = bytes
                    .windows(secret.len())
                    .any(|part| part == secret.as_bytes());
                assert!(!found, "{} holds {secret}", path.display());
            }
        }
    }
}

#[test]
fn no_secret_of_any_kind_of_replica_is_printed_whatever_is_wrong_with_it() {
    // What is wrong at the end, and so in sight of an error that quotes what is around it.
    let ends = [
        "",
        "secret_access_key = [\"planted-hunter2-secret\"]",
        "planted = planted-hunter2-secret",
        "s3_secret_access_key = \"planted-hunter2-secret\" trailing",
        "s3_secret_access_key = \"planted-hunter2-secret",
        "s3_secret_access_key = \"$planted-hunter2-secret\"",
        "s3_force_path_style = \"planted-hunter2-secret\"",
        "s3_sse_customer_key = [\"planted-hunter2-secret\"]",
    ];
    // They mostly wait for stores that do not answer.
    std::thread::scope(|scope| {
        for (kind, lines) in kinds() {
            scope.spawn(move || assert_kind_is_silent(kind, &lines, &ends));
        }
    });
}

/// Stores settings of this kind with each mistake, and uses them without one.
fn assert_kind_is_silent(kind: &str, lines: &str, ends: &[&str]) {
    let place = Workplace::new();
    place.ok(&["keygen"]);
    drop(place.database("app.db", 1));
    for end in ends {
        place.write("settings.toml", &settings(kind, lines, end));
        let store = ["--age-key", "age.key", "--db", "app.db"];
        let insert = [&["insert-config"][..], &store, &["--file", "settings.toml"]].concat();
        assert_silent(
            &place.run(&insert),
            &format!("{kind}, `{end}`, insert-config"),
        );
    }
    let config = format!(
        "[[databases]]\npath = \"app.db\"\n{}",
        settings(kind, lines, "").replace("[[replicas]]", "[[databases.replicas]]")
    );
    place.write("evertide.toml", &config);
    let from = ["--config", "evertide.toml"];
    let trace = ["--log-level", "trace", "--log-format", "json"];
    std::thread::scope(|scope| {
        for command in [
            [&["replicate", "--once"][..], &from, &trace].concat(),
            [
                &["restore"][..],
                &from,
                &["app.db", "-o", "out.db", "--json"],
            ]
            .concat(),
            [&["ltx"][..], &from, &["app.db", "--json"]].concat(),
            [&["verify"][..], &from, &["--json"]].concat(),
        ] {
            let place = &place;
            scope.spawn(move || {
                assert_silent(&place.run(&command), &format!("{kind}, {command:?}"));
            });
        }
    });
    let ours = ["settings.toml", "evertide.toml"];
    assert_no_file_holds_a_secret(&place.path(""), &SECRETS, &ours);
}

#[test]
fn no_secret_in_a_replica_url_is_printed() {
    let [id, secret] = SECRETS;
    let place = Workplace::new();
    drop(place.database("app.db", 1));
    for url in [
        format!("s3://{id}:{secret}@bucket/app"),
        format!("s3://bucket/app?endpoint=http://{NOWHERE}&secretAccessKey={secret}"),
        format!("s3://bucket/app?{secret}"),
        format!("gs://bucket/app?credentials={secret}"),
        format!("abs://{id}:{secret}@container/app"),
        format!("oss://{id}:{secret}@bucket/app"),
        format!("sftp://{id}:{secret}@{NOWHERE}/app"),
        format!("webdav://{id}:{secret}@{NOWHERE}/app"),
        format!("webdavs://{id}:{secret}@{NOWHERE}/app?token={secret}"),
        format!("nats://{id}:{secret}@{NOWHERE}/bucket"),
        format!("https://{id}:{secret}@{NOWHERE}/app?token={secret}"),
    ] {
        for command in [
            &[
                "replicate",
                "--once",
                "--log-level",
                "trace",
                "app.db",
                &url,
            ][..],
            &["restore", &url, "-o", "out.db", "--json"],
            &["ltx", &url, "--json"],
            &["verify", &url, "--json"],
        ] {
            let run = place.run(command);
            let shown = format!("{}{}", run.out, run.err);
            assert!(!shown.contains(secret), "{command:?}: {run:?}");
        }
    }
    assert_no_file_holds_a_secret(&place.path(""), &SECRETS, &[]);
}

/// A backup that works: what it logs at its most talkative, what its child process can see, what it
/// stores beside the database and in the replica.
#[test]
fn nothing_of_a_running_backup_shows_its_credentials() {
    let server = S3Server::start(S3Kind::Ministack);
    let secrets = [S3Server::SECRET_ACCESS_KEY];
    let place = Workplace::new();
    let database = place.database("app.db", 3);
    place.store(&format!(
        "[[replicas]]\nname = \"it\"\ntype = \"s3\"\ns3_bucket = \"{}\"\ns3_path = \"app\"\n\
         s3_endpoint = \"{}\"\ns3_access_key_id = \"{}\"\ns3_secret_access_key = \"{}\"\n\
         sync_interval = \"10ms\"\n",
        S3Server::BUCKET,
        server.endpoint(),
        S3Server::ACCESS_KEY_ID,
        S3Server::SECRET_ACCESS_KEY,
    ));
    // The child shows the command line of its parent, its own, and its environment.
    place.write(
        "child.sh",
        "echo child of \"$(tr '\\0' ' ' < /proc/$PPID/cmdline)\"\ncat /proc/$$/cmdline\nenv\n",
    );
    insert(&database, 2);
    let from = ["--age-key", "age.key", "--db", "app.db"];
    let trace = ["--log-level", "trace", "--exec", "sh child.sh"];
    let run = place.run(&[&["replicate"][..], &from, &trace].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.out.contains("child of"), "{run:?}");
    let mut runs = vec![run];
    for command in [
        [&["restore"][..], &from, &["-o", "out.db", "--json"]].concat(),
        [&["ltx"][..], &from, &["--json"]].concat(),
        [&["verify"][..], &from, &["--deep", "--json"]].concat(),
        [&["config", "list"][..], &from, &["--json"]].concat(),
        [&["config", "scopes"][..], &from, &["--json"]].concat(),
        [&["config", "export"][..], &from, &["-o", "exported.age"]].concat(),
    ] {
        let run = place.run(&command);
        assert_eq!(run.code, Some(0), "{command:?}: {run:?}");
        runs.push(run);
    }
    assert_eq!(place.rows("out.db"), 5);
    for run in &runs {
        let shown = format!("{}{}", run.out, run.err);
        assert!(!shown.contains(secrets[0]), "{run:?}");
    }
    // The one command that is there to show settings does so on standard output alone.
    let mut dump = place.command(&[&["config", "dump"][..], &from].concat());
    let dumped = dump.output().unwrap();
    let [out, err] = [dumped.stdout, dumped.stderr].map(|said| String::from_utf8(said).unwrap());
    assert!(out.contains(secrets[0]) && !err.contains(secrets[0]));
    assert_no_file_holds_a_secret(&place.path(""), &secrets, &["settings.toml"]);
}

/// What a process of this name shows to everybody on the machine: its command line, and the names of its threads.
fn shown_to_everybody(process: u32) -> String {
    let process = Path::new("/proc").join(process.to_string());
    let mut shown = fs::read_to_string(process.join("cmdline")).unwrap();
    for thread in fs::read_dir(process.join("task")).unwrap() {
        // It may have ended by now.
        shown += &fs::read_to_string(thread.unwrap().path().join("comm")).unwrap_or_default();
    }
    shown
}

/// Each request is answered with an error that quotes it, with all its headers.
#[test]
fn a_running_process_gives_no_secret_away_whatever_servers_quote() {
    let server = QuotingServer::start();
    let place = Workplace::new();
    let database = place.database("app.db", 1);
    let replicas = server.replicas("databases.replicas");
    let settings = format!("[[databases]]\npath = \"app.db\"\n{replicas}");
    place.write("evertide.toml", &settings);
    let from = ["--config", "evertide.toml"];
    let trace = ["--log-level", "trace", "--log-format", "json"];
    let mut command = place.command(&[&["replicate"][..], &from, &trace].concat());
    command.envs(server.environment());
    let mut backup = ChildProcess::spawn_logged(&mut command, &place.path("log")).unwrap();
    wait_until(PATIENCE, "every replica has failed", || {
        insert(&database, 1);
        let log = place.read("log");
        let failed = |name: &str| {
            let replica = format!("\"replica\":\"{name}\"");
            let lines = log.lines().filter(|line| line.contains(&replica));
            let told = |line: &&str| line.contains("\"WARN\"") || line.contains("\"ERROR\"");
            lines.filter(told).count() > 0
        };
        QuotingServer::names().into_iter().all(failed)
    });
    let shown = shown_to_everybody(backup.id());
    assert!(shown.contains("evertide.toml"), "{shown}");
    backup.terminate(PATIENCE).unwrap_or_default();
    for text in [shown, place.read("log")] {
        assert_eq!(planted_secret(&text), None);
    }
    for command in [
        [&["ltx"][..], &from, &["app.db", "--json"]].concat(),
        [&["verify"][..], &from, &["--json"]].concat(),
        [&["doctor"][..], &from].concat(),
    ] {
        let mut command = place.command(&command);
        let output = command.envs(server.environment()).output().unwrap();
        let shown = [&*output.stdout, &output.stderr].concat();
        let shown = String::from_utf8_lossy(&shown);
        assert_eq!(planted_secret(&shown), None, "{command:?}");
    }
    assert_no_file_holds_a_secret(&place.path(""), &["hunter2"], &["evertide.toml"]);
}
