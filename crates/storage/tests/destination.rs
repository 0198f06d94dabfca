//! Replica URLs: what is accepted, what is refused and how, and that no secret is printed.
#![allow(clippy::unwrap_used)] // a test

use std::path::Path;

use evertide_storage::{Destination, Error, FileOptions, S3Options, WebdavOptions};

fn file(path: impl AsRef<Path>) -> Destination {
    Destination::File(FileOptions {
        path: path.as_ref().to_path_buf(),
    })
}

#[test]
fn a_file_url_and_a_path_name_the_same_replica() {
    let cases = [
        ("file:///srv/replica", "/srv/replica"),
        ("file:/srv/replica", "/srv/replica"),
        ("FILE:///srv/replica", "/srv/replica"),
        ("/srv/replica", "/srv/replica"),
        ("/srv//replica/./x/", "/srv/replica/x"),
        (
            "file:///srv/with space/100%/%20/#1",
            "/srv/with space/100%/%20/#1",
        ),
        ("/srv/what?", "/srv/what?"),
        ("/srv/a:b", "/srv/a:b"),
        ("file:////srv/replica", "/srv/replica"),
    ];
    for (text, path) in cases {
        let destination = Destination::parse(text).unwrap();
        assert_eq!(destination, file(path), "{text}");
        // What is printed can be given back.
        assert_eq!(
            Destination::parse(&destination.to_string()).unwrap(),
            destination,
            "{text}"
        );
    }
}

#[test]
fn a_relative_path_starts_at_the_working_directory() {
    let here = std::env::current_dir().unwrap();
    for (text, path) in [("replica", "replica"), ("./a/b", "a/b"), ("a:b/c", "a:b/c")] {
        assert_eq!(
            Destination::parse(text).unwrap(),
            file(here.join(path)),
            "{text}"
        );
    }
}

#[test]
fn a_bucket_and_what_is_said_about_it_survive_their_url() {
    let urls = [
        "s3://bucket",
        "s3://bucket/with%20space/100%25/büro",
        "s3://bucket/path?endpoint=http://127.0.0.1:9000&region=eu-1&forcePathStyle=true",
        "S3://bucket/path/?forcePathStyle=false&conditionalWrites=false",
        "s3://bucket/path?profile=backup&sign-payload=false&require-content-md5=false\
         &storage-class=STANDARD_IA&part-size=8388608&concurrency=2&sse-kms-key-id=alias/a%26b",
    ];
    for url in urls {
        let destination = Destination::parse(url).unwrap();
        let Destination::S3(bucket) = &destination else {
            panic!("{destination:?}")
        };
        assert_eq!(bucket.bucket, "bucket");
        let again = Destination::parse(&destination.to_string()).unwrap();
        assert_eq!(destination, again, "{destination}");
    }
}

#[test]
fn all_that_a_url_says_about_a_bucket_is_read() {
    let url = "s3://bucket/path?endpoint=http://127.0.0.1:9000&region=eu-1&profile=backup\
               &forcePathStyle=true&conditionalWrites=false&signPayload=false\
               &requireContentMD5=true&storageClass=STANDARD_IA&partSize=8388608&concurrency=2\
               &sseKmsKeyId=alias/a%26b&sseCustomerKeyPath=/etc/key&skipVerify=true";
    let mut expected = S3Options::new("bucket", "path");
    expected.endpoint = Some("http://127.0.0.1:9000".into());
    expected.region = Some("eu-1".into());
    expected.profile = Some("backup".into());
    expected.force_path_style = Some(true);
    expected.conditional_writes = Some(false);
    expected.sign_payload = Some(false);
    expected.content_md5 = Some(true);
    expected.storage_class = Some("STANDARD_IA".into());
    expected.part_size = Some(8_388_608);
    expected.concurrency = Some(2);
    expected.sse_kms_key_id = Some("alias/a&b".into());
    expected.sse_customer_key_path = Some("/etc/key".into());
    expected.skip_verify = Some(true);
    let expected = Destination::S3(expected);
    assert_eq!(Destination::parse(url).unwrap(), expected);
    assert_eq!(expected.to_string(), url);
    // As Litestream has them.
    let names = [
        ("forcePathStyle", "force-path-style"),
        ("signPayload", "sign-payload"),
        ("requireContentMD5", "require-content-md5"),
        ("storageClass", "storage-class"),
        ("partSize", "part-size"),
        ("sseKmsKeyId", "sse-kms-key-id"),
        ("sseCustomerKeyPath", "sse-customer-key-path"),
        ("skipVerify", "skip-verify"),
    ];
    let url = names.iter().fold(url.to_owned(), |url, (ours, theirs)| {
        url.replace(ours, theirs)
    });
    assert_eq!(Destination::parse(&url).unwrap(), expected);
}

