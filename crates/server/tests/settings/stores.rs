//! The keys of each kind of replica.

use evertide_server::settings::parse_toml;
use evertide_storage::{
    AzureOptions, Destination, GcsOptions, NatsOptions, OssOptions, S3Options, Secret, SftpOptions,
    WebdavOptions,
};

use crate::{OF_THE_GO_MODULE, ON_S3, assert_mistake, mistakes, only_replica};
#[test]
fn a_replica_on_s3_is_read_with_all_its_settings() {
    let options = parse_toml(&format!("{OF_THE_GO_MODULE}{ON_S3}")).unwrap();
    let Destination::S3(s3) = &options.replicas[1].destination else {
        panic!("{options:?}")
    };
    let mut expected = S3Options::new("your-s3-bucket-name", "backups/myapp");
    expected.endpoint = Some("endpoint".into());
    expected.region = Some("your-s3-region".into());
    expected.access_key_id = Some(Secret::new("YOUR_ACCESS_KEY_ID"));
    expected.secret_access_key = Some(Secret::new("YOUR_SECRET_ACCESS_KEY"));
    expected.force_path_style = Some(false);
    assert_eq!(*s3, expected);
    assert!(!format!("{options:?}").contains("YOUR_"), "{options:?}");

    let without = ON_S3.replace("'your-s3-region'", "''") + "s3_conditional_writes = false\n";
    let replica = only_replica(&without);
    let Destination::S3(s3) = &replica.destination else {
        panic!("{replica:?}")
    };
    assert_eq!(s3.region, None);
    assert_eq!(s3.conditional_writes, Some(false));
}

#[test]
fn how_requests_to_s3_are_made_can_be_set() {
    let set = "s3_profile = 'backup'\ns3_sign_payload = false\ns3_require_content_md5 = false\n\
               s3_storage_class = 'STANDARD_IA'\ns3_part_size = '16MiB'\ns3_concurrency = 4\n\
               s3_sse_customer_key = 'a2V5'\ns3_sse_kms_key_id = 'alias/backup'\n\
               s3_skip_verify = true\n";
    let replica = only_replica(&format!("{ON_S3}{set}"));
    let Destination::S3(s3) = &replica.destination else {
        panic!("{replica:?}")
    };
    assert_eq!(s3.profile.as_deref(), Some("backup"));
    assert_eq!(
        (s3.sign_payload, s3.content_md5),
        (Some(false), Some(false))
    );
    assert_eq!(s3.storage_class.as_deref(), Some("STANDARD_IA"));
    assert_eq!((s3.part_size, s3.concurrency), (Some(16 << 20), Some(4)));
    assert_eq!(s3.sse_customer_key, Some(Secret::new("a2V5")));
    assert_eq!(s3.skip_verify, Some(true));
    let in_file = set.replace("_key = 'a2V5'", "_key_path = '/etc/key'");
    let replica = only_replica(&format!("{ON_S3}{in_file}"));
    let Destination::S3(s3) = &replica.destination else {
        panic!("{replica:?}")
    };
    assert_eq!(s3.sse_customer_key, None);
    assert_eq!(s3.sse_customer_key_path, Some("/etc/key".into()));
    let both = format!("{ON_S3}{set}s3_sse_customer_key_path = '/etc/key'\n");
    assert_mistake(
        parse_toml(&both),
        "line 25: replicas[0].s3_sse_customer_key_path: cannot be given together with `s3_sse_customer_key`",
    );
    assert_eq!(s3.sse_kms_key_id.as_deref(), Some("alias/backup"));
    assert!(!format!("{replica:?}").contains("a2V5"));

    let wrong = set
        .replace("'16MiB'", "'1MiB'")
        .replace("s3_concurrency = 4", "s3_concurrency = 65");
    let mistakes = mistakes(parse_toml(&format!("{ON_S3}{wrong}"))).join("\n");
    assert!(mistakes.contains("s3_part_size: "), "{mistakes}");
    assert!(
        mistakes.contains("is no whole number from 1 to 64"),
        "{mistakes}"
    );
}

