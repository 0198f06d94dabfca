//! Networks and services that fail for a moment or for good, between clients and real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a test

use std::{
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    AzureOptions, Destination, Error, GcsOptions, OsDisk, OssOptions, Precondition, ReplicaClient,
    S3Options, Secret, SmallKey, WebdavOptions, bytes_stream, collect,
};
use evertide_testkit::{
    AzureServer, Fault, FaultProxy, GcsServer, OssServer, S3Kind, S3Server, Weather, WebdavKind,
    WebdavServer,
};
use futures_util::future::join_all;

const L0: Level = Level::L0;
const NAME: LtxName = LtxName::new(Txid::new(1), Txid::new(1));
/// In which everything must have come to an end, whatever happens.
const DEADLINE: Duration = Duration::from_secs(120);

/// In which whoever hears nothing has gone away, by a clock that does not wait.
const WITHIN: Duration = Duration::from_secs(3_600);

/// A client of a real server, with the proxy between them.
struct Scene {
    client: Arc<dyn ReplicaClient>,
    proxy: FaultProxy,
    /// Without the proxy.
    direct: Arc<dyn ReplicaClient>,
    /// How it stores an object.
    storing: Storing,
    /// Stops the server when dropped, after the proxy.
    _server: Arc<dyn std::any::Any>,
}

/// In how many steps a store has an object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Storing {
    /// With the first request.
    AtOnce,
    /// There is a folder to be made before, and a name to be given at the end.
    InSteps,
}

fn address(endpoint: &str) -> SocketAddr {
    let authority = endpoint.split("//").nth(1).unwrap();
    let authority = authority.split('/').next().unwrap();
    authority.to_socket_addrs().unwrap().next().unwrap()
}

/// A proxy to the server of `endpoint`, and that endpoint by way of it.
fn between(endpoint: &str) -> (FaultProxy, String) {
    let server = address(endpoint);
    let proxy = FaultProxy::start(server, fastrand::u64(..)).unwrap();
    let by_way = endpoint.replace(&server.to_string(), &proxy.address().to_string());
    assert_ne!(by_way, endpoint);
    (proxy, by_way)
}

/// A folder at this server, of which `at` says how to get there.
fn scene(
    server: Arc<dyn std::any::Any>,
    endpoint: &str,
    at: impl Fn(String, &str) -> Destination,
) -> Scene {
    let folder = format!("{:016x}", fastrand::u64(..));
    let client = |endpoint| {
        let destination = at(endpoint, &folder);
        destination.connect(Arc::new(OsDisk)).unwrap()
    };
    let (proxy, by_way) = between(endpoint);
    Scene {
        client: client(by_way),
        proxy,
        direct: client(endpoint.to_owned()),
        storing: Storing::AtOnce,
        _server: server,
    }
}

fn s3(kind: S3Kind) -> Scene {
    let server = S3Server::shared(kind);
    let endpoint = server.endpoint().to_owned();
    scene(server, &endpoint, |endpoint, folder| {
        let mut options = S3Options::new(S3Server::BUCKET, folder);
        options.endpoint = Some(endpoint);
        options.region = Some("us-east-1".to_owned());
        options.access_key_id = Some(Secret::new(S3Server::ACCESS_KEY_ID));
        options.secret_access_key = Some(Secret::new(S3Server::SECRET_ACCESS_KEY));
        options.conditional_writes = Some(kind == S3Kind::Ministack);
        Destination::S3(options)
    })
}

fn gcs() -> Scene {
    let server = GcsServer::shared();
    let endpoint = server.endpoint();
    scene(server, &endpoint, |endpoint, folder| {
        let mut options = GcsOptions::new(GcsServer::BUCKET, folder);
        options.endpoint = Some(endpoint);
        Destination::Gcs(options)
    })
}

fn azure() -> Scene {
    let server = AzureServer::shared();
    let endpoint = server.endpoint();
    scene(server, &endpoint, |endpoint, folder| {
        let mut options = AzureOptions::new(AzureServer::CONTAINER, folder);
        options.account = Some(AzureServer::ACCOUNT.into());
        options.account_key = Some(Secret::new(AzureServer::KEY));
        options.endpoint = Some(endpoint);
        Destination::Azure(options)
    })
}

fn oss() -> Scene {
    let server = OssServer::start();
    let endpoint = server.endpoint();
    scene(Arc::new(server), &endpoint, |endpoint, folder| {
        let mut options = OssOptions::new(OssServer::BUCKET, folder).unwrap();
        options.region = Some(OssServer::REGION.to_owned());
        options.access_key_id = Some(Secret::new(OssServer::KEY_ID));
        options.access_key_secret = Some(Secret::new(OssServer::KEY_SECRET));
        options.endpoint = Some(endpoint);
        Destination::Oss(options)
    })
}

