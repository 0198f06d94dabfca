//! Azure Blob Storage.

use std::{fmt, sync::Arc};

use opendal::{ErrorKind, Operator, services};
use reqsign_azure_storage::{
    AzurePipelinesCredentialProvider, ClientCertificateCredentialProvider,
    ClientSecretCredentialProvider, Credential, EnvCredentialProvider, ImdsCredentialProvider,
    WorkloadIdentityCredentialProvider,
};
use reqsign_core::ProvideCredentialChain;

use super::{
    Deletion, Dialect, ObjectClient, VersionBy,
    connection::{self, environment},
    quiet::Quiet,
};
use crate::{Error, Secret, url};

/// Bytes in a block of an upload; what is smaller goes in one request. With the largest number of
/// blocks that Azure allows, 50,000, an object has 341 GiB.
const BLOCK: usize = 7 << 20;

/// A replica in a container of Azure Blob Storage.
///
/// Without a key or token here, they are looked for in the environment (`LITESTREAM_AZURE_SAS_TOKEN`,
/// `LITESTREAM_AZURE_ACCOUNT_KEY`, `AZURE_STORAGE_CONNECTION_STRING`, `AZURE_STORAGE_KEY`,
/// `AZURE_STORAGE_SAS_TOKEN`), and then where Azure's own tools look: service principal, workload identity,
/// managed identity.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct AzureOptions {
    /// The container, which must exist.
    pub container: String,
    /// The replica's root in the container; empty for the container itself.
    pub path: String,
    /// The storage account. Without one: that of the connection string, or `AZURE_STORAGE_ACCOUNT`.
    pub account: Option<String>,
    /// URL of the server, with the account in it where it belongs there. Without one: that of the connection
    /// string, or `https://<account>.blob.core.windows.net`.
    pub endpoint: Option<String>,
    /// The account's key, in Base64.
    pub account_key: Option<Secret>,
    /// A token of a shared access signature, which goes before a key.
    pub sas_token: Option<Secret>,
}

impl AzureOptions {
    /// A replica at this path of a container; slashes at its ends mean nothing.
    pub fn new(container: impl Into<String>, path: &str) -> Self {
        Self {
            container: container.into(),
            path: path.trim_matches('/').to_owned(),
            account: None,
            endpoint: None,
            account_key: None,
            sas_token: None,
        }
    }