#[test]
fn replicas_with_google_and_azure_are_read_with_all_their_settings() {
    let text = r#"
[[replicas]]
name = 'google'
type = 'gs'
gs_bucket = 'bucket'
gs_path = 'app/db'
gs_endpoint = 'http://127.0.0.1:4443'
gs_credentials = '{"type": "service_account"}'
[[replicas]]
name = 'azure'
type = 'abs'
abs_container = 'box'
abs_path = '/app/db/'
abs_account = 'account'
abs_account_key = 'a2V5'
abs_sas_token = 'sv=1'
abs_endpoint = 'http://127.0.0.1:10000/account'
"#;
    let options = parse_toml(text).unwrap();
    let mut google = GcsOptions::new("bucket", "app/db");
    google.endpoint = Some("http://127.0.0.1:4443".into());
    google.credentials = Some(Secret::new("{\"type\": \"service_account\"}"));
    let mut azure = AzureOptions::new("box", "app/db");
    azure.account = Some("account".into());
    azure.account_key = Some(Secret::new("a2V5"));
    azure.sas_token = Some(Secret::new("sv=1"));
    azure.endpoint = Some("http://127.0.0.1:10000/account".into());
    let destinations = options
        .replicas
        .into_iter()
        .map(|replica| replica.destination);
    let expected = [Destination::Gcs(google), Destination::Azure(azure)];
    assert_eq!(destinations.collect::<Vec<_>>(), expected);

    let wrong = text
        .replace("abs_container", "abs_bucket")
        .replace("gs_path", "abs_path");
    let mistakes = mistakes(parse_toml(&wrong)).join("\n");
    for expected in [
        "replicas[0].abs_path: is a key of replicas of type \"abs\"",
        "replicas[1].abs_container: is missing: give the name of the container",
        "replicas[1].abs_bucket: unknown key",
    ] {
        assert!(mistakes.contains(expected), "{mistakes}");
    }
}

#[test]
fn a_replica_on_a_share_is_read_with_all_its_settings() {
    let text = "[[replicas]]\nname = 'share'\ntype = 'webdav'\nwebdav_url = 'https://host/dav/'\n\
                webdav_path = '/app/db'\nwebdav_username = 'me'\nwebdav_password = 'secret'\n";
    let options = parse_toml(text).unwrap();
    let mut share = WebdavOptions::new("https://host/dav", "app/db").unwrap();
    share.username = Some("me".into());
    share.password = Some(Secret::new("secret"));
    assert_eq!(options.replicas[0].destination, Destination::Webdav(share));
    assert_mistake(
        parse_toml(&text.replace("https:", "ftp:")),
        "line 4: replicas[0].webdav_url: `…` is not a replica URL: expected `https://host/folder`",
    );
    let wrong = mistakes(parse_toml(&text.replace("webdav_url", "webdav_uri")));
    assert!(
        wrong[0].contains("webdav_url: is missing: give the URL of the share"),
        "{wrong:?}"
    );
}

#[test]
fn a_replica_on_a_server_with_ssh_is_read_with_all_its_settings() {
    let text = "[[replicas]]\nname = 'server'\ntype = 'sftp'\nsftp_host = 'host:2222'\n\
                sftp_path = '/app/db'\nsftp_user = 'me'\nsftp_password = 'secret'\n\
                sftp_private_key = 'key'\nsftp_key_path = '/k'\nsftp_key_passphrase = 'phrase'\n\
                sftp_host_key = 'ssh-ed25519 AAAA'\nsftp_known_hosts = '/h'\n\
                sftp_conditional_writes = false\n";
    let options = parse_toml(text).unwrap();
    let mut server = SftpOptions::new("host:2222", "/app/db").unwrap();
    server.user = Some("me".into());
    server.password = Some(Secret::new("secret"));
    server.private_key = Some(Secret::new("key"));
    server.key_path = Some("/k".into());
    server.key_passphrase = Some(Secret::new("phrase"));
    server.host_key = Some("ssh-ed25519 AAAA".into());
    server.known_hosts = Some("/h".into());
    server.conditional_writes = false;
    assert_eq!(options.replicas[0].destination, Destination::Sftp(server));
    for (wrong, said) in [
        (text.replace("'/app/db'", "'/'"), "it has no path"),
        (text.replace("host:2222", "host:port"), "port is no number"),
        (
            text.replace("= false", "= 'no'"),
            "true or false is expected",
        ),
    ] {
        let mistakes = mistakes(parse_toml(&wrong));
        assert!(mistakes.join("\n").contains(said), "{mistakes:?}");
    }
}

