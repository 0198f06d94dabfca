//! Whether a destination can do what is asked of it, found out by trying.
//!
//! Only an object of its own, `evertide/doctor-<number>`, is stored and deleted again; LTX files are listed and
//! never touched, so that a replica can be examined while it is written to.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use evertide_ltx::Level;

use crate::{
    Clock, Destination, Disk, Error, FileKind, Precondition, ReplicaClient, SmallKey, Version,
};

/// Clocks that differ by more confuse whoever waits for the end of a lease, and services that check
/// signatures refuse soon.
const SKEW: Duration = Duration::from_secs(300);

/// What a store is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Ability {
    /// To say what there is.
    List,
    /// To store an object.
    Put,
    /// To give it back as it was.
    Get,
    /// To create an object only where there is none.
    ConditionalCreate,
    /// To replace an object only where it is a certain one.
    CompareAndSet,
    /// To have a clock that shows the time of this machine.
    Clock,
    /// To delete an object.
    Delete,
}

/// Whether a store can do something.
#[derive(Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// It was tried, and it did.
    Works,
    /// It refused, or could not be reached.
    Fails(Error),
    /// It took a condition, and did not heed it.
    Ignored,
    /// Its clock and this machine's differ by more than may be.
    Skewed,
    /// It does not claim to, by its nature or its settings; there is another, weaker way.
    NotPromised,
    /// Trying needs something that does not work.
    Untried,
}

/// What is known about a destination.
#[derive(Debug)]
#[non_exhaustive]
pub struct Examination {
    /// Each ability, in the order in which they were tried.
    pub verdicts: Vec<(Ability, Verdict)>,
    /// By how many milliseconds the store's clock is ahead of this machine's, as far as it can be
    /// told; `None` where the store tells no time.
    pub clock_ahead_ms: Option<i64>,
}

impl Examination {
    /// Whether a replica can be kept there, with all that the store promises.
    pub fn works(&self) -> bool {
        let works = |verdict: &Verdict| matches!(verdict, Verdict::Works | Verdict::NotPromised);
        self.verdicts.iter().all(|(_, verdict)| works(verdict))
    }
}

/// Tries everything that replication and restores need, and leaves nothing behind. Directories that it made
/// below a local path are removed, too.
///
/// The client must be one of this destination.
pub async fn examine(
    destination: &Destination,
    client: &dyn ReplicaClient,
    disk: &dyn Disk,
    clock: &dyn Clock,
) -> Examination {
    let made = match destination {
        Destination::File(options) => missing_directories(disk, &options.path),
        #[allow(unreachable_patterns)] // where there is no other
        _ => Vec::new(),
    };
    let examination = try_everything(client, clock).await;
    remove_directories(disk, &made);
    examination
}

pub(crate) async fn try_everything(client: &dyn ReplicaClient, clock: &dyn Clock) -> Examination {
    let key = SmallKey::doctor(fastrand::u64(..));
    let mut verdicts = Vec::new();
    let listed = client.list(Level::SNAPSHOT, None).await;
    verdicts.push((Ability::List, verdict(listed.map(drop))));

    let content = Bytes::from(format!("{key}: may be deleted\n"));
    let before = clock.now();
    let put = client.put_small(&key, content.clone(), Precondition::None);
    let put = put.await;
    let after = clock.now();
    let version = put.as_ref().ok().cloned();
    verdicts.push((Ability::Put, verdict(put.map(drop))));
    let expected = version.as_ref().map(|_| &content);
    verdicts.push((Ability::Get, get(client, &key, expected).await));

    let (mut created, mut replaced, mut time) = Default::default();
    if let Some(version) = version {
        time = Some(time_of(client, &key, before..=after).await);
        created = Some(create_again(client, &key).await);
        replaced = Some(replace_twice(client, &key, version).await);
    }
    let or_untried = |verdict: Option<Verdict>| verdict.unwrap_or(Verdict::Untried);
    let there = created.is_some();
    verdicts.push((Ability::ConditionalCreate, or_untried(created)));
    verdicts.push((Ability::CompareAndSet, or_untried(replaced)));
    let (time, clock_ahead_ms) = time.unwrap_or((Verdict::Untried, None));
    verdicts.push((Ability::Clock, time));

    // What was refused may have arrived all the same.
    let deleted = delete(client, &key).await;
    let deleted = Some(deleted).filter(|_| there);
    verdicts.push((Ability::Delete, or_untried(deleted)));
    Examination {
        verdicts,
        clock_ahead_ms,
    }
}

fn verdict(done: Result<(), Error>) -> Verdict {
    match done {
        Ok(()) => Verdict::Works,
        Err(error) => Verdict::Fails(error),
    }
}

