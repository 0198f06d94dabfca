//! A service that gives tokens for what a key of a service account has signed, as Google's does.

use std::fs;
use std::process::Command;

use super::{Authority, GcsServer, behind_proxy, server::Server};

/// What "Using OAuth 2.0 for Server to Server Applications" of Google's documentation says of a claim: signed by the
/// key, to be used within the hour for which it says it is good. How far clocks may differ it does not say.
const ANSWER: &str = "\
import base64, json, subprocess, tempfile, time, urllib.parse
KIND = 'urn:ietf:params:oauth:grant-type:jwt-bearer'
def refused(why):
    said = {'error': 'invalid_grant', 'error_description': 'Invalid JWT: ' + why}
    return 400, b'application/json', json.dumps(said).encode()
def decoded(text):
    return base64.urlsafe_b64decode(text + '=' * (-len(text) % 4))
def answer(asked, content):
    form = dict(urllib.parse.parse_qsl(content.decode()))
    signed, _, signature = form['assertion'].rpartition('.')
    claim = json.loads(decoded(signed.split('.')[1]))
    with tempfile.NamedTemporaryFile() as file:
        file.write(decoded(signature))
        file.flush()
        check = ['openssl', 'dgst', '-sha256', '-prverify', os.path.join(folder, 'account.key'), '-signature', file.name]
        if form['grant_type'] != KIND or subprocess.run(check, input=signed.encode()).returncode:
            return refused('Signature is invalid.')
    begin, end, now = claim['iat'], claim['exp'], time.time()
    if end - begin > 3600 or not begin - SKEW <= now <= end + SKEW:
        return refused('Token must be a short-lived token (60 minutes) and in a reasonable timeframe. '
                       'Check your iat and exp values in the JWT claim.')
    token = {'access_token': 'a-token', 'expires_in': 3599, 'token_type': 'Bearer'}
    return 200, b'application/json', json.dumps(token).encode()
SKEW = 10
";

/// A service that gives tokens for one service account, and a server of Google Cloud Storage. They are reached as
/// `oauth2.googleapis.com` and `storage.googleapis.com` by those who take this for their proxy, and trust the authority
/// that its certificate is of.
#[derive(Debug)]
pub struct GoogleHosts {
    server: Server,
}

impl GoogleHosts {
    /// Starts the service, with a certificate of this authority, beside this server.
    ///
    /// # Panics
    ///
    /// When it does not start: nothing that needs it is skipped.
    pub fn start(authority: &Authority, storage: &GcsServer) -> Self {
        let led = [("storage.googleapis.com", storage.port())];
        let server = behind_proxy::start("oauth2.googleapis.com", authority, ANSWER, &led);
        let mut openssl = Command::new("openssl");
        openssl
            .args(["genpkey", "-algorithm", "RSA", "-out"])
            .arg(server.data().join("account.key"));
        let output = openssl.output();
        let output = output.unwrap_or_else(|error| panic!("{openssl:?}: {error}"));
        assert!(output.status.success(), "{openssl:?}: {output:?}");
        Self { server }
    }

    /// The content of the service account's key file, in JSON, and the key that is in it.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    pub fn key_file(&self) -> (String, String) {
        let key = fs::read_to_string(self.server.data().join("account.key"));
        let key = key
            .expect("the key was made")
            .trim_end()
            .replace('\n', "\\n");
        let file = format!(
            "{{\"type\": \"service_account\", \"client_email\": \"backup@project.iam.gserviceaccount.com\", \
             \"private_key\": \"{key}\\n\"}}"
        );
        (file, key)
    }

    /// The URL of the proxy that leads there.
    pub fn proxy(&self) -> String {
        self.server.url()
    }
}
