//! Databases of a directory, from settings in both languages.

use std::fs;

use super::support::{Workplace, insert};

#[test]
fn every_database_of_a_directory_is_replicated_and_restored() {
    let place = Workplace::new();
    fs::create_dir_all(place.path("data/eu")).unwrap();
    drop(place.database("data/a.db", 2));
    insert(&place.database("data/eu/b.db", 3), 1);
    place.write("data/notes.db", "no database");
    let dir = place.path("data").display().to_string();
    place.write(
        "litestream.yml",
        &format!(
            "dbs:\n- dir: {dir}\n  pattern: '*.db'\n  recursive: true\n  replica: {{path: {}}}\n",
            place.path("yaml").display()
        ),
    );
    place.write(
        "evertide.toml",
        &format!(
            "[[databases]]\ndir = '{dir}'\npattern = '*.db'\n[[databases.replicas]]\n\
             name = 'local'\ntype = 'file'\nfile_path = '{}'",
            place.path("toml").display()
        ),
    );
    place.ok(&["replicate", "--once", "--config", "litestream.yml"]);
    place.ok(&["restore", "yaml/a.db", "-o", "a.db"]);
    place.ok(&["restore", "yaml/eu/b.db", "-o", "b.db"]);
    assert_eq!((place.rows("a.db"), place.rows("b.db")), (2, 4));
    place.ok(&["replicate", "--once", "--config", "evertide.toml"]);
    let database = format!("{dir}/a.db");
    let from_settings = [
        "restore",
        "--config",
        "evertide.toml",
        &database,
        "-o",
        "c.db",
    ];
    place.ok(&from_settings);
    assert_eq!(place.rows("c.db"), 2);
    assert!(!place.exists("toml/eu"));

    // All is lost but the replicas and the settings.
    fs::remove_dir_all(place.path("data")).unwrap();
    let lost = format!("{dir}/eu/b.db");
    place.ok(&["restore", "--config", "litestream.yml", &lost, "-o", &lost]);
    assert_eq!(place.rows("data/eu/b.db"), 4);
    let strange = format!("{dir}/eu/b.txt");
    let other = ["restore", "--config", "litestream.yml", &strange, "-o", "x"];
    place.run(&other).failed(2, &["b.txt", "eu/b.db"]);
}
