//! A child process that does not outlive the test that started it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A child process, ended by its process id when dropped.
#[derive(Debug)]
pub struct ChildProcess {
    child: Child,
    log: Option<PathBuf>,
}

impl ChildProcess {
    /// Starts `command` with its streams as the command says.
    ///
    /// # Errors
    ///
    /// When the program cannot be started.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        Ok(Self {
            child: command.spawn()?,
            log: None,
        })
    }

    /// Starts `command` with standard output and error appended to the file `log`.
    ///
    /// # Errors
    ///
    /// When the log cannot be opened or the program cannot be started.
    pub fn spawn_logged(command: &mut Command, log: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command
            .stdout(Stdio::from(file.try_clone()?))
            .stderr(Stdio::from(file));
        Ok(Self {
            child: command.spawn()?,
            log: Some(log.to_path_buf()),
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the process has printed so far; empty when it was not started with a log.
    pub fn log(&self) -> String {
        let bytes = self
            .log
            .as_ref()
            .and_then(|path| fs::read(path).ok())
            .unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The standard input, when the command piped it.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Whether the process still runs.
    ///
    /// # Errors
    ///
    /// When its state cannot be asked for.
    pub fn is_running(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends `signal`.
    ///
    /// # Errors
    ///
    /// When the process has ended.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if !self.is_running()? {
            return Err(io::Error::other("the process has ended"));
        }
        // The child is not reaped yet, so the id is still its own.
        let id = i32::try_from(self.id()).map_err(io::Error::other)?;
        kill(Pid::from_raw(id), signal).map_err(io::Error::from)
    }

    /// Ends the process with SIGKILL, which it cannot notice, and reaps it.
    ///
    /// # Errors
    ///
    /// When it cannot be reaped.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Asks the process to end, with SIGTERM, and waits for it.
    ///
    /// # Errors
    ///
    /// When it has not ended within `deadline`; it runs on then.
    pub fn terminate(&mut self, deadline: Duration) -> io::Result<ExitStatus> {
        if self.is_running()? {
            self.signal(Signal::SIGTERM)?;
        }
        self.wait(deadline)
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    ///
    /// When it has not ended within `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> io::Result<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                let message = format!("process {} still runs after {deadline:?}", self.id());
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // Both fail only for a process that has been reaped already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What another process finds when it tries to write to a database at once: only another process
/// sees the POSIX locks of this one.
///
/// # Panics
///
/// When it cannot tell.
pub fn another_process_can_write(database: &std::path::Path) -> bool {
    asked_from_outside(database, "BEGIN IMMEDIATE")
}

/// What another process finds when it tries to truncate the WAL of a database, which every reader
/// and every transaction of others forbids.
///
/// # Panics
///
/// When it cannot tell.
pub fn another_process_can_truncate(database: &std::path::Path) -> bool {
    asked_from_outside(database, "PRAGMA wal_checkpoint(TRUNCATE)")
}

/// Whether another process finds this byte of a file locked, shared or not: the wal-index of SQLite has its locks
/// from byte 120 on.
///
/// # Panics
///
/// When the other process cannot be asked.
pub fn another_process_finds_locked(file: &std::path::Path, byte: u32) -> bool {
    another_process_finds_a_lock_of(file, byte).is_some()
}

/// Whose lock another process finds on this byte of a file: the process whose POSIX lock it is, as SQLite takes
/// them, or -1 where it belongs to an open file, as those of a backup do.
///
/// # Panics
///
/// When the other process cannot be asked.
pub fn another_process_finds_a_lock_of(file: &Path, byte: u32) -> Option<i32> {
    another_process_finds_locks_of(&[(file, byte)])[0]
}

/// The same of several files and bytes. The other process is one for all who ask, and stays: to ask costs little.
///
/// # Panics
///
/// When the other process cannot be asked.
pub fn another_process_finds_locks_of(locks: &[(&Path, u32)]) -> Vec<Option<i32>> {
    static OTHER: Mutex<Option<OtherProcess>> = Mutex::new(None);
    let mut other = OTHER.lock().unwrap_or_else(PoisonError::into_inner);
    let other = other.get_or_insert_with(OtherProcess::start);
    other.owners(locks)
}

/// Whether this process has a POSIX lock on this byte of a file, whoever else has one there, too: Linux says so of each
/// open file.
///
/// # Panics
///
/// When the process cannot be looked at.
pub fn has_posix_lock(process: u32, file: &Path, byte: u64) -> bool {
    let process = Path::new("/proc").join(process.to_string());
    let open = fs::read_dir(process.join("fd")).expect("the process is there");
    let of_file = open.flatten().filter(|entry| {
        let opened = fs::read_link(entry.path());
        opened.is_ok_and(|opened| opened == file)
    });
    // Some may be closed just now.
    of_file.into_iter().any(|entry| {
        let info = fs::read_to_string(process.join("fdinfo").join(entry.file_name()));
        info.is_ok_and(|info| info.lines().any(|line| is_posix_lock(line, byte)))
    })
}

/// `lock:   1: POSIX  ADVISORY  READ 4711 fe:00:131 1073741826 1073742335`
fn is_posix_lock(line: &str, byte: u64) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["lock:", _, "POSIX", .., start, end] = words[..] else {
        return false;
    };
    let first: u64 = start.parse().expect("a number");
    let last: u64 = end.parse().unwrap_or(u64::MAX);
    (first..=last).contains(&byte)
}

/// A process that looks at locks, until it is asked nothing more. It has none itself, so that it may close what it opens.
struct OtherProcess {
    /// It ends with this one, which closes its standard input.
    _process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl OtherProcess {
    fn start() -> Self {
        const SCRIPT: &str = "import fcntl, struct, sys
def owner(asked):
    byte, path = asked.split(' ', 1)
    with open(path, 'r+b') as file:
        lock = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, int(byte), 1, 0)
        found = struct.unpack('hhqqi4x', fcntl.fcntl(file, fcntl.F_GETLK, lock))
    return 'none' if found[0] == fcntl.F_UNLCK else str(found[4])
for question in sys.stdin:
    try:
        print(*map(owner, question.rstrip('\\n').split('\\t')), flush=True)
    except OSError as error:
        print(error, flush=True)";
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let (questions, answers) = (child.stdin.take(), child.stdout.take());
        Self {
            _process: child,
            questions: questions.expect("it is piped"),
            answers: BufReader::new(answers.expect("it is piped")),
        }
    }

    fn owners(&mut self, locks: &[(&Path, u32)]) -> Vec<Option<i32>> {
        let asked = locks
            .iter()
            .map(|(file, byte)| format!("{byte} {}", file.display()));
        let asked = asked.collect::<Vec<_>>().join("\t");
        let mut answer = String::new();
        writeln!(self.questions, "{asked}").expect("the other process runs");
        let answered = self.answers.read_line(&mut answer);
        answered.expect("the other process answers");
        let owner = |owner: &str| match owner {
            "none" => Ok(None),
            owner => owner.parse().map(Some),
        };
        let owners: Result<Vec<_>, _> = answer.split_whitespace().map(owner).collect();
        owners.unwrap_or_else(|_| panic!("the other process, asked for {asked}: {answer}"))
    }
}

/// Whether another process finds that a database in WAL mode is open here: every connection of SQLite keeps a
/// shared lock on the file itself, without which the next process that closes the database deletes the WAL.
///
/// # Panics
///
/// When the other process cannot be asked.
pub fn another_process_finds_it_open(database: &std::path::Path) -> bool {
    /// `SHARED_FIRST` of SQLite.
    const SHARED_FIRST: u32 = 0x4000_0002;
    another_process_finds_locked(database, SHARED_FIRST)
}

/// Whether a statement works in another process, and says of itself that it was not busy.
fn asked_from_outside(database: &std::path::Path, sql: &str) -> bool {
    const SCRIPT: &str = "import sqlite3, sys
try:
    row = sqlite3.connect(sys.argv[1], timeout=0).execute(sys.argv[2]).fetchone()
    sys.exit(1 if row and row[0] else 0)
except sqlite3.OperationalError as error:
    sys.exit(1 if 'locked' in str(error) else 2)";
    let status = Command::new("python3")
        .args(["-c", SCRIPT])
        .arg(database)
        .arg(sql)
        .status()
        .expect("python3 runs");
    match status.code() {
        Some(0) => true,
        Some(1) => false,
        other => panic!("the other process ended with {other:?}"),
    }
}
