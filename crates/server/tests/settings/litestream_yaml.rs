//! `litestream.yml`.

use std::path::Path;

use evertide_server::settings::{MAX_SETTINGS, Mistake, parse_litestream_yaml};
use evertide_storage::{
    AzureOptions, Destination, GcsOptions, NatsOptions, OssOptions, S3Options, Secret,
    WebdavOptions,
};

use crate::{DAY, HOUR, SECOND, assert_mistake, directory, mistakes};

#[test]
fn one_replica_or_several_by_path_or_url() {
    let text = "
dbs:
  - path: /data/app.db
    replica:
      path: /backup/app
  - path: sqlite:///data/logs.db
    monitor-interval: 2s
    checkpoint-interval: 5m
    replicas:
      - type: file
        path: /backup/logs
      - url: file:///backup/logs-2
        name: second
        sync-interval: 10s
";
    let databases = parse_litestream_yaml(text).unwrap();
    let [app, logs] = databases.as_slice() else {
        panic!("{databases:?}")
    };
    assert_eq!(app.path, Path::new("/data/app.db"));
    let [replica] = app.replication.replicas.as_slice() else {
        panic!("{app:?}")
    };
    assert_eq!(
        (replica.name.as_str(), directory(replica)),
        ("file", "/backup/app".into())
    );
    assert_eq!(replica.sync_interval, SECOND);

    assert_eq!(logs.path, Path::new("/data/logs.db"));
    assert_eq!(logs.replication.monitor_interval, 2 * SECOND);
    assert_eq!(logs.replication.checkpoint_interval, 300 * SECOND);
    let [first, second] = logs.replication.replicas.as_slice() else {
        panic!("{logs:?}")
    };
    assert_eq!(directory(first), Path::new("/backup/logs"));
    assert_eq!(
        (second.name.as_str(), directory(second)),
        ("second", "/backup/logs-2".into())
    );
    assert_eq!(second.sync_interval, 10 * SECOND);
}

#[test]
fn the_readme_of_the_go_module_is_read() {
    let text = "dbs:\n  - path: ./app.db\n    replicas:\n      - type: file\n        \
                path: ./litestream-replicas\n";
    let databases = parse_litestream_yaml(text).unwrap();
    assert_eq!(databases[0].path, Path::new("./app.db"));
    let expected = std::env::current_dir().unwrap().join("litestream-replicas");
    assert_eq!(directory(&databases[0].replication.replicas[0]), expected);
}

#[test]
fn snapshots_and_retention_have_litestreams_defaults_and_places() {
    let read = |top: &str, database: &str, replica: &str| {
        let text =
            format!("{top}\ndbs:\n- path: /a.db\n  {database}\n  replica: {{path: /b{replica}}}\n");
        let databases = parse_litestream_yaml(&text).unwrap_or_else(|e| panic!("{text}\n{e}"));
        let replica = databases[0].replication.replicas[0].clone();
        (replica.snapshot_interval, replica.retention)
    };
    assert_eq!(read("", "", ""), (DAY, Some(DAY)));
    assert_eq!(read("snapshot:", "snapshot:", ""), (DAY, Some(DAY)));
    assert_eq!(
        read("snapshot: {interval: 1h, retention: 72h}", "", ""),
        (HOUR, Some(3 * DAY))
    );
    assert_eq!(
        read("snapshot: {interval: 1h}", "snapshot: {interval: 2h}", "").0,
        2 * HOUR
    );
    assert_eq!(read("retention: {enabled: false}", "", ""), (DAY, None));
    assert_eq!(read("retention: {enabled: true}", "", ""), (DAY, Some(DAY)));
    // As 0.3 had it.
    let of_0_3 = ", snapshot-interval: 3h, retention: 48h, retention-check-interval: 30m";
    assert_eq!(
        read("snapshot: {interval: 1h}", "", of_0_3),
        (3 * HOUR, Some(2 * DAY))
    );
    assert_eq!(read("", "snapshot: {retention: 0}", ""), (DAY, None));
}

#[test]
fn a_sync_interval_at_the_top_holds_for_all() {
    let text = "
sync-interval: 5s
dbs:
  - path: /a.db
    replicas:
      - path: /b
      - path: /c
        sync-interval: 1m
";
    let databases = parse_litestream_yaml(text).unwrap();
    let intervals: Vec<_> = databases[0]
        .replication
        .replicas
        .iter()
        .map(|replica| replica.sync_interval)
        .collect();
    assert_eq!(intervals, [5 * SECOND, 60 * SECOND]);
}

