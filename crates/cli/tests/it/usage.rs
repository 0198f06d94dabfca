//! What every command promises: help, exit status, which stream is for what.

use std::{
    fs,
    io::Read,
    process::{Command, Stdio},
};

use super::support::Workplace;

const COMMANDS: [&str; 11] = [
    "demo",
    "keygen",
    "generate-blueprint-config",
    "insert-config",
    "config",
    "replicate",
    "restore",
    "ltx",
    "verify",
    "doctor",
    "completions",
];

#[test]
fn help_is_a_result_with_examples_for_every_command() {
    let place = Workplace::new();
    let all = place.ok(&["--help"]);
    for command in COMMANDS {
        assert!(
            all.contains(&format!("  {command}")),
            "{command} is not listed: {all}"
        );
        let help = place.ok(&[command, "--help"]);
        assert_eq!(help, place.ok(&["help", command]));
        assert!(help.contains("Usage: evertide"), "{help}");
        assert!(
            help.contains(&format!("Examples:\n  evertide {command}")),
            "{help}"
        );
        let long: Vec<_> = help
            .lines()
            .filter(|line| line.chars().count() > 100)
            .collect();
        assert!(long.is_empty(), "{long:?}");
    }
    assert!(all.contains("Exit status:"), "{all}");
    assert!(!all.contains("demo-app"), "{all}");
    for command in [
        "scopes", "list", "dump", "diff", "rollback", "export", "rekey",
    ] {
        assert!(
            place
                .ok(&["config", command, "--help"])
                .contains("--age-key")
        );
    }
    assert!(place.ok(&["--version"]).starts_with("evertide "));
}

#[test]
fn wrong_usage_is_told_from_failure_by_the_exit_status() {
    let place = Workplace::new();
    let cases: &[&[&str]] = &[
        &["no-such-command"],
        &["keygen", "--no-such-option"],
        &["keygen", "argument"],
        &["generate-blueprint-config", "-o"],
        &["insert-config"],
        &["insert-config", "--age-key", "k", "--db", "d"],
        &["config", "list"],
        &["config", "list", "--age-key", "k"],
        &["config", "no-such-command"],
        &[
            "config",
            "dump",
            "--age-key",
            "k",
            "--db",
            "d",
            "--generation",
            "-1",
        ],
        &[
            "config",
            "dump",
            "--age-key",
            "k",
            "--db",
            "d",
            "--generation",
            "x",
        ],
        &[
            "config",
            "rollback",
            "--age-key",
            "k",
            "--db",
            "d",
            "--generation",
            "0",
        ],
        &["config", "export", "--age-key", "k", "--db", "d"],
        &["replicate"],
        &["replicate", "app.db"],
        &["replicate", "file:///replica", "app.db"],
        &["replicate", "app.db", "sftp://user@host"],
        &["replicate", "app.db", "http://host/path"],
        &["replicate", "app.db", "file://host/path"],
        &["replicate", "--age-key", "k"],
        &["replicate", "--db", "app.db"],
        &[
            "replicate",
            "--db",
            "app.db",
            "--age-key",
            "k",
            "file:///replica",
        ],
        &[
            "replicate",
            "--config",
            "f",
            "--db",
            "app.db",
            "--age-key",
            "k",
        ],
        &["replicate", "--scope", "s", "app.db", "r"],
        &["replicate", "--once", "--exec", "true", "app.db", "r"],
        &["replicate", "--log-level", "loud", "app.db", "r"],
        &["replicate", "--log-format", "xml", "app.db", "r"],
        &["restore", "r"],
        &["restore", "-o", "out.db"],
        &["restore", "-o", "out.db", "sftp://user@host"],
        &["restore", "-o", "out.db", "--txid", "xyz", "r"],
        &["restore", "-o", "out.db", "--txid", "0", "r"],
        &[
            "restore",
            "-o",
            "out.db",
            "--txid",
            "11112222333344445",
            "r",
        ],
        &["restore", "-o", "out.db", "--timestamp", "yesterday", "r"],
        &["restore", "-o", "out.db", "--timestamp", "2026-11-22", "r"],
        &[
            "restore",
            "-o",
            "out.db",
            "--txid",
            "1",
            "--timestamp",
            "2026-11-22T10:00:00Z",
            "r",
        ],
        &[
            "restore",
            "-o",
            "out.db",
            "--force",
            "--if-db-not-exists",
            "r",
        ],
        &["restore", "-o", "out.db", "--integrity-check", "maybe", "r"],
        &["restore", "-o", "out.db", "--parallelism", "0", "r"],
        &["restore", "-o", "out.db", "--replica", "name", "r"],
        &["restore", "-o", "out.db", "--age-key", "k", "r"],
        &["ltx"],
        &["ltx", "--level", "10", "r"],
        &["ltx", "--level", "-1", "r"],
        &["ltx", "a", "b"],
        &["completions"],
        &["completions", "cobol"],
        &["demo", "--dir"],
    ];
    for arguments in cases {
        let run = place.run(arguments);
        run.failed(2, &["For more information, try"]);
        assert!(run.err.lines().count() > 1, "{arguments:?}: {run:?}");
    }
    assert_eq!(place.names(), [] as [&str; 0]);
    // Nothing at all is a question, not a mistake in an argument.
    let run = place.run::<&str>(&[]);
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("Usage: evertide"), "{run:?}");
}

