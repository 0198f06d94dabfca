//! The keys of the Go module.

use std::{path::PathBuf, time::Duration};

use evertide::{ReplicaOptions, ReplicationOptions};
use evertide_server::settings::{MAX_SETTINGS, Mistake, parse_toml};
use evertide_storage::Destination;

use crate::{
    DAY, HOUR, OF_THE_GO_MODULE, ON_S3, SECOND, assert_mistake, directory, mistakes, only_replica,
    with,
};

#[test]
fn what_the_go_module_generates_is_read() {
    let options = parse_toml(OF_THE_GO_MODULE).unwrap();
    assert_eq!(options.monitor_interval, SECOND);
    assert_eq!(options.checkpoint_interval, 60 * SECOND);
    let [replica] = options.replicas.as_slice() else {
        panic!("{options:?}")
    };
    assert_eq!(replica.name, "local_file_example");
    assert_eq!(
        directory(replica),
        PathBuf::from("/path/to/your/local/replicas")
    );
    assert_eq!(replica.sync_interval, SECOND);
    assert_eq!(replica.snapshot_interval, DAY);
    assert_eq!(replica.retention, None);
    assert_eq!(replica.retention_check_interval, HOUR);
}

/// As its documentation prints them: keys of the other type are there, and empty.
const ALL_KEYS: &str = r#"
monitor_interval = "1s"          # optional
checkpoint_interval = "1m"       # optional
[[replicas]]
name = "local"                   # required, unique
type = "file"                    # "file" | "s3" | ours: "gs" "abs" "sftp" "webdav" "nats" "oss"
sync_interval = "1s"             # optional
snapshot_interval = "24h"        # optional
retention = "7d"                 # optional; empty or "0" keeps for ever
retention_check_interval = "1h"  # optional
file_path = "/path"              # file
s3_endpoint = ""                 # s3 ...
s3_region = ""
s3_bucket = ""
s3_path = ""
s3_access_key_id = ""
s3_secret_access_key = ""
s3_force_path_style = false
"#;

#[test]
fn keys_of_another_type_that_say_nothing_are_passed_over_and_others_are_not() {
    let options = parse_toml(ALL_KEYS).unwrap();
    assert_eq!(directory(&options.replicas[0]), PathBuf::from("/path"));
    assert_eq!(options.replicas[0].retention, Some(7 * DAY));
    let on_s3 = ALL_KEYS
        .replace("type = \"file\"", "type = \"s3\"")
        .replace("s3_bucket = \"\"", "s3_bucket = \"bucket\"")
        .replace("file_path = \"/path\"", "file_path = \"\"");
    let options = parse_toml(&on_s3).unwrap();
    let destination = options.replicas[0].destination.to_string();
    assert_eq!(destination, "s3://bucket?forcePathStyle=false");
    for said in [
        "s3_region = \"eu-1\"",
        "s3_force_path_style = true",
        "s3_part_size = 0",
        "gs_bucket = [\"\"]",
    ] {
        let key = said.split(' ').next().unwrap();
        let text = format!("{ALL_KEYS}{said}\n").replace("s3_region = \"\"\n", "");
        let text = match key {
            "s3_force_path_style" => text.replace("s3_force_path_style = false\n", ""),
            _ => text,
        };
        let mistakes = mistakes(parse_toml(&text));
        assert!(
            matches!(&mistakes[..], [one] if one.contains(key)),
            "{said}: {mistakes:?}"
        );
    }
}

#[test]
fn what_is_not_set_has_the_engines_defaults() {
    let options = parse_toml(&with("")).unwrap();
    let mut expected = ReplicationOptions::default();
    expected.replicas = vec![ReplicaOptions::new(
        "a",
        Destination::file("/backup").unwrap(),
    )];
    assert_eq!(options, expected);
    // The Go module takes an empty text for "not set".
    let empty = "sync_interval = ''\nsnapshot_interval = ''\nretention = ''\n\
                 retention_check_interval = ''";
    let text = format!(
        "monitor_interval = ''\ncheckpoint_interval = ''\n{}",
        with(empty)
    );
    assert_eq!(parse_toml(&text).unwrap(), expected);
}

#[test]
fn retention_of_nothing_or_zero_keeps_for_ever() {
    for value in ["''", "'0'", "'0s'", "0", "'-0'"] {
        assert_eq!(
            only_replica(&with(&format!("retention = {value}"))).retention,
            None
        );
    }
    assert_eq!(
        only_replica(&with("retention = '7d'")).retention,
        Some(7 * DAY)
    );
    assert_eq!(
        only_replica(&with("retention = '2w'")).retention,
        Some(14 * DAY)
    );
}

