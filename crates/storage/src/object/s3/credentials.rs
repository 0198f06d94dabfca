//! Where the credentials of requests come from.

use std::{fmt, process::Stdio};

use opendal::HttpTransporter;
use reqsign_aws_v4::{
    Credential, DefaultCredentialProvider, RequestSigner, StaticCredentialProvider,
};
use reqsign_core::{CommandExecute, CommandOutput, Context, Env, Error, Signer};
use reqsign_file_read_tokio::TokioFileRead;
use tokio::process::Command;

use super::S3Options;

/// A signer with the access key of these options; without one it looks where Amazon's own tools do, and looks
/// again when what it found expires.
pub(super) fn signer(
    options: &S3Options,
    environment: impl Env,
    transport: HttpTransporter,
    region: &str,
) -> Signer<Credential> {
    let context = Context::new()
        .with_file_read(TokioFileRead)
        .with_command_execute(Process)
        .with_env(environment)
        .with_http_send(transport);
    let requests = RequestSigner::new("s3", region);
    if let (Some(id), Some(key)) = (&options.access_key_id, &options.secret_access_key) {
        let provider = StaticCredentialProvider::new(id.expose(), key.expose());
        return Signer::new(context, provider, requests);
    }
    let mut provider = DefaultCredentialProvider::builder();
    if let Some(profile) = &options.profile {
        // Keys of the environment are another choice than this one.
        provider = provider.no_env().with_profile(profile);
    }
    Signer::new(context, provider.build(), requests)
}

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
        let output = run.await.map_err(|error| {
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
