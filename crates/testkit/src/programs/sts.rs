//! A service that gives access keys for tokens, as Amazon's STS does.

use std::fs;

use super::{Authority, behind_proxy, server::Server};

const ANSWER: &str = "\
import datetime
ANSWER = '<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>' \
    '<AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>t</SessionToken>' \
    '<Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>'
def answer(asked, content):
    with open(os.path.join(folder, 'asked'), 'ab') as file:
        file.write(asked + content + b'\\n')
    with open(os.path.join(folder, 'key')) as file:
        key = file.read().split()
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=30)
    return 200, b'text/xml', (ANSWER % (*key, end.strftime('%Y-%m-%dT%H:%M:%SZ'))).encode()
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
        let server = behind_proxy::start("sts.amazonaws.com", authority, ANSWER, &[]);
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