#[test]
fn all_mistakes_of_a_file_are_listed_with_their_lines() {
    let text = r#"
monitor-interval = "1s"
checkpoint_interval = 60
colour = "blue"
db_path = "app.db"

[[replicas]]
name = "a"
type = "file"
file_path = "$HOME/backup"
retention = "7 days"
s3_bucket = "bucket"

[[replicas]]
name = "a"
type = "fiel"

[[replicas]]
type = "file"
sync_interval = "0s"
file_path = "<directory>"

[[replicas]]
name = ""
type = "oss"
oss_bucket = "no.bucket"
snapshot_interval = true
"#;
    let expected = "\
line 2: monitor-interval: unknown key; did you mean `monitor_interval`?
line 3: checkpoint_interval: a duration in quotes, such as \"10s\", is expected here, not a number
line 4: colour: unknown key; known here: monitor_interval, checkpoint_interval, stage_limit, levels, level_0_retention, \
replicas
line 5: db_path: does not belong here: the application passes the path of its database: remove it
line 10: replicas[0].file_path: the value holds the variable `$HOME`, and variables are not \
replaced: write the value itself, so that the configuration says all there is to know
line 11: replicas[0].retention: `7 days` is not a duration: ` days` is not a unit; write numbers \
with units (ns, us, ms, s, m, h, d, w), such as \"1h30m\", \"300ms\" or \"7d\"
line 12: replicas[0].s3_bucket: is a key of replicas of type \"s3\", and this one is of type \
\"file\": remove it
line 15: replicas[1].name: `a` is also the name of replicas[0].name in line 8: give each replica \
a name of its own
line 16: replicas[1].type: \"fiel\" is no type of replica; did you mean `file`?
line 18: replicas[2].name: is missing: give the replica a name of its own
line 20: replicas[2].sync_interval: 0s is out of bounds: from 1ms to 30d is possible
line 21: replicas[2].file_path: is still the placeholder of the blueprint: replace it, angle \
brackets included
line 24: replicas[3].name: is empty: give the replica a name of its own
line 26: replicas[3].oss_bucket: `…` is not a replica URL: its bucket has other characters \
than lower-case letters, digits and `-`
line 27: replicas[3].snapshot_interval: a duration in quotes, such as \"10s\", is expected here, \
not true or false";
    assert_eq!(mistakes(parse_toml(text)).join("\n"), expected);
}

#[test]
fn a_missing_key_is_named_with_the_line_of_its_table() {
    assert_mistake(
        parse_toml(""),
        "line 1: replicas: is missing: add a `[[replicas]]` table",
    );
    assert_mistake(
        parse_toml("# only a comment"),
        "line 1: replicas: is missing",
    );
    assert_mistake(parse_toml("\nreplicas = []"), "line 2: replicas: is empty");
    let found = mistakes(parse_toml("\n\n[[replicas]]\n"));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].starts_with("line 3: replicas[0].name: is missing"),
        "{found:#?}"
    );
    assert!(
        found[1].starts_with("line 3: replicas[0].type: is missing"),
        "{found:#?}"
    );
    assert_mistake(
        parse_toml("[[replicas]]\nname = 'a'\ntype = 'file'\n"),
        "line 1: replicas[0].file_path: is missing: give the directory",
    );
}

#[test]
fn a_value_of_the_wrong_type_is_named_with_the_right_one() {
    let cases = [
        (
            "[replicas]",
            "line 1: replicas: a list of tables, each `[[replicas]]`, is expected",
        ),
        ("replicas = 'a'", "line 1: replicas: a list of tables"),
        ("replicas = ['a']", "line 1: replicas[0]: a list of tables"),
    ];
    for (text, start) in cases {
        assert_mistake(parse_toml(text), start);
    }
    let cases = [
        (
            "sync_interval = 5",
            "line 5: replicas[0].sync_interval: a duration in quotes",
        ),
        (
            "sync_interval = 2026-11-22",
            "line 5: replicas[0].sync_interval: a duration",
        ),
        (
            "retention = ['7d']",
            "line 5: replicas[0].retention: a duration in quotes",
        ),
        (
            "sync_interval.seconds = 5",
            "line 5: replicas[0].sync_interval: a duration in quotes",
        ),
    ];
    for (line, start) in cases {
        assert_mistake(parse_toml(&with(line)), start);
    }
    let name = with("").replace("'a'", "7");
    assert_mistake(
        parse_toml(&name),
        "line 2: replicas[0].name: text in quotes is expected",
    );
}

