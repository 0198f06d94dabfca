//! Replicas in Alibaba Cloud OSS, together with the official Litestream, on a server that answers as the
//! documentation of OSS has it.

use evertide_testkit::OssServer;

use super::interop::{self, Store};

/// A place to run programs in, and a replica that both know: Evertide by its URL, Litestream by settings, since
/// it takes no endpoint from a URL.
pub(crate) fn store(server: &OssServer) -> Store {
    let (bucket, region, endpoint) = (OssServer::BUCKET, OssServer::REGION, server.endpoint());
    let url = format!("oss://{bucket}/app?region={region}&endpoint={endpoint}");
    let mut store = Store::new(url, environment());
    let database = store.place.path("app.db");
    let yaml = format!(
        "dbs: [{{path: '{}', replica: {{type: oss, bucket: {bucket}, path: app, region: {region}, \
         endpoint: '{endpoint}'}}}}]\n",
        database.display()
    );
    store.place.write("litestream.yml", &yaml);
    store.official_config = Some("litestream.yml");
    store
}

/// Where both programs look for an access key.
fn environment() -> Vec<(&'static str, String)> {
    vec![
        ("OSS_ACCESS_KEY_ID", OssServer::KEY_ID.to_owned()),
        ("OSS_ACCESS_KEY_SECRET", OssServer::KEY_SECRET.to_owned()),
    ]
}

#[test]
fn what_we_wrote_to_oss_both_programs_restore() {
    let server = OssServer::start();
    interop::both_programs_restore_what_we_wrote(&store(&server));
}

#[test]
fn what_litestream_wrote_to_oss_we_restore_and_continue() {
    let server = OssServer::start();
    interop::we_go_on_with_what_litestream_wrote(&store(&server));
}

/// As it is in the world: the bucket is a part of the host's name, and the region comes with it.
#[test]
fn a_bucket_of_alibabas_is_set_in_either_language_and_its_key_is_shown_nowhere() {
    let server = OssServer::start();
    let (id, secret) = (OssServer::KEY_ID, OssServer::KEY_SECRET);
    let host = format!("oss-{}.aliyuncs.com", OssServer::REGION);
    let bucket = OssServer::BUCKET;
    let proxy = vec![("http_proxy", server.endpoint())];
    let url = format!("oss://{bucket}/app?endpoint=http://{host}");
    let mut store = Store::new(url, [proxy, environment()].concat());
    let place = &store.place;
    drop(place.database("app.db", 3));
    let toml = format!(
        "[[databases]]\npath = \"app.db\"\n[[databases.replicas]]\nname = \"it\"\ntype = \"oss\"\n\
         oss_bucket = \"{bucket}\"\noss_path = \"app\"\noss_endpoint = \"http://{host}\"\n\
         oss_access_key_id = \"{id}\"\noss_access_key_secret = \"{secret}\"\n"
    );
    place.write("evertide.toml", &toml);
    let yaml = format!(
        "access-key-id: {id}\nsecret-access-key: {secret}\n\
         dbs: [{{path: app.db, replica: {{url: 'oss://{bucket}.{host}/other', endpoint: 'http://{host}'}}}}]\n"
    );
    place.write("litestream.yml", &yaml);
    for (file, path) in [("evertide.toml", "app"), ("litestream.yml", "other")] {
        let run = store.evertide(&[
            "replicate",
            "--once",
            "--config",
            file,
            "--log-level",
            "trace",
        ]);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(!format!("{run:?}").contains(secret));
        let url = store.url.replace("/app", &format!("/{path}"));
        store.ok(&["restore", &url, "-o", path]);
        assert_eq!(place.rows(path), 3);
    }
    let asked = server.take_answered();
    let whole = format!(" {bucket}.{host}");
    assert!(
        asked.iter().all(|asked| asked.ends_with(&whole)),
        "{asked:?}"
    );
    store.environment.last_mut().unwrap().1 = "planted-hunter2".to_owned();
    let run = store.evertide(&["restore", &store.url, "-o", "out.db"]);
    assert!(!format!("{run:?}").contains("hunter2"));
    run.failed(1, &["check the access key"]);
}
