//! Bodies that a test can watch.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::stream;

use crate::ByteStream;

/// Counts the chunks of a body that are in memory.
#[derive(Clone, Default, Debug)]
pub struct Gauge(Arc<Counts>);

#[derive(Default, Debug)]
struct Counts {
    alive: AtomicUsize,
    most: AtomicUsize,
    made: AtomicUsize,
}

impl Gauge {
    /// The most that were in memory at once.
    pub fn most(&self) -> usize {
        self.0.most.load(Ordering::SeqCst)
    }

    /// How many were made.
    pub fn made(&self) -> usize {
        self.0.made.load(Ordering::SeqCst)
    }

    fn chunk(&self, content: Vec<u8>) -> Bytes {
        self.0.made.fetch_add(1, Ordering::SeqCst);
        let alive = self.0.alive.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(alive, Ordering::SeqCst);
        Bytes::from_owner(Watched {
            content,
            gauge: self.clone(),
        })
    }
}

struct Watched {
    content: Vec<u8>,
    gauge: Gauge,
}

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.gauge.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A body of some chunks, each of one repeated byte that depends on its place.
#[derive(Clone, Copy, Debug)]
pub struct Pieces {
    /// How many.
    pub count: usize,
    /// Bytes in each.
    pub size: usize,
}

impl Pieces {
    /// The body.
    pub fn body(self, gauge: &Gauge) -> ByteStream {
        let gauge = gauge.clone();
        Box::pin(stream::iter(
            (0..self.count).map(move |at| Ok(gauge.chunk(self.chunk(at)))),
        ))
    }

    /// The body, with this error after its chunks.
    pub fn failing(self, error: io::ErrorKind) -> ByteStream {
        let chunks = (0..self.count).map(move |at| Ok(self.chunk(at).into()));
        Box::pin(stream::iter(chunks.chain([Err(error.into())])))
    }

    /// The body, which then never ends. Says how many chunks were taken.
    pub fn stalling(self, gauge: &Gauge) -> ByteStream {
        use futures_util::StreamExt;
        Box::pin(self.body(gauge).chain(stream::pending()))
    }

    /// The content of one chunk.
    pub fn chunk(self, at: usize) -> Vec<u8> {
        vec![u8::try_from(at % 251).unwrap_or_default(); self.size]
    }

    /// The content of all.
    pub fn content(self) -> Vec<u8> {
        (0..self.count).flat_map(|at| self.chunk(at)).collect()
    }
}