#[test]
fn durations_out_of_all_reason_are_refused() {
    let cases = [
        "sync_interval = '0'",
        "sync_interval = '999us'",
        "sync_interval = '31d'",
        "snapshot_interval = '0'",
        "retention = '1ms'",
        "retention = '50000d'",
        "retention_check_interval = '0s'",
        "lease_duration = '99ms'",
        "lease_duration = '25h'",
    ];
    for line in cases {
        let errors = parse_toml(&with(line)).unwrap_err();
        let [error] = errors.mistakes() else {
            panic!("{errors}")
        };
        assert!(
            matches!(error.mistake, Mistake::OutOfBounds { .. }),
            "{line}: {error}"
        );
    }
    for line in [
        "monitor_interval = '0s'",
        "checkpoint_interval = '0s'",
        "monitor_interval='2h'",
    ] {
        let errors = parse_toml(&format!("{line}\n{}", with(""))).unwrap_err();
        let [error] = errors.mistakes() else {
            panic!("{errors}")
        };
        assert!(
            matches!(error.mistake, Mistake::OutOfBounds { .. }),
            "{line}: {error}"
        );
    }
    assert_mistake(
        parse_toml(&with("sync_interval = '-1s'")),
        "line 5: replicas[0].sync_interval",
    );
    assert_eq!(
        only_replica(&with("sync_interval = '1ms'")).sync_interval,
        Duration::from_millis(1)
    );
}

#[test]
fn variables_are_refused_in_values_but_not_in_comments() {
    for value in ["$HOME", "/a/${DIR}/b", "a$1"] {
        let text = with("").replace("/backup", value);
        let errors = parse_toml(&text).unwrap_err();
        assert!(
            matches!(errors.mistakes()[0].mistake, Mistake::Variable(Some(_))),
            "{errors}"
        );
    }
    assert_mistake(
        parse_toml(&with("").replace("'a'", "'a$b'")),
        "line 2: replicas[0].name: the value holds the variable `$b`",
    );
    only_replica(&with("# ${NOT_REPLACED}, costs $5"));
    // A dollar alone is no variable.
    only_replica(&with("").replace("/backup", "/backup/$"));
}

#[test]
fn a_home_directory_is_refused_rather_than_taken_for_a_name() {
    let text = with("").replace("/backup", "~/backup");
    assert_mistake(
        parse_toml(&text),
        "line 4: replicas[0].file_path: `~` is not replaced",
    );
    only_replica(&with("").replace("/backup", "/back~up"));
}

#[test]
fn two_replicas_in_one_directory_are_refused_however_it_is_written() {
    let second = "[[replicas]]\nname = 'b'\ntype = 'file'\nfile_path = '/./backup//'";
    assert_mistake(
        parse_toml(&with(second)),
        "line 8: replicas[1].file_path: is the same destination as replicas[0].file_path in line 4",
    );
}

#[test]
fn every_syntax_error_is_listed_and_so_are_the_mistakes_of_the_other_lines() {
    let text = "monitor_interval = 1s\n\
                colour = 'blue'\n\
                checkpoint_interval = \"1m\n\
                [[replicas]]\n\
                name = a\n\
                retention = '7 days'\n";
    let mistakes = mistakes(parse_toml(text));
    let starts = [
        "line 1: not valid TOML: ",
        "line 2: colour: unknown key",
        "line 3: not valid TOML: ",
        "line 5: not valid TOML: ",
        "line 6: replicas[0].retention: `7 days` is not a duration",
    ];
    assert_eq!(mistakes.len(), starts.len(), "{mistakes:#?}");
    for (mistake, start) in mistakes.iter().zip(starts) {
        assert!(mistake.starts_with(start), "{mistake}");
    }
}

#[test]
fn lines_are_counted_with_windows_endings_a_byte_order_mark_and_inline_tables() {
    let text = with("colour = 'é'\n# π").replace('\n', "\r\n");
    assert_mistake(parse_toml(&text), "line 5: replicas[0].colour");
    assert_mistake(
        parse_toml(&format!("\u{feff}{text}")),
        "line 5: replicas[0].colour",
    );
    let inline = "replicas = [\n  {name = 'a', type = 'file', file_path = '/a'},\n  \
                  {name = 'b', type = 'file', file_path = '/b', colour = ''}]";
    assert_mistake(parse_toml(inline), "line 3: replicas[1].colour");
}

