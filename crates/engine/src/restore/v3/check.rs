//! Reading every file of every generation without restoring it: what a restore to any time would find.

use std::{collections::BTreeSet, io, io::Read, sync::Arc};

use evertide_ltx::{PageSize, Pgno};
use evertide_storage::{ReplicaClient, V3Object, V3Part};
use tokio::sync::{mpsc, oneshot};

use super::{
    apply::read_snapshot,
    plan::segment_name,
    unpack::Unpack,
    wal::{Pages, Problem, Wal},
};
use crate::restore::{
    CHUNKS,
    apply::{End, Feed},
    fetch::{Message, Stopped, Trouble, send, send_all},
};

/// Something that is wrong with the files of Litestream 0.3.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Flaw {
    /// The name of the file, or of the one that is missing.
    pub(crate) file: String,
    pub(crate) kind: FlawKind,
    pub(crate) problem: String,
}

/// What kind of thing is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FlawKind {
    Damaged,
    Missing,
    Vanished,
    Unreadable,
}

/// Reads these files, all there are, and tells what is wrong. `progress` is called with the size of each file
/// that lies behind.
///
/// # Errors
///
/// Where no thread can be started.
pub(crate) async fn check(
    client: &Arc<dyn ReplicaClient>,
    parallelism: usize,
    mut files: Vec<V3Object>,
    progress: impl FnMut(u64) + Send + 'static,
) -> io::Result<Vec<Flaw>> {
    files.sort_by_key(|file| {
        (
            file.key.generation(),
            file.key.part().index(),
            file.key.part(),
        )
    });
    let mut flaws = without_snapshot(&files);
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let (report, checked) = oneshot::channel();
    std::thread::Builder::new()
        .name("evertide-verify".into())
        .spawn(move || drop(report.send(check_all(receiver, progress))))?;
    let fetched = match send_all(client, parallelism, &sender, &files, &mut 0).await {
        Ok(()) => send(&sender, Message::Finish)
            .await
            .map_err(Trouble::Stopped),
        Err(trouble) => Err(trouble),
    };
    drop(sender);
    let checked = checked.await;
    flaws.extend(checked.expect("the thread of the verification panicked"));
    flaws.extend(fetched.err().and_then(|trouble| unread(client, trouble)));
    Ok(flaws)
}

/// What it means that not all files could be read.
fn unread(client: &Arc<dyn ReplicaClient>, trouble: Trouble<V3Object>) -> Option<Flaw> {
    let (file, kind, problem) = match trouble {
        Trouble::Gone(file) => {
            let problem =
                "it was deleted while the files were read, and those behind it were not read";
            (file.key.to_string(), FlawKind::Vanished, problem.to_owned())
        }
        Trouble::Stopped(Stopped::Failed(error)) => {
            (client.location(), FlawKind::Unreadable, error.to_string())
        }
        Trouble::Stopped(Stopped::Receiver) => return None, // it ends only at the end
    };
    Some(Flaw {
        file,
        kind,
        problem,
    })
}

/// Generations that nothing can be restored of.
fn without_snapshot(files: &[V3Object]) -> Vec<Flaw> {
    let of = |wanted: fn(V3Part) -> bool| {
        let files = files.iter().filter(move |file| wanted(file.key.part()));
        files
            .map(|file| file.key.generation())
            .collect::<BTreeSet<_>>()
    };
    let snapshots = of(|part| matches!(part, V3Part::Snapshot { .. }));
    let segments = of(|part| matches!(part, V3Part::Segment { .. }));
    let flaw = |generation: &u64| Flaw {
        file: format!("generations/{generation:016x}/snapshots/"),
        kind: FlawKind::Missing,
        problem: "the generation has no snapshot, so nothing of it can be restored".to_owned(),
    };
    segments.difference(&snapshots).map(flaw).collect()
}

fn check_all(
    mut files: mpsc::Receiver<Message<V3Object>>,
    mut progress: impl FnMut(u64),
) -> Vec<Flaw> {
    let (mut flaws, mut chain) = (Vec::new(), Chain::default());
    loop {
        match files.blocking_recv() {
            Some(Message::Begin(object)) => {
                let mut feed = Feed::new(&mut files);
                let result = chain.file(&object, &mut Unpack::new(&mut feed));
                if matches!(feed.end(), End::Abandoned | End::SenderGone) {
                    continue; // whoever reads the files knows why
                }
                flaws.extend(result.err().map(|problem| describe(&object, problem)));
                progress(object.size);
            }
            Some(Message::Data(_) | Message::End | Message::Abandon) => {}
            Some(Message::Finish) | None => return flaws,
        }
    }
}