#[test]
fn a_replica_in_alibabas_oss_is_read_with_all_its_settings() {
    let text = "[[replicas]]\nname = 'it'\ntype = 'oss'\noss_bucket = 'backup'\noss_path = '/app/db/'\n\
                oss_region = 'eu-central-1'\noss_endpoint = 'host:8080'\noss_access_key_id = 'id'\n\
                oss_access_key_secret = 'secret'\noss_conditional_writes = false\n\
                oss_security_token = 'token'\noss_part_size = '16MiB'\noss_concurrency = 3\n";
    let options = parse_toml(text).unwrap();
    let mut bucket = OssOptions::new("backup", "app/db").unwrap();
    bucket.region = Some("eu-central-1".into());
    bucket.endpoint = Some("host:8080".into());
    bucket.access_key_id = Some(Secret::new("id"));
    bucket.access_key_secret = Some(Secret::new("secret"));
    bucket.conditional_writes = false;
    bucket.security_token = Some(Secret::new("token"));
    bucket.part_size = Some(16 << 20);
    bucket.concurrency = Some(3);
    assert_eq!(options.replicas[0].destination, Destination::Oss(bucket));
    for (wrong, said) in [
        (
            text.replace("'backup'", "''"),
            "give the name of the bucket",
        ),
        (text.replace("'backup'", "'Backup'"), "lower-case letters"),
        (
            text.replace("'id'", "''"),
            "oss_access_key_id: is missing: both",
        ),
        (
            text.replace("'secret'", "''"),
            "oss_access_key_secret: is missing: both",
        ),
        (text.replace("16MiB", "1MiB"), "oss_part_size"),
        (
            text.replace("oss_concurrency = 3", "oss_concurrency = 65"),
            "oss_concurrency: is no whole number from 1 to 64",
        ),
    ] {
        let mistakes = mistakes(parse_toml(&wrong));
        assert!(mistakes.join("\n").contains(said), "{mistakes:?}");
    }
}

#[test]
fn a_replica_in_an_object_store_of_nats_is_read_with_all_its_settings() {
    let text = "[[replicas]]\nname = 'it'\ntype = 'nats'\nnats_host = 'host:4223'\n\
                nats_bucket = 'backup'\nnats_path = '/app/db/'\nnats_username = 'me'\n\
                nats_password = 'secret'\nnats_token = 'token'\nnats_credentials_path = '/c'\n\
                nats_jwt = 'jwt'\nnats_seed = 'seed'\nnats_tls = true\n";
    let options = parse_toml(text).unwrap();
    let mut bucket = NatsOptions::new("host:4223", "backup", "app/db").unwrap();
    bucket.username = Some("me".into());
    bucket.password = Some(Secret::new("secret"));
    bucket.token = Some(Secret::new("token"));
    bucket.credentials_path = Some("/c".into());
    bucket.jwt = Some(Secret::new("jwt"));
    bucket.seed = Some(Secret::new("seed"));
    bucket.tls = true;
    assert_eq!(options.replicas[0].destination, Destination::Nats(bucket));
    for (wrong, said) in [
        (
            text.replace("'backup'", "''"),
            "give the name of the object store",
        ),
        (
            text.replace("'backup'", "'a/b'"),
            "its bucket has other characters",
        ),
        (text.replace("host:4223", "host:port"), "port is no number"),
        (
            text.replace("= true", "= 'no'"),
            "true or false is expected",
        ),
    ] {
        let mistakes = mistakes(parse_toml(&wrong));
        assert!(mistakes.join("\n").contains(said), "{mistakes:?}");
    }
}

#[test]
fn the_mistakes_of_a_replica_on_s3_are_found() {
    let text = ON_S3
        .replace("s3_bucket", "s3_bucked")
        .replace("false", "'false'")
        .replace("s3_access_key_id", "# ");
    let mistakes = mistakes(parse_toml(&text));
    assert_eq!(mistakes.len(), 4, "{mistakes:#?}");
    let starts = [
        "line 2: replicas[0].s3_access_key_id: is missing: both keys are needed, or neither",
        "line 2: replicas[0].s3_bucket: is missing",
        "line 11: replicas[0].s3_bucked: unknown key; did you mean `s3_bucket`?",
        "line 15: replicas[0].s3_force_path_style: true or false is expected here, not text",
    ];
    for (mistake, start) in mistakes.iter().zip(starts) {
        assert!(mistake.starts_with(start), "{mistake}");
    }
}