#[test]
fn replicas_without_a_name_get_one_each() {
    let text = "
dbs:
  - path: /a.db
    replicas:
      - {path: /b}
      - {path: /c}
      - {path: /d, name: file-2}
";
    let databases = parse_litestream_yaml(text).unwrap();
    let names: Vec<_> = databases[0]
        .replication
        .replicas
        .iter()
        .map(|replica| replica.name.as_str())
        .collect();
    assert_eq!(names, ["file", "file-3", "file-2"]);
}

#[test]
fn a_replica_in_s3_is_read_from_keys_or_from_its_url() {
    let text = "
access-key-id: AKIA
secret-access-key: of-all
dbs:
  - path: /app.db
    replicas:
      - {type: s3, bucket: b, path: app/db, endpoint: 'http://host:9000', region: eu-1}
      - {url: 's3://b/other?forcePathStyle=false', access-key-id: BKIA, secret-access-key: own}
      - {url: 's3://b/third?storageClass=STANDARD', storage-class: STANDARD_IA, part-size: 6MiB,
         concurrency: 3, sign-payload: false, sse-customer-algorithm: AES256,
         sse-customer-key: a2V5}
      - {url: 's3://b/fourth', part-size: 5242880, sse-customer-key-path: /etc/key, skip-verify: true}
";
    let databases = parse_litestream_yaml(text).unwrap();
    let replicas = &databases[0].replication.replicas;
    let mut expected = S3Options::new("b", "app/db");
    expected.endpoint = Some("http://host:9000".into());
    expected.region = Some("eu-1".into());
    expected.access_key_id = Some(Secret::new("AKIA"));
    expected.secret_access_key = Some(Secret::new("of-all"));
    assert_eq!(replicas[0].destination, Destination::S3(expected));
    let mut expected = S3Options::new("b", "other");
    expected.force_path_style = Some(false);
    expected.access_key_id = Some(Secret::new("BKIA"));
    expected.secret_access_key = Some(Secret::new("own"));
    assert_eq!(replicas[1].destination, Destination::S3(expected));
    let mut expected = S3Options::new("b", "third");
    expected.storage_class = Some("STANDARD_IA".into());
    expected.part_size = Some(6 << 20);
    expected.concurrency = Some(3);
    expected.sign_payload = Some(false);
    expected.sse_customer_key = Some(Secret::new("a2V5"));
    expected.access_key_id = Some(Secret::new("AKIA"));
    expected.secret_access_key = Some(Secret::new("of-all"));
    assert_eq!(replicas[2].destination, Destination::S3(expected));
    let Destination::S3(fourth) = &replicas[3].destination else {
        panic!("{replicas:?}")
    };
    assert_eq!(fourth.part_size, Some(5 << 20));
    assert_eq!(fourth.sse_customer_key_path, Some("/etc/key".into()));
    assert_eq!(fourth.skip_verify, Some(true));
}

#[test]
fn how_requests_to_s3_are_made_can_be_set() {
    let text = "
dbs:
  - path: /app.db
    replicas:
      - {type: s3, bucket: b, path: one, profile: backup, force-path-style: false,
         conditional-writes: false, require-content-md5: false, sse-kms-key-id: alias/backup}
      - {url: 's3://b/two', profile: other, force-path-style: true, conditional-writes: true,
         require-content-md5: true}
";
    let databases = parse_litestream_yaml(text).unwrap();
    let mut one = S3Options::new("b", "one");
    one.profile = Some("backup".into());
    one.force_path_style = Some(false);
    one.conditional_writes = Some(false);
    one.content_md5 = Some(false);
    one.sse_kms_key_id = Some("alias/backup".into());
    let mut two = S3Options::new("b", "two");
    two.profile = Some("other".into());
    two.force_path_style = Some(true);
    two.conditional_writes = Some(true);
    two.content_md5 = Some(true);
    let replicas = &databases[0].replication.replicas;
    assert_eq!(replicas.len(), 2);
    for (replica, expected) in replicas.iter().zip([one, two]) {
        assert_eq!(replica.destination, Destination::S3(expected));
    }
}

