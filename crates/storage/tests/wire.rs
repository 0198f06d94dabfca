//! Connections that break, crawl or fall silent, between clients that keep one up and real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)] // a test

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    Destination, Error, NatsOptions, OsDisk, Precondition, ReplicaClient, Secret, SftpOptions,
    SmallKey, bytes_stream, collect,
};
use evertide_testkit::{NatsServer, Road, SftpKind, SftpServer, Way, WireProxy};
use futures_util::{StreamExt, future::join_all, stream};

const L0: Level = Level::L0;
/// In which everything must have come to an end, whatever happens.
const DEADLINE: Duration = Duration::from_secs(150);
/// Longer than anything takes on a busy machine; nothing waits for it that works.
const PATIENCE: Duration = Duration::from_secs(60);
/// In which whoever is on a connection that was cut has noticed.
const GIVEN_UP: Duration = Duration::from_secs(50);
/// Objects of a listing.
const LISTED: u64 = 30;
/// Cases at a time.
const AT_A_TIME: usize = 24;

/// A server that is running.
#[derive(Clone)]
enum Server {
    Sftp(SftpKind, Arc<SftpServer>),
    Nats(Arc<NatsServer>),
}

impl Server {
    fn sftp(kind: SftpKind) -> Self {
        Self::Sftp(kind, SftpServer::shared(kind))
    }

    fn all() -> [Self; 3] {
        [
            Self::sftp(SftpKind::OpenSsh),
            Self::sftp(SftpKind::Rclone),
            Self::Nats(NatsServer::shared()),
        ]
    }

    fn address(&self) -> SocketAddr {
        let address = match self {
            Self::Sftp(_, server) => server.address(),
            Self::Nats(server) => server.address(),
        };
        address.parse().unwrap()
    }

    /// A replica where none is.
    fn replica(&self) -> Replica {
        let name = format!("{:016x}", fastrand::u64(..));
        if let Self::Nats(server) = self {
            server.create_bucket(&name);
        }
        Replica {
            direct: self.client(self.address(), &name),
            server: self.clone(),
            name,
        }
    }

    fn client(&self, address: SocketAddr, name: &str) -> Arc<dyn ReplicaClient> {
        let destination = match self {
            Self::Sftp(kind, server) => {
                let path = format!("{}/{name}", server.folder());
                let mut options = SftpOptions::new(&address.to_string(), &path).unwrap();
                options.user = Some(server.user());
                options.host_key = Some(server.host_key());
                match kind {
                    SftpKind::OpenSsh => options.key_path = Some(server.key_path()),
                    SftpKind::Rclone => {
                        options.password = Some(Secret::new(SftpServer::PASSWORD));
                        options.conditional_writes = false;
                    }
                }
                Destination::Sftp(options)
            }
            Self::Nats(_) => {
                let mut options = NatsOptions::new(&address.to_string(), name, "").unwrap();
                options.username = Some(NatsServer::USER.into());
                options.password = Some(Secret::new(NatsServer::PASSWORD));
                Destination::Nats(options)
            }
        };
        destination.connect(Arc::new(OsDisk)).unwrap()
    }
}

/// A replica, and who sees it as it is.
#[derive(Clone)]
struct Replica {
    server: Server,
    name: String,
    direct: Arc<dyn ReplicaClient>,
}

/// What a client does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    Put,
    Get,
    List,
    PutSmall,
    GetSmall,
    Delete,
}

const ALL: [Work; 6] = [
    Work::Put,
    Work::Get,
    Work::List,
    Work::PutSmall,
    Work::GetSmall,
    Work::Delete,
];

fn name(txid: u64) -> LtxName {
    LtxName::new(Txid::new(txid), Txid::new(txid))
}

fn small() -> SmallKey {
    SmallKey::new("lease").unwrap()
}

/// Many times what a connection takes at once.
fn content() -> Bytes {
    (0..100_000_u32).flat_map(u32::to_be_bytes).collect()
}

async fn put(client: &dyn ReplicaClient, txid: u64, content: Bytes) -> Result<(), Error> {
    let put = client.put(
        L0,
        name(txid),
        SystemTime::UNIX_EPOCH,
        bytes_stream(content),
    );
    put.await.map(drop)
}

async fn get(client: &dyn ReplicaClient) -> Result<Bytes, Error> {
    let stream = client.get(L0, name(1), None).await?;
    let content = collect(stream, usize::MAX).await;
    content.map_err(|source| Error::Body {
        location: client.location(),
        object: name(1).to_string(),
        source,
    })
}