#[test]
fn a_duplicate_key_is_found() {
    assert_mistake(
        parse_toml(&with("name = 'b'")),
        "line 5: not valid TOML: duplicate key",
    );
}

#[test]
fn the_other_form_is_recognised() {
    let text = format!("[[databases]]\npath = 'app.db'\n{}", with(""));
    let mistakes = mistakes(parse_toml(&text));
    assert!(
        mistakes[0].starts_with("line 1: databases: does not belong here"),
        "{mistakes:#?}"
    );
}

#[test]
fn no_error_shows_a_secret_whatever_is_wrong_with_it() {
    const SECRET: &str = "wJalrXUtnFEMIsecret";
    let values = [
        format!("'{SECRET}$VAR{SECRET}'"),
        format!("\"{SECRET}"),
        SECRET.to_owned(),
        format!("'''\n{SECRET}"),
        format!("\"{SECRET}\\q\""),
        format!("[\"{SECRET}\"]"),
        format!("{{ key = \"{SECRET}\" }}"),
        format!("'{SECRET}' # '{SECRET}'\n's3_region' = 1"),
        format!("\"{SECRET}\\u0007\""),
        format!("'<{SECRET}>'"),
        format!("'{SECRET}'\ns3_secret_access_key = '{SECRET}'"),
    ];
    for value in values {
        let line = format!("s3_secret_access_key = {value}");
        for text in [
            ON_S3.replace("s3_secret_access_key = 'YOUR_SECRET_ACCESS_KEY'", &line),
            { with(&line) },
        ] {
            let errors = parse_toml(&text).unwrap_err();
            let shown = format!("{errors} {errors:?} {errors:#?}");
            assert!(
                !shown.contains("wJalr") && !shown.contains("EMIsecret"),
                "{shown}"
            );
        }
    }
}

#[test]
fn far_too_much_is_not_even_parsed() {
    let errors = parse_toml(&"#".repeat(MAX_SETTINGS + 1)).unwrap_err();
    assert!(matches!(
        errors.mistakes()[0].mistake,
        Mistake::TooLarge { .. }
    ));
    let deep = format!("a = {}", "[".repeat(100_000));
    assert!(parse_toml(&deep).is_err());
    let deep = format!("{} = 1", ["a"; 20_000].join("."));
    assert!(parse_toml(&deep).is_err());
}

#[test]
fn the_limit_of_staged_files_is_a_size_with_a_unit() {
    let text = |limit: &str| {
        format!(
            "stage_limit = {limit}\n[[replicas]]\nname = 'a'\ntype = 'file'\nfile_path = '/a'\n"
        )
    };
    let limit = |given: &str| parse_toml(&text(given)).unwrap().stage_limit;
    assert_eq!(limit("'64 MiB'"), 64 << 20);
    assert_eq!(limit("'2GB'"), 2_000_000_000);
    assert_eq!(limit("''"), 1 << 30);
    for (given, expected) in [
        ("'1000000'", "line 1: stage_limit: `1000000` is no size"),
        (
            "'1KiB'",
            "line 1: stage_limit: `1KiB` is no size of 1048576 bytes or more",
        ),
        ("'-1GiB'", "line 1: stage_limit: `-1GiB` is no size"),
        ("1073741824", "line 1: stage_limit: a size in quotes"),
    ] {
        assert_mistake(parse_toml(&text(given)), expected);
    }
}

#[test]
fn drills_are_off_unless_asked_for_and_have_a_limit_and_a_place() {
    let off = only_replica(&with(
        "drill_interval = ''\ndrill_bandwidth = ''\ndrill_directory = ''\ndrill_timeout = ''",
    ));
    assert_eq!(off, only_replica(&with("")));
    assert_eq!(off.drill_interval, None);
    assert_eq!(off.drill_timeout, 6 * HOUR);
    let on = only_replica(&with(
        "drill_interval = '1d'\ndrill_bandwidth = '8MiB'\ndrill_directory = '/var/tmp'\n\
         drill_timeout = '90m'",
    ));
    assert_eq!(on.drill_interval, Some(DAY));
    assert_eq!(on.drill_bandwidth.map(u64::from), Some(8 << 20));
    assert_eq!(on.drill_directory, Some(PathBuf::from("/var/tmp")));
    assert_eq!(on.drill_timeout, HOUR + HOUR / 2);
    // Zero turns them off, and the rest may stay where it is.
    let zero = only_replica(&with(
        "drill_interval = '0'\ndrill_bandwidth = '8MiB'\ndrill_timeout = '1h'",
    ));
    assert_eq!(zero, off);
}

