//! All databases of a directory: `dir` with `pattern` and `recursive`, in both languages.
//!
//! A directory is looked through when settings are read, at the start and at each reload, and where
//! it is watched whenever something came or went. No file is opened for that: closing a descriptor
//! of a database that is in use would drop its locks.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use evertide::{Destination, ReplicationOptions};
use evertide_storage::{Disk, FileKind, OsDisk};

use super::{
    DatabaseSettings,
    error::{Mistake, Place},
    replica::{self, Seen},
    section::{Report, Section},
};

/// The keys that come with `dir`.
pub(super) const KEYS: [&str; 4] = ["dir", "pattern", "recursive", "watch"];

/// What SQLite keeps beside a database.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];
/// Where backups keep their state, beside a database.
const STATES: [&str; 2] = ["-evertide", "-litestream"];
/// Each page of a database has this many bytes, or a multiple.
const SMALLEST_PAGE: u64 = 512;
/// Deeper than this is a mistake, or a loop.
const DEPTH: usize = 32;

/// A database of a directory.
struct Found {
    path: PathBuf,
    /// Its path below the directory: what is added to the places of its replicas.
    below: PathBuf,
}

/// Gives each database of the directory that `section` names these options, with replicas of its
/// own below those of `options`.
pub(super) fn databases(
    report: &mut Report,
    section: &Section<'_>,
    options: &ReplicationOptions,
    seen: &mut Seen,
) -> Vec<DatabaseSettings> {
    let Some((directory, place)) = read(report, section) else {
        return Vec::new();
    };
    let directory = WatchedDirectory {
        options: options.clone(),
        ..directory
    };
    let watched = section.get("watch").is_some_and(|_| directory.watched);
    let Some(found) = find(report, &directory, &place, seen.wanted()) else {
        return Vec::new();
    };
    let mut databases = Vec::new();
    for Found { path, below } in found {
        seen.database(report, &path, &place);
        match directory.database(&path, &below) {
            Ok(database) => {
                for replica in &database.replication.replicas {
                    seen.destination(report, &replica.destination, &place);
                }
                databases.push(database);
            }
            Err(reason) => report.add(&place, Mistake::BadDestination(reason)),
        }
    }
    if watched {
        // The kind of each replica is known to be one that can be shared out.
        for replica in &options.replicas {
            if let Err(reason) = inside(&replica.destination, Path::new("any.db")) {
                report.add(&place, Mistake::BadDestination(reason));
            }
        }
        if seen.watch(directory) {
            return Vec::new();
        }
    }
    databases
}

/// A directory whose databases are replicated as they come, and let go as they vanish.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchedDirectory {
    path: PathBuf,
    pattern: Glob,
    recursive: bool,
    watched: bool,
    options: ReplicationOptions,
}

/// What a look through a directory found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DirectoryContent {
    /// Its databases, with their settings, in the order of their paths.
    pub databases: Vec<DatabaseSettings>,
    /// The directories that were looked through: those to watch.
    pub directories: Vec<PathBuf>,
    /// Whether a file has the name of a database, and is none or none yet.
    pub unfinished: bool,
    /// What could not be read below the directory, and why: which databases are there is not known.
    pub unread: BTreeMap<PathBuf, String>,
}

impl WatchedDirectory {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Time between two looks where nothing was noticed.
    pub fn monitor_interval(&self) -> Duration {
        self.options.monitor_interval
    }

    /// Looks for databases: files whose name matches, and that begin as databases of SQLite do.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read. One below it is left out, and named in what is returned.
    pub fn look(&self) -> io::Result<DirectoryContent> {
        let search = search(&OsDisk, &self.path, &self.pattern, self.recursive)?;
        let mut content = DirectoryContent {
            databases: Vec::new(),
            directories: search.directories,
            unfinished: search.unfinished,
            unread: search.unread,
        };
        for Found { path, below } in search.found {
            if !evertide::is_database(&path) {
                content.unfinished = true;
                continue;
            }
            // Whether replicas can be shared out was seen when the settings were read.
            content.databases.extend(self.database(&path, &below).ok());
        }
        Ok(content)
    }

