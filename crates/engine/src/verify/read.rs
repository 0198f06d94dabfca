//! Reading all files of a replica, in order: several parts at a time ahead of the thread that checks
//! them.

use std::{io, io::Read, sync::Arc};

use bytes::{Buf, Bytes};
use evertide_storage::{LtxObject, ReplicaClient};
use tokio::sync::mpsc;

use super::{VerifyError, progress::Meter};
use crate::restore::{Ahead, Part, RestoreError, Stopped, Trouble};

/// The most that parts under way hold together, in bytes.
const IN_FLIGHT: u64 = 16 << 20;
/// Files in a row that cannot be read, after which the store is to blame and no file.
const UNREADABLE: u32 = 3;

/// What the thread that checks the files receives.
#[derive(Debug)]
pub(super) enum Message {
    /// A file begins.
    Begin(LtxObject),
    /// Some bytes of it.
    Data(Bytes),
    /// How it ended.
    End(End),
    /// That were all files.
    Finish,
}

/// How the bytes of a file ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// That was all of it.
    Complete,
    /// It was deleted meanwhile.
    Gone,
    /// It cannot be read.
    Unreadable(String),
    /// Nobody reads any more.
    Cancelled,
}

/// Reads files and sends them.
pub(super) struct Reader {
    pub(super) client: Arc<dyn ReplicaClient>,
    pub(super) parallelism: usize,
    pub(super) sender: mpsc::Sender<Message>,
}

impl Reader {
    /// Sends these files in order, and returns the first one that was deleted meanwhile.
    pub(super) async fn send_all(
        &self,
        files: &[LtxObject],
    ) -> Result<Option<LtxObject>, VerifyError> {
        let client = Arc::clone(&self.client);
        let mut ahead = Ahead::new(client, files, self.parallelism, IN_FLIGHT);
        let (mut gone, mut given_up, mut unreadable) = (None, None, 0);
        while let Some((part, fetched)) = ahead.next().await {
            if given_up.as_ref() == Some(&part.file) {
                continue;
            }
            if part.range.start == 0 {
                self.send(Message::Begin(part.file.clone())).await?;
            }
            match fetched {
                Ok(chunks) => {
                    unreadable = 0;
                    self.pass_on(&part, chunks).await?;
                }
                Err(Trouble::Gone(_)) => {
                    self.send(Message::End(End::Gone)).await?;
                    gone = gone.or(Some(part.file.clone()));
                    given_up = Some(part.file);
                }
                Err(Trouble::Stopped(stopped)) => {
                    let reason = match stopped {
                        Stopped::Failed(RestoreError::Cancelled) | Stopped::Receiver => {
                            return Err(VerifyError::Cancelled);
                        }
                        Stopped::Failed(error) => error.to_string(),
                    };
                    unreadable += 1;
                    if unreadable == UNREADABLE {
                        let location = self.client.location();
                        return Err(VerifyError::Unreadable { location, reason });
                    }
                    self.send(Message::End(End::Unreadable(reason))).await?;
                    given_up = Some(part.file);
                }
            }
        }
        Ok(gone)
    }

    async fn pass_on(&self, part: &Part, chunks: Vec<Bytes>) -> Result<(), VerifyError> {
        for chunk in chunks {
            self.send(Message::Data(chunk)).await?;
        }
        if part.range.end >= part.file.size {
            self.send(Message::End(End::Complete)).await?;
        }
        Ok(())
    }

    pub(super) async fn send(&self, message: Message) -> Result<(), VerifyError> {
        let sent = self.sender.send(message).await;
        sent.map_err(|_| VerifyError::Cancelled)
    }
}

/// The bytes of one file, as they arrive.
pub(super) struct Feed<'a> {
    pub(super) files: &'a mut mpsc::Receiver<Message>,
    pub(super) meter: &'a mut Meter,
    chunk: Bytes,
    end: Option<End>,
}

impl<'a> Feed<'a> {
    pub(super) fn new(files: &'a mut mpsc::Receiver<Message>, meter: &'a mut Meter) -> Self {
        Self {
            files,
            meter,
            chunk: Bytes::new(),
            end: None,
        }
    }

    /// Passes over what is left of the file, and says how it ended.
    pub(super) fn end(mut self) -> End {
        loop {
            self.chunk.clear();
            if let Some(end) = self.end.take() {
                return end;
            }
            self.next();
        }
    }

    fn next(&mut self) {
        match self.files.blocking_recv() {
            Some(Message::Data(chunk)) => {
                self.meter.advance(chunk.len());
                self.chunk = chunk;
            }
            Some(Message::End(end)) => self.end = Some(end),
            Some(Message::Begin(_) | Message::Finish) | None => self.end = Some(End::Cancelled),
        }
    }
}

impl Read for Feed<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && self.end.is_none() {
            self.next();
        }
        if self.chunk.is_empty() && self.end != Some(End::Complete) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let len = self.chunk.len().min(out.len());
        let (out, _) = out.split_at_mut(len);
        self.chunk.copy_to_slice(out);
        Ok(len)
    }
}
