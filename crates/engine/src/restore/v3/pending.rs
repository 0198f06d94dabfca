//! The transaction that is under way: its pages count only once it commits.

use std::{io, sync::Arc};

use evertide_ltx::Pgno;
use evertide_storage::DiskFile;

use crate::restore::{RestoreError, output::Output};

/// What is kept in memory, in bytes; more goes to a file without a name.
const IN_MEMORY: usize = 8 << 20;

/// Pages in the order in which they were written.
#[derive(Debug)]
pub(super) struct Pending {
    output: Arc<Output>,
    limit: usize,
    memory: Vec<u8>,
    /// Pages before those in memory, and how many bytes of them there are.
    spilled: Option<(Box<dyn DiskFile>, u64)>,
}

const HEAD: usize = 4;

impl Pending {
    pub(super) fn new(output: Arc<Output>) -> Self {
        Self {
            output,
            limit: IN_MEMORY,
            memory: Vec::new(),
            spilled: None,
        }
    }

    /// Adds a page.
    pub(super) fn push(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        if self.memory.len() + HEAD + page.len() > self.limit {
            self.spill()?;
        }
        self.memory.extend_from_slice(&pgno.get().to_be_bytes());
        self.memory.extend_from_slice(page);
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        let (file, len) = match &mut self.spilled {
            Some(spilled) => spilled,
            none => {
                let file = self.output.scratch().map_err(|error| match error {
                    RestoreError::Io { source, .. } => source,
                    other => io::Error::other(other),
                })?;
                none.insert((file, 0))
            }
        };
        file.write_at(&self.memory, *len)?;
        *len += self.memory.len() as u64;
        self.memory.clear();
        Ok(())
    }

    /// Whether there is no page.
    pub(super) fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.spilled.as_ref().is_none_or(|(_, len)| *len == 0)
    }

    /// Hands all pages to `write`, in order, and is empty then.
    pub(super) fn drain(
        &mut self,
        page_size: usize,
        mut write: impl FnMut(Pgno, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut pages = |bytes: &[u8]| {
            for entry in bytes.chunks_exact(HEAD + page_size) {
                let (head, page) = entry.split_at(HEAD);
                let number = head.first_chunk().map(|head| u32::from_be_bytes(*head));
                if let Some(pgno) = number.and_then(Pgno::new) {
                    write(pgno, page)?;
                }
            }
            io::Result::Ok(())
        };
        if let Some((file, len)) = &mut self.spilled {
            let mut entry = vec![0; HEAD + page_size];
            let mut at = 0;
            while at < *len {
                file.read_exact_at(&mut entry, at)?;
                pages(&entry)?;
                at += entry.len() as u64;
            }
            *len = 0;
        }
        pages(&self.memory)?;
        self.memory.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use evertide_storage::OsDisk;

    use super::*;
    use crate::restore::ExistingOutput;

    #[test]
    fn a_transaction_larger_than_memory_comes_back_in_order_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let output = Output::new(Arc::new(OsDisk), path, ExistingOutput::Refuse, 0o600);
        let mut pending = Pending::new(Arc::new(output));
        pending.limit = 5000;
        for round in 0..3_u8 {
            assert!(pending.is_empty());
            let pages: Vec<(u32, [u8; 512])> = (1..=40)
                .map(|number| (number % 7 + 1, [number as u8 ^ round; 512]))
                .collect();
            for (number, page) in &pages {
                pending.push(Pgno::new(*number).unwrap(), page).unwrap();
            }
            assert!(!pending.is_empty());
            let mut found = Vec::new();
            let write = |pgno: Pgno, page: &[u8]| {
                found.push((pgno.get(), *page.first_chunk::<512>().unwrap()));
                Ok(())
            };
            pending.drain(512, write).unwrap();
            assert_eq!(found, pages);
        }
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }
}