#[test]
fn what_a_later_version_may_do_is_not_accepted_and_ignored() {
    let place = Workplace::new();
    let cases: &[(&str, &[&str])] = &[
        (
            "--metrics",
            &["replicate", "--metrics", "127.0.0.1:9090", "app.db", "r"],
        ),
        ("status", &["status"]),
        ("databases", &["databases"]),
        ("sync", &["sync", "app.db"]),
        ("reset", &["reset", "app.db"]),
    ];
    for (unknown, arguments) in cases {
        place.run(arguments).failed(2, &[&format!("'{unknown}'")]);
    }
    assert_eq!(place.names(), [] as [&str; 0]);
}

#[test]
fn a_completion_script_is_made_for_every_shell_and_bash_reads_it() {
    let place = Workplace::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = place.ok(&["completions", shell]);
        for command in COMMANDS {
            assert!(
                script.contains(command),
                "{shell} does not complete {command}"
            );
        }
        assert!(!script.contains("todo"), "{shell}");
    }
    place.write("evertide.bash", &place.ok(&["completions", "bash"]));
    let read = Command::new("bash")
        .arg("-n")
        .arg(place.path("evertide.bash"))
        .status()
        .unwrap();
    assert!(read.success());
}

#[test]
fn help_that_could_not_be_written_is_an_error() {
    let place = Workplace::new();
    for arguments in [&["--help"][..], &["--version"], &["restore", "--help"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full");
        let mut command = place.command(arguments);
        let child = command.stdout(full.unwrap()).stderr(Stdio::piped()).spawn();
        let output = child.unwrap().wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("cannot write to standard output"), "{said}");
    }
}

#[test]
fn a_reader_that_has_had_enough_is_no_error() {
    let place = Workplace::new();
    place.store(&place.settings(&["replica"]));
    let cases: &[&[&str]] = &[
        &["completions", "bash"],
        &["--help"],
        &["generate-blueprint-config", "-o", "-"],
        &["config", "dump", "--age-key", "age.key", "--db", "app.db"],
        &[
            "config",
            "list",
            "--age-key",
            "age.key",
            "--db",
            "app.db",
            "--json",
        ],
        &["ltx", "replica"],
        &["keygen", "-o", "other.key"],
    ];
    for arguments in cases {
        let mut command = place.command(arguments);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Nobody ever reads.
        drop(child.stdout.take());
        let mut err = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .unwrap();
        assert_eq!(
            child.wait().unwrap().code(),
            Some(0),
            "{arguments:?}: {err}"
        );
        assert!(
            !err.contains("panicked") && !err.contains("pipe"),
            "{arguments:?}: {err}"
        );
    }
}