fn webdav(kind: WebdavKind) -> Scene {
    let server = WebdavServer::shared(kind);
    let url = server.url();
    let scene = scene(server, &url, |url, folder| {
        let mut options = WebdavOptions::new(&url, folder).unwrap();
        options.username = Some(WebdavServer::USER.to_owned());
        options.password = Some(Secret::new(WebdavServer::PASSWORD));
        Destination::Webdav(options)
    });
    Scene {
        storing: Storing::InSteps,
        ..scene
    }
}

fn content(fault: Fault) -> Bytes {
    format!("{fault:?} ").repeat(20_000).into()
}

async fn got(client: &dyn ReplicaClient) -> Result<Bytes, Error> {
    let stream = client.get(L0, NAME, None).await?;
    collect(stream, usize::MAX)
        .await
        .map_err(|source| Error::Body {
            location: client.location(),
            object: NAME.to_string(),
            source,
        })
}

impl Scene {
    async fn put(&self, content: &Bytes) -> Result<(), Error> {
        let body = bytes_stream(content.clone());
        let put = self.client.put(L0, NAME, SystemTime::UNIX_EPOCH, body);
        put.await.map(|_| ())
    }

    async fn get(&self) -> Result<Bytes, Error> {
        got(self.client.as_ref()).await
    }

    /// To the next requests there are: slowness once, and what ends requests twice in a row.
    fn next(&self, fault: Fault) {
        let times = match fault {
            Fault::Slow | Fault::VerySlow => 1,
            _ => 2,
        };
        self.proxy.set_weather(Weather::Next(fault, times));
    }

    /// Everything that a client does comes about although each thing begins with failures.
    async fn survives_moments(self, fault: Fault) {
        let small = SmallKey::new("lease").unwrap();
        let expected = content(fault);
        let may_be_done = matches!(fault, Fault::AnswerLost | Fault::AnswerCut);
        self.next(fault);
        match self.put(&expected).await {
            Ok(()) => {}
            // The first try was the one that did it.
            Err(error) if error.is_already_exists() && may_be_done => {}
            Err(error) => panic!("{fault:?}: {error}"),
        }
        self.next(fault);
        // A connection that breaks in the middle of a body is for whoever reads it to take up again.
        match self.get().await {
            Ok(content) => assert!(content == expected, "{fault:?}"),
            Err(error) => assert_eq!(fault, Fault::AnswerCut, "{error}"),
        }
        self.next(fault);
        let listed = self.client.list(L0, None).await;
        let listed = listed.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(listed.len(), 1, "{fault:?}");
        self.next(fault);
        let put = self
            .client
            .put_small(&small, expected.clone(), Precondition::None);
        put.await
            .unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        self.next(fault);
        let read = self.client.get_small(&small).await;
        let read = read.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert!(read.unwrap().content == expected, "{fault:?}");
        self.next(fault);
        let deleted = self.client.delete(L0, &[NAME]).await;
        deleted.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(self.client.list(L0, None).await.unwrap(), []);
        assert_eq!(self.proxy.too_soon(), 0, "a server is not left alone");
        assert!(
            self.proxy.faults()[&fault] >= 6,
            "{:?}",
            self.proxy.faults()
        );
    }

    /// What fails for good ends with an error, and leaves a whole object or none.
    async fn gives_up(self, fault: Fault) {
        let expected = content(fault);
        let is_heard = matches!(fault, Fault::AnswerLost | Fault::AnswerCut);
        let may_be_done = is_heard && self.storing == Storing::AtOnce;
        self.proxy.set_weather(Weather::Only(fault));
        let put = self.put(&expected).await;
        self.client.list(L0, None).await.expect_err("a listing");
        self.get().await.expect_err("a body");
        self.proxy.set_weather(Weather::Fair);
        put.expect_err("an object");
        match self.get().await {
            Ok(content) => assert!(may_be_done && content == expected, "{fault:?}"),
            Err(error) => assert!(error.is_not_found() && !may_be_done, "{fault:?}: {error}"),
        }
        let listed = self.client.list(L0, None).await.unwrap();
        assert_eq!(listed.len(), usize::from(may_be_done), "{fault:?}");
    }

