//! What is done with files on a server.

use std::{io, ops::Range, sync::Arc, time::SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, stream, stream::FuturesUnordered};
use russh_sftp::{
    client::error::Error as SftpError,
    protocol::{FileAttributes, Handle, OpenFlags, Packet, StatusCode},
};

use super::{failure::Failure, session::Session};
use crate::{ByteStream, stream::exactly};

/// Requests on their way at a time, for one file.
const IN_FLIGHT: usize = 16;

/// A file or folder.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) is_folder: bool,
    pub(super) size: Option<u64>,
    pub(super) modified: Option<SystemTime>,
}

/// Files and folders that are made are the user's alone.
fn private(permissions: u32) -> FileAttributes {
    FileAttributes {
        permissions: Some(permissions),
        ..FileAttributes::default()
    }
}

impl Session {
    /// What is in a folder, `None` where there is none.
    pub(super) async fn list(
        self: &Arc<Self>,
        folder: &str,
    ) -> Result<Option<Vec<Entry>>, Failure> {
        let opened = self.sftp.opendir(folder).await.map_err(Failure::from);
        let open = match opened {
            Ok(handle) => Open::new(self, handle),
            Err(failure) if failure.is_not_found() => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let mut entries = Vec::new();
        let ended = loop {
            match self
                .sftp
                .readdir(&*open.handle)
                .await
                .map_err(Failure::from)
            {
                Ok(names) => entries.extend(names.files.into_iter().map(|file| Entry {
                    is_folder: file.attrs.is_dir(),
                    size: file.attrs.size,
                    modified: file.attrs.modified().ok(),
                    name: file.filename,
                })),
                Err(failure) if failure.is_end() => break Ok(()),
                Err(failure) => break Err(failure),
            }
        };
        open.close().await?;
        entries.retain(|entry| entry.name != "." && entry.name != "..");
        ended.map(|()| Some(entries))
    }

    /// Size and time of a file, `None` where there is none.
    pub(super) async fn look(&self, path: &str) -> Result<Option<FileAttributes>, Failure> {
        match self.sftp.stat(path).await.map_err(Failure::from) {
            Ok(found) => Ok(Some(found.attrs)),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Deletes a file. One that is not there is no error.
    pub(super) async fn remove(&self, path: &str) -> Result<(), Failure> {
        match self.sftp.remove(path).await.map_err(Failure::from) {
            Err(failure) if !failure.is_not_found() => Err(failure),
            _ => Ok(()),
        }
    }

    /// Makes a folder, and those it is to be in.
    pub(super) async fn make_folder(&self, folder: &str) -> Result<(), Failure> {
        let mut missing = Vec::new();
        let mut next = Some(folder.trim_end_matches('/'));
        while let Some(folder) = next.filter(|folder| !folder.is_empty()) {
            if self.look(folder).await?.is_some() {
                break;
            }
            missing.push(folder);
            next = folder.rsplit_once('/').map(|(parent, _)| parent);
        }
        for folder in missing.into_iter().rev() {
            let made = self.sftp.mkdir(folder, private(0o700)).await;
            // Another client may have been faster.
            if let Err(error) = made
                && self.look(folder).await?.is_none()
            {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Gives a file another name, over what has it.
    pub(super) async fn replace(&self, from: &str, to: &str) -> Result<(), Failure> {
        if !self.replaces {
            // Without the extension the server decides what becomes of a file that is there.
            self.remove(to).await?;
            self.sftp.rename(from, to).await?;
            return Ok(());
        }
        let mut names = Vec::new();
        for name in [from, to] {
            let length = u32::try_from(name.len()).map_err(|_| SftpError::UnexpectedPacket)?;
            names.extend_from_slice(&length.to_be_bytes());
            names.extend_from_slice(name.as_bytes());
        }
        let answer = self.sftp.extended("posix-rename@openssh.com", names).await;
        match answer? {
            Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
            Packet::Status(status) => Err(SftpError::Status(status).into()),
            _ => Err(SftpError::UnexpectedPacket.into()),
        }
    }

    /// Gives a file a second name that no other has.
    pub(super) async fn link(&self, from: &str, to: &str) -> Result<(), Failure> {
        if !self.links {
            return Err(Failure::NoLinks);
        }
        let Err(failure) = self.sftp.hardlink(from, to).await.map_err(Failure::from) else {
            return Ok(());
        };
        // Servers do not say why.
        match failure.is_broken() {
            true => Err(failure),
            false if failure.is_unknown_request() => Err(Failure::NoLinks),
            false if self.look(to).await?.is_some() => Err(Failure::Conflict),
            false => Err(failure),
        }
    }

    /// Stores a file that must not exist, as durably as the server can; its size in bytes.
    pub(super) async fn store(
        self: &Arc<Self>,
        path: &str,
        body: ByteStream,
        modified: Option<SystemTime>,
    ) -> Result<u64, Failure> {
        let flags = OpenFlags::CREATE | OpenFlags::EXCLUDE | OpenFlags::WRITE;
        let open = Open::new(self, self.sftp.open(path, flags, private(0o600)).await?);
        let written = self.fill(&open.handle, body, modified).await;
        // It reports some errors no earlier.
        let closed = open.close().await;
        let size = written?;
        closed?;
        Ok(size)
    }

    async fn fill(
        &self,
        handle: &str,
        mut body: ByteStream,
        modified: Option<SystemTime>,
    ) -> Result<u64, Failure> {
        let mut writes = FuturesUnordered::new();
        let mut size = 0;
        while let Some(chunk) = body.next().await {
            let mut chunk = chunk.map_err(Failure::Body)?;
            while !chunk.is_empty() {
                let piece = chunk.split_to(chunk.len().min(self.piece as usize));
                let at = size;
                size += piece.len() as u64;
                writes.push(self.sftp.write(handle, at, piece.to_vec()));
                while writes.len() >= IN_FLIGHT {
                    writes.next().await.transpose()?;
                }
            }
        }
        while let Some(written) = writes.next().await {
            written?;
        }
        let since = modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        if let Some(seconds) = since.and_then(|since| u32::try_from(since.as_secs()).ok()) {
            let times = FileAttributes {
                atime: Some(seconds),
                mtime: Some(seconds),
                ..FileAttributes::default()
            };
            self.sftp.fsetstat(handle, times).await?;
        }
        if self.syncs {
            self.sftp.fsync(handle).await?;
        }
        Ok(size)
    }

    /// Opens a file to be read.
    pub(super) async fn open_file(self: &Arc<Self>, path: &str) -> Result<Open, Failure> {
        let (flags, attributes) = (OpenFlags::READ, FileAttributes::default());
        let handle = self.sftp.open(path, flags, attributes).await?;
        Ok(Open::new(self, handle))
    }
}

/// A file or folder that is open, closed when dropped: a server has few handles.
pub(super) struct Open {
    session: Arc<Session>,
    handle: String,
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.handle.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (session, handle) = (self.session.clone(), std::mem::take(&mut self.handle));
            runtime.spawn(async move { session.sftp.close(handle).await });
        }
    }
}

impl Open {
    fn new(session: &Arc<Session>, handle: Handle) -> Self {
        Self {
            session: session.clone(),
            handle: handle.handle,
        }
    }

    async fn close(mut self) -> Result<(), Failure> {
        let handle = std::mem::take(&mut self.handle);
        self.session.sftp.close(handle).await?;
        Ok(())
    }

    pub(super) async fn size(&self) -> Result<u64, Failure> {
        let found = self.session.sftp.fstat(&*self.handle).await?;
        let no_size = || SftpError::UnexpectedBehavior("a file has no size".to_owned());
        Ok(found.attrs.size.ok_or_else(no_size)?)
    }

    /// Reads a range that the file has, some pieces ahead.
    pub(super) fn read(self, range: Range<u64>) -> ByteStream {
        let file = Arc::new(self);
        let piece = u64::from(file.session.piece);
        let wanted = range.end - range.start;
        let pieces = (0..wanted.div_ceil(piece)).map(move |number| {
            let start = range.start + number * piece;
            start..range.end.min(start + piece)
        });
        let read = stream::iter(pieces)
            .map(move |range| file.clone().piece(range))
            .buffered(IN_FLIGHT);
        exactly(wanted, Box::pin(read))
    }

    /// Reads a range that fits in a request. A server may give less at once.
    async fn piece(self: Arc<Self>, range: Range<u64>) -> io::Result<Bytes> {
        let mut content = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let length = u32::try_from(range.end - at).map_err(io::Error::other)?;
            let read = self.session.sftp.read(&*self.handle, at, length);
            let read = async { read.await.map_err(Failure::from) };
            let data = match self.session.unless_ended(read).await {
                Ok(data) if !data.data.is_empty() => data.data,
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(failure) if failure.is_end() => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Err(failure) => return Err(io::Error::other(failure)),
            };
            at += data.len() as u64;
            content.extend(data);
        }
        Ok(content.into())
    }
}
