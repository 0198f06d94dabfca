//! What lies in the directory of a replica and is not part of it.

use std::{io, path::Path};

use evertide_ltx::{Level, LtxName};

use super::{layout, publish::Failure, publish::failure};
use crate::{Disk, FileKind, SmallKey, Stray, StrayKind, layout::is_temporary};

/// Looks at the directories that a replica has, and into no others.
pub(super) fn find(disk: &dyn Disk, root: &Path) -> Result<Vec<Stray>, Failure> {
    let mut search = Search {
        disk,
        root,
        found: Vec::new(),
    };
    search.directory("", |name, is_dir| {
        is_dir && ["ltx", "evertide"].contains(&name)
    })?;
    search.directory("ltx/", |name, is_dir| {
        is_dir && Level::all().any(|level| level.to_string() == name)
    })?;
    for level in Level::all() {
        search.directory(&format!("ltx/{level}/"), |name, is_dir| {
            !is_dir && name.parse::<LtxName>().is_ok()
        })?;
    }
    search.directory("evertide/", |name, _| {
        name == layout::LOCK || SmallKey::new(name).is_some()
    })?;
    search.found.sort_unstable();
    Ok(search.found)
}

struct Search<'a> {
    disk: &'a dyn Disk,
    root: &'a Path,
    found: Vec<Stray>,
}

impl Search<'_> {
    /// Adds the entries of a directory of which `belongs` says no.
    fn directory(
        &mut self,
        prefix: &str,
        belongs: impl Fn(&str, bool) -> bool,
    ) -> Result<(), Failure> {
        let path = self.root.join(prefix);
        let entries = match self.disk.read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failure("list", &path)(error)),
        };
        for entry in entries {
            // A level may be a link to a directory elsewhere.
            let is_dir = entry.is_dir || self.is_dir(&path.join(&entry.name));
            let name = entry.name.to_string_lossy();
            if belongs(&name, is_dir) {
                continue;
            }
            let kind = if !is_dir && is_temporary(&name) {
                StrayKind::Temporary
            } else {
                StrayKind::Foreign
            };
            let slash = if is_dir { "/" } else { "" };
            self.found.push(Stray {
                key: format!("{prefix}{name}{slash}"),
                kind,
            });
        }
        Ok(())
    }

    fn is_dir(&self, path: &Path) -> bool {
        let found = self.disk.metadata(path);
        found.is_ok_and(|found| found.kind == FileKind::Directory)
    }
}
