//! `evertide keygen`

use std::{fs, os::unix::fs::PermissionsExt};

use super::support::Workplace;

#[test]
fn a_key_is_for_its_owner_alone_and_its_public_key_is_all_that_is_printed() {
    let place = Workplace::new();
    let run = place.run(&["keygen", "-o", "my key.txt"]);
    assert_eq!(run.code, Some(0));
    let public_key = run.out.strip_suffix('\n').unwrap();
    assert!(
        public_key.starts_with("age1") && !public_key.contains('\n'),
        "{run:?}"
    );
    let content = place.read("my key.txt");
    assert!(content.contains("AGE-SECRET-KEY-1"), "not an identity file");
    assert!(
        content.contains(&format!("# public key: {public_key}\n")),
        "another public key"
    );
    assert!(
        !run.out.contains("SECRET") && !run.err.contains("SECRET"),
        "the secret is printed"
    );
    let mode = fs::metadata(place.path("my key.txt"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn without_a_name_it_is_age_key_and_no_key_is_ever_overwritten() {
    let place = Workplace::new();
    place.ok(&["keygen"]);
    let first = place.read("age.key");
    place.run(&["keygen"]).failed(1, &["age.key", "exists"]);
    place
        .run(&["keygen", "-o", "age.key"])
        .failed(1, &["age.key", "exists"]);
    assert_eq!(place.read("age.key"), first);
    assert_eq!(place.names(), ["age.key"]);
}

#[test]
fn where_a_key_cannot_be_written_the_path_and_the_reason_are_said() {
    let place = Workplace::new();
    place
        .run(&["keygen", "-o", "no/such/dir/age.key"])
        .failed(1, &["no/such/dir/age.key", "No such file"]);
    assert_eq!(place.names(), [] as [&str; 0]);
}
