//! The commands of the README, in order, as a reader types them.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper has nobody to return an error to"
)]
#![allow(clippy::disallowed_methods, reason = "a test may touch its own files")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use evertide_testkit::{ChildProcess, free_port, temp_dir, wait_until, workspace_program};

const README: &str = include_str!("../README.md");

/// The lines of the blocks a shell would run.
fn commands() -> Vec<&'static str> {
    let blocks = README
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    blocks
        .flat_map(str::lines)
        .filter(|line| !line.is_empty())
        .collect()
}

/// Runs a line with the freshly built programs on the path, and the README's folders elsewhere.
fn shell(line: &str, folder: &Path, evertide: &Path) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let programs = std::iter::once(evertide.parent().unwrap().to_path_buf());
    let path = std::env::join_paths(programs.chain(std::env::split_paths(&path))).unwrap();
    let ended = Command::new("sh")
        .args(["-euc", &elsewhere(line, folder)])
        .current_dir(folder)
        .env("PATH", path)
        .output()
        .unwrap();
    let said = [ended.stdout, ended.stderr].concat();
    assert!(
        ended.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&said)
    );
}

fn elsewhere(line: &str, folder: &Path) -> String {
    let backup = folder.join("backup").display().to_string();
    line.replace("/tmp/notes-backup", &backup)
        .replace("/tmp/notes", &folder.display().to_string())
}

/// The application, started with a line of the README, on a port of our own.
fn run(line: &str, folder: &Path, address: SocketAddr) -> ChildProcess {
    let mut command = Command::new(env!("CARGO_BIN_EXE_notes"));
    command
        .args(line.split_whitespace().skip(1))
        .arg("--listen")
        .arg(address.to_string());
    let log: PathBuf = folder.join("log");
    let mut process = ChildProcess::spawn_logged(command.current_dir(folder), &log).unwrap();
    wait_until(Duration::from_secs(30), "the application to serve", || {
        assert!(process.is_running().unwrap(), "{}", process.log());
        TcpStream::connect(address).is_ok()
    });
    process
}

fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// Whether the replica has the note when that is confirmed.
fn save_important(address: SocketAddr, note: &str) -> bool {
    let form = format!("text={}&important=on", note.replace(' ', "+"));
    let response = exchange(
        address,
        &format!(
            "POST /notes HTTP/1.1\r\nhost: notes\r\nconnection: close\r\n\
             content-type: application/x-www-form-urlencoded\r\n\
             content-length: {}\r\n\r\n{form}",
            form.len()
        ),
    );
    response.contains("outcome=durable")
}

#[test]
fn whoever_follows_the_readme_gets_the_notes_back() {
    let evertide = workspace_program("evertide-cli", "evertide");
    let folder = temp_dir();
    let folder = folder.path();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut running: Option<ChildProcess> = None;
    let (mut starts, mut kills) = (0, 0);

    for line in commands() {
        match line.split_whitespace().next().unwrap() {
            // The test has built the programs, and is in a folder of its own.
            "cargo" | "export" | "mkdir" => {}
            "notes" => {
                running = Some(run(line, folder, address));
                starts += 1;
                match starts {
                    1 => assert!(save_important(address, "do not lose this")),
                    _ => wait_until(Duration::from_secs(60), "the backup to go on", || {
                        save_important(address, "nor this")
                    }),
                }
            }
            "kill" => {
                running.take().unwrap().kill().unwrap();
                kills += 1;
            }
            // Nobody here waits minutes until the killed process has lost its right to the replica.
            "sed" => {
                shell(line, folder, &evertide);
                let lease = "sed -i 's|^#lease_duration = .*|lease_duration = \"1s\"|' backup.toml";
                shell(lease, folder, &evertide);
            }
            _ => shell(line, folder, &evertide),
        }
    }

    assert_eq!(
        (starts, kills),
        (2, 1),
        "the README tells another story now"
    );
    let page = exchange(
        address,
        "GET / HTTP/1.1\r\nhost: notes\r\nconnection: close\r\n\r\n",
    );
    assert!(page.contains("do not lose this"), "{page}");
    let ended = running.unwrap().terminate(Duration::from_secs(30)).unwrap();
    assert!(ended.success(), "{ended}");
}
