//! A service that gives access keys for tokens, as Amazon's STS does.

use std::fs;
use std::process::Command;

use super::{Authority, server::Server};

/// Whatever host a proxy is asked for is this one.
const SCRIPT: &str = "\
import datetime, os, socketserver, ssl, sys
folder = sys.argv[2]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.path.join(folder, 'server.pem'), os.path.join(folder, 'server.key'))
ANSWER = '<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>' \
    '<AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>t</SessionToken>' \
    '<Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>'
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        connect = self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        if not connect.startswith(b'CONNECT sts.amazonaws.com:443 '):
            return
        self.wfile.write(b'HTTP/1.1 200 OK\\r\\n\\r\\n')
        with context.wrap_socket(self.connection, server_side=True) as connection:
            stream = connection.makefile('rwb')
            asked, length = stream.readline(), 0
            while line := stream.readline().strip():
                name, _, value = line.partition(b':')
                if name.lower() == b'content-length':
                    length = int(value)
            asked += stream.read(length)
            with open(os.path.join(folder, 'asked'), 'ab') as file:
                file.write(asked + b'\\n')
            with open(os.path.join(folder, 'key')) as file:
                key = file.read().split()
            end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=30)
            answer = (ANSWER % (*key, end.strftime('%Y-%m-%dT%H:%M:%SZ'))).encode()
            stream.write(b'HTTP/1.1 200 OK\\r\\nContent-Type: text/xml\\r\\nConnection: close\\r\\n')
            stream.write(b'Content-Length: %d\\r\\n\\r\\n' % len(answer) + answer)
            stream.flush()
class Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
Listener(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";

/// A service that gives access keys, good for half a minute, for the token of a web identity. It is reached as
/// `sts.amazonaws.com` by those who take it for their proxy, and trust the authority that its certificate is of.
#[derive(Debug)]
pub struct StsServer {
    server: Server,
}

impl StsServer {
    /// Starts it, with a certificate of this authority.
    ///
    /// # Panics
    ///
    /// When it does not start: nothing that needs it is skipped.
    pub fn start(authority: &Authority) -> Self {
        let server = Server::start("sts", |port, folder| {
            authority.issue_for("DNS:sts.amazonaws.com", folder);
            let mut python = Command::new("python3");
            python.args(["-c", SCRIPT, &port.to_string()]).arg(folder);
            python
        });
        Self { server }
    }

    /// Gives this access key from now on, identity and secret.
    ///
    /// # Panics
    ///
    /// When it cannot be written down.
    pub fn give(&self, key: [&str; 2]) {
        let folder = self.server.data();
        fs::write(folder.join("next"), key.join(" ")).expect("a file for the key");
        fs::rename(folder.join("next"), folder.join("key")).expect("a file for the key");
    }

    /// What it was asked, one request a line.
    pub fn asked(&self) -> String {
        fs::read_to_string(self.server.data().join("asked")).unwrap_or_default()
    }

    /// The URL of the proxy that leads there.
    pub fn proxy(&self) -> String {
        self.server.url()
    }
}
