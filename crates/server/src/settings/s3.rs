//! Replicas in S3, in both languages.

use std::path::PathBuf;

use evertide_storage::{Destination, Secret};

use super::{
    error::{Mistake, Place},
    parts,
    replica::{self, Seen},
    section::{Field, Report, Section},
    store::Language,
};

/// What may be set beside the place of a replica.
#[derive(Clone, Copy)]
enum Setting {
    AccessKeyId,
    Concurrency,
    ConditionalWrites,
    ContentMd5,
    Endpoint,
    ForcePathStyle,
    PartSize,
    Profile,
    Region,
    SecretAccessKey,
    SignPayload,
    SkipVerify,
    SseAlgorithm,
    SseCustomerKey,
    SseCustomerKeyPath,
    SseKmsKeyId,
    StorageClass,
}

/// The keys of each setting: in TOML, which may have none, and in `litestream.yml`.
const SETTINGS: [(Setting, &str, &str); 17] = [
    (Setting::AccessKeyId, "s3_access_key_id", "access-key-id"),
    (Setting::Concurrency, "s3_concurrency", "concurrency"),
    (
        Setting::ConditionalWrites,
        "s3_conditional_writes",
        "conditional-writes",
    ),
    (
        Setting::ContentMd5,
        "s3_require_content_md5",
        "require-content-md5",
    ),
    (Setting::Endpoint, "s3_endpoint", "endpoint"),
    (
        Setting::ForcePathStyle,
        "s3_force_path_style",
        "force-path-style",
    ),
    (Setting::PartSize, "s3_part_size", "part-size"),
    (Setting::Profile, "s3_profile", "profile"),
    (Setting::Region, "s3_region", "region"),
    (
        Setting::SecretAccessKey,
        "s3_secret_access_key",
        "secret-access-key",
    ),
    (Setting::SignPayload, "s3_sign_payload", "sign-payload"),
    (Setting::SkipVerify, "s3_skip_verify", "skip-verify"),
    // There is one only.
    (Setting::SseAlgorithm, "", "sse-customer-algorithm"),
    (
        Setting::SseCustomerKey,
        "s3_sse_customer_key",
        "sse-customer-key",
    ),
    (
        Setting::SseCustomerKeyPath,
        "s3_sse_customer_key_path",
        "sse-customer-key-path",
    ),
    (Setting::SseKmsKeyId, "s3_sse_kms_key_id", "sse-kms-key-id"),
    (Setting::StorageClass, "s3_storage_class", "storage-class"),
];

/// All keys of the TOML.
pub(super) const TOML_KEYS: [&str; 18] = [
    "s3_endpoint",
    "s3_region",
    "s3_bucket",
    "s3_path",
    "s3_access_key_id",
    "s3_secret_access_key",
    "s3_profile",
    "s3_force_path_style",
    "s3_conditional_writes",
    "s3_sign_payload",
    "s3_require_content_md5",
    "s3_storage_class",
    "s3_part_size",
    "s3_concurrency",
    "s3_sse_customer_key",
    "s3_sse_customer_key_path",
    "s3_sse_kms_key_id",
    "s3_skip_verify",
];

/// Whether a key of `litestream.yml` means something here.
pub(super) fn reads(key: &str) -> bool {
    key == "bucket" || SETTINGS.iter().any(|(_, _, litestream)| *litestream == key)
}

/// Identity and secret of an access key: both, or none.
pub(super) type Credentials = [Option<Secret>; 2];

/// The access key of a replica, or, at the top of `litestream.yml`, of all those without one.
pub(super) fn credentials(
    report: &mut Report,
    section: &Section<'_>,
    language: Language,
) -> Credentials {
    let pair = match language {
        Language::Toml => ["s3_access_key_id", "s3_secret_access_key"],
        Language::Litestream => ["access-key-id", "secret-access-key"],
    };
    let fields = pair.map(|key| section.get(key).filter(|field| !field.is_empty()));
    match fields.each_ref().map(Option::is_some) {
        [true, false] => report.missing(section, pair[1], "both keys are needed, or neither"),
        [false, true] => report.missing(section, pair[0], "both keys are needed, or neither"),
        _ => {}
    }
    fields.map(|field| Some(Secret::new(field?.text(report)?.value)))
}

/// What is set beside the place of a replica. Read in builds without a client as well: whoever has such a
/// configuration learns of all its mistakes at once.
#[derive(Default)]
struct Settings {
    credentials: Credentials,
    endpoint: Option<String>,
    region: Option<String>,
    profile: Option<String>,
    force_path_style: Option<bool>,
    conditional_writes: Option<bool>,
    sign_payload: Option<bool>,
    content_md5: Option<bool>,
    storage_class: Option<String>,
    part_size: Option<u64>,
    concurrency: Option<usize>,
    sse_customer_key: Option<Secret>,
    sse_customer_key_path: Option<PathBuf>,
    sse_kms_key_id: Option<String>,
    skip_verify: Option<bool>,
}

impl Settings {
    fn read(report: &mut Report, section: &Section<'_>, language: Language) -> Self {
        let mut settings = Self {
            credentials: credentials(report, section, language),
            ..Self::default()
        };
        for (setting, toml, litestream) in SETTINGS {
            let key = match language {
                Language::Toml => toml,
                Language::Litestream => litestream,
            };
            let field = section.get(key).filter(|field| !field.is_empty());
            if let Some(field) = field {
                settings.set(report, section, (setting, key), &field);
            }
        }
        settings
    }

