//! Daemons that write down what happens to them, and a client that speaks plain HTTP/1.1.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evertide_server::{
    Daemon, DaemonError, Reloaded, Server, ServerError, ServerHandle, async_trait,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// What happened, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    pub(crate) fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    pub(crate) fn entries(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    Succeed,
    Fail(&'static str),
    Panic(&'static str),
    Hang,
    Take(Duration),
}

impl Act {
    async fn perform(self) -> Result<(), DaemonError> {
        match self {
            Self::Succeed => Ok(()),
            Self::Fail(message) => Err(message.into()),
            Self::Panic(message) => panic!("{message}"),
            Self::Hang => std::future::pending().await,
            Self::Take(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
        }
    }
}

/// A daemon that notes each call and does as it is told.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) name: &'static str,
    pub(crate) journal: Journal,
    pub(crate) start: Act,
    pub(crate) stop: Act,
    pub(crate) reload: Act,
}

impl Recorder {
    pub(crate) fn new(name: &'static str, journal: &Journal) -> Self {
        let (start, stop, reload) = (Act::Succeed, Act::Succeed, Act::Succeed);
        Self {
            name,
            journal: journal.clone(),
            start,
            stop,
            reload,
        }
    }

    pub(crate) fn start(self, start: Act) -> Self {
        Self { start, ..self }
    }

    pub(crate) fn stop(self, stop: Act) -> Self {
        Self { stop, ..self }
    }

    pub(crate) fn reload(self, reload: Act) -> Self {
        Self { reload, ..self }
    }
}

#[async_trait]
impl Daemon for Recorder {
    fn name(&self) -> &str {
        self.name
    }

    async fn start(&self) -> Result<(), DaemonError> {
        self.journal.note(format!("{} starts", self.name));
        self.start.perform().await?;
        self.journal.note(format!("{} runs", self.name));
        Ok(())
    }

    async fn stop(&self, _deadline: Duration) -> Result<(), DaemonError> {
        self.journal.note(format!("{} stops", self.name));
        self.stop.perform().await?;
        self.journal.note(format!("{} stopped", self.name));
        Ok(())
    }

    async fn reload(&self) -> Result<Reloaded, DaemonError> {
        self.journal.note(format!("{} reloads", self.name));
        self.reload.perform().await?;
        self.journal.note(format!("{} reloaded", self.name));
        Ok(Reloaded::Changed("all of them".to_owned()))
    }
}

/// A loopback address with a port that the system chooses.
pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Runs the server in a task, on a free port and without its signal handlers.
pub(crate) fn spawn(server: Server) -> (ServerHandle, JoinHandle<Result<(), ServerError>>) {
    let server = server.listen(any_port()).without_signals();
    let handle = server.handle();
    (handle, tokio::spawn(server.run()))
}

/// The address, once it is served.
pub(crate) async fn address(handle: &ServerHandle) -> SocketAddr {
    handle.serving().await.unwrap().unwrap()
}

/// One connection that stays open between requests.
#[derive(Debug)]
pub(crate) struct Client(TcpStream);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> std::io::Result<Self> {
        Ok(Self(TcpStream::connect(address).await?))
    }

    pub(crate) async fn send(&mut self, bytes: &str) {
        self.0.write_all(bytes.as_bytes()).await.unwrap();
    }

    pub(crate) async fn request(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"))
            .await;
    }

    /// Everything until the server closes the connection.
    pub(crate) async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// The head and body of one response that has a content length.
    pub(crate) async fn response(&mut self) -> String {
        let mut text = String::new();
        loop {
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                if length.map(|length| length.parse().unwrap()) == Some(body.len()) {
                    return text;
                }
            }
            let mut byte = [0];
            self.0.read_exact(&mut byte).await.unwrap();
            text.push(char::from(byte[0]));
        }
    }
}

/// One request on a connection of its own; the body of the response.
pub(crate) async fn get(address: SocketAddr, path: &str) -> String {
    let mut client = Client::connect(address).await.unwrap();
    client.request(path).await;
    let response = client.response().await;
    response.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Whether nothing listens there.
pub(crate) async fn is_refused(address: SocketAddr) -> bool {
    let refused = std::io::ErrorKind::ConnectionRefused;
    TcpStream::connect(address)
        .await
        .is_err_and(|error| error.kind() == refused)
}