    /// A database of the directory, with replicas of its own.
    fn database(&self, path: &Path, below: &Path) -> Result<DatabaseSettings, String> {
        let mut options = self.options.clone();
        for replica in &mut options.replicas {
            replica.destination = inside(&replica.destination, below)?;
        }
        Ok(DatabaseSettings::new(path, options))
    }
}

/// The place of one database's replica, as Litestream has it: its path below the directory, below
/// the place that is given.
fn inside(destination: &Destination, below: &Path) -> Result<Destination, String> {
    match destination {
        Destination::File(file) => {
            Destination::file(file.path.join(below)).map_err(|error| error.to_string())
        }
        #[cfg(feature = "s3")]
        Destination::S3(bucket) => {
            let mut bucket = bucket.clone();
            let below = below.to_string_lossy();
            bucket.path = format!("{}/{below}", bucket.path)
                .trim_start_matches('/')
                .to_owned();
            Ok(Destination::S3(bucket))
        }
        #[cfg(feature = "gcs")]
        Destination::Gcs(bucket) => {
            let mut bucket = bucket.clone();
            bucket.path = under(&bucket.path, below);
            Ok(Destination::Gcs(bucket))
        }
        #[cfg(feature = "azure")]
        Destination::Azure(container) => {
            let mut container = container.clone();
            container.path = under(&container.path, below);
            Ok(Destination::Azure(container))
        }
        #[cfg(feature = "webdav")]
        Destination::Webdav(share) => {
            let mut share = share.clone();
            share.path = under(&share.path, below);
            Ok(Destination::Webdav(share))
        }
        #[cfg(feature = "sftp")]
        Destination::Sftp(server) => {
            let mut server = server.clone();
            server.path = format!("{}/{}", server.path, below.to_string_lossy());
            Ok(Destination::Sftp(server))
        }
        #[cfg(feature = "nats")]
        Destination::Nats(bucket) => {
            let mut bucket = bucket.clone();
            bucket.path = under(&bucket.path, below);
            Ok(Destination::Nats(bucket))
        }
        #[cfg(feature = "oss")]
        Destination::Oss(bucket) => {
            let mut bucket = bucket.clone();
            bucket.path = under(&bucket.path, below);
            Ok(Destination::Oss(bucket))
        }
        other => Err(format!(
            "{other} cannot be shared out among the databases of a directory: list each one"
        )),
    }
}

/// What the settings say about the directory, but for its options.
fn read(report: &mut Report, section: &Section<'_>) -> Option<(WatchedDirectory, Place)> {
    let dir = section.required(report, "dir", "give the directory of the databases")?;
    if let Some(path) = section.get("path") {
        report.add(&path.place, Mistake::Together("dir"));
        return None;
    }
    let hint = "say which files are databases, for example \"*.db\"";
    let pattern = section.required(report, "pattern", hint);
    let flag = |report: &mut Report, key| {
        let field = section.get(key);
        field.map_or(Some(false), |field| field.boolean(report))
    };
    let (recursive, watch) = (flag(report, "recursive"), flag(report, "watch"));
    let (pattern, recursive, watched) = (pattern?, recursive?, watch?);
    let path = replica::path_without_tilde(report, &dir)?;
    let Some(glob) = Glob::parse(pattern.value) else {
        report.add(&pattern.place, Mistake::BadPattern);
        return None;
    };
    let directory = WatchedDirectory {
        path,
        pattern: glob,
        recursive,
        watched,
        options: ReplicationOptions::default(),
    };
    Some((directory, dir.place))
}

