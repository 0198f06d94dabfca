//! Files that Litestream 0.3 left on the server.

use std::{sync::Arc, time::SystemTime};

use super::{SftpClient, failure::Failure, session::Session};
use crate::{V3Key, V3Object};

impl SftpClient {
    /// All files of all generations, sorted.
    pub(super) async fn list_generations(
        &self,
        session: Arc<Session>,
    ) -> Result<Vec<V3Object>, Failure> {
        let mut objects = Vec::new();
        for generation in self.entries(&session, "generations").await? {
            for folder in ["snapshots", "wal"] {
                let below = format!("generations/{}/{folder}", generation.name);
                for entry in self.entries(&session, &below).await? {
                    if !entry.is_folder
                        && let Some(key) = V3Key::parse(&format!("{below}/{}", entry.name))
                    {
                        objects.push(V3Object {
                            key,
                            size: entry.size.unwrap_or_default(),
                            created: entry.modified.unwrap_or(SystemTime::UNIX_EPOCH),
                        });
                    }
                }
            }
        }
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// What is in a folder; nothing where it is missing.
    async fn entries(
        &self,
        session: &Arc<Session>,
        folder: &str,
    ) -> Result<Vec<super::files::Entry>, Failure> {
        let entries = session.list(&self.path(folder)).await?;
        Ok(entries.unwrap_or_default())
    }
}