    /// Reads `account@container/path?endpoint=…`, the part of a URL after `abs://`.
    pub(crate) fn parse(rest: &str) -> Result<Self, String> {
        const EXPECTED: &str = "`abs://account@container/path`";
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, path) = place.split_once('/').unwrap_or((place, ""));
        let (account, container) = match host.rsplit_once('@') {
            Some((account, container)) => (Some(account), container),
            None => (None, host),
        };
        if host.contains(':') {
            return Err(format!(
                "keys do not belong into a URL: set AZURE_STORAGE_KEY, or use the encrypted settings; \
                 expected {EXPECTED}"
            ));
        }
        if container.is_empty() || account == Some("") {
            let missing = if container.is_empty() {
                "container"
            } else {
                "account"
            };
            return Err(format!("it has no {missing}; expected {EXPECTED}"));
        }
        let mut options = Self::new(container, &url::decoded(path)?);
        options.account = account.map(url::decoded).transpose()?;
        for parameter in url::parameters(query) {
            match parameter? {
                ("endpoint", value) => {
                    options.endpoint = Some(value).filter(|value| !value.is_empty());
                }
                (key, _) => return Err(url::unknown(key, EXPECTED)),
            }
        }
        Ok(options)
    }

    pub(crate) fn connect(&self) -> Result<Arc<ObjectClient>, Error> {
        let dialect = Dialect {
            level: |level| format!("ltx/{level}/"),
            timestamp: "litestreamtimestamp",
            conditional_create: true,
            compare_and_set: true,
            version: VersionBy::ETag,
            missing_bucket: "ContainerNotFound",
            deletion: Deletion::OneByOne,
            page: None,
            part: Some(BLOCK),
            parts_at_a_time: 1,
        };
        let access = self.access(&environment);
        let operator = self.operator(&access);
        let mut client = ObjectClient::connect(self.to_string(), dialect, operator)?;
        // It is a part of every URL.
        client.secrets.extend(access.sas_token);
        Ok(Arc::new(client))
    }

    fn operator(&self, access: &Access) -> Result<Operator, opendal::Error> {
        let endpoint = match (&access.endpoint, &access.account) {
            (Some(endpoint), _) => endpoint.clone(),
            (None, Some(account)) => format!("https://{account}.blob.core.windows.net"),
            (None, None) => {
                let what = "there is no storage account: name it, as in `abs://account@container`, or set \
                            AZURE_STORAGE_ACCOUNT";
                return Err(opendal::Error::new(ErrorKind::ConfigInvalid, what));
            }
        };
        let mut builder = services::Azblob::default()
            .container(&self.container)
            .root(&format!("/{}", self.path))
            .endpoint(&endpoint)
            .account_name(access.account.as_deref().unwrap_or_default());
        // Both would be sent.
        match (&access.sas_token, &access.account_key) {
            (Some(token), _) => {
                builder = builder.sas_token(token.expose().trim_start_matches('?'));
            }
            (None, Some(key)) => builder = builder.account_key(key.expose()),
            (None, None) => builder = builder.credential_provider_chain(sources()),
        }
        connection::operator(builder, connection::transport()?)
    }

    /// What is set here, and else in the environment.
    fn access(&self, environment: &dyn Fn(&str) -> Option<String>) -> Access {
        let secret = |name| environment(name).map(Secret::new);
        let mut access = Access {
            account: self.account.clone(),
            endpoint: self.endpoint.clone(),
            account_key: self.account_key.clone(),
            sas_token: self.sas_token.clone(),
        };
        if access.account_key.is_none() && access.sas_token.is_none() {
            access.sas_token = secret("LITESTREAM_AZURE_SAS_TOKEN");
            access.account_key = secret("LITESTREAM_AZURE_ACCOUNT_KEY");
        }
        let named = environment("AZURE_STORAGE_CONNECTION_STRING").map(|text| Access::named(&text));
        // That of another account has nothing to say about this one.
        let same = |named: &Access| access.account.is_none() || access.account == named.account;
        if let Some(named) = named.filter(same) {
            access = access.or(named);
        }
        let account = environment("AZURE_STORAGE_ACCOUNT");
        let account = account.or_else(|| environment("AZURE_STORAGE_ACCOUNT_NAME"));
        let key = secret("AZURE_STORAGE_KEY").or_else(|| secret("AZURE_STORAGE_ACCOUNT_KEY"));
        access.or(Access {
            account,
            endpoint: None,
            account_key: key,
            sas_token: secret("AZURE_STORAGE_SAS_TOKEN"),
        })
    }
}

/// Where Azure's own tools look, in their order.
fn sources() -> ProvideCredentialChain<Credential> {
    ProvideCredentialChain::new()
        .push(Quiet::new("the environment", EnvCredentialProvider::new()))
        .push(Quiet::new(
            "the certificate of a service principal",
            ClientCertificateCredentialProvider::new(),
        ))
        .push(Quiet::new(
            "the secret of a service principal",
            ClientSecretCredentialProvider::new(),
        ))
        .push(Quiet::new(
            "Azure Pipelines",
            AzurePipelinesCredentialProvider::new(),
        ))
        .push(Quiet::new(
            "the workload identity",
            WorkloadIdentityCredentialProvider::new(),
        ))
        .push(Quiet::new(
            "the machine's metadata service",
            ImdsCredentialProvider::new(),
        ))
}

/// How to get to an account.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Access {
    account: Option<String>,
    endpoint: Option<String>,
    account_key: Option<Secret>,
    sas_token: Option<Secret>,
}

