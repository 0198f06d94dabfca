//! Servers with SSH, on loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use nix::sys::signal::Signal;

use super::install_rclone;
use super::packages::{install_openssh, program};
use super::server::{Server, shared};

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SftpKind {
    /// OpenSSH's, which wants a key and has every extension.
    OpenSsh,
    /// Rclone's, which wants a password and has no hard links.
    Rclone,
}

/// A server with an empty folder, stopped when dropped.
#[derive(Debug)]
pub struct SftpServer {
    server: Server,
    kind: SftpKind,
}

impl SftpServer {
    /// The password of a server that wants one.
    pub const PASSWORD: &'static str = "SECRETSECRETSECRET";

    /// Starts a server on a free port.
    ///
    /// # Panics
    ///
    /// When it cannot be installed, or does not start: nothing that needs it is skipped.
    pub fn start(kind: SftpKind) -> Self {
        let server = Server::start("an SSH server", |port, data| {
            let key = data.join("host_key");
            make_key(&key);
            match kind {
                SftpKind::OpenSsh => openssh(port, data, &key, "internal-sftp"),
                SftpKind::Rclone => rclone(port, data, &key),
            }
        });
        Self { server, kind }
    }

    /// Starts OpenSSH's, which says of each file that it is deleted, and deletes none.
    ///
    /// # Panics
    ///
    /// As [`SftpServer::start`].
    pub fn start_lying() -> Self {
        let server = Server::start("an SSH server", |port, data| {
            let key = data.join("host_key");
            make_key(&key);
            let liar = data.join("liar.py");
            fs::write(&liar, LIAR).expect("a script");
            openssh(port, data, &key, &format!("python3 {}", liar.display()))
        });
        let kind = SftpKind::OpenSsh;
        Self { server, kind }
    }

    /// The server of this kind that other tests of the process use at the moment, or a new one.
    ///
    /// # Panics
    ///
    /// As [`SftpServer::start`].
    pub fn shared(kind: SftpKind) -> Arc<Self> {
        static OPENSSH: Mutex<Weak<SftpServer>> = Mutex::new(Weak::new());
        static RCLONE: Mutex<Weak<SftpServer>> = Mutex::new(Weak::new());
        let place = match kind {
            SftpKind::OpenSsh => &OPENSSH,
            SftpKind::Rclone => &RCLONE,
        };
        shared(place, || Self::start(kind))
    }

    /// Its address, with the port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }

    /// The only user it lets in.
    ///
    /// # Panics
    ///
    /// When nobody knows who runs the tests.
    pub fn user(&self) -> String {
        match self.kind {
            SftpKind::Rclone => "backup".to_owned(),
            SftpKind::OpenSsh => {
                let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective());
                user.expect("the users of this machine")
                    .expect("a user with this number")
                    .name
            }
        }
    }

    /// The folder for replicas, as the server names it.
    pub fn folder(&self) -> String {
        match self.kind {
            SftpKind::OpenSsh => self.files().display().to_string(),
            SftpKind::Rclone => "/files".to_owned(),
        }
    }

    /// The folder for replicas, on this machine.
    pub fn files(&self) -> PathBuf {
        self.server.data().join("files")
    }

    /// The file with the private key of the user.
    pub fn key_path(&self) -> PathBuf {
        self.server.data().join("user_key")
    }

    /// The public key of the server.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    pub fn host_key(&self) -> String {
        let key = fs::read_to_string(self.server.data().join("host_key.pub"));
        key.expect("the key of the server").trim().to_owned()
    }

    /// Ends the processes that serve connections, as a server does that is restarted.
    ///
    /// # Panics
    ///
    /// When the processes of this machine cannot be listed.
    pub fn drop_connections(&self) {
        let server = self.server.id();
        for child in children(server) {
            // Those that ended meanwhile are of no matter.
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), Signal::SIGKILL).ok();
        }
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        self.server.log()
    }
}

/// The processes that a process has started and that have not ended.
fn children(parent: u32) -> Vec<i32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let listed = fs::read_to_string(path).expect("the children of a server");
    listed
        .split_whitespace()
        .filter_map(|id| id.parse().ok())
        .collect()
}

fn make_key(path: &Path) {
    install_openssh().unwrap_or_else(|error| panic!("{error}"));
    let mut keygen = Command::new(program("ssh-keygen"));
    let output = keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .output()
        .expect("ssh-keygen runs");
    assert!(output.status.success(), "{output:?}");
}

fn openssh(port: u16, data: &Path, host_key: &Path, subsystem: &str) -> Command {
    let user_key = data.join("user_key");
    make_key(&user_key);
    fs::create_dir(data.join("files")).expect("a folder for replicas");
    let config = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}.pub\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
         PidFile none\nMaxStartups 1000\nMaxSessions 1000\nPerSourcePenalties no\n\
         Subsystem sftp {subsystem}\n",
        host_key.display(),
        user_key.display(),
    );
    let path = data.join("sshd_config");
    // Only newer ones punish those who come often.
    let known = |line: &&str| !line.starts_with("PerSource") || punishes();
    let config: Vec<_> = config.lines().filter(known).collect();
    fs::write(&path, config.join("\n") + "\n").expect("the settings of a server");
    // Where the server as the system has it was never started.
    fs::create_dir_all("/run/sshd").ok();
    let mut command = Command::new(program("sshd"));
    command.args(["-D", "-e", "-f"]).arg(path);
    command
}

/// Whether the server knows `PerSourcePenalties`.
fn punishes() -> bool {
    let mut test = Command::new(program("sshd"));
    test.args(["-T", "-f", "/dev/null", "-o", "PerSourcePenalties=no"]);
    let output = test.output().expect("sshd runs");
    !String::from_utf8_lossy(&output.stderr).contains("PerSourcePenalties")
}

fn rclone(port: u16, data: &Path, host_key: &Path) -> Command {
    let program = install_rclone().unwrap_or_else(|error| panic!("{error}"));
    fs::create_dir(data.join("files")).expect("a folder for replicas");
    let mut command = Command::new(program);
    command
        .args(["serve", "sftp", "--config", "/dev/null", "--addr"])
        .arg(format!("127.0.0.1:{port}"))
        .args(["--user", "backup", "--pass", SftpServer::PASSWORD])
        .args(["--vfs-cache-mode", "writes", "--key"])
        .arg(host_key)
        .arg(data);
    command
}

/// Passes on what a client says to OpenSSH's server of files, but for what it wants deleted (`SSH_FXP_REMOVE`), to which it
/// answers itself (`SSH_FXP_STATUS`, `SSH_FX_OK`).
const LIAR: &str = r"
import struct, subprocess, sys, threading
pipe = subprocess.PIPE
server = subprocess.Popen(['/usr/lib/openssh/sftp-server'], stdin=pipe, stdout=pipe)
to_client = threading.Lock()
def packets(stream):
    while length := stream.read(4):
        yield stream.read(struct.unpack('>I', length)[0])
def send(stream, packet):
    stream.write(struct.pack('>I', len(packet)) + packet)
    stream.flush()
def answers():
    for packet in packets(server.stdout):
        with to_client:
            send(sys.stdout.buffer, packet)
threading.Thread(target=answers, daemon=True).start()
for packet in packets(sys.stdin.buffer):
    if packet[0] == 13:
        with to_client:
            send(sys.stdout.buffer, bytes([101]) + packet[1:5] + bytes(12))
    else:
        send(server.stdin, packet)
server.stdin.close()
server.wait()
";
