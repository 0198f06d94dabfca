//! From an asynchronous body to the thread that writes it.

use std::io;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::publish::{Gone, Source};
use crate::{ByteStream, stream::Head};

/// Chunks between the body and the writer: enough that neither waits for every chunk of the other.
const IN_FLIGHT: usize = 4;

impl Source for Head {
    fn next(&mut self) -> Result<Option<Bytes>, Gone> {
        Ok(self.pop_front())
    }
}

/// What goes to the writer. Only `End` says that nothing is missing: a channel that closes without
/// it means that the body failed, or that nobody waits any more.
enum Piece {
    Chunk(Bytes),
    End,
}

/// The body's end of a channel.
pub(super) struct Feed(mpsc::Sender<Piece>);

/// The writer's end of a channel.
pub(super) struct Channel {
    head: Head,
    rest: mpsc::Receiver<Piece>,
}

pub(super) fn channel(head: Head) -> (Feed, Channel) {
    let (sender, rest) = mpsc::channel(IN_FLIGHT);
    (Feed(sender), Channel { head, rest })
}

impl Feed {
    /// Sends all of the body. Ends early, and well, where the writer has failed: it knows why.
    pub(super) async fn forward(&mut self, mut body: ByteStream) -> io::Result<()> {
        while let Some(chunk) = body.next().await {
            if self.0.send(Piece::Chunk(chunk?)).await.is_err() {
                return Ok(());
            }
        }
        let _ = self.0.send(Piece::End).await;
        Ok(())
    }
}

impl Source for Channel {
    fn next(&mut self) -> Result<Option<Bytes>, Gone> {
        if let Some(chunk) = self.head.pop_front() {
            return Ok(Some(chunk));
        }
        match self.rest.blocking_recv() {
            Some(Piece::Chunk(chunk)) => Ok(Some(chunk)),
            Some(Piece::End) => Ok(None),
            None => Err(Gone),
        }
    }
}