/// The databases that are there now. A directory that is not watched has to have one, and to be read to
/// its end.
fn find(
    report: &mut Report,
    directory: &WatchedDirectory,
    place: &Place,
    wanted: Option<&Path>,
) -> Option<Vec<Found>> {
    let (path, glob, recursive) = (&directory.path, &directory.pattern, directory.recursive);
    let lost = wanted.and_then(|wanted| belongs(wanted, path, glob, recursive));
    let found = search(&OsDisk, path, glob, recursive);
    let dir = path.display().to_string();
    let mistake = match (found, lost) {
        (Ok(Search { mut found, .. }), Some(lost)) => {
            if !found.iter().any(|found| found.below == lost.below) {
                found.push(lost);
            }
            return Some(found);
        }
        (Err(error), Some(lost)) if error.kind() == io::ErrorKind::NotFound => {
            return Some(vec![lost]);
        }
        (Ok(search), None) if directory.watched => return Some(search.found),
        (Ok(search), None) => match search.unread.into_iter().next() {
            Some((unread, reason)) => Mistake::BadDirectory {
                dir: unread.display().to_string(),
                reason,
            },
            None if !search.found.is_empty() => return Some(search.found),
            None => Mistake::NothingFound {
                dir,
                pattern: glob.text.clone(),
            },
        },
        (Err(error), _) => Mistake::BadDirectory {
            dir,
            reason: error.to_string(),
        },
    };
    report.add(place, mistake);
    None
}

/// The database at this path, whether it is there or not, where the settings of the directory mean
/// it too.
fn belongs(wanted: &Path, dir: &Path, glob: &Glob, recursive: bool) -> Option<Found> {
    let below = wanted.strip_prefix(replica::comparable(dir)).ok()?;
    let name = below.file_name()?.to_str()?;
    let deep = below.components().count() > 1;
    (glob.matches(name) && (recursive || !deep)).then(|| Found {
        path: dir.join(below),
        below: below.to_owned(),
    })
}

/// What is in a directory.
#[derive(Default)]
struct Search {
    /// Databases, sorted; each file once, whatever links lead to it.
    found: Vec<Found>,
    /// The directories that were read.
    directories: Vec<PathBuf>,
    /// A file has the name of a database, and cannot be one, or not yet.
    unfinished: bool,
    /// What could not be read below the directory, and why.
    unread: BTreeMap<PathBuf, String>,
}

fn search(disk: &dyn Disk, dir: &Path, glob: &Glob, recursive: bool) -> io::Result<Search> {
    let mut waiting = vec![(PathBuf::new(), 0)];
    let (mut names, mut result) = (Vec::new(), Search::default());
    while let Some((below, depth)) = waiting.pop() {
        let directory = dir.join(&below);
        let entries = match disk.read_dir(&directory) {
            // It was there a moment ago.
            Err(error) if depth > 0 && error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if depth > 0 => {
                result.unread.insert(directory, error.to_string());
                continue;
            }
            entries => entries?,
        };
        result.directories.push(directory);
        for entry in entries {
            let Some(name) = entry.name.to_str() else {
                continue;
            };
            let below = below.join(name);
            if entry.is_dir {
                let state = STATES.iter().any(|suffix| name.ends_with(suffix));
                if recursive && depth < DEPTH && !state {
                    waiting.push((below, depth + 1));
                }
            } else if glob.matches(name) && !COMPANIONS.iter().any(|end| name.ends_with(end)) {
                names.push((entry.is_link, below));
            }
        }
    }
    // A link that comes to a file takes nothing away from the name that it has.
    names.sort();
    let mut files = HashSet::new();
    for (_, below) in names {
        let path = dir.join(&below);
        match disk.metadata(&path) {
            Ok(file) if file.kind != FileKind::File => {}
            Ok(file) if file.len == 0 || !file.len.is_multiple_of(SMALLEST_PAGE) => {
                result.unfinished = true;
            }
            Ok(file) if files.insert((file.dev, file.ino)) => {
                result.found.push(Found { path, below });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                result.unread.insert(path, error.to_string());
            }
        }
    }
    result.found.sort_by(|a, b| a.below.cmp(&b.below));
    Ok(result)
}

