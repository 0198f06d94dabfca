//! Servers of NATS with JetStream, on loopback.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::install_nats;
use super::server::{Server, shared};

/// A server, stopped when dropped.
#[derive(Debug)]
pub struct NatsServer(Server);

impl NatsServer {
    /// The only user of a server that wants a password.
    pub const USER: &'static str = "backup";
    /// Its password.
    pub const PASSWORD: &'static str = "SECRETSECRETSECRET";

    /// Starts a server on a free port that wants a password.
    ///
    /// # Panics
    ///
    /// When it cannot be installed, or does not start: nothing that needs it is skipped.
    pub fn start() -> Self {
        Self::with(&["--user", Self::USER, "--pass", Self::PASSWORD])
    }

    /// Starts a server on a free port that lets in everybody.
    ///
    /// # Panics
    ///
    /// As [`NatsServer::start`].
    pub fn start_open() -> Self {
        Self::with(&[])
    }

    fn with(arguments: &[&str]) -> Self {
        Self(Server::start("nats-server", |port, data| {
            let program = install_nats().unwrap_or_else(|error| panic!("{error}"));
            let mut command = Command::new(program);
            command
                .args(["-js", "-a", "127.0.0.1", "-p", &port.to_string()])
                .args(arguments)
                .arg("-sd")
                .arg(data);
            command
        }))
    }

    /// The server that other tests of the process use at the moment, or a new one.
    ///
    /// # Panics
    ///
    /// As [`NatsServer::start`].
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<NatsServer>> = Mutex::new(Weak::new());
        shared(&SHARED, Self::start)
    }

    /// Its address, with the port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.0.port())
    }

    /// Makes an object store, as the command-line tool of NATS does.
    ///
    /// # Panics
    ///
    /// When the server does not make it.
    pub fn create_bucket(&self, name: &str) {
        let stream = format!(
            "{{\"name\":\"OBJ_{name}\",\"subjects\":[\"$O.{name}.C.>\",\"$O.{name}.M.>\"],\
             \"retention\":\"limits\",\"storage\":\"file\",\"num_replicas\":1,\"discard\":\"new\",\
             \"max_consumers\":-1,\"max_msgs\":-1,\"max_bytes\":-1,\"max_age\":0,\
             \"allow_rollup_hdrs\":true,\"allow_direct\":true}}"
        );
        let answer = self.request(&format!("$JS.API.STREAM.CREATE.OBJ_{name}"), &stream);
        assert!(!answer.contains("\"error\""), "{answer}");
    }

    /// What is asked for on a subject.
    ///
    /// # Panics
    ///
    /// When the server does not answer.
    pub fn request(&self, subject: &str, content: &str) -> String {
        let mut connection = TcpStream::connect(self.address()).expect("a connection");
        let patience = Some(Duration::from_secs(30));
        connection.set_read_timeout(patience).expect("a timeout");
        let (user, password, length) = (Self::USER, Self::PASSWORD, content.len());
        // A subject of its own: whoever asks at the same time is answered on another.
        let inbox = format!("_INBOX.{:016x}", fastrand::u64(..));
        let asked = format!(
            "CONNECT {{\"verbose\":false,\"user\":\"{user}\",\"pass\":\"{password}\"}}\r\n\
             SUB {inbox} 1\r\nPUB {subject} {inbox} {length}\r\n{content}\r\n"
        );
        connection.write_all(asked.as_bytes()).expect("a request");
        let mut connection = BufReader::new(connection);
        loop {
            let mut line = String::new();
            let read = connection.read_line(&mut line).expect("an answer");
            assert!(read > 0 && !line.starts_with("-ERR"), "{line}");
            // `MSG INBOX 1 LENGTH`, and then so many bytes.
            if line.starts_with("MSG ") {
                let length = line.split_whitespace().last().expect("a length");
                let mut answer = vec![0; length.parse().expect("a number")];
                connection.read_exact(&mut answer).expect("an answer");
                return String::from_utf8_lossy(&answer).into_owned();
            }
        }
    }
}