#[test]
fn replicas_with_google_and_azure_are_read_from_keys_or_from_their_urls() {
    let text = "
dbs:
  - path: /a
    replicas:
      - {type: gs, bucket: b, path: app/db}
      - {url: 'gs://b/other'}
      - {type: abs, bucket: c, path: app/db, account-name: me, account-key: a2V5,
         endpoint: 'http://host/me'}
      - {url: 'abs://me@c/other', sas-token: sv=1}
";
    let databases = parse_litestream_yaml(text).unwrap();
    let replicas = &databases[0].replication.replicas;
    let mut keyed = AzureOptions::new("c", "app/db");
    keyed.account = Some("me".into());
    keyed.account_key = Some(Secret::new("a2V5"));
    keyed.endpoint = Some("http://host/me".into());
    let mut shared = AzureOptions::new("c", "other");
    shared.account = Some("me".into());
    shared.sas_token = Some(Secret::new("sv=1"));
    let expected = [
        Destination::Gcs(GcsOptions::new("b", "app/db")),
        Destination::Gcs(GcsOptions::new("b", "other")),
        Destination::Azure(keyed),
        Destination::Azure(shared),
    ];
    let read: Vec<_> = replicas
        .iter()
        .map(|replica| replica.destination.clone())
        .collect();
    assert_eq!(read, expected);
}

#[test]
fn replicas_on_a_share_are_read_from_keys_or_from_their_urls() {
    let text = "
dbs:
  - path: /a
    replicas:
      - {type: webdav, webdav-url: 'http://host', path: /app/db, webdav-username: me,
         webdav-password: secret}
      - {url: 'webdavs://me@host/other', webdav-password: secret}
";
    let databases = parse_litestream_yaml(text).unwrap();
    let expected = [("http://host", "app/db"), ("https://host", "other")];
    for (replica, (url, path)) in databases[0].replication.replicas.iter().zip(expected) {
        let mut share = WebdavOptions::new(url, path).unwrap();
        share.username = Some("me".into());
        share.password = Some(Secret::new("secret"));
        assert_eq!(replica.destination, Destination::Webdav(share));
    }
}

#[test]
fn replicas_in_object_stores_of_nats_are_read_from_keys_or_from_their_urls() {
    let text = "
dbs:
  - path: /a
    replicas:
      - {type: nats, bucket: here, username: me, password: secret, tls: true}
      - {url: 'nats://host:4223/whole', jwt: jwt, seed: seed}
      - {url: 'nats://me@host:4223', bucket: apart, creds: /c}
";
    let databases = parse_litestream_yaml(text).unwrap();
    let mut here = NatsOptions::new("127.0.0.1", "here", "").unwrap();
    (here.username, here.password) = (Some("me".into()), Some(Secret::new("secret")));
    here.tls = true;
    let mut whole = NatsOptions::new("host:4223", "whole", "").unwrap();
    (whole.jwt, whole.seed) = (Some(Secret::new("jwt")), Some(Secret::new("seed")));
    let mut apart = NatsOptions::new("host:4223", "apart", "").unwrap();
    (apart.username, apart.credentials_path) = (Some("me".into()), Some("/c".into()));
    let replicas = &databases[0].replication.replicas;
    for (replica, expected) in replicas.iter().zip([here, whole, apart]) {
        assert_eq!(replica.destination, Destination::Nats(expected));
    }
    for wrong in [
        "url: 'nats://host/one', bucket: other",
        "bucket: b, path: /app",
        "bucket: b, nkey: x",
    ] {
        let text = format!("dbs: [{{path: /a, replica: {{type: nats, {wrong}}}}}]");
        parse_litestream_yaml(&text).expect_err(wrong);
    }
}

