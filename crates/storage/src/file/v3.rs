//! Files that Litestream 0.3 left in the directory.

use std::{io, path::Path};

use super::{Inner, publish::failure};
use crate::{Error, FileKind, V3Key, V3Object};

impl Inner {
    /// All files of all generations, sorted.
    pub(super) fn list_v3(&self) -> Result<Vec<V3Object>, Error> {
        let mut objects = Vec::new();
        for generation in self.names(&self.options.path.join("generations"))? {
            for folder in ["snapshots", "wal"] {
                let below = format!("generations/{generation}/{folder}");
                for name in self.names(&self.options.path.join(&below))? {
                    if let Some(key) = V3Key::parse(&format!("{below}/{name}")) {
                        objects.extend(self.look_v3(key)?);
                    }
                }
            }
        }
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    fn look_v3(&self, key: V3Key) -> Result<Option<V3Object>, Error> {
        let path = self.options.path.join(key.as_str());
        match self.disk.metadata(&path) {
            Ok(found) if found.kind == FileKind::File => Ok(Some(V3Object {
                key,
                size: found.len,
                created: found.modified,
            })),
            Ok(_) => Ok(None),
            // Deleted since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io(failure("look at", &path)(error))),
        }
    }

    /// The names in a directory; none where it is missing.
    fn names(&self, directory: &Path) -> Result<Vec<String>, Error> {
        match self.disk.read_dir(directory) {
            Ok(entries) => {
                let names = entries.into_iter();
                Ok(names
                    .filter_map(|entry| entry.name.into_string().ok())
                    .collect())
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(Vec::new())
            }
            Err(error) => Err(self.io(failure("list", directory)(error))),
        }
    }
}