#[test]
fn what_a_url_says_survives_it_whatever_the_store() {
    let urls = [
        "gs://bucket",
        "gs://bucket/with%20space/100%25/b%C3%BCro",
        "gs://bucket/path?endpoint=http://127.0.0.1:4443",
        "abs://account@container/with%20space/100%25/b%C3%BCro",
        "abs://container/path",
        "abs://account@container?endpoint=http://127.0.0.1:10000/account",
        "webdav://host",
        "webdavs://me%40work@host:8443/with%20space/100%25/b%C3%BCro/a%40b",
        "webdav://[::1]:8080/path",
        "sftp://user@host/path",
        "sftp://host:2222/with%20space/b%C3%BCro/a%40b",
        "oss://bucket",
        "oss://bucket/with%20space/b%C3%BCro?region=eu-1&endpoint=http://127.0.0.1:8080&conditionalWrites=false",
        "nats://host/bucket",
        "nats://me%40work@[::1]:4223/bucket/with%20space/b%C3%BCro?creds=/c&tls=true",
        "sftp://user@host/~/below/home?key-path=/k&known-hosts=/h&conditionalWrites=false",
    ];
    for url in urls {
        let destination = Destination::parse(url).unwrap();
        assert_eq!(destination.to_string(), url);
    }
    let Destination::Gcs(gcs) = Destination::parse("GS://bucket//a%20b/").unwrap() else {
        panic!("another type")
    };
    assert_eq!((gcs.bucket.as_str(), gcs.path.as_str()), ("bucket", "a b"));
    let Destination::Azure(azure) = Destination::parse("abs://account@box/a%20b/").unwrap() else {
        panic!("another type")
    };
    assert_eq!(azure.account.as_deref(), Some("account"));
    assert_eq!(
        (azure.container.as_str(), azure.path.as_str()),
        ("box", "a b")
    );
}

#[test]
fn a_share_may_be_given_by_its_own_url_and_a_path_below() {
    let cases = [
        ("http://host", "/a/", "webdav://host/a"),
        ("HTTPS://host/dav/", "a/b", "webdavs://host/dav/a/b"),
        (
            "https://me@host:444/d%20v",
            "",
            "webdavs://me@host:444/d%20v",
        ),
    ];
    for (url, path, expected) in cases {
        let options = WebdavOptions::new(url, path).unwrap();
        assert_eq!(options.to_string(), expected);
    }
    for url in [
        "host/dav",
        "ftp://host",
        "https://me:hunter2@host",
        "https://host?key=hunter2",
    ] {
        let error = WebdavOptions::new(url, "").unwrap_err();
        assert!(matches!(error, Error::BadUrl { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[test]
fn a_mistake_is_explained_with_what_was_expected() {
    let cases = [
        ("", "empty"),
        ("/", "root of the file system"),
        ("//.", "root of the file system"),
        ("file://", "no path"),
        ("file:///", "no path"),
        ("file:", "no path"),
        ("file://srv/replica", "three slashes"),
        ("file:srv/replica", "three slashes"),
        ("file:///srv/replica?x=y", "no parameters"),
        ("http://host/path", "unknown scheme `http`"),
        ("s3:bucket/path", "two slashes"),
        ("s3://", "no bucket"),
        ("s3:///path", "no bucket"),
        ("s3://key:secret@bucket/path", "do not belong into a URL"),
        ("s3://bucket/path?colour=blue", "unknown parameter `colour`"),
        ("s3://bucket/path?forcePathStyle=maybe", "`true` or `false`"),
        ("gs:bucket/path", "two slashes"),
        ("gs:///path", "no bucket"),
        ("gs://key:secret@bucket/path", "do not belong into a URL"),
        ("gs://bucket?colour=blue", "unknown parameter `colour`"),
        ("abs://account@/path", "no container"),
        ("abs://@container/path", "no account"),
        (
            "abs://account:key@container/path",
            "do not belong into a URL",
        ),
        ("abs://container?colour=blue", "unknown parameter `colour`"),
        ("webdav:host/path", "two slashes"),
        ("webdav:///path", "no host"),
        ("webdavs://@host/path", "no user"),
        (
            "webdav://user:password@host/path",
            "does not belong into a URL",
        ),
        (
            "webdav://user:pass/word@host/path",
            "does not belong into a URL",
        ),
        ("webdav://host:port/path", "port is no number"),
        ("webdav://host:0/path", "port is no number"),
        ("webdav://ho st/path", "no name or address"),
        ("webdav://host/path?colour=blue", "no parameters"),
        ("sftp:host/path", "two slashes"),
        ("sftp://user@host", "no path"),
        ("sftp://user@host/", "no path"),
        (
            "sftp://user:password@host/path",
            "does not belong into a URL",
        ),
        (
            "sftp://user@host/path?colour=blue",
            "unknown parameter `colour`",
        ),
        ("ftp://host", "unknown scheme `ftp`"),
    ];
    for (text, reason) in cases {
        let error = Destination::parse(text).unwrap_err();
        assert!(matches!(error, Error::BadUrl { .. }), "{text}: {error:?}");
        assert!(error.to_string().contains(reason), "{text}: {error}");
    }
}

#[test]
fn no_secret_of_a_refused_url_is_printed() {
    let urls = [
        "s3://AKID:hunter2@bucket/path?secretAccessKey=hunter2",
        "gs://hunter2:hunter2@bucket/path?key=hunter2",
        "abs://account:hunter2@container/path?sig=hunter2",
        "abs://account:hunter2/with-slash@container/path",
        "abs://container/path?sig=hunter2",
        "sftp://user:hunter2@host/path#hunter2",
        "sftp://user:hunter2/with-slash@host/path",
        "webdav://user:p@hunter2@host/path?token=hunter2",
        "webdav://user:1/hunter2@host/path",
        "webdavs://user:hunter2/@host/path",
        "https://hunter2@host/path",
        "s3:hunter2@host",
    ];
    for url in urls {
        let error = Destination::parse(url).unwrap_err();
        let printed = format!("{error} {error:?}");
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}