#[test]
fn replicas_in_alibabas_oss_are_read_from_keys_or_from_their_urls() {
    let text = "
access-key-id: id
secret-access-key: secret
dbs:
  - path: /a
    replicas:
      - {type: oss, bucket: here, path: app/db, region: eu-central-1, endpoint: host,
         access-key-id: own, secret-access-key: key, part-size: 6MiB, concurrency: 2}
      - {url: 'oss://there.oss-eu-west-1.aliyuncs.com/app'}
      - {url: 'oss://near.oss-eu-west-1-internal.aliyuncs.com/app', region: eu-west-2}
";
    let databases = parse_litestream_yaml(text).unwrap();
    let bucket = |name: &str, path: &str, region: &str, key: [&str; 2]| {
        let mut bucket = OssOptions::new(name, path).unwrap();
        bucket.region = Some(region.into());
        [bucket.access_key_id, bucket.access_key_secret] = key.map(|key| Some(Secret::new(key)));
        bucket
    };
    let mut here = bucket("here", "app/db", "eu-central-1", ["own", "key"]);
    here.endpoint = Some("host".into());
    here.part_size = Some(6 << 20);
    here.concurrency = Some(2);
    let there = bucket("there", "app", "eu-west-1", ["id", "secret"]);
    let mut near = bucket("near", "app", "eu-west-2", ["id", "secret"]);
    near.endpoint = Some("oss-eu-west-1-internal.aliyuncs.com".into());
    let replicas = &databases[0].replication.replicas;
    for (replica, expected) in replicas.iter().zip([here, there, near]) {
        assert_eq!(replica.destination, Destination::Oss(expected));
    }
    for (wrong, said) in [
        ("url: 'oss://one', bucket: other", "url"),
        ("bucket: b, part-size: 5MB", "is no size of 5242880 bytes"),
        (
            "bucket: b, concurrency: 0",
            "is no whole number from 1 to 64",
        ),
        ("bucket: b, access-key-id: id", "both keys are needed"),
    ] {
        let text = format!("dbs: [{{path: /a, replica: {{type: oss, {wrong}}}}}]");
        let errors = parse_litestream_yaml(&text).unwrap_err();
        assert!(errors.to_string().contains(said), "{errors}");
    }
}

#[test]
fn a_way_to_encrypt_that_there_is_not_is_refused() {
    let text = "dbs: [{path: /a, replica: {type: s3, bucket: b, sse-customer-algorithm: AES128}}]";
    assert_mistake(
        parse_litestream_yaml(text),
        "line 1: dbs[0].replica.sse-customer-algorithm: is not `AES256`",
    );
}

#[test]
fn all_mistakes_of_a_file_are_listed_with_their_lines() {
    let text = r#"addr: ":9090"
snapshots: {interval: 1h}
access-key-id: AKIA
levels:
  - interval: soon
dbs:
  - path: ${DATA}/app.db
    meta-path: /var/lib/meta
    replica:
      type: file
      path: ~/backup
      bucket: mine
      host: example.com
      auto-recover: true
      colour: blue
  - dir: /data
    watch: often
    replica:
      url: s3://bucket/path
      access-key-id: AKIA
  - path: /logs.db
    monitor-interval: fast
    replicas:
      - path: /b
        url: file:///b
      - path: s3://bucket/path
      - type: tape
        path: /b
      - name: x
        sync-interval: 5
  - path: /logs.db
    replica: {path: /c}
    replicas: [{path: /d}]
"#;
    let expected = [
        "line 1: addr: is a setting of Litestream that Evertide does not have: `evertide replicate` serves no metrics, a program with `evertide-server` does; remove it",
        "line 1: secret-access-key: is missing: both keys are needed, or neither",
        "line 2: snapshots: unknown key; did you mean `snapshot`?",
        "line 5: levels[0].interval: `soon` is not a duration",
        "line 7: dbs[0].path: the value holds the variable `${DATA}`",
        "line 8: dbs[0].meta-path: is a setting of Litestream that Evertide does not have",
        "line 11: dbs[0].replica.path: `~` is not replaced: write the whole path",
        "line 12: dbs[0].replica.bucket: is a key of replicas of type \"s3\"",
        "line 13: dbs[0].replica.host: is a key of replicas of type \"sftp\"",
        "line 14: dbs[0].replica.auto-recover: is a setting of Litestream",
        "line 15: dbs[0].replica.colour: unknown key; known here: type, name",
        "line 16: dbs[1].pattern: is missing: say which files are databases",
        "line 17: dbs[1].watch: true or false is expected here",
        "line 18: dbs[1].replica.secret-access-key: is missing: both keys are needed, or neither",
        "line 22: dbs[2].monitor-interval: `fast` is not a duration",
        "line 24: dbs[2].replicas[0].path: cannot be given together with `url`",
        "line 26: dbs[2].replicas[1].path: is a URL: use `url`",
        "line 27: dbs[2].replicas[2].type: \"tape\" is no type of replica",
        "line 29: dbs[2].replicas[3].path: is missing: say where to back up to",
        "line 30: dbs[2].replicas[3].sync-interval: a duration in quotes",
        "line 31: dbs[3].path: is the same file as dbs[2].path in line 21",
        "line 32: dbs[3].replica: cannot be given together with `replicas`",
    ];
    let mistakes = mistakes(parse_litestream_yaml(text));
    assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
    for (mistake, start) in mistakes.iter().zip(expected) {
        assert!(
            mistake.starts_with(start),
            "{mistake:?} does not start with {start:?}"
        );
    }
}

