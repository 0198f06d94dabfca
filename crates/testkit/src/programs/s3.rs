//! Servers that speak S3, on loopback.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tempfile::TempDir;

use super::server::{python, python_script};
use super::{Authority, install_ministack, install_rclone};
use crate::checkout::{free_port, temp_dir, wait_until};
use crate::process::ChildProcess;

/// A function that makes a client of a service which may do everything.
const ROOT: &str = "\
from sys import argv
from botocore.session import Session
def root(service):
    return Session().create_client(service, endpoint_url=argv[1], region_name='us-east-1',
        aws_access_key_id='test', aws_secret_access_key='test')
";
const NEW_BUCKET: &str = "root('s3').create_bucket(Bucket=argv[2])";
const NEW_USER: &str = "\
iam = root('iam')
iam.create_user(UserName=argv[2])
iam.put_user_policy(UserName=argv[2], PolicyName='it', PolicyDocument=argv[3])
key = iam.create_access_key(UserName=argv[2])['AccessKey']
print(key['AccessKeyId'], key['SecretAccessKey'])
";

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum S3Kind {
    /// Honours conditions, checks no signature.
    Ministack,
    /// The same, but refuses what the policy of a user does not allow, and takes no other user's requests.
    Enforcing,
    /// Checks signatures, ignores conditions.
    Rclone,
}

/// A server with one empty bucket, stopped when dropped.
#[derive(Debug)]
pub struct S3Server {
    endpoint: String,
    kind: S3Kind,
    port: u16,
    process: ChildProcess,
    dir: TempDir,
}

impl S3Server {
    /// The bucket that is there.
    pub const BUCKET: &'static str = "replicas";
    /// The only access key that a server that checks it takes.
    pub const ACCESS_KEY_ID: &'static str = "AKIDEXAMPLE12345";
    /// Its secret.
    pub const SECRET_ACCESS_KEY: &'static str = "SECRETSECRETSECRET";

