//! Replicas in stores that are named by a few texts, in both languages.

use evertide_storage::{Destination, Error, Secret};

use super::{
    error::{Mistake, Place},
    parts,
    replica::{self, ReplicaType},
    section::{Report, Section, Text},
};

/// In which language settings are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Toml,
    Litestream,
}

/// A key in both languages; empty in one that has none.
#[derive(Clone, Copy)]
struct Key {
    toml: &'static str,
    litestream: &'static str,
}

impl Key {
    fn of(&self, language: Language) -> &'static str {
        match language {
            Language::Toml => self.toml,
            Language::Litestream => self.litestream,
        }
    }
}

const fn key(toml: &'static str, litestream: &'static str) -> Key {
    Key { toml, litestream }
}

/// How the replicas of a store are set.
pub(super) struct Store {
    pub(super) kind: ReplicaType,
    /// The bucket, or whatever it is called there.
    name: Key,
    missing: &'static str,
    path: Key,
    others: &'static [(Setting, Key)],
    /// What is true or false there.
    flag: Key,
    /// The size of parts of an upload, and how many are under way at a time.
    parts: Option<[Key; 2]>,
    /// Those that are needed together: identity and key.
    pair: Option<[Key; 2]>,
    /// All keys of the TOML.
    pub(super) toml_keys: &'static [&'static str],
}

/// What else may be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Setting {
    Account,
    Credentials,
    CredentialsPath,
    Endpoint,
    HostKey,
    Jwt,
    Key,
    KeyId,
    KeyPath,
    KnownHosts,
    Passphrase,
    Password,
    Region,
    Seed,
    Token,
    User,
}

const OSS_KEY: [Key; 2] = [
    key("oss_access_key_id", "access-key-id"),
    key("oss_access_key_secret", "secret-access-key"),
];

const OSS_PARTS: [Key; 2] = [
    key("oss_part_size", "part-size"),
    key("oss_concurrency", "concurrency"),
];