/// A pattern for names, as Go's `filepath.Match` has them: `*`, `?`, `[a-z]`, `[^a-z]`, `\x`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Glob {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// Any characters, or none.
    Star,
    /// Any one character.
    Any,
    Character(char),
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    fn parse(text: &str) -> Option<Self> {
        let mut characters = text.chars();
        let mut parts = Vec::new();
        while let Some(character) = characters.next() {
            parts.push(match character {
                '*' => Part::Star,
                '?' => Part::Any,
                '\\' => Part::Character(characters.next()?),
                '[' => class(&mut characters)?,
                other => Part::Character(other),
            });
        }
        Some(Self {
            text: text.to_owned(),
            parts,
        })
    }

    fn matches(&self, name: &str) -> bool {
        // The positions in the pattern that some reading of the name so far leads to.
        let mut states = vec![false; self.parts.len() + 1];
        if let Some(first) = states.first_mut() {
            *first = true;
        }
        self.skip_stars(&mut states);
        for character in name.chars() {
            let mut next = vec![false; states.len()];
            for (at, part) in self.parts.iter().enumerate() {
                if !states.get(at).copied().unwrap_or(false) || !part.takes(character) {
                    continue;
                }
                let to = if *part == Part::Star { at } else { at + 1 };
                if let Some(state) = next.get_mut(to) {
                    *state = true;
                }
            }
            self.skip_stars(&mut next);
            states = next;
        }
        states.last().copied().unwrap_or(false)
    }

    /// A star may also stand for nothing.
    fn skip_stars(&self, states: &mut [bool]) {
        for (at, part) in self.parts.iter().enumerate() {
            if *part == Part::Star
                && states.get(at).copied().unwrap_or(false)
                && let Some(state) = states.get_mut(at + 1)
            {
                *state = true;
            }
        }
    }
}

impl Part {
    fn takes(&self, character: char) -> bool {
        match self {
            Self::Star | Self::Any => true,
            Self::Character(own) => *own == character,
            Self::Class { negated, ranges } => {
                let inside = ranges
                    .iter()
                    .any(|(first, last)| (*first..=*last).contains(&character));
                inside != *negated
            }
        }
    }
}

/// The rest of `[…]`.
fn class(characters: &mut std::str::Chars<'_>) -> Option<Part> {
    let mut rest = characters.clone();
    let negated = rest.next() == Some('^');
    if negated {
        *characters = rest;
    }
    let mut ranges = Vec::new();
    loop {
        let first = match characters.next()? {
            ']' if !ranges.is_empty() => return Some(Part::Class { negated, ranges }),
            ']' | '-' => return None,
            '\\' => characters.next()?,
            other => other,
        };
        let mut rest = characters.clone();
        let last = if rest.next() == Some('-') {
            *characters = rest;
            match characters.next()? {
                ']' | '-' => return None,
                '\\' => characters.next()?,
                other => other,
            }
        } else {
            first
        };
        ranges.push((first, last));
    }
}

/// A path below another one.
#[cfg(any(
    feature = "azure",
    feature = "gcs",
    feature = "nats",
    feature = "oss",
    feature = "webdav"
))]
fn under(path: &str, below: &Path) -> String {
    let whole = format!("{path}/{}", below.to_string_lossy());
    whole.trim_start_matches('/').to_owned()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "no live databases")]
mod tests {
    use std::{fs, sync::Arc};

    use evertide_storage::{Fault, FaultDisk};

    use super::*;