impl Replica {
    /// One that this can be done to.
    async fn prepared(server: &Server, work: Work) -> Self {
        let replica = server.replica();
        let direct = &*replica.direct;
        match work {
            Work::Put => {}
            Work::Get | Work::Delete => put(direct, 1, content()).await.unwrap(),
            Work::List => {
                let all = (1..=LISTED).map(|txid| put(direct, txid, "x".into()));
                let all: Vec<_> = stream::iter(all).buffered(8).collect().await;
                all.into_iter().for_each(Result::unwrap);
            }
            Work::PutSmall | Work::GetSmall => {
                let key = small();
                let stored = direct.put_small(&key, "one".into(), Precondition::Absent);
                stored.await.unwrap();
            }
        }
        replica
    }

    /// A client that is connected by way of a proxy.
    async fn proxied(&self) -> (WireProxy, Arc<dyn ReplicaClient>) {
        let proxy = WireProxy::start(self.server.address()).unwrap();
        let client = self.server.client(proxy.address(), &self.name);
        assert_eq!(client.list(Level::SNAPSHOT, None).await.unwrap(), []);
        (proxy, client)
    }

    /// Does this once. What comes of it is right, or an error; and what is there then is whole.
    async fn once(&self, client: &dyn ReplicaClient, work: Work) -> Result<(), Error> {
        let done = self.tried(client, work).await;
        let ok = done.is_ok();
        match work {
            Work::Put => match get(&*self.direct).await {
                Ok(found) => assert!(found == content()),
                Err(error) => assert!(error.is_not_found() && !ok, "{error} {done:?}"),
            },
            Work::PutSmall => {
                let found = self.direct.get_small(&small()).await.unwrap().unwrap();
                let known = found.content == "two" || !ok && found.content == "one";
                assert!(known, "{found:?} {done:?}");
            }
            Work::Delete => {
                let left = self.direct.list(L0, None).await.unwrap();
                assert!(left.len() <= usize::from(!ok), "{left:?} {done:?}");
            }
            // Nobody changes anything.
            Work::Get | Work::List | Work::GetSmall => {}
        }
        done
    }

    async fn tried(&self, client: &dyn ReplicaClient, work: Work) -> Result<(), Error> {
        match work {
            Work::Put => match put(client, 1, content()).await {
                // The try before this one did it.
                Err(error) if error.is_already_exists() => {
                    assert!(get(&*self.direct).await.unwrap() == content());
                    Ok(())
                }
                done => done,
            },
            Work::Get => {
                assert!(get(client).await? == content());
                Ok(())
            }
            Work::List => {
                let listed = client.list(L0, None).await?;
                assert_eq!(listed.len() as u64, LISTED);
                Ok(())
            }
            Work::PutSmall => {
                let found = client.get_small(&small()).await?.unwrap();
                if found.content == "two" {
                    return Ok(());
                }
                let unchanged = Precondition::Unchanged(found.version);
                client.put_small(&small(), "two".into(), unchanged).await?;
                Ok(())
            }
            Work::GetSmall => {
                let found = client.get_small(&small()).await?.unwrap();
                assert_eq!(found.content, "one");
                Ok(())
            }
            Work::Delete => client.delete(L0, &[name(1)]).await,
        }
    }

    /// Does this until it comes about, and nothing else is left of the tries before.
    async fn at_last(&self, client: &dyn ReplicaClient, work: Work, case: &str) {
        let begun = Instant::now();
        let patient = |what: &dyn std::fmt::Debug| {
            assert!(begun.elapsed() < PATIENCE, "{case}: {what:?}");
            tokio::time::sleep(Duration::from_millis(100))
        };
        while let Err(error) = self.once(client, work).await {
            self.let_locks_grow_old();
            patient(&error).await;
        }
        let Server::Sftp(_, server) = &self.server else {
            return;
        };
        // Whoever stores the next file removes what is left.
        let folder = server.files().join(&self.name).join("ltx/0");
        for txid in 2.. {
            let names = std::fs::read_dir(&folder).map(|entries| {
                let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
                names
                    .filter(|name| name.starts_with('.'))
                    .collect::<Vec<_>>()
            });
            match (work, names) {
                (Work::Put, Ok(names)) if !names.is_empty() => patient(&names).await,
                _ => break,
            }
            put(client, txid, "x".into()).await.unwrap();
        }
    }

    /// Locks that were held when a connection broke are broken when they are old.
    fn let_locks_grow_old(&self) {
        let Server::Sftp(_, server) = &self.server else {
            return;
        };
        let lock = server.files().join(&self.name).join("evertide/.lease.lock");
        if let Ok(lock) = std::fs::File::options().write(true).open(lock) {
            let old = SystemTime::now() - Duration::from_secs(3_600);
            lock.set_modified(old).unwrap();
        }
    }
}

/// Bytes of an answer that are its last.
const LAST: u64 = 16;