impl Access {
    /// What a connection string has.
    fn named(text: &str) -> Self {
        let value = |wanted: &str| {
            let mut pairs = text.split(';').filter_map(|pair| pair.split_once('='));
            let (_, value) = pairs.find(|(key, _)| key.trim().eq_ignore_ascii_case(wanted))?;
            Some(value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let account = value("AccountName");
        let of_account = |account: &String| {
            let scheme = value("DefaultEndpointsProtocol").unwrap_or_else(|| "https".into());
            let suffix = value("EndpointSuffix").unwrap_or_else(|| "core.windows.net".into());
            format!("{scheme}://{account}.blob.{suffix}")
        };
        Self {
            endpoint: value("BlobEndpoint").or_else(|| account.as_ref().map(of_account)),
            account,
            account_key: value("AccountKey").map(Secret::new),
            sas_token: value("SharedAccessSignature").map(Secret::new),
        }
    }

    /// What is here, and else there; a key or token only where there is neither here.
    fn or(self, other: Self) -> Self {
        let (account_key, sas_token) = match (self.account_key, self.sas_token) {
            (None, None) => (other.account_key, other.sas_token),
            own => own,
        };
        Self {
            account: self.account.or(other.account),
            endpoint: self.endpoint.or(other.endpoint),
            account_key,
            sas_token,
        }
    }
}

impl fmt::Display for AzureOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("abs://")?;
        if let Some(account) = &self.account {
            write!(f, "{account}@")?;
        }
        f.write_str(&self.container)?;
        if !self.path.is_empty() {
            f.write_str("/")?;
            url::write_path(f, &self.path)?;
        }
        url::write_parameters(f, &[("endpoint", self.endpoint.as_deref())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(options: &AzureOptions, variables: &[(&str, &str)]) -> Access {
        let value = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        options.access(&value)
    }

    fn secret(text: &str) -> Option<Secret> {
        Some(Secret::new(text))
    }

    #[test]
    fn what_is_set_goes_before_the_environment_and_a_key_belongs_to_its_account() {
        const STRING: &str = "DefaultEndpointsProtocol=https;AccountName=named;AccountKey=bmFtZWQ==;\
                              EndpointSuffix=core.example";
        let environment = [
            ("AZURE_STORAGE_CONNECTION_STRING", STRING),
            ("AZURE_STORAGE_ACCOUNT", "other"),
            ("AZURE_STORAGE_KEY", "key-of-other"),
        ];
        let mut options = AzureOptions::new("c", "");
        let found = access(&options, &environment);
        assert_eq!(found.account.as_deref(), Some("named"));
        assert_eq!(found.account_key, secret("bmFtZWQ=="));
        assert_eq!(
            found.endpoint.as_deref(),
            Some("https://named.blob.core.example")
        );

        options.account = Some("mine".into());
        let found = access(&options, &environment);
        assert_eq!(found.endpoint, None, "of another account");
        assert_eq!(found.account_key, secret("key-of-other"));

        let litestream = [("LITESTREAM_AZURE_ACCOUNT_KEY", "litestream")];
        let found = access(&options, &[&litestream[..], &environment].concat());
        assert_eq!(found.account_key, secret("litestream"));

        options.sas_token = secret("mine");
        let found = access(&options, &[&litestream[..], &environment].concat());
        assert_eq!((found.sas_token, found.account_key), (secret("mine"), None));
    }

    #[test]
    fn a_connection_string_may_name_its_server() {
        let text =
            "BlobEndpoint=http://127.0.0.1:1/devstoreaccount1;SharedAccessSignature=sv=1&sig=x=;";
        let named = Access::named(text);
        assert_eq!(
            named.endpoint.as_deref(),
            Some("http://127.0.0.1:1/devstoreaccount1")
        );
        assert_eq!(named.sas_token, secret("sv=1&sig=x="));
        assert_eq!((named.account, named.account_key), (None, None));
    }
}
