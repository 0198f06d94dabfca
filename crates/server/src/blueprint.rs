//! A configuration to start from.

/// A commented TOML configuration: every setting explained, the optional ones commented out with
/// their defaults. What has to be replaced is in angle brackets, which
/// [`parse_toml`](crate::settings::parse_toml) refuses.
pub fn blueprint() -> &'static str {
    include_str!("blueprint.toml")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use evertide::ReplicaOptions;
    use evertide_storage::{
        AzureOptions, Destination, GcsOptions, NatsOptions, OssOptions, S3Options, SftpOptions,
        WebdavOptions,
    };

    use super::*;
    use crate::settings::{Mistake, keys, parse_toml};

    /// What a user does: a directory of its own for each value in angle brackets, and no other
    /// change.
    fn placeholders_replaced(text: &str) -> String {
        let mut number = 0;
        let mut lines = Vec::new();
        for line in text.lines() {
            match (line.find("\"<"), line.find(">\"")) {
                (Some(start), Some(end)) if !line.starts_with("# ") => {
                    number += 1;
                    let (before, after) = (&line[..start], &line[end + 2..]);
                    let value = match line {
                        _ if line.contains("://") => format!("https://backup/{number}"),
                        _ if line.contains("_host = ") => "backup".to_owned(),
                        _ if ["nats_bucket = ", "oss_bucket = "]
                            .iter()
                            .any(|key| line.contains(key)) =>
                        {
                            "backup".to_owned()
                        }
                        _ => format!("/backup/{number}"),
                    };
                    lines.push(format!("{before}\"{value}\"{after}"));
                }
                _ => lines.push(line.to_owned()),
            }
        }
        lines.join("\n")
    }

    /// Every setting that is commented out, put in force.
    fn uncommented(text: &str) -> String {
        let setting = |line: &str| line.starts_with("#[") || line.contains(" = ");
        let lines = text.lines().map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') && setting(line) => rest,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn key_of(line: &str) -> Option<&str> {
        let (key, _) = line.trim_start_matches('#').split_once(" = ")?;
        key.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            .then_some(key)
    }

    fn expected_replica(number: usize, name: &str) -> ReplicaOptions {
        let path = PathBuf::from(format!("/backup/{number}"));
        ReplicaOptions::new(name, Destination::file(path).unwrap())
    }

    #[test]
    fn only_the_placeholders_have_to_be_replaced() {
        let errors = parse_toml(blueprint()).unwrap_err();
        assert!(
            errors
                .mistakes()
                .iter()
                .all(|error| error.mistake == Mistake::Placeholder)
        );
        assert_eq!(errors.mistakes().len(), 1);

        let options = parse_toml(&placeholders_replaced(blueprint())).unwrap();
        assert_eq!(options.replicas, [expected_replica(1, "local")]);
    }

    #[test]
    fn the_defaults_it_documents_are_the_defaults() {
        let text = placeholders_replaced(&uncommented(blueprint()));
        let options = parse_toml(&text).unwrap();
        let mut expected = evertide::ReplicationOptions::default();
        let mut bucket = S3Options::new("/backup/3", "");
        // Of a bucket at Amazon.
        bucket.force_path_style = Some(false);
        bucket.conditional_writes = Some(true);
        bucket.sign_payload = Some(true);
        bucket.content_md5 = Some(true);
        bucket.part_size = Some(7 << 20);
        bucket.concurrency = Some(1);
        bucket.skip_verify = Some(false);
        let mut alibaba = OssOptions::new("backup", "").unwrap();
        alibaba.part_size = Some(7 << 20);
        alibaba.concurrency = Some(1);
        expected.replicas = vec![
            expected_replica(1, "local"),
            expected_replica(2, "second"),
            ReplicaOptions::new("offsite", Destination::S3(bucket)),
            ReplicaOptions::new("google", Destination::Gcs(GcsOptions::new("/backup/4", ""))),
            ReplicaOptions::new(
                "azure",
                Destination::Azure(AzureOptions::new("/backup/5", "")),
            ),
            ReplicaOptions::new(
                "share",
                Destination::Webdav(WebdavOptions::new("https://backup/6", "").unwrap()),
            ),
            ReplicaOptions::new(
                "server",
                Destination::Sftp(SftpOptions::new("backup", "/backup/8").unwrap()),
            ),
            ReplicaOptions::new(
                "nats",
                Destination::Nats(NatsOptions::new("backup", "backup", "").unwrap()),
            ),
            ReplicaOptions::new("alibaba", Destination::Oss(alibaba)),
        ];
        assert_eq!(options, expected);
        // All of them were there to compare.
        for key in keys() {
            let set = |line: &&str| line.starts_with(&format!("{key} = "));
            assert!(
                text.lines().any(|line| set(&line)) || key == "replicas",
                "{key}"
            );
        }
    }

    #[test]
    fn every_setting_is_explained_right_above_where_it_comes_first() {
        let lines: Vec<_> = blueprint().lines().collect();
        let mut seen = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            let Some(key) = key_of(line).filter(|key| !seen.contains(key)) else {
                continue;
            };
            seen.push(key);
            assert!(keys().contains(&key), "`{key}` is not a setting");
            assert!(
                lines[index - 1].starts_with("# "),
                "`{key}` is not explained"
            );
        }
        assert_eq!(
            seen.len(),
            keys().len() - 1,
            "`replicas` is a table, the others are in {seen:?}"
        );
    }

    #[test]
    fn it_begins_with_what_to_replace_and_fits_a_terminal() {
        assert!(
            blueprint()
                .lines()
                .take(5)
                .any(|line| line.contains("Replace every value"))
        );
        assert!(blueprint().lines().all(|line| line.chars().count() <= 100));
    }
}