/// Where to cut what is so long: at its beginning, within it, and in its last packet.
fn places(length: u64) -> Vec<u64> {
    let parts = match length {
        0..2_000 => 2,
        _ => 4,
    };
    let mut places: Vec<_> = (0..parts).map(|part| length * part / parts).collect();
    places.push(length.saturating_sub(LAST));
    places
}

/// A connection is cut in the middle of this, at each place, in both directions: it ends with an error or comes about,
/// and comes about when it is tried again.
async fn cut(server: &Server, work: Work) {
    let measured = Replica::prepared(server, work).await;
    let (proxy, client) = measured.proxied().await;
    let ways = [Way::Up, Way::Down];
    let before = ways.map(|way| proxy.passed(way));
    measured.once(&*client, work).await.unwrap();
    let passed = ways.map(|way| proxy.passed(way) - before[way as usize]);
    let cases = ways.into_iter().flat_map(|way| {
        let places = places(passed[way as usize]).into_iter();
        places.map(move |place| (way, place))
    });
    let cut = stream::iter(cases).map(|(way, place)| {
        let measured = &measured;
        async move {
            let replica = match work {
                Work::Get | Work::List | Work::GetSmall => measured.clone(),
                _ => Replica::prepared(server, work).await,
            };
            let (proxy, client) = replica.proxied().await;
            let case = format!("{work:?} cut {way:?} after {place}");
            proxy.set_road(Road::Cut(way, place));
            let begun = Instant::now();
            let first = replica.once(&*client, work).await;
            let took = begun.elapsed();
            assert!(took < GIVEN_UP, "{case}: {first:?} after {took:?}");
            replica.at_last(&*client, work, &case).await;
            proxy.cuts()
        }
    });
    let cuts: Vec<_> = cut.buffer_unordered(AT_A_TIME).collect().await;
    // The length is not the same to the byte each time.
    let struck = cuts.iter().filter(|cuts| **cuts > 0).count();
    assert!(struck + 1 >= cuts.len(), "{work:?}: {cuts:?}");
}

/// Nothing is taken, and then everything again.
async fn gone(server: &Server, work: Work) {
    let replica = Replica::prepared(server, work).await;
    let (proxy, client) = replica.proxied().await;
    proxy.set_road(Road::Closed);
    let error = replica.once(&*client, work).await.expect_err("an error");
    assert!(!error.is_not_found(), "{work:?}: {error}");
    proxy.set_road(Road::Open);
    replica.at_last(&*client, work, "after an outage").await;
}

async fn slow(server: &Server, work: Work) {
    let replica = Replica::prepared(server, work).await;
    let (proxy, client) = replica.proxied().await;
    proxy.set_road(Road::Slow(Duration::from_millis(30)));
    let done = replica.once(&*client, work).await;
    done.unwrap_or_else(|error| panic!("{work:?}: {error}"));
}

/// The connection stays, and nothing comes any more. Nobody waits for as long as that takes.
async fn silent(server: &Server) {
    let mut scenes = Vec::new();
    for work in ALL {
        let replica = Replica::prepared(server, work).await;
        let (proxy, client) = replica.proxied().await;
        proxy.set_road(Road::Silent);
        scenes.push((work, replica, proxy, client));
    }
    tokio::time::pause();
    let given_up = join_all(scenes.iter().map(|(work, replica, _, client)| async move {
        let error = replica.tried(&**client, *work).await.expect_err("an error");
        assert!(!error.is_not_found(), "{work:?}: {error}");
    }));
    given_up.await;
    tokio::time::resume();
    for (work, replica, proxy, client) in scenes {
        proxy.set_road(Road::Open);
        replica.at_last(&*client, work, "after silence").await;
    }
}

/// Does this for everything that a client does with each server, at the same time.
async fn each<W: Future<Output = ()>>(work: impl Fn(Arc<Server>, Work) -> W) {
    let servers = Server::all().map(Arc::new);
    let all = servers.iter().flat_map(|server| {
        let works = ALL.into_iter().map(move |work| (server.clone(), work));
        works.map(|(server, todo)| work(server, todo))
    });
    let all = join_all(all.collect::<Vec<_>>());
    tokio::time::timeout(DEADLINE, all).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_leaves_a_whole_object_or_none_and_the_next_try_does_it() {
    each(|server, work| async move { cut(&server, work).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_is_an_error_and_one_that_is_back_is_found() {
    each(|server, work| async move { gone(&server, work).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_connection_is_slow_and_nothing_else() {
    each(|server, work| async move { slow(&server, work).await }).await;
}

#[tokio::test]
async fn a_silent_connection_is_given_up() {
    for server in Server::all() {
        silent(&server).await;
    }
}