#[test]
fn settings_of_drills_that_would_do_nothing_or_harm_are_refused_all_at_once() {
    let text = with("drill_bandwidth = '1kB'\ndrill_directory = '~/drills'\ndrill_timeout = '0'");
    let expected = [
        "line 5: replicas[0].drill_bandwidth: `1kB` is no size of 65536 bytes or more",
        "line 5: replicas[0].drill_bandwidth: does not belong here: it does nothing without `drill_i",
        "line 6: replicas[0].drill_directory: does not belong here: it does nothing without `drill_i",
        "line 6: replicas[0].drill_directory: `~` is not replaced",
        "line 7: replicas[0].drill_timeout: 0s is out of bounds: from 1s to 366d is possible",
        "line 7: replicas[0].drill_timeout: does not belong here: it does nothing without `drill_i",
    ];
    let mut mistakes = mistakes(parse_toml(&text));
    mistakes.sort();
    assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
    for expected in expected {
        let said = mistakes.iter().any(|mistake| mistake.starts_with(expected));
        assert!(said, "{expected} is not in {mistakes:#?}");
    }
    assert_mistake(
        parse_toml(&with("drill_interval = '1s'")),
        "line 5: replicas[0].drill_interval: 1s is out of bounds: from 1m to 366d is possible, and 0 \
         means never",
    );
}

#[test]
fn what_is_kept_of_older_states_is_a_list_from_fine_to_coarse() {
    let tier = |every, keep| evertide::RetentionTier::new(every, keep);
    let replica = only_replica(&with(
        "retention = '1d'\nretention_tiers = [{every = '1h', keep = '7d'}, {every = '1d', keep = '30d'}]",
    ));
    assert_eq!(replica.retention, Some(DAY));
    assert_eq!(
        replica.retention_tiers,
        [tier(HOUR, 7 * DAY), tier(DAY, 30 * DAY)]
    );
    let tables = "retention = '1d'\n[[replicas.retention_tiers]]\nevery = '1h'\nkeep = '7d'";
    assert_eq!(
        only_replica(&with(tables)).retention_tiers,
        [tier(HOUR, 7 * DAY)]
    );
    assert_eq!(
        only_replica(&with("retention_tiers = []")),
        only_replica(&with(""))
    );
}

#[test]
fn tiers_that_keep_nothing_more_are_refused_with_what_to_do() {
    let tiers = "retention_tiers = [{every = '1h', keep = '7d'}, {every = '1h', keep = '1d'}]";
    let expected = [
        "line 6: replicas[0].retention_tiers[1].every: each tier has to be coarser",
        "line 6: replicas[0].retention_tiers[1].keep: the tier before keeps more",
    ];
    let found = mistakes(parse_toml(&with(&format!("retention = '1d'\n{tiers}"))));
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}");
    }
    for (line, expected) in [
        ("'1h'", "a list of tiers, each such as"),
        (
            "[{every = '1h'}]",
            "[0].keep: is missing: say what the tier keeps",
        ),
        (
            "[{every = '1h', keep = '1y'}]",
            "[0].keep: `1y` is not a duration",
        ),
        (
            "[{every = '1h', keep = '7d', for = 1}]",
            "[0].for: unknown key",
        ),
        (
            "[{every = '1h', keep = '1d'}]",
            "[0].keep: `retention` keeps every state for as long",
        ),
        (
            "[{every = '8d', keep = '7d'}]",
            "[0].every: longer than the tier itself",
        ),
    ] {
        let text = with(&format!("retention = '1d'\nretention_tiers = {line}"));
        let found = mistakes(parse_toml(&text));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(
            found[0].starts_with("line 6: replicas[0].retention_tiers"),
            "{found:?}"
        );
        assert!(found[0].contains(expected), "{found:?}");
    }
    assert_mistake(
        parse_toml(&with("retention_tiers = [{every = '1h', keep = '7d'}]")),
        "line 5: replicas[0].retention_tiers[0].keep: without `retention` everything is kept",
    );
}