/// Why a file does not do.
enum Wrong {
    /// It is the file itself, or a piece of the WAL file right before it is missing.
    Itself(Problem),
    /// The WAL file with this index is missing before it.
    NoWal(u32),
}

impl From<Problem> for Wrong {
    fn from(problem: Problem) -> Self {
        Self::Itself(problem)
    }
}

fn describe(object: &V3Object, wrong: Wrong) -> Flaw {
    let (generation, index) = (object.key.generation(), object.key.part().index());
    let file = object.key.to_string();
    let missing = |index, offset| Flaw {
        file: segment_name(generation, index, offset),
        kind: FlawKind::Missing,
        problem: format!("it is missing, and the next one is {file}"),
    };
    match wrong {
        Wrong::NoWal(index) => missing(index, 0),
        Wrong::Itself(Problem::Gap { have, .. }) => missing(index, have),
        Wrong::Itself(problem) => Flaw {
            kind: FlawKind::Damaged,
            problem: problem.to_string(),
            file,
        },
    }
}

/// The WAL of one generation, as far as it has been read.
#[derive(Default)]
struct Chain {
    generation: Option<u64>,
    page_size: Option<PageSize>,
    wal: Option<Wal>,
    /// The last index of which there was a segment.
    index: Option<u32>,
    /// Whether what lies behind has been reported already, until the next WAL file begins.
    broken: bool,
}

impl Chain {
    fn file(&mut self, object: &V3Object, content: &mut impl Read) -> Result<(), Wrong> {
        let generation = object.key.generation();
        if self.generation != Some(generation) {
            *self = Self {
                generation: Some(generation),
                ..Self::default()
            };
        }
        match object.key.part() {
            V3Part::Snapshot { .. } => Ok(self.snapshot(content)?),
            V3Part::Segment { index, offset } => {
                let result = self.segment(index, offset, content);
                self.broken = result.is_err() || self.broken && offset > 0;
                result
            }
        }
    }

    fn snapshot(&mut self, content: &mut impl Read) -> Result<(), Problem> {
        let (page_size, _) = read_snapshot(content, |_, _| Ok(()))?;
        match (page_size, self.page_size) {
            (None, _) => Err(Problem::Damaged(
                "the database in it has no page".to_owned(),
            )),
            (Some(found), Some(known)) if found != known => Err(Problem::Damaged(format!(
                "its pages have {found} bytes, those of the files before it {known}"
            ))),
            (found, _) => {
                self.page_size = found;
                Ok(())
            }
        }
    }

    fn segment(&mut self, index: u32, offset: u64, content: &mut impl Read) -> Result<(), Wrong> {
        let before = self.index.replace(index);
        let begins = before != Some(index);
        if self.broken && !(begins && offset == 0) {
            // It continues what is damaged or lost; what can be said of it is whether it is whole.
            io::copy(content, &mut io::sink()).map_err(Problem::Io)?;
            return Ok(());
        }
        let wal = match self.wal.take() {
            Some(wal) if !begins => {
                wal.expect(offset)?;
                wal
            }
            last => {
                let next = before.map_or(index, |before| before.saturating_add(1));
                if begins && next != index {
                    return Err(Wrong::NoWal(next));
                }
                if offset > 0 {
                    let (have, starts) = (0, offset);
                    return Err(Problem::Gap { have, starts }.into());
                }
                let last = last.as_ref().filter(|_| !self.broken);
                Wal::begin(content, last, self.page_size)?
            }
        };
        let wal = self.wal.insert(wal);
        self.page_size = Some(wal.page_size());
        Ok(wal.read(content, &mut Passed)?)
    }
}

/// Takes frames that are right, and forgets them.
struct Passed;

impl Pages for Passed {
    fn page(&mut self, _: Pgno, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn commit(&mut self, _: u32) -> io::Result<()> {
        Ok(())
    }
}