/// Every store that is set in this way.
pub(super) const STORES: [Store; 6] = [
    Store {
        kind: ReplicaType::GCS,
        name: key("gs_bucket", "bucket"),
        missing: "give the name of the bucket",
        path: key("gs_path", "path"),
        others: &[
            (Setting::Credentials, key("gs_credentials", "")),
            (Setting::Endpoint, key("gs_endpoint", "")),
        ],
        flag: key("", ""),
        parts: None,
        pair: None,
        toml_keys: &["gs_bucket", "gs_path", "gs_credentials", "gs_endpoint"],
    },
    Store {
        kind: ReplicaType::AZURE,
        name: key("abs_container", "bucket"),
        missing: "give the name of the container",
        path: key("abs_path", "path"),
        others: &[
            (Setting::Account, key("abs_account", "account-name")),
            (Setting::Key, key("abs_account_key", "account-key")),
            (Setting::Token, key("abs_sas_token", "sas-token")),
            (Setting::Endpoint, key("abs_endpoint", "endpoint")),
        ],
        flag: key("", ""),
        parts: None,
        pair: None,
        toml_keys: &[
            "abs_container",
            "abs_path",
            "abs_account",
            "abs_account_key",
            "abs_sas_token",
            "abs_endpoint",
        ],
    },
    Store {
        kind: ReplicaType::WEBDAV,
        name: key("webdav_url", "webdav-url"),
        missing: "give the URL of the share, such as \"https://host/folder\"",
        path: key("webdav_path", "path"),
        others: &[
            (Setting::User, key("webdav_username", "webdav-username")),
            (Setting::Password, key("webdav_password", "webdav-password")),
        ],
        flag: key("", ""),
        parts: None,
        pair: None,
        toml_keys: &[
            "webdav_url",
            "webdav_path",
            "webdav_username",
            "webdav_password",
        ],
    },
    Store {
        kind: ReplicaType::SFTP,
        name: key("sftp_host", "host"),
        missing: "give the name of the server",
        path: key("sftp_path", "path"),
        others: &[
            (Setting::User, key("sftp_user", "user")),
            (Setting::Password, key("sftp_password", "password")),
            (Setting::Key, key("sftp_private_key", "")),
            (Setting::KeyPath, key("sftp_key_path", "key-path")),
            (Setting::Passphrase, key("sftp_key_passphrase", "")),
            (Setting::HostKey, key("sftp_host_key", "host-key")),
            (Setting::KnownHosts, key("sftp_known_hosts", "")),
        ],
        flag: key("sftp_conditional_writes", "conditional-writes"),
        parts: None,
        pair: None,
        toml_keys: &[
            "sftp_host",
            "sftp_path",
            "sftp_user",
            "sftp_password",
            "sftp_private_key",
            "sftp_key_path",
            "sftp_key_passphrase",
            "sftp_host_key",
            "sftp_known_hosts",
            "sftp_conditional_writes",
        ],
    },
    Store {
        kind: ReplicaType::NATS,
        name: key("nats_bucket", "bucket"),
        missing: "give the name of the object store",
        // Litestream writes at the root of a bucket, whatever its `path` says.
        path: key("nats_path", ""),
        others: &[
            (Setting::Endpoint, key("nats_host", "")),
            (Setting::User, key("nats_username", "username")),
            (Setting::Password, key("nats_password", "password")),
            (Setting::Token, key("nats_token", "token")),
            (
                Setting::CredentialsPath,
                key("nats_credentials_path", "creds"),
            ),
            (Setting::Jwt, key("nats_jwt", "jwt")),
            (Setting::Seed, key("nats_seed", "seed")),
        ],
        flag: key("nats_tls", "tls"),
        parts: None,
        pair: None,
        toml_keys: &[
            "nats_host",
            "nats_bucket",
            "nats_path",
            "nats_username",
            "nats_password",
            "nats_token",
            "nats_credentials_path",
            "nats_jwt",
            "nats_seed",
            "nats_tls",
        ],
    },
    Store {
        kind: ReplicaType::OSS,
        name: key("oss_bucket", "bucket"),
        missing: "give the name of the bucket",
        path: key("oss_path", "path"),
        others: &[
            (Setting::Region, key("oss_region", "region")),
            (Setting::Endpoint, key("oss_endpoint", "endpoint")),
            (Setting::KeyId, OSS_KEY[0]),
            (Setting::Key, OSS_KEY[1]),
            (Setting::Token, key("oss_security_token", "")),
        ],
        flag: key("oss_conditional_writes", ""),
        parts: Some(OSS_PARTS),
        pair: Some(OSS_KEY),
        toml_keys: &[
            "oss_bucket",
            "oss_path",
            "oss_region",
            "oss_endpoint",
            "oss_access_key_id",
            "oss_access_key_secret",
            "oss_security_token",
            "oss_part_size",
            "oss_concurrency",
            "oss_conditional_writes",
        ],
    },
];

/// The store of this type, where it is set in this way.
pub(super) fn of(kind: ReplicaType) -> Option<&'static Store> {
    const ALL: &[Store] = &STORES;
    ALL.iter().find(|store| store.kind == kind)
}

impl Store {
    /// Whether a key of Litestream's means something here.
    pub(super) fn reads(&self, key: &str) -> bool {
        let others = self.others.iter().map(|(_, other)| other);
        [&self.name, &self.path, &self.flag]
            .into_iter()
            .chain(others)
            .chain(self.parts.iter().flatten())
            .any(|known| known.litestream == key)
    }

    /// Reads the settings: by name, or in Litestream's language also by URL. Read in builds without a
    /// client as well: whoever has such a configuration learns of all its mistakes at once.
    pub(super) fn read(
        &self,
        report: &mut Report,
        section: &Section<'_>,
        language: Language,
    ) -> Option<(Destination, Place)> {
        let mut given = Vec::new();
        for (setting, key) in self.others {
            let field = section.get(key.of(language));
            if let Some(field) = field.filter(|field| !field.is_empty()) {
                given.extend(field.text(report).map(|text| (*setting, text)));
            }
        }
        let flag = section.get(self.flag.of(language));
        let flag = flag.and_then(|field| field.boolean(report));
        let parts = self.parts(report, section, language);
        self.check_pair(report, section, language);
        let host = given
            .iter()
            .find(|(setting, _)| *setting == Setting::Endpoint);
        let host = host.map(|(_, text)| text.value);
        let (destination, place) = self.place(report, section, language, host)?;
        Some((completed(destination, &given, flag, parts), place))
    }

