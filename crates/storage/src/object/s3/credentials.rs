//! Where the credentials of requests come from.

use std::{
    fmt,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use opendal::HttpTransporter;
use reqsign_aws_v4::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential, ECSCredentialProvider,
    EnvCredentialProvider, IMDSv2CredentialProvider, ProcessCredentialProvider,
    ProfileCredentialProvider, RequestSigner, SSOCredentialProvider, StaticCredentialProvider,
};
use reqsign_core::{
    CommandExecute, CommandOutput, Context, Env, Error, ProvideCredentialChain, Signer,
};
use reqsign_file_read_tokio::TokioFileRead;
use tokio::{process::Command, time::timeout};

use super::{super::quiet::Quiet, S3Options};

/// Where keys are looked for.
type Sources = ProvideCredentialChain<Credential>;

/// Who signs requests, with the access key of the options, or with what is found.
pub(super) struct Credentials {
    signer: Mutex<Signer<Credential>>,
    /// Looks where Amazon's own tools do; `None` where there is nothing to be found.
    finder: Option<Arc<Sources>>,
}

impl Credentials {
    /// With the access key of these options; without one it is looked for, and looked for again when what was
    /// found expires.
    pub(super) fn new(
        options: &S3Options,
        environment: impl Env,
        transport: HttpTransporter,
        region: &str,
    ) -> Self {
        let context = Context::new()
            .with_file_read(TokioFileRead)
            .with_command_execute(Process)
            .with_env(environment)
            .with_http_send(transport);
        let requests = RequestSigner::new("s3", region);
        if let (Some(id), Some(key)) = (&options.access_key_id, &options.secret_access_key) {
            let provider = StaticCredentialProvider::new(id.expose(), key.expose());
            return Self {
                signer: Mutex::new(Signer::new(context, provider, requests)),
                finder: None,
            };
        }
        let finder = Arc::new(sources(options.profile.as_deref()));
        Self {
            signer: Mutex::new(Signer::new(context, finder.clone(), requests)),
            finder: Some(finder),
        }
    }

    /// Who signs at the moment.
    pub(super) fn signer(&self) -> Signer<Credential> {
        let signer = self.signer.lock().unwrap_or_else(PoisonError::into_inner);
        signer.clone()
    }

    /// Who signs with what is found now: what was found before need not say when it expires, and may have been
    /// replaced earlier. `None` where nothing can have changed.
    pub(super) fn find_again(&self) -> Option<Signer<Credential>> {
        let finder = self.finder.clone()?;
        let mut signer = self.signer.lock().unwrap_or_else(PoisonError::into_inner);
        *signer = signer.clone().with_credential_provider(finder);
        Some(signer.clone())
    }
}

/// Where Amazon's own tools look, in their order, with this profile where one is chosen.
fn sources(profile: Option<&str>) -> Sources {
    let mut files = ProfileCredentialProvider::new();
    let mut login = SSOCredentialProvider::new();
    let mut process = ProcessCredentialProvider::new();
    let mut sources = Sources::new();
    match profile {
        // Keys of the environment are another choice than this one.
        Some(profile) => {
            files = files.with_profile(profile);
            login = login.with_profile(profile);
            process = process.with_profile(profile);
        }
        None => {
            let environment = EnvCredentialProvider::new();
            sources = sources.push(Quiet::new("the environment", environment));
        }
    }
    let identity = AssumeRoleWithWebIdentityCredentialProvider::new();
    let (container, machine) = (
        ECSCredentialProvider::new(),
        IMDSv2CredentialProvider::new(),
    );
    sources
        .push(Quiet::new("the files of Amazon's tools", files))
        .push(Quiet::new("the single sign-on", login))
        .push(Quiet::new("the web identity", identity))
        .push(Quiet::new("the credential process", process))
        .push(Quiet::new("the container's credentials", container))
        .push(Quiet::new("the machine's metadata service", machine))
}

/// How long a credential process may take, as with Amazon's own tools.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the `credential_process` of a profile.
struct Process;

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Process")
    }
}

impl CommandExecute for Process {
    async fn command_execute(&self, program: &str, args: &[&str]) -> Result<CommandOutput, Error> {
        let run = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        // Every request waits for it.
        let output = timeout(PATIENCE, run).await.map_err(|_| {
            let seconds = PATIENCE.as_secs();
            let what = format!("the credential process {program} did not end within {seconds} s");
            Error::unexpected(what).set_retryable(true)
        })?;
        let output = output.map_err(|error| {
            let what = format!("cannot run the credential process {program}");
            Error::config_invalid(what).with_source(error)
        })?;
        Ok(CommandOutput {
            status: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: output.stderr,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_credential_process_that_does_not_end_is_an_error_that_names_it() {
        let run = Process.command_execute("sleep", &["1000"]).await;
        let error = run.err().unwrap();
        assert!(error.is_retryable());
        assert!(
            error.to_string().contains("sleep did not end within 60 s"),
            "{error}"
        );
        tokio::time::resume();
        let echo = Process.command_execute("echo", &["{}"]).await.unwrap();
        assert_eq!(echo.stdout, b"{}\n");
    }
}
