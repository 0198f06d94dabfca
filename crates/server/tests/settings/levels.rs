//! Levels of compaction, in both languages.

use evertide::ReplicaOptions;
use evertide_server::settings::{parse_databases_toml, parse_litestream_yaml, parse_toml};
use evertide_storage::Destination;

use crate::{DAY, HOUR, SECOND, assert_mistake, mistakes};

fn two_replicas(levels: &str) -> String {
    let replica =
        |name| format!("[[replicas]]\nname = '{name}'\ntype = 'file'\nfile_path = '/{name}'\n");
    format!("{levels}\n{}{}", replica("a"), replica("b"))
}

#[test]
fn levels_are_those_of_every_replica_of_their_database() {
    let given = parse_toml(&two_replicas(
        "levels = [{ interval = '10s' }, { interval = '1h' }]\nlevel_0_retention = '2h'",
    ));
    for replica in given.unwrap().replicas {
        assert_eq!(replica.levels, [10 * SECOND, HOUR]);
        assert_eq!(replica.level_0_retention, 2 * HOUR);
    }
    let tables = parse_toml(&two_replicas(
        "[[levels]]\ninterval = '1h'\n[[levels]]\ninterval = '1d'",
    ));
    assert_eq!(tables.unwrap().replicas[1].levels, [HOUR, DAY]);
    let without = parse_toml(&two_replicas("level_0_retention = ''")).unwrap();
    let default = ReplicaOptions::new("a", Destination::file("/a").unwrap());
    assert_eq!(without.replicas[0].levels, default.levels);
    assert_eq!(
        without.replicas[0].level_0_retention,
        default.level_0_retention
    );
    // In a file of several databases each has its own.
    let database = |path: &str, levels: &str| {
        format!(
            "[[databases]]\npath = '/{path}.db'\n{levels}\nreplicas = \
             [{{ name = 'r', type = 'file', file_path = '/{path}' }}]\n"
        )
    };
    let file = database("a", "levels = [{ interval = '1h' }]") + &database("b", "");
    let databases = parse_databases_toml(&file).unwrap();
    assert_eq!(databases[0].replication.replicas[0].levels, [HOUR]);
    assert_eq!(databases[1].replication.replicas[0].levels, default.levels);
}

#[test]
fn levels_that_cannot_be_made_of_each_other_are_refused_each_by_its_line() {
    let text = "levels = [\n  { interval = '5m' },\n  { interval = '5m' },\n  { interval = '1m' },\n]\n\
                [[replicas]]\nname = 'a'\ntype = 'file'\nfile_path = '/a'\n";
    let found = mistakes(parse_toml(text));
    assert_eq!(found.len(), 2, "{found:#?}");
    for (found, expected) in found.iter().zip([
        "line 3: levels[1].interval: each level is made of the one before: make its window longer",
        "line 4: levels[2].interval: each level is made of the one before: make its window longer",
    ]) {
        assert!(found.starts_with(expected), "{found}");
    }
    let nine: Vec<_> = (1..=9)
        .map(|n| format!("{{ interval = '{n}s' }}"))
        .collect();
    let nine = format!("[{}]", nine.join(", "));
    for (levels, expected) in [
        (
            nine.as_str(),
            "[8].interval: there are eight levels at most",
        ),
        ("[]", ": is empty: give the interval of level 1 at least"),
        (
            "['30s']",
            "[0]: a list of levels, each such as `{ interval = \"30s\" }`, is expected",
        ),
        (
            "'30s'",
            ": a list of levels, each such as `{ interval = \"30s\" }`, is expected",
        ),
        (
            "[{ interval = '0s' }]",
            "[0].interval: 0s is out of bounds: from 100ms to 366d",
        ),
        (
            "[{ interval = '-1s' }]",
            "[0].interval: `-1s` is not a duration",
        ),
        (
            "[{ interval = 30 }]",
            "[0].interval: text in quotes is expected",
        ),
        (
            "[{ interval = '' }]",
            "[0].interval: is empty: say how long",
        ),
        ("[{ }]", "[0].interval: is missing: say how long"),
        ("[{ interval = '1m', level = 1 }]", "[0].level: unknown key"),
    ] {
        let text = two_replicas(&format!("levels = {levels}"));
        assert_mistake(parse_toml(&text), &format!("line 1: levels{expected}"));
    }
}

#[test]
fn levels_of_litestream_yml_are_those_of_every_database() {
    let text = "l0-retention: 10m\nlevels: [{interval: 10s}, {interval: 1m}]\ndbs:\n\
                - {path: /a, replica: {path: /ra}}\n- {path: /b, replica: {path: /rb}}";
    for database in parse_litestream_yaml(text).unwrap() {
        let replica = &database.replication.replicas[0];
        assert_eq!(replica.levels, [10 * SECOND, 60 * SECOND]);
        assert_eq!(replica.level_0_retention, 600 * SECOND);
    }
    let without = parse_litestream_yaml("dbs: [{path: /a, replica: {path: /r}}]").unwrap();
    assert_eq!(without[0].replication.replicas[0].levels.len(), 3);
    let many = "levels: [{interval: 1s}, {interval: 2s}, {interval: 3s}, {interval: 4s}, \
                {interval: 5s}, {interval: 6s}, {interval: 7s}, {interval: 8s}, {interval: 9s}]\n\
                dbs: [{path: /a, replica: {path: /r}}]";
    assert_mistake(
        parse_litestream_yaml(many),
        "line 1: levels[8].interval: there are eight levels at most",
    );
    let shrinking =
        "levels:\n  - interval: 1m\n  - interval: 30s\ndbs: [{path: /a, replica: {path: /r}}]";
    assert_mistake(
        parse_litestream_yaml(shrinking),
        "line 3: levels[1].interval: each level is made of the one before",
    );
}
