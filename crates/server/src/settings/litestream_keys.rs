//! Keys of Litestream's: those that Evertide does not have, and those that only some replicas have.

/// Settings of Litestream's that have no counterpart here, and what to do instead.
pub(super) const LITESTREAM_ONLY: [(&str, &str); 24] = [
    (
        "addr",
        "`evertide replicate` serves no metrics, a program with `evertide-server` does; remove it",
    ),
    (
        "auto-recover",
        "Evertide repairs its local state by itself; remove it",
    ),
    (
        "age",
        "replicas are not encrypted by Evertide (nor by Litestream 0.5); remove it",
    ),
    ("busy-timeout", "remove it"),
    ("exec", "use `--exec`"),
    ("heartbeat-interval", "remove it"),
    ("heartbeat-url", "remove it"),
    ("l0-retention-check-interval", "remove it"),
    ("max-checkpoint-page-count", "use `checkpoint-interval`"),
    ("logging", "use `--log-level` and `--log-format`"),
    ("max-sync-ltx-files", "remove it"),
    ("max-sync-wal-bytes", "remove it"),
    ("mcp-addr", "remove it"),
    (
        "meta-dir",
        "the local state is always beside the database; remove it",
    ),
    (
        "meta-path",
        "the local state is always beside the database; remove it",
    ),
    ("min-checkpoint-page-count", "use `checkpoint-interval`"),
    (
        "restore-if-db-not-exists",
        "use `--restore-if-db-not-exists`",
    ),
    ("shutdown-sync-interval", "remove it"),
    ("shutdown-sync-timeout", "remove it"),
    ("socket", "remove it"),
    ("truncate-page-n", "use `checkpoint-interval`"),
    ("validation", "use `drill-interval` in the replica"),
    ("validation-interval", "use `drill-interval` in the replica"),
    ("verify-compaction", "remove it"),
];

/// Keys that only some types of replica have, for all of Litestream's types that need any.
pub(super) const OF_TYPE: [(&str, &[&str]); 7] = [
    (
        "s3",
        &[
            "access-key-id",
            "secret-access-key",
            "region",
            "bucket",
            "endpoint",
            "force-path-style",
            "conditional-writes",
            "profile",
            "sign-payload",
            "require-content-md5",
            "skip-verify",
            "storage-class",
            "part-size",
            "concurrency",
            "sse-customer-algorithm",
            "sse-customer-key",
            "sse-customer-key-path",
            "sse-kms-key-id",
        ],
    ),
    ("gs", &["bucket"]),
    (
        "abs",
        &[
            "account-name",
            "account-key",
            "sas-token",
            "bucket",
            "endpoint",
        ],
    ),
    (
        "sftp",
        &[
            "host",
            "user",
            "password",
            "key-path",
            "concurrent-writes",
            "conditional-writes",
            "host-key",
        ],
    ),
    (
        "webdav",
        &["webdav-url", "webdav-username", "webdav-password"],
    ),
    (
        "nats",
        &[
            "jwt",
            "seed",
            "creds",
            "nkey",
            "username",
            "token",
            "password",
            "tls",
            "root-cas",
            "client-cert",
            "client-key",
            "max-reconnects",
            "reconnect-wait",
            "timeout",
            "bucket",
        ],
    ),
    (
        "oss",
        &[
            "access-key-id",
            "secret-access-key",
            "region",
            "bucket",
            "endpoint",
            "part-size",
            "concurrency",
        ],
    ),
];
