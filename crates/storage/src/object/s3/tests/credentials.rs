//! Where credentials come from, and that they are renewed.

use std::path::Path;

use super::*;

/// Temporary credentials, as Amazon's services give them.
fn temporary(key: &str, expiration: &str) -> Answer {
    ok(format!(
        r#"{{"Code": "Success", "Version": 1, "AccessKeyId": "{key}", "SecretAccessKey": "s", "Token": "token-{key}",
        "SessionToken": "token-{key}", "Expiration": "{expiration}"}}"#
    ))
}

fn soon() -> String {
    // Sooner than credentials are used for.
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(30);
    soon.to_string()
}

const LATE: &str = "2100-01-01T00:00:00Z";

fn keyless() -> S3Options {
    S3Options::new("bucket", "app")
}

#[tokio::test]
async fn credentials_of_a_container_are_renewed_before_they_expire() {
    let environment = nowhere(&[(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "http://169.254.170.23/v1",
    )]);
    let server = Server::answering([
        temporary("FIRST", &soon()),
        ok(""),
        temporary("SECOND", LATE),
        ok(""),
        ok(""),
    ]);
    let client = server.client(&keyless(), environment);
    for key in ["x.ltx", "y.ltx", "z.ltx"] {
        put(&client, key, b"content").await;
    }
    let seen = server.seen();
    let puts: Vec<_> = seen
        .iter()
        .filter(|seen| seen.method == Method::PUT)
        .collect();
    let keys = puts.iter().map(|put| put.signed().0);
    assert_eq!(keys.collect::<Vec<_>>(), ["FIRST", "SECOND", "SECOND"]);
    let token = puts[1].header("x-amz-security-token");
    assert_eq!(token, Some("token-SECOND"));
    assert_eq!(seen.len(), 5, "asked for once each");
}

#[tokio::test]
async fn credentials_are_those_of_an_instance() {
    let mut environment = nowhere(&[]);
    environment.envs.remove("AWS_EC2_METADATA_DISABLED");
    let server = Server::answering([ok("token"), ok("role"), temporary("INSTANCE", LATE)]);
    let client = server.client(&keyless(), environment);
    put(&client, "x.ltx", b"content").await;
    let seen = server.seen();
    assert_eq!(seen.last().unwrap().signed().0, "INSTANCE");
    assert!(seen[0].url.starts_with("http://169.254.169.254/"));
}

#[tokio::test]
async fn credentials_are_exchanged_for_the_token_of_a_web_identity() {
    let directory = tempfile::tempdir().unwrap();
    let token = file(directory.path(), "token", "web-token");
    let environment = nowhere(&[
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/backup"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", &token),
        ("AWS_REGION", "eu-1"),
    ]);
    let answer = format!(
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
         <AccessKeyId>WEB</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
         <Expiration>{LATE}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>"
    );
    let server = Server::answering([ok(answer)]);
    let client = server.client(&keyless(), environment);
    put(&client, "x.ltx", b"content").await;
    let seen = server.seen();
    let asked = server.requests.lock().unwrap()[0].body().to_bytes();
    assert!(String::from_utf8_lossy(&asked).contains("WebIdentityToken=web-token"));
    assert_eq!(seen[1].signed(), ("WEB", "eu-1"));
}

#[tokio::test]
async fn credentials_are_those_of_the_profile_that_is_chosen() {
    let directory = tempfile::tempdir().unwrap();
    let keys = "[default]\naws_access_key_id = DEFAULT\naws_secret_access_key = s\n\
                [backup]\naws_access_key_id = BACKUP\naws_secret_access_key = s\n";
    let keys = file(directory.path(), "credentials", keys);
    let variables = [
        ("AWS_SHARED_CREDENTIALS_FILE", keys.as_str()),
        ("AWS_CONFIG_FILE", "/nowhere"),
        ("AWS_ACCESS_KEY_ID", "ENVIRONMENT"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
    ];
    let cases = [
        (None, &variables[..2], "DEFAULT"),
        (None, &variables[..], "ENVIRONMENT"),
        (Some("backup"), &variables[..], "BACKUP"),
    ];
    for (profile, variables, expected) in cases {
        let mut options = keyless();
        options.profile = profile.map(str::to_owned);
        let server = Server::default();
        let client = server.client(&options, nowhere(variables));
        put(&client, "x.ltx", b"content").await;
        assert_eq!(server.seen()[0].signed().0, expected);
    }
}

#[tokio::test]
async fn credentials_are_those_that_a_process_prints_and_it_runs_again_when_they_expire() {
    let directory = tempfile::tempdir().unwrap();
    let (_, _, first) = temporary("FIRST", &soon());
    let printed = file(directory.path(), "printed", &first);
    let config = format!("[default]\ncredential_process = cat {printed}\n");
    let config = file(directory.path(), "config", &config);
    let environment = nowhere(&[
        ("AWS_CONFIG_FILE", &config),
        ("AWS_SHARED_CREDENTIALS_FILE", "/nowhere"),
    ]);
    let server = Server::default();
    let client = server.client(&keyless(), environment);
    put(&client, "x.ltx", b"content").await;
    let (_, _, second) = temporary("SECOND", LATE);
    file(directory.path(), "printed", &second);
    put(&client, "y.ltx", b"content").await;
    let seen = server.seen();
    let keys = seen.iter().map(|seen| seen.signed().0);
    assert_eq!(keys.collect::<Vec<_>>(), ["FIRST", "SECOND"]);
}

/// Keys in a file do not say when somebody is going to replace them.
#[tokio::test]
async fn credentials_that_are_refused_are_looked_for_again_and_those_that_were_given_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let keys = |id: &str| {
        let keys = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = s\n");
        file(directory.path(), "credentials", &keys)
    };
    let environment = nowhere(&[
        ("AWS_SHARED_CREDENTIALS_FILE", &keys("FIRST")),
        ("AWS_CONFIG_FILE", "/nowhere"),
    ]);
    let refused = |status| (status, Vec::new(), String::new());
    for status in [400, 401, 403] {
        keys("FIRST");
        let server = Server::answering([ok(""), refused(status)]);
        let client = server.client(&keyless(), environment.clone());
        put(&client, "x.ltx", b"content").await;
        keys("SECOND");
        put(&client, "y.ltx", b"content").await;
        put(&client, "z.ltx", b"content").await;
        let seen = server.seen();
        let found: Vec<_> = seen.iter().map(|seen| seen.signed().0).collect();
        assert_eq!(found, ["FIRST", "FIRST", "SECOND", "SECOND"], "{status}");
    }
    let server = Server::answering([refused(403)]);
    let client = server.client(&options(None), environment);
    client.operator.stat("x.ltx").await.unwrap_err();
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn without_credentials_nothing_is_sent_and_the_error_says_so() {
    let server = Server::default();
    let client = server.client(&keyless(), nowhere(&[("AWS_CONFIG_FILE", "/nowhere")]));
    let error = client.operator.stat("x.ltx").await.unwrap_err();
    assert!(
        error.to_string().contains("no credentials that work"),
        "{error}"
    );
    assert!(server.seen().is_empty());
}

#[allow(clippy::disallowed_methods)] // what the user has, not what is ours
fn file(directory: &Path, name: &str, content: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}