#[test]
fn every_key_of_the_real_litestream_is_known_by_name() {
    // The yaml tags of Litestream 0.5.17, by table.
    let top = "addr socket levels snapshot validation l0-retention l0-retention-check-interval \
               verify-compaction retention heartbeat-url heartbeat-interval dbs exec logging \
               mcp-addr shutdown-sync-timeout shutdown-sync-interval";
    let database = "path dir pattern recursive watch snapshot meta-path meta-dir monitor-interval \
                    checkpoint-interval busy-timeout min-checkpoint-page-count truncate-page-n \
                    max-sync-wal-bytes restore-if-db-not-exists replica replicas";
    let replica = "sync-interval validation-interval max-sync-ltx-files auto-recover \
                   access-key-id secret-access-key region bucket endpoint force-path-style \
                   sign-payload require-content-md5 skip-verify storage-class part-size \
                   concurrency sse-customer-algorithm sse-customer-key sse-customer-key-path \
                   sse-kms-key-id account-name account-key sas-token host user password key-path \
                   concurrent-writes host-key webdav-url webdav-username webdav-password jwt seed \
                   creds nkey username token tls root-cas client-cert client-key max-reconnects \
                   reconnect-wait timeout age";
    let own = "type name path url";
    let table = |keys: &str, indent: &str| {
        keys.split_whitespace()
            .map(|key| format!("{indent}{key}: 1\n"))
            .collect::<String>()
    };
    let texts = [
        table(top, "") + &table(replica, ""),
        format!("dbs:\n- x: 1\n{}", table(database, "  ")),
        format!(
            "dbs:\n- replica:\n{}{}",
            table(replica, "    "),
            table(own, "    ")
        ),
    ];
    let mut unknown = Vec::new();
    for text in texts {
        let errors = parse_litestream_yaml(&text).unwrap_err();
        let of_nobody = errors
            .mistakes()
            .iter()
            .filter(|error| matches!(error.mistake, Mistake::UnknownKey { .. }));
        unknown.extend(of_nobody.map(|error| error.key.clone()));
    }
    assert_eq!(unknown, ["dbs[0].x"]);
}

#[test]
fn aliases_and_merged_tables_are_followed() {
    let text = "
dbs:
  - path: /a.db
    replica: &replica
      path: /b
      sync-interval: 5s
  - path: /c.db
    replica:
      <<: *replica
      path: /d
";
    let databases = parse_litestream_yaml(text).unwrap();
    let replica = &databases[1].replication.replicas[0];
    assert_eq!(
        (directory(replica), replica.sync_interval),
        ("/d".into(), 5 * SECOND)
    );
}

#[test]
fn what_is_no_yaml_or_no_configuration_is_named_with_its_line() {
    let cases = [
        ("dbs: [", "line 1: not valid YAML: "),
        (
            "a: 1\na: 2\n",
            "line 2: not valid YAML: duplicate mapping key",
        ),
        ("dbs:\n\t- x", "line 2: not valid YAML: "),
        (
            "a: 1\n---\nb: 1\n",
            "line 3: not valid YAML: multiple YAML documents",
        ),
        (
            "\n- a",
            "line 2: not valid YAML: `dbs:` is expected at the top, not a list",
        ),
        ("", "line 1: dbs: is missing"),
        ("# comment", "line 1: dbs: is missing"),
        ("dbs:", "line 1: dbs: is missing"),
        ("dbs: []", "line 1: dbs: is empty"),
        ("dbs: {path: /a}", "line 1: dbs: a list of databases"),
        ("dbs: [/a]", "line 1: dbs[0]: a list of databases"),
        ("dbs:\n- path: /a.db", "line 2: dbs[0].replica: is missing"),
        (
            "dbs:\n- replica: {path: /a}",
            "line 2: dbs[0].path: is missing",
        ),
        (
            "dbs:\n- path: /a\n  replica: {url: 'file:///$b'}",
            "line 3: dbs[0].replica.url: the value holds a variable",
        ),
        (
            "dbs:\n- path: 7\n  replica: {path: /a}",
            "line 2: dbs[0].path: text in quotes",
        ),
        (
            "dbs:\n- path: /a\n  replica:\n    type: file",
            "line 3: dbs[0].replica.path: is missing",
        ),
    ];
    for (text, start) in cases {
        assert_mistake(parse_litestream_yaml(text), start);
    }
}

