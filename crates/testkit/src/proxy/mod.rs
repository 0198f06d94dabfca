//! A proxy between a client and an HTTP server on loopback that does what networks and services do:
//! delays, errors, connections that end half-way. What got through it is on record.

mod dates;
mod fault;
mod forward;
mod wire;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hyper::{Method, StatusCode};
use tokio_util::sync::DropGuard;

pub use self::{
    fault::{Fault, Weather},
    wire::{Road, Way, WireProxy},
};
use crate::serve::serve;

/// How long clients are asked to stay away, where they are.
const LEFT_ALONE: Duration = Duration::from_secs(1);

/// A request that the server answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answered {
    /// What was asked.
    pub method: Method,
    /// Of what: path and parameters.
    pub uri: String,
    /// The server's answer, whether the client got it or not.
    pub status: StatusCode,
}

/// A running proxy, stopped when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _running: DropGuard,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    weather: Weather,
    random: fastrand::Rng,
    answered: Vec<Answered>,
    faults: BTreeMap<Fault, u64>,
    under_way: usize,
    /// Those of them that read.
    reads: usize,
    most_reads: usize,
    /// Nothing is deleted, whatever the answer says.
    keeps: bool,
    minds_dates: bool,
    /// When a client may come again that was asked to stay away.
    left_alone_until: Option<Instant>,
    too_soon: u64,
}

impl State {
    /// What happens to the request that comes now.
    fn next(&mut self) -> Option<Fault> {
        let now = Instant::now();
        if self.left_alone_until.is_some_and(|until| now < until) {
            self.too_soon += 1;
        }
        let fault = self.weather.draw(&mut self.random)?;
        if fault == Fault::TooManyRequests {
            self.left_alone_until = Some(now + LEFT_ALONE);
        }
        *self.faults.entry(fault).or_default() += 1;
        Some(fault)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FaultProxy {
    /// Starts a proxy on a free port of loopback, in fair weather. What goes wrong later, and how, is
    /// drawn from `seed`.
    ///
    /// # Errors
    ///
    /// When there is no port, or no thread.
    pub fn start(server: SocketAddr, seed: u64) -> io::Result<Self> {
        let state = State {
            weather: Weather::Fair,
            random: fastrand::Rng::with_seed(seed),
            answered: Vec::new(),
            faults: BTreeMap::new(),
            under_way: 0,
            reads: 0,
            most_reads: 0,
            keeps: false,
            minds_dates: false,
            left_alone_until: None,
            too_soon: 0,
        };
        let shared = Arc::new(Shared {
            server,
            state: Mutex::new(state),
        });
        let theirs = Arc::clone(&shared);
        let answer = move |request| forward::answer(Arc::clone(&theirs), request);
        let (address, running) = serve("fault-proxy", answer)?;
        Ok(Self {
            address,
            shared,
            _running: running,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens to requests from now on. Those that hang go on hanging.
    pub fn set_weather(&self, weather: Weather) {
        self.shared.state().weather = weather;
    }

    /// Takes the requests that the server has answered since the last call, in order.
    pub fn take_answered(&self) -> Vec<Answered> {
        std::mem::take(&mut self.shared.state().answered)
    }

    /// Answers from now on that what is to be deleted is (`DELETE`), and does not ask the server to.
    pub fn keep_what_is_deleted(&self) {
        self.shared.state().keeps = true;
    }

    /// From now on answers as Azure does to what is dated more than a quarter of an hour ago.
    pub fn mind_dates(&self) {
        self.shared.state().minds_dates = true;
    }

    /// How many requests came before the time that a client was asked to stay away was over ([`Fault::TooManyRequests`]).
    pub fn too_soon(&self) -> u64 {
        self.shared.state().too_soon
    }

    /// Requests on their way, those included whose sender has gone.
    pub fn under_way(&self) -> usize {
        self.shared.state().under_way
    }

    /// The most GET requests that were on their way at the same time since the last call.
    pub fn take_most_reads(&self) -> usize {
        let mut state = self.shared.state();
        let under_way = state.reads;
        std::mem::replace(&mut state.most_reads, under_way)
    }

    /// How often each fault has struck.
    pub fn faults(&self) -> BTreeMap<Fault, u64> {
        self.shared.state().faults.clone()
    }
}