    /// How uploads are made in parts: of which size, and how many at a time.
    fn parts(
        &self,
        report: &mut Report,
        section: &Section<'_>,
        language: Language,
    ) -> (Option<u64>, Option<usize>) {
        let Some(keys) = self.parts else {
            return (None, None);
        };
        let [size, at_a_time] = keys.map(|key| key.of(language));
        let field = |key| section.get(key).filter(|field| !field.is_empty());
        (
            field(size).and_then(|field| parts::size(report, section, size, &field)),
            field(at_a_time).and_then(|field| parts::at_a_time(report, &field)),
        )
    }

    /// Reports an identity without its key, and the other way round.
    fn check_pair(&self, report: &mut Report, section: &Section<'_>, language: Language) {
        let Some(pair) = self.pair else { return };
        let pair = pair.map(|key| key.of(language));
        let given = pair.map(|key| section.get(key).is_some_and(|field| !field.is_empty()));
        let missing = match given {
            [true, false] => pair[1],
            [false, true] => pair[0],
            _ => return,
        };
        report.missing(section, missing, "both keys are needed, or neither");
    }

    /// Where it is, without what else is set.
    fn place(
        &self,
        report: &mut Report,
        section: &Section<'_>,
        language: Language,
        host: Option<&str>,
    ) -> Option<(Destination, Place)> {
        let [name, path] = [&self.name, &self.path].map(|key| key.of(language));
        let unread = section.get("path").filter(|field| !field.is_empty());
        if let Some(unread) = unread.filter(|_| language == Language::Litestream && path.is_empty())
        {
            let hint = "Litestream takes no notice of it either in such a replica; remove it";
            report.add(&unread.place, Mistake::OfLitestreamOnly(hint));
        }
        let url = section.get("url").filter(|field| !field.is_empty());
        if let Some(url) = url.filter(|_| language == Language::Litestream) {
            let given = |key| section.get(key).filter(|field| !field.is_empty());
            let mut url = url.text(report)?;
            let whole;
            match given(name).or_else(|| given(path)) {
                // Its URL may name the server alone.
                Some(bucket) if self.kind == ReplicaType::NATS && names_no_path(url.value) => {
                    let bucket = bucket.text(report)?.value;
                    whole = format!("{}/{bucket}", url.value.trim_end_matches('/'));
                    url.value = &whole;
                }
                Some(both) => {
                    report.add(&both.place, Mistake::Together("url"));
                    return None;
                }
                None => {}
            }
            let destination = replica::url_destination(report, &url)?;
            return Some((destination, url.place));
        }
        let name = section.required(report, name, self.missing);
        let path = section.get(path).filter(|field| !field.is_empty());
        let path = path.map(|field| field.text(report).map(|text| text.value));
        let name = name?;
        let path = path.map_or(Some(""), |path| path)?;
        let named = named(self.kind, name.value, path, host)?;
        Some((replica::destination(report, &name, named)?, name.place))
    }
}

/// Whether a URL has nothing but a server.
fn names_no_path(url: &str) -> bool {
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    !rest.trim_end_matches('/').contains(['/', '?'])
}

/// The replica at a place, where this build has a client for it.
#[allow(unused_variables, unreachable_patterns)] // in builds without any
fn named(
    kind: ReplicaType,
    name: &str,
    path: &str,
    host: Option<&str>,
) -> Option<Result<Destination, Error>> {
    match kind {
        #[cfg(feature = "gcs")]
        ReplicaType::GCS => {
            let options = evertide_storage::GcsOptions::new(name, path);
            Some(Ok(Destination::Gcs(options)))
        }
        #[cfg(feature = "azure")]
        ReplicaType::AZURE => {
            let options = evertide_storage::AzureOptions::new(name, path);
            Some(Ok(Destination::Azure(options)))
        }
        #[cfg(feature = "webdav")]
        ReplicaType::WEBDAV => {
            let options = evertide_storage::WebdavOptions::new(name, path);
            Some(options.map(Destination::Webdav))
        }
        #[cfg(feature = "sftp")]
        ReplicaType::SFTP => {
            let options = evertide_storage::SftpOptions::new(name, path);
            Some(options.map(Destination::Sftp))
        }
        #[cfg(feature = "nats")]
        ReplicaType::NATS => {
            let host = host.unwrap_or("127.0.0.1");
            let options = evertide_storage::NatsOptions::new(host, name, path);
            Some(options.map(Destination::Nats))
        }
        #[cfg(feature = "oss")]
        ReplicaType::OSS => {
            let options = evertide_storage::OssOptions::new(name, path);
            Some(options.map(Destination::Oss))
        }
        _ => None,
    }
}

