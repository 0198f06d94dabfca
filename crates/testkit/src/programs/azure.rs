//! A server that speaks the API of Azure Blob Storage, on loopback.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::install_azurite;
use super::server::{Server, shared};
use crate::checkout::wait_until;

/// Azurite with one empty container, stopped when dropped. It honours conditions and checks signatures.
#[derive(Debug)]
pub struct AzureServer(Server);

impl AzureServer {
    /// The container that is there.
    pub const CONTAINER: &'static str = "replicas";
    /// The only account.
    pub const ACCOUNT: &'static str = "devstoreaccount1";
    /// Its key, which is known to everybody.
    pub const KEY: &'static str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr\
                                   /KBHBeksoGMGw==";

    /// Starts a server on a free port.
    ///
    /// # Panics
    ///
    /// When it cannot be installed, or does not start: nothing that needs it is skipped.
    pub fn start() -> Self {
        let program = install_azurite().unwrap_or_else(|error| panic!("{error}"));
        let server = Self(Server::start("azurite", |port, _| {
            let mut command = Command::new("node");
            command
                .arg(program)
                .args(["--silent", "--inMemoryPersistence", "--skipApiVersionCheck"])
                .args([
                    "--disableTelemetry",
                    "--blobHost",
                    "127.0.0.1",
                    "--blobPort",
                ])
                .arg(port.to_string());
            command
        }));
        server.create_container();
        server
    }

    /// The server that other tests of the process use at the moment, or a new one.
    ///
    /// # Panics
    ///
    /// As [`AzureServer::start`].
    pub fn shared() -> Arc<Self> {
        static RUNNING: Mutex<Weak<AzureServer>> = Mutex::new(Weak::new());
        shared(&RUNNING, Self::start)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.0.port()).into()
    }

    /// Its URL, with the account.
    pub fn endpoint(&self) -> String {
        format!("{}/{}", self.0.url(), Self::ACCOUNT)
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        self.0.log()
    }

    /// A token for everything in the container, for a day.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn sas_token(&self) -> String {
        self.script(SAS)
    }

    /// Makes the container. A server that has just begun to listen may refuse the first connections all the same.
    fn create_container(&self) {
        wait_until(Duration::from_secs(20), "azurite answers", || {
            let output = self.output_of(CREATE);
            let refused = String::from_utf8_lossy(&output.stderr).contains("Connection refused");
            let created = output.status.success();
            assert!(created || refused, "{output:?}\n{}", self.log());
            created
        });
    }

    /// What a script that signs something prints.
    fn script(&self, script: &str) -> String {
        let output = self.output_of(script);
        assert!(output.status.success(), "{output:?}\n{}", self.log());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn output_of(&self, script: &str) -> Output {
        let mut python = Command::new("python3");
        python.args([
            "-c",
            script,
            Self::ACCOUNT,
            Self::KEY,
            Self::CONTAINER,
            &self.endpoint(),
        ]);
        python
            .output()
            .unwrap_or_else(|error| panic!("{python:?}: {error}"))
    }
}

/// A request to create the container, with the account's key.
const CREATE: &str = r"
import base64, datetime, hashlib, hmac, sys, urllib.request
account, key, container, endpoint = sys.argv[1:]
now = datetime.datetime.now(datetime.timezone.utc).strftime('%a, %d %b %Y %H:%M:%S GMT')
headers = f'x-ms-date:{now}\nx-ms-version:2021-08-06'
resource = f'/{account}/{account}/{container}\nrestype:container'
text = 'PUT' + '\n' * 12 + f'{headers}\n{resource}'
signature = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
request = urllib.request.Request(f'{endpoint}/{container}?restype=container', method='PUT', headers={
    'x-ms-date': now, 'x-ms-version': '2021-08-06', 'Authorization': f'SharedKey {account}:{signature}'})
urllib.request.urlopen(request)
";

/// A service SAS of the container.
const SAS: &str = r"
import base64, datetime, hashlib, hmac, sys, urllib.parse
account, key, container, _ = sys.argv[1:]
end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
end, version, rights = end.strftime('%Y-%m-%dT%H:%M:%SZ'), '2020-10-02', 'rcwdl'
fields = [rights, '', end, f'/blob/{account}/{container}', '', '', '', version, 'c', '', '', '', '', '', '']
text = '\n'.join(fields)
signature = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
print(urllib.parse.urlencode({'sv': version, 'sr': 'c', 'sp': rights, 'se': end, 'sig': signature}))
";
