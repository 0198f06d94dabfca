//! Replicas in S3, as `litestream.yml` has them.

use evertide_storage::{Destination, Secret};

use super::{
    error::Mistake,
    replica::{self, S3Settings, Seen},
    section::{Report, Section},
};

/// The keys of such a replica.
pub(super) const KEYS: [&str; 7] = [
    "bucket",
    "region",
    "endpoint",
    "force-path-style",
    "conditional-writes",
    "access-key-id",
    "secret-access-key",
];

/// Identity and secret of an access key: both, or none.
pub(super) type Credentials = [Option<Secret>; 2];

/// The access key of a replica, or, at the top, of all those without one.
pub(super) fn credentials(report: &mut Report, section: &Section<'_>) -> Credentials {
    const PAIR: [&str; 2] = ["access-key-id", "secret-access-key"];
    let fields = PAIR.map(|key| section.get(key).filter(|field| !field.is_empty()));
    match fields.each_ref().map(Option::is_some) {
        [true, false] => report.missing(section, PAIR[1], "both keys are needed, or neither"),
        [false, true] => report.missing(section, PAIR[0], "both keys are needed, or neither"),
        _ => {}
    }
    fields.map(|field| Some(Secret::new(field?.text(report)?.value)))
}

/// A bucket: by its URL, with the rest in keys of their own, or all in keys.
pub(super) fn destination(
    report: &mut Report,
    section: &Section<'_>,
    global: &Credentials,
    seen: &mut Seen,
) -> Option<Destination> {
    let own = credentials(report, section);
    let mut text = |key: &str| {
        let field = section.get(key).filter(|field| !field.is_empty());
        field.and_then(|field| field.text(report))
    };
    let [url, bucket, path] = ["url", "bucket", "path"].map(&mut text);
    let [endpoint, region] =
        ["endpoint", "region"].map(|key| text(key).map(|text| text.value.to_owned()));
    let flags = ["force-path-style", "conditional-writes"];
    let [force_path_style, conditional_writes] =
        flags.map(|key| section.get(key).and_then(|field| field.boolean(report)));
    let of_url = match (&url, &bucket, &path) {
        (Some(_), Some(both), _) | (Some(_), _, Some(both)) => {
            report.add(&both.place, Mistake::Together("url"));
            return None;
        }
        (Some(url), None, None) => Some(replica::url_destination(report, url)?),
        (None, None, _) => {
            report.missing(section, "bucket", "give the name of the bucket, or a `url`");
            return None;
        }
        (None, Some(_), _) => None,
    };
    let named = url.or(bucket)?;
    let settings = S3Settings {
        place: named.place.clone(),
        bucket: named.value.to_owned(),
        path: path.map(|path| path.value.to_owned()),
        endpoint,
        region,
        credentials: match own {
            [None, None] => global.clone(),
            own => own,
        },
        force_path_style,
        conditional_writes,
    };
    let destination = match of_url {
        Some(url) => settings.added_to(url)?,
        None => settings.destination()?,
    };
    seen.destination(report, &destination, &named.place);
    Some(destination)
}