    fn set(
        &mut self,
        report: &mut Report,
        section: &Section<'_>,
        (setting, key): (Setting, &'static str),
        field: &Field<'_>,
    ) {
        let mut text = || Some(field.text(report)?.value.to_owned());
        match setting {
            // They are read together.
            Setting::AccessKeyId | Setting::SecretAccessKey => {}
            Setting::Endpoint => self.endpoint = text(),
            Setting::Region => self.region = text(),
            Setting::Profile => self.profile = text(),
            Setting::StorageClass => self.storage_class = text(),
            Setting::SseCustomerKey => self.sse_customer_key = text().map(Secret::new),
            Setting::SseCustomerKeyPath if self.sse_customer_key.is_some() => {
                let itself = key.trim_end_matches("path").trim_end_matches(['_', '-']);
                report.add(&field.place, Mistake::Together(itself));
            }
            Setting::SseCustomerKeyPath => self.sse_customer_key_path = text().map(PathBuf::from),
            Setting::SseKmsKeyId => self.sse_kms_key_id = text(),
            Setting::SseAlgorithm => {
                if text().is_some_and(|text| text != "AES256") {
                    let mistake = Mistake::BadDestination("is not `AES256`".to_owned());
                    report.add(&field.place, mistake);
                }
            }
            Setting::ForcePathStyle => self.force_path_style = field.boolean(report),
            Setting::ConditionalWrites => self.conditional_writes = field.boolean(report),
            Setting::SignPayload => self.sign_payload = field.boolean(report),
            Setting::SkipVerify => self.skip_verify = field.boolean(report),
            Setting::ContentMd5 => self.content_md5 = field.boolean(report),
            Setting::PartSize => self.part_size = parts::size(report, section, key, field),
            Setting::Concurrency => self.concurrency = parts::at_a_time(report, field),
        }
    }

    /// A bucket, or that of a URL, with what is set beside it.
    #[cfg(feature = "s3")]
    fn added_to(self, url: Destination) -> Option<Destination> {
        let Destination::S3(mut options) = url else {
            return None;
        };
        [options.access_key_id, options.secret_access_key] = self.credentials;
        options.endpoint = self.endpoint.or(options.endpoint);
        options.region = self.region.or(options.region);
        options.profile = self.profile.or(options.profile);
        options.force_path_style = self.force_path_style.or(options.force_path_style);
        options.conditional_writes = self.conditional_writes.or(options.conditional_writes);
        options.sign_payload = self.sign_payload.or(options.sign_payload);
        options.content_md5 = self.content_md5.or(options.content_md5);
        options.storage_class = self.storage_class.or(options.storage_class);
        options.part_size = self.part_size.or(options.part_size);
        options.concurrency = self.concurrency.or(options.concurrency);
        options.sse_customer_key = self.sse_customer_key;
        options.sse_customer_key_path =
            self.sse_customer_key_path.or(options.sse_customer_key_path);
        options.skip_verify = self.skip_verify.or(options.skip_verify);
        options.sse_kms_key_id = self.sse_kms_key_id.or(options.sse_kms_key_id);
        Some(Destination::S3(options))
    }

    #[cfg(not(feature = "s3"))]
    fn added_to(self, _url: Destination) -> Option<Destination> {
        None
    }
}

/// The bucket of a replica, where this build has a client for it.
#[cfg(feature = "s3")]
fn bucket(name: &str, path: Option<&str>) -> Option<Destination> {
    let options = evertide_storage::S3Options::new(name, path.unwrap_or_default());
    Some(Destination::S3(options))
}

#[cfg(not(feature = "s3"))]
fn bucket(_name: &str, _path: Option<&str>) -> Option<Destination> {
    None
}

/// A replica in a bucket, of which TOML has the name; and where it is named.
pub(super) fn of_toml(report: &mut Report, section: &Section<'_>) -> Option<(Destination, Place)> {
    let name = section.required(report, "s3_bucket", "give the name of the bucket");
    let path = section.get("s3_path").filter(|field| !field.is_empty());
    let path = path.and_then(|field| field.text(report));
    let settings = Settings::read(report, section, Language::Toml);
    let name = name?;
    let bucket = bucket(name.value, path.map(|path| path.value))?;
    Some((settings.added_to(bucket)?, name.place))
}

/// A bucket of `litestream.yml`: by its URL, with the rest in keys of their own, or all in keys.
pub(super) fn of_litestream(
    report: &mut Report,
    section: &Section<'_>,
    global: &Credentials,
    seen: &mut Seen,
) -> Option<Destination> {
    let mut settings = Settings::read(report, section, Language::Litestream);
    if settings.credentials.iter().all(Option::is_none) {
        settings.credentials.clone_from(global);
    }
    let mut text = |key: &str| {
        let field = section.get(key).filter(|field| !field.is_empty());
        field.and_then(|field| field.text(report))
    };
    let [url, name, path] = ["url", "bucket", "path"].map(&mut text);
    let (named, place) = match (url, name, path) {
        (Some(_), Some(both), _) | (Some(_), _, Some(both)) => {
            report.add(&both.place, Mistake::Together("url"));
            return None;
        }
        (Some(url), None, None) => (replica::url_destination(report, &url)?, url.place),
        (None, None, _) => {
            report.missing(section, "bucket", "give the name of the bucket, or a `url`");
            return None;
        }
        (None, Some(name), path) => {
            let bucket = bucket(name.value, path.map(|path| path.value))?;
            (bucket, name.place)
        }
    };
    let destination = settings.added_to(named)?;
    seen.destination(report, &destination, &place);
    Some(destination)
}
