//! Small objects, and replacing them one at a time.
//!
//! Renaming replaces whatever is there, so a look at an object and its replacement have to be made one step.
//! Whoever replaces `lease` makes the new content whole under a temporary name, links that to the name
//! `.lease.lock`, which fails where somebody else has it, looks at the object, and renames `.lease.lock` over
//! it: the lock is the new object, and gone with the renaming.
//!
//! A lock whose holder died is moved away when it is old by the server's own clock, which one process alone
//! succeeds in. Should its holder wake, the renaming finds no lock and fails; or it finds that of another, and
//! then the look at the content afterwards tells that it was not ours.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::sleep;

use super::{SftpClient, failure::Failure, session::Session};
use crate::{Precondition, SmallObject, Version, bytes_stream, collect};

/// A lock is held for some requests; older than this, its holder is dead or stopped.
const STALE_SECONDS: u32 = 30;
const PAUSE: Duration = Duration::from_millis(20);
/// Five seconds. Who finds it locked so long is told, and tries again with a file that is newer.
const TRIES: u32 = 250;

impl SftpClient {
    pub(super) async fn read_small(&self, key: &str) -> Result<Option<Bytes>, Failure> {
        let (file, size) = match self.open(key).await {
            Ok(opened) => opened,
            Err(failure) if failure.is_not_found() => return Ok(None),
            Err(failure) => return Err(failure),
        };
        if size > SmallObject::LONGEST as u64 {
            return Err(Failure::TooLong);
        }
        let content = collect(file.read(0..size), SmallObject::LONGEST).await;
        let lost = |error: std::io::Error| russh::Error::IO(error);
        Ok(Some(content.map_err(lost)?))
    }

    pub(super) async fn write_small(
        &self,
        key: &str,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<(), Failure> {
        let expected = match precondition {
            Precondition::Absent => {
                return self
                    .create(key, bytes_stream(content), None)
                    .await
                    .map(drop);
            }
            Precondition::None => None,
            Precondition::Unchanged(expected) => Some(expected),
        };
        let session = self.session().await?;
        let replaced = self.replace_small(&session, key, content, expected.as_ref());
        session.unless_ended(replaced).await
    }

    async fn replace_small(
        &self,
        session: &Arc<Session>,
        key: &str,
        content: Bytes,
        expected: Option<&Version>,
    ) -> Result<(), Failure> {
        let path = self.path(key);
        let body = bytes_stream(content.clone());
        let (temporary, _) = self.write(session, &path, body, None).await?;
        if !self.options.conditional_writes {
            self.compare(key, expected).await?;
            session.replace(temporary.path(), &path).await?;
            temporary.was_renamed();
            return Ok(());
        }
        let lock = self.lock(session, temporary.path(), &path).await?;
        temporary.remove().await?;
        if let Err(failure) = self.compare(key, expected).await {
            session.remove(&lock).await?;
            return Err(failure);
        }
        match session.replace(&lock, &path).await {
            // We slept, and somebody took the lock for that of a dead process.
            Err(failure) if failure.is_not_found() => Err(Failure::Conflict),
            Err(failure) => Err(failure),
            Ok(()) => self.compare(key, Some(&Version::new(content))).await,
        }
    }

    /// Deletes a small object, while nobody replaces it.
    pub(super) async fn delete_locked(&self, key: &str) -> Result<(), Failure> {
        if !self.options.conditional_writes {
            return self.remove(key).await;
        }
        let session = self.session().await?;
        session
            .unless_ended(self.delete_under_lock(&session, key))
            .await
    }

    async fn delete_under_lock(&self, session: &Arc<Session>, key: &str) -> Result<(), Failure> {
        let path = self.path(key);
        if session.look(&path).await?.is_none() {
            return Ok(());
        }
        let (temporary, _) = self
            .write(session, &path, bytes_stream(Bytes::new()), None)
            .await?;
        let lock = self.lock(session, temporary.path(), &path).await?;
        temporary.remove().await?;
        let removed = session.remove(&path).await;
        session.remove(&lock).await?;
        removed
    }

    /// Fails where an object has another version than this, if it matters.
    async fn compare(&self, key: &str, expected: Option<&Version>) -> Result<(), Failure> {
        let Some(expected) = expected else {
            return Ok(());
        };
        match self.read_small(key).await? {
            Some(found) if found == expected.as_bytes() => Ok(()),
            _ => Err(Failure::Conflict),
        }
    }

    /// Links a file to the lock of an object; the lock's path.
    async fn lock(
        &self,
        session: &Arc<Session>,
        temporary: &str,
        path: &str,
    ) -> Result<String, Failure> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let lock = format!("{folder}/.{name}.lock");
        for _ in 0..TRIES {
            match session.link(temporary, &lock).await {
                Ok(()) => return Ok(lock),
                Err(Failure::Conflict) => {}
                // The other one went between the two looks at it.
                Err(failure) if !failure.is_broken() && failure.is_vague() => {}
                Err(failure) => return Err(failure),
            }
            self.break_stale(session, temporary, &lock).await?;
            // Those that failed together do not come back together.
            sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
        }
        Err(Failure::Locked)
    }

    /// Moves a lock away that is old, by the clock that dated our own file just now.
    async fn break_stale(
        &self,
        session: &Arc<Session>,
        temporary: &str,
        lock: &str,
    ) -> Result<(), Failure> {
        let (Some(ours), Some(found)) = (session.look(temporary).await?, session.look(lock).await?)
        else {
            return Ok(());
        };
        let (Some(written), Some(locked)) = (ours.mtime, found.mtime) else {
            return Ok(());
        };
        if written.saturating_sub(locked) < STALE_SECONDS {
            return Ok(());
        }
        // One succeeds; for the others it is gone.
        let away = format!("{temporary}.stale");
        match session
            .sftp
            .rename(lock, &*away)
            .await
            .map_err(Failure::from)
        {
            Ok(_) => session.remove(&away).await,
            Err(failure) if failure.is_broken() => Err(failure),
            Err(_) => Ok(()),
        }
    }
}
