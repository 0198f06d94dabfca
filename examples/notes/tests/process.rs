//! The program itself, as the README runs it.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper has nobody to return an error to"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use evertide_testkit::{ChildProcess, TempDir, restore_with_litestream, temp_dir, wait_until};
use evertide_vault::{AgeKeyFile, ConfigFormat, SecureConfigStore};
use notes::Notes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Site {
    folder: TempDir,
    address: SocketAddr,
}

impl Site {
    /// A key, and the settings encrypted with it in the database.
    fn new() -> Self {
        let folder = temp_dir();
        let key = AgeKeyFile::new(folder.path().join("age.key"));
        key.generate().unwrap();
        let store = SecureConfigStore::create(folder.path().join("notes.db"), key).unwrap();
        let toml = format!(
            "[[replicas]]\nname = \"local\"\ntype = \"file\"\nfile_path = \"{}\"\n",
            folder.path().join("replica").display()
        );
        let scope = evertide::CONFIG_SCOPE;
        store
            .save(scope, toml.as_bytes(), &ConfigFormat::Toml, None)
            .unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], evertide_testkit::free_port()));
        Self { folder, address }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self) -> ChildProcess {
        let mut command = Command::new(env!("CARGO_BIN_EXE_notes"));
        command.arg("--db").arg(self.path("notes.db"));
        command.arg("--age-key").arg(self.path("age.key"));
        command.arg("--listen").arg(self.address.to_string());
        let process = ChildProcess::spawn_logged(&mut command, &self.path("log")).unwrap();
        wait_until(Duration::from_secs(30), "the application to serve", || {
            std::net::TcpStream::connect(self.address).is_ok()
        });
        process
    }

    async fn submit(&self, form: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "POST /notes HTTP/1.1\r\nhost: notes\r\nconnection: close\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
            form.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    async fn restored(&self) -> Vec<String> {
        let output = self.path("restored.db");
        restore_with_litestream(self.path("replica"), &output);
        let notes = Notes::open(output).unwrap().newest(1000).await.unwrap();
        notes.into_iter().rev().map(|note| note.text).collect()
    }
}

#[tokio::test]
async fn a_note_saved_right_before_sigterm_is_on_the_replica_when_the_process_has_ended() {
    let site = Site::new();
    let mut process = site.run();
    let mut expected = Vec::new();
    for number in 0..20 {
        let response = site.submit(&format!("text=note+{number}")).await;
        assert!(response.contains("location: /?outcome=saved"), "{response}");
        expected.push(format!("note {number}"));
    }
    let ended = process.terminate(Duration::from_secs(30)).unwrap();
    assert!(ended.success(), "{ended}: {}", process.log());
    assert_eq!(site.restored().await, expected);
}

#[tokio::test]
async fn an_important_note_survives_sigkill_and_the_loss_of_the_machine() {
    let site = Site::new();
    let mut process = site.run();
    site.submit("text=first").await;
    let response = site.submit("text=second&important=on").await;
    process.kill().unwrap();
    assert!(
        response.contains("location: /?outcome=durable"),
        "{response}"
    );
    assert_eq!(site.restored().await, ["first", "second"]);
}
