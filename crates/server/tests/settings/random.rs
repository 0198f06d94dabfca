//! Whatever is thrown at the readers: they answer, and what they accept is sound.

use std::{collections::HashSet, time::Duration};

use evertide::{ReplicaOptions, ReplicationOptions, RetentionTier};
use evertide_server::{
    blueprint,
    settings::{parse_databases_toml, parse_litestream_yaml, parse_toml},
};
use proptest::prelude::*;

const TOML: &str = "monitor_interval = '1s'\n[[replicas]]\nname = 'a'\ntype = 'file'\n\
                    file_path = '/backup/a'\nretention = '7d'\n[[replicas]]\nname = \"b\"\n\
                    type = \"s3\"\ns3_bucket = '''c'''\ns3_force_path_style = true\n";

const DATABASES: &str = "[[databases]]\npath = 'a.db'\n[[databases.replicas]]\nname = 'a'\n\
                         type = 'file'\nfile_path = '/a'\n[[databases]]\npath = 'b.db'\n\
                         replicas = [{name = 'a', type = 'file', file_path = '/b'}]\n";

const YAML: &str = "sync-interval: 5s\nsnapshot: {interval: 1h}\ndbs:\n  - path: /a.db\n    \
                    replica: &r\n      path: /b\n  - path: /c.db\n    replicas:\n      - <<: *r\n\
                    \x20       url: \"file:///d\"\n      - {type: s3, bucket: x}\n";

pub(crate) fn assert_sound(options: &ReplicationOptions) {
    assert!(!options.replicas.is_empty());
    assert!(options.monitor_interval > Duration::ZERO);
    assert!(options.checkpoint_interval > Duration::ZERO);
    let mut names = HashSet::new();
    for replica in &options.replicas {
        assert!(names.insert(replica.name.as_str()) && !replica.name.is_empty());
        assert!(replica.sync_interval > Duration::ZERO);
        assert!(replica.snapshot_interval > Duration::ZERO);
        assert!(replica.retention != Some(Duration::ZERO));
        assert!(replica.retention_check_interval > Duration::ZERO);
        assert!(replica.lease_duration >= Duration::from_millis(100));
        assert_eq!(ReplicaOptions::mistakes_in_levels(&replica.levels), []);
        let tiers = RetentionTier::mistakes(replica.retention, &replica.retention_tiers);
        assert_eq!(tiers, []);
        assert!(replica.drill_interval != Some(Duration::ZERO));
        assert!(replica.drill_timeout > Duration::ZERO);
    }
}

/// Reads the text every way there is. Errors have to have something to say.
pub(crate) fn read(text: &str) {
    match parse_toml(text) {
        Ok(options) => assert_sound(&options),
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
    for result in [parse_databases_toml(text), parse_litestream_yaml(text)] {
        match result {
            Ok(databases) => {
                // A directory that is watched may be empty.
                assert!(!databases.is_empty() || text.contains("watch"));
                let paths: HashSet<_> = databases.iter().map(|database| &database.path).collect();
                assert_eq!(paths.len(), databases.len());
                databases
                    .iter()
                    .for_each(|database| assert_sound(&database.replication));
            }
            Err(errors) => assert!(!errors.to_string().is_empty()),
        }
    }
}

/// A piece of a configuration: of its words, of anybody's, or of none.
fn piece() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "\n",
        " ",
        "  ",
        "=",
        ":",
        "- ",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        ",",
        ".",
        "'",
        "\"",
        "'''",
        "\"\"\"",
        "#",
        "&r",
        "*r",
        "<<",
        "|",
        ">",
        "~",
        "!!",
        "---",
        "\t",
        "\r\n",
        "\\",
        "$A",
        "${A}",
        "replicas",
        "databases",
        "dbs",
        "path",
        "name",
        "type",
        "file",
        "s3",
        "file_path",
        "retention",
        "sync_interval",
        "sync-interval",
        "replica",
        "url",
        "file:///",
        "1s",
        "7d",
        "0",
        "true",
        "null",
        "1e9",
        "2026-01-01",
        "\u{feff}",
        "\0",
        "é",
    ]);
    prop_oneof![4 => words.prop_map(str::to_owned), 1 => "\\PC{0,6}"]
}

/// A valid configuration with a few pieces put in or taken out.
fn nearly_valid() -> impl Strategy<Value = String> {
    let text = prop::sample::select(vec![TOML, DATABASES, YAML, blueprint()]);
    let edit = (any::<prop::sample::Index>(), 0..12_usize, piece());
    (text, prop::collection::vec(edit, 0..6)).prop_map(|(text, edits)| {
        let mut text: Vec<char> = text.chars().collect();
        for (at, removed, piece) in edits {
            let start = at.index(text.len() + 1);
            let end = (start + removed).min(text.len());
            text.splice(start..end, piece.chars());
        }
        text.into_iter().collect()
    })
}

proptest! {
    #[test]
    fn no_text_panics_a_reader(text in "\\PC*") {
        read(&text);
    }

    #[test]
    fn no_heap_of_pieces_panics_a_reader(pieces in prop::collection::vec(piece(), 0..60)) {
        read(&pieces.concat());
    }

    #[test]
    fn a_damaged_configuration_is_refused_or_sound(text in nearly_valid()) {
        read(&text);
    }
}

#[test]
fn what_is_damaged_above_is_valid_before() {
    assert!(parse_toml(TOML).is_ok());
    assert!(parse_databases_toml(DATABASES).is_ok());
    let mistakes = parse_litestream_yaml(YAML).unwrap_err();
    // `path` by way of the alias, beside `url`.
    assert_eq!(mistakes.mistakes().len(), 1, "{mistakes}");
}