    /// The connection stays, and nothing comes any more. Nobody waits for as long as that takes.
    async fn gives_up_in_silence(self) {
        let expected = content(Fault::Silent);
        self.put(&expected).await.unwrap();
        self.proxy.set_weather(Weather::Only(Fault::Silent));
        tokio::time::pause();
        let given_up = async {
            self.client.list(L0, None).await.expect_err("a listing");
            self.get().await.expect_err("a body");
            self.put(&expected).await.expect_err("an object");
        };
        let given_up = tokio::time::timeout(WITHIN, given_up).await;
        tokio::time::resume();
        given_up.expect("it waits for ever");
        // It is silent still: a client that does not wait is gone before all that it sent is read.
        assert!(got(self.direct.as_ref()).await.unwrap() == expected);
    }
}

type Start = fn() -> Scene;

/// The stores behind the proxy.
const STORES: [(&str, Start); 7] = [
    ("ministack", || s3(S3Kind::Ministack)),
    ("rclone", || s3(S3Kind::Rclone)),
    ("google", gcs),
    ("azurite", azure),
    ("alibaba", oss),
    ("rclone's share", || webdav(WebdavKind::Rclone)),
    ("wsgidav", || webdav(WebdavKind::Wsgidav)),
];

/// Does this to a replica in each store for each of the faults, all at the same time: they wait more than they work.
async fn for_each<W: Future<Output = ()>>(
    faults: impl Iterator<Item = Fault> + Clone,
    work: impl Fn(Scene, Fault) -> W,
) {
    let all = STORES.map(|(name, scene)| {
        let each = join_all(faults.clone().map(|fault| work(scene(), fault)));
        async move {
            each.await;
            println!("{name} is through");
        }
    });
    tokio::time::timeout(DEADLINE, join_all(all))
        .await
        .expect("in time");
}

fn those_that_end_requests() -> impl Iterator<Item = Fault> + Clone {
    let faults = Fault::ALL.into_iter();
    faults.filter(|fault| !matches!(fault, Fault::Slow | Fault::VerySlow))
}

#[tokio::test]
async fn what_fails_for_a_moment_is_tried_again() {
    for_each(Fault::ALL.into_iter(), Scene::survives_moments).await;
}

#[tokio::test]
async fn what_fails_for_good_is_an_error_and_leaves_no_half() {
    for_each(those_that_end_requests(), Scene::gives_up).await;
}

#[tokio::test]
async fn a_silent_connection_is_given_up() {
    for (name, scene) in STORES {
        scene().gives_up_in_silence().await;
        println!("{name} is through");
    }
}

/// Folders are made, a file is sent under another name and gets its own: each of these requests may be the one that
/// fails.
async fn an_upload_comes_about_whichever_request_fails(kind: WebdavKind, fault: Fault) {
    for before in 0.. {
        let scene = webdav(kind);
        let expected = content(fault);
        scene.proxy.set_weather(Weather::After(before, fault));
        let put = scene.put(&expected).await;
        let struck = scene.proxy.faults().contains_key(&fault);
        scene.proxy.set_weather(Weather::Fair);
        put.unwrap_or_else(|error| panic!("{kind:?}, {fault:?} after {before}: {error}"));
        assert!(
            scene.get().await.unwrap() == expected,
            "{fault:?} after {before}"
        );
        let listed = scene.client.list(L0, None).await.unwrap();
        assert_eq!(listed.len(), 1, "{fault:?} after {before}");
        if !struck {
            assert!(before > 3, "{kind:?}: {before} requests only");
            return;
        }
    }
}

#[tokio::test]
async fn an_upload_to_a_share_comes_about_whichever_of_its_requests_fails() {
    let all = those_that_end_requests().flat_map(|fault| {
        [WebdavKind::Rclone, WebdavKind::Wsgidav]
            .map(|kind| an_upload_comes_about_whichever_request_fails(kind, fault))
    });
    tokio::time::timeout(DEADLINE, join_all(all))
        .await
        .expect("in time");
}

/// A replica that cannot be reached is not an empty one.
#[tokio::test]
async fn a_share_whose_server_is_gone_is_an_error() {
    let mut scene = webdav(WebdavKind::Rclone);
    scene.put(&content(Fault::Slow)).await.unwrap();
    let (nobody, _) = between("http://127.0.0.1:1");
    // The port of the proxy closes with it.
    drop(std::mem::replace(&mut scene.proxy, nobody));
    let listed = scene.client.list(L0, None).await;
    let read = scene.get().await.map(|_| Vec::new());
    let stored = scene.put(&content(Fault::Slow)).await.map(|()| Vec::new());
    let deleted = scene.client.delete(L0, &[NAME]).await.map(|()| Vec::new());
    for done in [listed, read, stored, deleted] {
        let error = done.unwrap_err();
        assert!(matches!(error, Error::Store { .. }), "{error:?}");
    }
}
