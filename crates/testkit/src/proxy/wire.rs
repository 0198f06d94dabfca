//! A proxy between a client and any server on loopback that knows nothing but bytes: connections end after so many
//! of them, in this direction or that, or crawl, or are not taken at all.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp},
    sync::watch,
    time::sleep,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Bytes that are passed on at once.
const PIECE: usize = 16 << 10;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// To the server.
    Up,
    /// To the client.
    Down,
}

/// What happens to connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Road {
    /// Nothing.
    Open,
    /// All end, and no other is taken.
    Closed,
    /// All end when so many more bytes have passed this way; those that are made later are spared.
    Cut(Way, u64),
    /// Each piece of at most 16 KiB takes so long.
    Slow(Duration),
    /// They stay, and nothing passes any more.
    Silent,
}

/// A running proxy, stopped when dropped, and every connection with it.
#[derive(Debug)]
pub struct WireProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _running: DropGuard,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    /// What is said to the server, and what it hears in its place.
    misheard: Option<[&'static str; 2]>,
    state: Mutex<State>,
    /// Counts up when every connection has to end.
    ended: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    road: Road,
    passed: [u64; 2],
    cuts: u64,
}

/// What becomes of a piece.
enum Piece {
    /// So many of its bytes are passed on, after this while.
    Passes(usize, Duration),
    /// So many of its bytes are passed on, and then every connection ends.
    Ends(usize),
    Stays,
}

impl State {
    fn next(&mut self, way: Way, length: usize) -> Piece {
        let piece = match &mut self.road {
            Road::Open => Piece::Passes(length, Duration::ZERO),
            Road::Slow(wait) => Piece::Passes(length, *wait),
            Road::Closed => Piece::Ends(0),
            Road::Silent => Piece::Stays,
            Road::Cut(cut, left) if *cut == way && *left <= length as u64 => {
                Piece::Ends(*left as usize)
            }
            Road::Cut(cut, left) => {
                if *cut == way {
                    *left -= length as u64;
                }
                Piece::Passes(length, Duration::ZERO)
            }
        };
        if let Piece::Passes(length, _) | Piece::Ends(length) = piece {
            self.passed[way as usize] += length as u64;
        }
        if matches!((&piece, self.road), (Piece::Ends(_), Road::Cut(..))) {
            self.road = Road::Open;
            self.cuts += 1;
        }
        piece
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_all(&self) {
        self.ended.send_modify(|ended| *ended += 1);
    }
}

impl WireProxy {
    /// Starts a proxy on a free port of loopback, with an open road.
    ///
    /// # Errors
    ///
    /// When there is no port, or no thread.
    pub fn start(server: SocketAddr) -> io::Result<Self> {
        Self::with(server, None)
    }

    /// Starts a proxy by way of which the server hears the second of these in place of the first, which must be as long.
    /// What comes in two pieces is not noticed.
    ///
    /// # Errors
    ///
    /// As [`WireProxy::start`].
    pub fn start_mishearing(server: SocketAddr, misheard: [&'static str; 2]) -> io::Result<Self> {
        assert_eq!(misheard[0].len(), misheard[1].len());
        Self::with(server, Some(misheard))
    }

    fn with(server: SocketAddr, misheard: Option<[&'static str; 2]>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = State {
            road: Road::Open,
            passed: [0, 0],
            cuts: 0,
        };
        let shared = Arc::new(Shared {
            server,
            misheard,
            state: Mutex::new(state),
            ended: watch::Sender::new(0),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = CancellationToken::new();
        let (theirs, stopped) = (shared.clone(), stop.clone());
        std::thread::Builder::new()
            .name("wire-proxy".into())
            .spawn(move || {
                // Ending the runtime ends every connection.
                runtime.block_on(stopped.run_until_cancelled(accept(listener, theirs)))
            })?;
        Ok(Self {
            address,
            shared,
            _running: stop.drop_guard(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens to connections from now on.
    pub fn set_road(&self, road: Road) {
        self.shared.state().road = road;
        if road == Road::Closed {
            self.shared.end_all();
        }
    }

    /// Bytes that have passed so far, this way.
    pub fn passed(&self, way: Way) -> u64 {
        self.shared.state().passed[way as usize]
    }

    /// How often connections were cut.
    pub fn cuts(&self) -> u64 {
        self.shared.state().cuts
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (client, _) = listener.accept().await?;
        // Dropped without a word.
        if shared.state().road == Road::Closed {
            continue;
        }
        let shared = shared.clone();
        tokio::spawn(async move { connect(&shared, client).await });
    }
}

/// Carries a connection until one side or the proxy ends it.
async fn connect(shared: &Shared, client: TcpStream) -> io::Result<()> {
    let mut ended = shared.ended.subscribe();
    let server = TcpStream::connect(shared.server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let both = async {
        tokio::try_join!(
            carry(shared, Way::Up, from_client, to_server),
            carry(shared, Way::Down, from_server, to_client),
        )
    };
    tokio::select! {
        carried = both => carried.map(drop),
        _ = ended.changed() => Ok(()),
    }
}

async fn carry(
    shared: &Shared,
    way: Way,
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        if let (Way::Up, Some(misheard)) = (way, shared.misheard) {
            mishear(&mut piece[..length], misheard);
        }
        let next = shared.state().next(way, length);
        match next {
            Piece::Stays => std::future::pending().await,
            Piece::Passes(length, wait) => {
                sleep(wait).await;
                to.write_all(&piece[..length]).await?;
            }
            Piece::Ends(length) => {
                to.write_all(&piece[..length]).await?;
                shared.end_all();
                std::future::pending().await
            }
        }
    }
}

/// Puts the second of these wherever the first is.
fn mishear(piece: &mut [u8], [said, heard]: [&str; 2]) {
    let mut at = 0;
    while let Some(rest) = piece.get_mut(at..).filter(|rest| rest.len() >= said.len()) {
        if rest.starts_with(said.as_bytes()) {
            rest[..heard.len()].copy_from_slice(heard.as_bytes());
        }
        at += 1;
    }
}