    const KEY: [&'static str; 2] = [Self::ACCESS_KEY_ID, Self::SECRET_ACCESS_KEY];

    /// Starts a server on a free port.
    ///
    /// # Panics
    ///
    /// When it cannot be installed, or does not start: nothing that needs it is skipped.
    pub fn start(kind: S3Kind) -> Self {
        let port = free_port();
        let command = |dir: &Path| match kind {
            S3Kind::Ministack => ministack(port),
            S3Kind::Enforcing => {
                let mut command = ministack(port);
                command.env("SERVICES", "s3,iam").env("AUTH", "true");
                command
            }
            S3Kind::Rclone => rclone(port, dir, Self::KEY),
        };
        Self::run(kind, "http", port, command)
    }

    /// Starts a server that checks signatures, and has a certificate for its address of this authority.
    ///
    /// # Panics
    ///
    /// As [`S3Server::start`].
    pub fn start_encrypted(authority: &Authority) -> Self {
        let port = free_port();
        let command = |dir: &Path| {
            let [certificate, key] = authority.issue(dir);
            let mut command = rclone(port, dir, Self::KEY);
            command.arg("--cert").arg(certificate);
            command.arg("--key").arg(key);
            command
        };
        Self::run(S3Kind::Rclone, "https", port, command)
    }

    fn run(kind: S3Kind, scheme: &str, port: u16, command: impl Fn(&Path) -> Command) -> Self {
        let dir = temp_dir();
        let process = spawn(command(dir.path()), port, dir.path());
        let server = Self {
            endpoint: format!("{scheme}://127.0.0.1:{port}"),
            kind,
            port,
            process,
            dir,
        };
        server.create_bucket();
        server
    }

    /// Takes requests with this access key from now on, identity and secret, and no others.
    ///
    /// # Panics
    ///
    /// When the server checks no signatures, or does not start again.
    pub fn change_key(&mut self, key: [&str; 2]) {
        assert_eq!(self.kind, S3Kind::Rclone, "it takes any key");
        self.process.kill().expect("the server ends");
        let command = rclone(self.port, self.dir.path(), key);
        self.process = spawn(command, self.port, self.dir.path());
    }

    /// The folder with the objects of the bucket, of a server that checks signatures.
    pub fn files(&self) -> PathBuf {
        self.dir.path().join("data").join(Self::BUCKET)
    }

    /// The server of this kind that other tests of the process use at the moment, or a new one.
    ///
    /// # Panics
    ///
    /// As [`S3Server::start`].
    pub fn shared(kind: S3Kind) -> Arc<Self> {
        // A static would never be dropped, and the server run on after the tests.
        static RUNNING: Mutex<[Weak<S3Server>; 3]> =
            Mutex::new([Weak::new(), Weak::new(), Weak::new()]);
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let [ministack, enforcing, rclone] = &mut *running;
        let place = match kind {
            S3Kind::Ministack => ministack,
            S3Kind::Enforcing => enforcing,
            S3Kind::Rclone => rclone,
        };
        place.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start(kind));
            *place = Arc::downgrade(&server);
            server
        })
    }

    /// Its URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Which one it is.
    pub fn kind(&self) -> S3Kind {
        self.kind
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The URL of a replica, as Litestream and Evertide take it.
    pub fn replica_url(&self, path: &str) -> String {
        let (bucket, endpoint) = (Self::BUCKET, &self.endpoint);
        format!("s3://{bucket}/{path}?endpoint={endpoint}&region=us-east-1&forcePathStyle=true")
    }

    /// The environment in which programs find the access key.
    pub fn environment() -> [(&'static str, &'static str); 2] {
        [
            ("AWS_ACCESS_KEY_ID", Self::ACCESS_KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", Self::SECRET_ACCESS_KEY),
        ]
    }

    /// Stores an object again as nobody should: with its metadata, and with this bit of its last byte
    /// turned over for each bit that is set. A listing tells another time for it then.
    ///
    /// # Panics
    ///
    /// When there is no such object, or the server checks signatures.
    pub fn store_again(&self, key: &str, flipped: u8) {
        let script = "import sys, urllib.request as u\n\
                      old = u.urlopen(sys.argv[1])\n\
                      kept = {k: v for k, v in old.headers.items() if k.lower().startswith('x-amz-meta-')}\n\
                      new = bytearray(old.read())\n\
                      new[-1] ^= int(sys.argv[2])\n\
                      u.urlopen(u.Request(sys.argv[1], bytes(new), kept, method='PUT'))";
        let url = format!("{}/{}/{key}", self.endpoint, Self::BUCKET);
        self.python(&[script, &url, &flipped.to_string()]);
    }

    /// A new user of an enforcing server, who may do what this policy says: the environment in which programs find the
    /// access key.
    ///
    /// # Panics
    ///
    /// When the server refuses.
    pub fn user(&self, name: &str, policy: &str) -> [(&'static str, String); 2] {
        let printed = self.as_root(NEW_USER, &[name, policy]);
        let (id, secret) = printed.trim().split_once(' ').expect("a key");
        [
            ("AWS_ACCESS_KEY_ID", id.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
        ]
    }

    /// Runs a script with a function `root`, which makes a client of a service.
    fn as_root(&self, script: &str, arguments: &[&str]) -> String {
        let (mut command, _) = python(install_ministack);
        command.args(["-c", &format!("{ROOT}{script}")]);
        let output = command.arg(&self.endpoint).args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(output.status.success(), "{output:?}\n{}", self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// How many uploads of objects whose keys begin like this were begun and neither completed nor given up.
    ///
    /// # Panics
    ///
    /// When the server does not tell, or checks signatures.
    pub fn uploads(&self, prefix: &str) -> usize {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        let request = format!(
            "GET /{}?uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
            Self::BUCKET
        );
        connection.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains("ListMultipartUploadsResult"), "{answer}");
        answer.matches(&format!("<Key>{prefix}")).count()
    }

    fn create_bucket(&self) {
        match self.kind {
            S3Kind::Rclone => fs::create_dir(self.files()).expect("a folder is a bucket"),
            S3Kind::Enforcing => {
                self.as_root(NEW_BUCKET, &[Self::BUCKET]);
            }
            S3Kind::Ministack => {
                let script = "import sys, urllib.request as u\n\
                              u.urlopen(u.Request(sys.argv[1], method='PUT'))";
                let url = format!("{}/{}", self.endpoint, Self::BUCKET);
                self.python(&[script, &url]);
            }
        }
    }

    fn python(&self, script_and_arguments: &[&str]) {
        let mut python = Command::new("python3");
        let output = python.arg("-c").args(script_and_arguments).output();
        let output = output.unwrap_or_else(|error| panic!("{python:?}: {error}"));
        assert!(
            output.status.success(),
            "{python:?}: {output:?}\n{}",
            self.log()
        );
    }
}

/// Starts a server, and waits until it listens.
fn spawn(mut command: Command, port: u16, dir: &Path) -> ChildProcess {
    let log = dir.join("server.log");
    let process = ChildProcess::spawn_logged(command.current_dir(dir), &log)
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let listens = || TcpStream::connect(("127.0.0.1", port)).is_ok();
    wait_until(Duration::from_secs(60), "the S3 server listens", listens);
    process
}

fn ministack(port: u16) -> Command {
    let mut command = python_script(install_ministack);
    command
        .env("BIND_HOST", "127.0.0.1")
        .env("GATEWAY_PORT", port.to_string())
        .env("SERVICES", "s3");
    command
}

fn rclone(port: u16, dir: &Path, key: [&str; 2]) -> Command {
    let program = install_rclone().unwrap_or_else(|error| panic!("{error}"));
    let data = dir.join("data");
    fs::create_dir_all(&data).expect("a folder for the buckets");
    let mut command = Command::new(program);
    command
        .args(["serve", "s3", "--config", "/dev/null", "--addr"])
        .arg(format!("127.0.0.1:{port}"))
        .args(["--auth-key", &key.join(",")])
        .arg(data);
    command
}
