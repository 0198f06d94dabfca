//! Secrets that are planted, and a server that gives them away.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Somebody who says nothing for so long waits for the server to begin, or has said everything.
const SILENCE: Duration = Duration::from_millis(300);
const INFO: &str = "INFO {\"server_id\":\"it\",\"version\":\"2.10.0\",\"proto\":1,\"host\":\"127.0.0.1\",\
                    \"port\":4222,\"max_payload\":1048576,\"headers\":true,\"auth_required\":true}\r\n";

/// What is in every planted secret, and in those of the test servers, and nowhere else.
const MARKS: [&str; 5] = [
    "hunter2",
    "SECRETSECRET",
    "TEMPORARYTEMPORARY",
    "TOKENTOKEN",
    "Eby8vdM02xNOcqFlqUwJ",
];
/// The first of them at any place of what is in Base64.
const MARKS_IN_BASE64: [&str; 3] = ["aHVudGVyM", "odW50ZXIy", "h1bnRlcj"];

/// A server that refuses whatever it is asked, and quotes it in its answer: HTTP, with the errors of S3, and
/// NATS. It is a metadata service, too, of a machine that has no role: it gives a token, and nothing for it.
#[derive(Debug)]
pub struct QuotingServer {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
}

impl QuotingServer {
    /// Starts it on a free port.
    ///
    /// # Panics
    ///
    /// When there is no port, or no thread.
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("a port");
        let stopping = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stopping);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // A connection that ends half-way is nothing new to a server.
                std::thread::spawn(move || connection.and_then(refuse));
            }
        });
        Self { address, stopping }
    }

    /// The URL of a proxy that refuses whatever it is to lead to.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A replica of each kind at this server, as tables of TOML with this name, with every secret that may be set.
    /// Each is named after its kind and a number.
    pub fn replicas(&self, table: &str) -> String {
        Self::replicas_at(&self.address.to_string(), table)
    }

    /// The same at a server that another process has.
    pub fn replicas_at(address: &str, table: &str) -> String {
        let replicas = REPLICAS.replace("ADDRESS", address);
        replicas.replace("[[replicas]]", &format!("[[{table}]]"))
    }

    /// The names of those replicas.
    pub fn names() -> Vec<&'static str> {
        let lines = REPLICAS.lines();
        let names = lines.filter_map(|line| line.strip_prefix("name = \""));
        names.map(|name| name.trim_end_matches('"')).collect()
    }

    /// Variables of the environment in which those find keys that have none, with more secrets.
    pub fn environment(&self) -> [(&'static str, String); 10] {
        [
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE12345".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "hunter2-of-s3".to_owned()),
            ("AWS_SESSION_TOKEN", "hunter2-token-of-s3".to_owned()),
            ("OSS_ACCESS_KEY_ID", "LTAIEXAMPLE12345".to_owned()),
            ("OSS_ACCESS_KEY_SECRET", "hunter2-of-oss".to_owned()),
            ("OSS_SESSION_TOKEN", "hunter2-token-of-oss".to_owned()),
            // Nothing of the tests leaves this machine.
            ("HTTPS_PROXY", self.url()),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", self.url()),
            ("AWS_CONFIG_FILE", "/nowhere".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/nowhere".to_owned()),
        ]
    }
}

impl Drop for QuotingServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// The first place of a text where a planted secret is, as it is or in Base64, with what is around it.
pub fn planted_secret(text: &str) -> Option<String> {
    let marks = MARKS.into_iter().chain(MARKS_IN_BASE64);
    let found = marks.filter_map(|mark| text.find(mark)).min()?;
    let (before, after) = text.split_at_checked(found)?;
    let before: Vec<char> = before.chars().rev().take(300).collect();
    let after = after.chars().take(60);
    Some(before.into_iter().rev().chain(after).collect())
}

/// Quotes what is asked, and ends the connection.
fn refuse(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    let asked = heard(&mut stream)?;
    if asked.is_empty() {
        stream.write_all(INFO.as_bytes())?;
        let asked = heard(&mut stream)?;
        let first = asked.lines().next().unwrap_or_default();
        let error = format!("-ERR 'Authorization Violation: {first}'\r\n");
        return stream.write_all(error.as_bytes());
    }
    if asked.starts_with("PUT /latest/api/token ") {
        let token = "hunter2-token-of-the-machine";
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", token.len());
        return stream.write_all(format!("{head}Connection: close\r\n\r\n{token}").as_bytes());
    }
    let quoted = asked.replace('&', "&amp;").replace('<', "&lt;");
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>SignatureDoesNotMatch</Code>\
         <Message>{quoted}</Message><CanonicalRequest>{quoted}</CanonicalRequest></Error>"
    );
    let head = format!(
        "HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// What is said until there is silence.
fn heard(stream: &mut TcpStream) -> io::Result<String> {
    let (mut heard, mut piece) = (Vec::new(), [0; 4_096]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => heard.extend_from_slice(piece.get(..read).unwrap_or_default()),
            Err(error) if is_silence(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&heard).into_owned())
}

fn is_silence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// What is in Base64 is `planted-hunter2-secret-32-bytes!`.
const REPLICAS: &str = r#"
[[replicas]]
name = "s3-1"
type = "s3"
s3_bucket = "bucket"
s3_endpoint = "http://ADDRESS"
s3_access_key_id = "AKIDEXAMPLE12345"
s3_secret_access_key = "hunter2-secret"
s3_sse_customer_key = "cGxhbnRlZC1odW50ZXIyLXNlY3JldC0zMi1ieXRlcyE="
[[replicas]]
name = "s3-2"
type = "s3"
s3_bucket = "bucket"
s3_path = "other"
s3_endpoint = "http://ADDRESS"
[[replicas]]
name = "s3-3"
type = "s3"
s3_bucket = "bucket"
s3_path = "third"
s3_profile = "nobody"
s3_endpoint = "http://ADDRESS"
[[replicas]]
name = "gs-1"
type = "gs"
gs_bucket = "bucket"
gs_endpoint = "http://ADDRESS"
gs_credentials = '{"type": "authorized_user", "client_id": "it", "client_secret": "hunter2-1", "refresh_token": "hunter2-2"}'
[[replicas]]
name = "abs-1"
type = "abs"
abs_container = "container"
abs_account = "account"
abs_account_key = "cGxhbnRlZC1odW50ZXIyLXNlY3JldC0zMi1ieXRlcyE="
abs_endpoint = "http://ADDRESS"
[[replicas]]
name = "abs-2"
type = "abs"
abs_container = "container"
abs_path = "other"
abs_account = "account"
abs_sas_token = "sv=2024-11-04&sig=hunter2-signature"
abs_endpoint = "http://ADDRESS"
[[replicas]]
name = "oss-1"
type = "oss"
oss_bucket = "bucket"
oss_endpoint = "http://ADDRESS"
oss_access_key_id = "STS.EXAMPLE12345"
oss_access_key_secret = "hunter2-secret"
oss_security_token = "hunter2-token"
[[replicas]]
name = "oss-2"
type = "oss"
oss_bucket = "bucket"
oss_path = "other"
oss_endpoint = "http://ADDRESS"
[[replicas]]
name = "sftp-1"
type = "sftp"
sftp_host = "ADDRESS"
sftp_path = "/app"
sftp_user = "user"
sftp_password = "hunter2-password"
sftp_private_key = "hunter2-key"
sftp_key_passphrase = "hunter2-phrase"
sftp_host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"
[[replicas]]
name = "webdav-1"
type = "webdav"
webdav_url = "http://ADDRESS/share"
webdav_username = "user"
webdav_password = "hunter2-password"
[[replicas]]
name = "nats-1"
type = "nats"
nats_host = "ADDRESS"
nats_bucket = "bucket"
nats_username = "user"
nats_password = "hunter2-password"
[[replicas]]
name = "nats-2"
type = "nats"
nats_host = "ADDRESS"
nats_bucket = "other"
nats_token = "hunter2-token"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_planted_is_given_away_and_found() {
        let server = QuotingServer::start();
        let mut connection = TcpStream::connect(server.address).unwrap();
        let request = b"GET / HTTP/1.1\r\nx-token: hunter2-token\r\n\r\n";
        connection.write_all(request).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(
            planted_secret(&answer)
                .unwrap()
                .contains("x-token: hunter2")
        );
        let mut connection = TcpStream::connect(server.address).unwrap();
        let request = b"PUT /latest/api/token HTTP/1.1\r\n\r\n";
        connection.write_all(request).unwrap();
        let mut token = String::new();
        connection.read_to_string(&mut token).unwrap();
        assert!(planted_secret(&token).is_some(), "{token}");
        assert_eq!(planted_secret("a hunter, two hunters"), None);
        let replicas = server.replicas("replicas");
        assert_eq!(
            QuotingServer::names().len(),
            replicas.matches("[[replicas]]").count()
        );
        // However many bytes are before it.
        for (before, base64) in ["aHVudGVyMg==", "eGh1bnRlcjI=", "eHhodW50ZXIy"]
            .iter()
            .enumerate()
        {
            assert!(planted_secret(base64).is_some(), "{before}");
        }
    }
}