/// The replica, with what is set beside its place.
#[allow(unused_variables, unused_mut)] // in builds without any
fn completed(
    mut destination: Destination,
    given: &[(Setting, Text<'_>)],
    flag: Option<bool>,
    (part_size, concurrency): (Option<u64>, Option<usize>),
) -> Destination {
    let text = |wanted: Setting| {
        let mut given = given.iter();
        let found = given.find(|(setting, _)| *setting == wanted);
        found.map(|(_, text)| text.value.to_owned())
    };
    let secret = |wanted| text(wanted).map(Secret::new);
    match &mut destination {
        #[cfg(feature = "gcs")]
        Destination::Gcs(options) => {
            options.credentials = secret(Setting::Credentials);
            options.endpoint = text(Setting::Endpoint).or(options.endpoint.take());
        }
        #[cfg(feature = "azure")]
        Destination::Azure(options) => {
            options.account = text(Setting::Account).or(options.account.take());
            options.account_key = secret(Setting::Key);
            options.sas_token = secret(Setting::Token);
            options.endpoint = text(Setting::Endpoint).or(options.endpoint.take());
        }
        #[cfg(feature = "webdav")]
        Destination::Webdav(options) => {
            options.username = text(Setting::User).or(options.username.take());
            options.password = secret(Setting::Password);
        }
        #[cfg(feature = "sftp")]
        Destination::Sftp(options) => {
            let path = |wanted| text(wanted).map(std::path::PathBuf::from);
            options.user = text(Setting::User).or(options.user.take());
            options.password = secret(Setting::Password);
            options.private_key = secret(Setting::Key);
            options.key_path = path(Setting::KeyPath).or(options.key_path.take());
            options.key_passphrase = secret(Setting::Passphrase);
            options.host_key = text(Setting::HostKey).or(options.host_key.take());
            options.known_hosts = path(Setting::KnownHosts).or(options.known_hosts.take());
            options.conditional_writes &= flag.unwrap_or(true);
        }
        #[cfg(feature = "nats")]
        Destination::Nats(options) => {
            let file = text(Setting::CredentialsPath).map(std::path::PathBuf::from);
            options.credentials_path = file.or(options.credentials_path.take());
            options.username = text(Setting::User).or(options.username.take());
            options.password = secret(Setting::Password);
            options.token = secret(Setting::Token);
            options.jwt = secret(Setting::Jwt);
            options.seed = secret(Setting::Seed);
            options.tls |= flag.unwrap_or(false);
        }
        #[cfg(feature = "oss")]
        Destination::Oss(options) => {
            options.region = text(Setting::Region).or(options.region.take());
            options.endpoint = text(Setting::Endpoint).or(options.endpoint.take());
            options.access_key_id = secret(Setting::KeyId);
            options.access_key_secret = secret(Setting::Key);
            options.security_token = secret(Setting::Token);
            options.part_size = part_size.or(options.part_size);
            options.concurrency = concurrency.or(options.concurrency);
            options.conditional_writes &= flag.unwrap_or(true);
        }
        _ => {}
    }
    destination
}

/// The replica, with the access key of all those that have none of their own.
#[allow(unused_variables, unused_mut)] // in builds without any that has one
pub(super) fn with_key(mut destination: Destination, key: &[Option<Secret>; 2]) -> Destination {
    #[cfg(feature = "oss")]
    if let Destination::Oss(options) = &mut destination
        && options.access_key_id.is_none()
    {
        [options.access_key_id, options.access_key_secret] = key.clone();
    }
    destination
}