    #[test]
    fn patterns_match_what_go_matches() {
        for (pattern, matching, other) in [
            (
                "*.db",
                &["a.db", ".db"][..],
                &["a.db-wal", "a.sqlite", "adb"][..],
            ),
            ("*", &["a", ""], &[]),
            ("a?c", &["abc", "aéc"], &["ac", "abbc"]),
            ("a*b*c", &["abc", "axxbyyc", "abcbc"], &["ab", "acb"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "x", "aax"]),
            ("[^a-c]x", &["dx"], &["ax", "x"]),
            ("\\*.db", &["*.db"], &["a.db"]),
            (
                "tenant-[0-9].db",
                &["tenant-7.db"],
                &["tenant-x.db", "tenant-77.db"],
            ),
        ] {
            let glob = Glob::parse(pattern).unwrap();
            for name in matching {
                assert!(glob.matches(name), "{pattern} {name}");
            }
            for name in other {
                assert!(!glob.matches(name), "{pattern} {name}");
            }
        }
        for bad in ["[", "[a", "[]", "[a-]", "[-a]", "a\\", "[^]"] {
            assert_eq!(Glob::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_long_pattern_of_stars_takes_no_time() {
        let glob = Glob::parse(&"*a".repeat(200)).unwrap();
        assert!(!glob.matches(&"a".repeat(199)));
        assert!(glob.matches(&"a".repeat(1000)));
    }

    #[test]
    fn only_files_that_may_be_databases_are_found_and_each_once() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, len: usize| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![0; len]).unwrap();
        };
        for name in ["a.db", "sub/b.db", "sub/deep/c.db", ".a.db-evertide/x.db"] {
            write(name, 1024);
        }
        write("a.db-wal", 1024);
        write("empty.db", 0);
        write("notes.db", 1000);
        write("a.txt", 512);
        fs::create_dir(dir.path().join("folder.db")).unwrap();
        for (file, link) in [("a.db", ".0.db"), ("a.db", "z.db"), ("sub/b.db", "b.db")] {
            std::os::unix::fs::symlink(file, dir.path().join(link)).unwrap();
        }
        let names = |pattern: &str, recursive| {
            let glob = Glob::parse(pattern).unwrap();
            let found = search(&OsDisk, dir.path(), &glob, recursive).unwrap();
            let names = found
                .found
                .into_iter()
                .map(|found| found.below.display().to_string());
            names.collect::<Vec<_>>()
        };
        // A link stands for a file that is not there itself.
        assert_eq!(names("*.db", false), ["a.db", "b.db"]);
        assert_eq!(names("*.db", true), ["a.db", "sub/b.db", "sub/deep/c.db"]);
        assert_eq!(names("a*", true), ["a.db", "a.txt"]);
        let all = Glob::parse("*").unwrap();
        assert!(search(&OsDisk, &dir.path().join("no"), &all, true).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_named_and_the_rest_is_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        for name in ["a.db", "sub/b.db"] {
            fs::write(dir.path().join(name), [0; 512]).unwrap();
        }
        std::os::unix::fs::symlink("loop.db", dir.path().join("loop.db")).unwrap();
        let disk = FaultDisk::new(Arc::new(OsDisk));
        let glob = Glob::parse("*.db").unwrap();
        let look = |denied| {
            disk.fail_at(denied, Fault::Once, 13);
            let search = search(&disk, dir.path(), &glob, true)?;
            let unread = search.unread.into_keys();
            let unread = unread.map(|path| path.strip_prefix(dir.path()).unwrap().to_owned());
            let found = search.found.into_iter().map(|found| found.below);
            io::Result::Ok((found.collect::<Vec<_>>(), unread.collect::<Vec<_>>()))
        };
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        // The directory, the one below it, then each file.
        assert!(look(1).is_err());
        assert_eq!(
            look(2).unwrap(),
            (paths(&["a.db"]), paths(&["loop.db", "sub"]))
        );
        assert_eq!(
            look(3).unwrap(),
            (paths(&["sub/b.db"]), paths(&["a.db", "loop.db"]))
        );
        let all = (paths(&["a.db", "sub/b.db"]), paths(&["loop.db"]));
        assert_eq!(look(100).unwrap(), all);
    }
}
