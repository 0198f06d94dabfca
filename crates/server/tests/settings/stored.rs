//! What the encrypted store holds, in whatever format.

use std::path::Path;

use evertide_server::settings::{Mistake, SettingsErrors, parse_config_file, parse_stored};
use evertide_vault::ConfigFormat;

use crate::directory;

const TOML: &str = "[[replicas]]\nname = 'a'\ntype = 'file'\nfile_path = '/backup'\n";
const YAML: &str = "dbs:\n- path: /data/app.db\n  replica: {path: /backup}\n\
                    - path: /data/logs.db\n  replica: {path: /backup-logs}\n";

fn only(errors: SettingsErrors) -> Mistake {
    let [error] = errors.mistakes() else {
        panic!("{errors}")
    };
    error.mistake.clone()
}

#[test]
fn toml_is_for_whatever_database_the_application_has() {
    let options = parse_stored(TOML.as_bytes(), &ConfigFormat::Toml, "any.db".as_ref()).unwrap();
    assert_eq!(directory(&options.replicas[0]), Path::new("/backup"));
}

#[test]
fn a_replica_in_place_of_the_database_is_refused() {
    let read = |path: &str| parse_stored(TOML.as_bytes(), &ConfigFormat::Toml, path.as_ref());
    let error = read("/./backup").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("line 4: replicas[0].file_path: is the database")
    );
    assert!(matches!(only(error), Mistake::ReplicaIsDatabase));
    assert!(read("/backup/app.db").is_ok());
}

#[test]
fn of_a_litestream_yml_the_entry_for_this_database_counts() {
    let read = |path: &str| parse_stored(YAML.as_bytes(), &ConfigFormat::Yaml, path.as_ref());
    let options = read("/data/./logs.db").unwrap();
    assert_eq!(directory(&options.replicas[0]), Path::new("/backup-logs"));
    let error = read("/elsewhere/app.db").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("it lists /data/app.db, /data/logs.db"),
        "{error}"
    );
    assert!(matches!(only(error), Mistake::NotThisDatabase { .. }));
}

#[test]
fn what_is_no_text_or_in_another_format_is_named_so() {
    let json = ConfigFormat::Other("json".to_owned());
    let both = |bytes: &[u8], format: &ConfigFormat| {
        let stored = parse_stored(bytes, format, "app.db".as_ref()).unwrap_err();
        let file = parse_config_file(bytes, format).unwrap_err();
        assert_eq!(stored, file);
        only(stored)
    };
    assert!(matches!(both(b"{}", &json), Mistake::UnknownFormat(_)));
    for format in [ConfigFormat::Toml, ConfigFormat::Yaml] {
        assert!(matches!(both(&[0xff, 0xfe], &format), Mistake::NotText));
    }
}