/// Without an object it is tried with one that is not there, whose absence is an answer as well.
async fn get(client: &dyn ReplicaClient, key: &SmallKey, expected: Option<&Bytes>) -> Verdict {
    match (client.get_small(key).await, expected) {
        (Err(error), _) => Verdict::Fails(error),
        (Ok(Some(found)), Some(expected)) if found.content == *expected => Verdict::Works,
        (Ok(_), None) => Verdict::Works,
        (Ok(_), Some(_)) => Verdict::Fails(Error::NotFound {
            location: client.location(),
            object: format!("evertide/{key} as it was stored"),
        }),
    }
}

async fn create_again(client: &dyn ReplicaClient, key: &SmallKey) -> Verdict {
    if !client.capabilities().conditional_create {
        return Verdict::NotPromised;
    }
    let again = client.put_small(key, "again\n".into(), Precondition::Absent);
    match again.await {
        Err(error) if error.is_already_exists() => Verdict::Works,
        Err(error) => Verdict::Fails(error),
        Ok(_) => Verdict::Ignored,
    }
}

async fn replace_twice(client: &dyn ReplicaClient, key: &SmallKey, version: Version) -> Verdict {
    if !client.capabilities().compare_and_set {
        return Verdict::NotPromised;
    }
    // Where the condition of the try before was ignored, it is another one by now.
    let version = match client.get_small(key).await {
        Ok(found) => found.map_or(version, |found| found.version),
        Err(_) => version,
    };
    let unchanged = Precondition::Unchanged(version);
    let first = client.put_small(key, "replaced\n".into(), unchanged.clone());
    if let Err(error) = first.await {
        return Verdict::Fails(error);
    }
    match client.put_small(key, "twice\n".into(), unchanged).await {
        Err(Error::Changed { .. }) => Verdict::Works,
        Err(error) => Verdict::Fails(error),
        Ok(_) => Verdict::Ignored,
    }
}

/// What the store's clock showed when the object was stored, which was within a time by the clock here.
async fn time_of(
    client: &dyn ReplicaClient,
    key: &SmallKey,
    here: std::ops::RangeInclusive<SystemTime>,
) -> (Verdict, Option<i64>) {
    let stored = match client.small_stored(key).await {
        Ok(Some(stored)) => stored,
        Ok(None) => return (Verdict::NotPromised, None),
        Err(error) => return (Verdict::Fails(error), None),
    };
    let ahead = ahead(stored, here);
    let verdict = match u128::from(ahead.unsigned_abs()) > SKEW.as_millis() {
        true => Verdict::Skewed,
        false => Verdict::Works,
    };
    (verdict, Some(ahead))
}

/// Milliseconds that a clock is ahead which shows whole seconds. Zero where it may be right.
fn ahead(stored: SystemTime, here: std::ops::RangeInclusive<SystemTime>) -> i64 {
    let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let next = stored + Duration::from_secs(1);
    if let Ok(ahead) = stored.duration_since(*here.end()) {
        milliseconds(ahead)
    } else if let Ok(behind) = here.start().duration_since(next) {
        -milliseconds(behind)
    } else {
        0
    }
}

async fn delete(client: &dyn ReplicaClient, key: &SmallKey) -> Verdict {
    if let Err(error) = client.delete_small(key).await {
        return Verdict::Fails(error);
    }
    match client.get_small(key).await {
        Ok(Some(_)) => Verdict::Fails(Error::NotDeleted {
            location: client.location(),
            object: format!("evertide/{key}"),
        }),
        // Whether it may be read was asked before.
        Ok(None) | Err(_) => Verdict::Works,
    }
}

/// The directories that storing a small object will make, the deepest first.
fn missing_directories(disk: &dyn Disk, root: &Path) -> Vec<PathBuf> {
    let small = root.join("evertide");
    let is_directory = |path: &&Path| {
        let found = disk.metadata(path);
        found.is_ok_and(|found| found.kind == FileKind::Directory)
    };
    let missing = small.ancestors().take_while(|path| !is_directory(path));
    missing.map(Path::to_owned).collect()
}

/// Removes those that are empty, but for the lock of small objects: its absence is noticed by whoever waits for
/// it.
fn remove_directories(disk: &dyn Disk, made: &[PathBuf]) {
    if let Some(small) = made.first() {
        let _ = disk.remove_file(&small.join(".lock"));
    }
    for directory in made {
        if disk.remove_dir(directory).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_shows_seconds_is_not_taken_for_one_that_is_behind() {
        let time = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let cases = [
            // Stored, before and after here, ahead.
            (5_000, 5_400, 5_900, 0),
            (5_000, 5_900, 6_100, 0),
            (6_000, 5_900, 6_100, 0),
            (5_000, 6_200, 6_400, -200),
            (9_000, 5_000, 6_000, 3_000),
            (1_000, 902_000, 903_000, -900_000),
        ];
        for (stored, before, after, expected) in cases {
            assert_eq!(ahead(time(stored), time(before)..=time(after)), expected);
        }
    }
}