#[test]
fn no_error_shows_a_secret_whatever_is_wrong_with_it() {
    const SECRET: &str = "wJalrXUtnFEMIsecret";
    let values = [
        format!("{SECRET}: {SECRET}"),
        format!("\"{SECRET}"),
        format!("'{SECRET}$VAR'"),
        format!("[{SECRET}"),
        format!("*{SECRET}"),
        format!("!!int {SECRET}"),
        format!("!!binary {SECRET}"),
        format!("\"{SECRET}\\q\""),
        format!("|\n {SECRET}"),
        format!("{{ {SECRET}: 1 }}"),
        format!("{SECRET}\n  secret-access-key: {SECRET}"),
        format!("@{SECRET}"),
        format!("%{SECRET}"),
    ];
    for value in values {
        let text = format!("dbs:\n- path: /a\n  replica:\n    secret-access-key: {value}\n");
        let errors = parse_litestream_yaml(&text).unwrap_err();
        let shown = format!("{errors} {errors:?} {errors:#?}");
        assert!(
            !shown.contains("wJalr") && !shown.contains("EMIsecret"),
            "{value}: {shown}"
        );
    }
    // Of a URL, no credentials.
    let text = format!("dbs:\n- path: /a\n  replica:\n    url: sftp://user:{SECRET}@host/path\n");
    let errors = parse_litestream_yaml(&text).unwrap_err();
    assert!(!format!("{errors} {errors:?}").contains(SECRET), "{errors}");
}

#[test]
fn neither_size_nor_depth_nor_aliases_exhaust_anything() {
    let errors = parse_litestream_yaml(&"#".repeat(MAX_SETTINGS + 1)).unwrap_err();
    assert!(matches!(
        errors.mistakes()[0].mistake,
        Mistake::TooLarge { .. }
    ));
    assert!(parse_litestream_yaml(&format!("a: {}", "[".repeat(100_000))).is_err());
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let aliases = format!("*a{}, ", level - 1).repeat(9);
        laughs += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    assert!(parse_litestream_yaml(&laughs).is_err());
}

#[test]
fn drills_are_evertides_own_and_set_for_a_replica() {
    let text = "dbs: [{path: /a, replica: {path: /r, drill-interval: 24h, drill-bandwidth: 8MiB, \
                drill-directory: /var/tmp, drill-timeout: 1h}}]";
    let replica = &parse_litestream_yaml(text).unwrap()[0].replication.replicas[0];
    assert_eq!(replica.drill_interval, Some(crate::DAY));
    assert_eq!(replica.drill_bandwidth.map(u64::from), Some(8 << 20));
    assert_eq!(replica.drill_directory, Some("/var/tmp".into()));
    assert_eq!(replica.drill_timeout, HOUR);
    assert_mistake(
        parse_litestream_yaml("dbs: [{path: /a, replica: {path: /r, drill-bandwidth: 8MiB}}]"),
        "line 1: dbs[0].replica.drill-bandwidth: does not belong here: it does nothing without \
         `drill-interval`",
    );
    assert_mistake(
        parse_litestream_yaml("validation: {interval: 1h}\ndbs: [{path: /a, replica: {path: /r}}]"),
        "line 1: validation: is a setting of Litestream that Evertide does not have: use `drill-in",
    );
}

#[test]
fn tiers_of_a_replica_begin_where_the_retention_of_its_snapshots_ends() {
    let text = |tiers: &str| {
        format!("snapshot: {{retention: 48h}}\ndbs: [{{path: /a, replica: {{path: /r, {tiers}}}}}]")
    };
    let good = text("retention-tiers: [{every: 1h, keep: 7d}]");
    let replica = &parse_litestream_yaml(&good).unwrap()[0]
        .replication
        .replicas[0];
    assert_eq!(replica.retention, Some(2 * DAY));
    assert_eq!(
        replica.retention_tiers,
        [evertide::RetentionTier::new(HOUR, 7 * DAY)]
    );
    assert_mistake(
        parse_litestream_yaml(&text("retention-tiers: [{every: 1h, keep: 48h}]")),
        "line 2: dbs[0].replica.retention-tiers[0].keep: `retention` keeps every state",
    );
}
