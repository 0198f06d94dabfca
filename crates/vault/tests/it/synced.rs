//! What is reported as saved is on the disk: the system calls of a process that saves, in their order.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use evertide_vault::{AgeKeyFile, SecureConfigStore};
use nix::{
    libc,
    sys::{
        ptrace::{self, Options},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, gettid},
};
use rusqlite::Connection;

use crate::{FOLDER, Place, save, text};

#[test]
#[ignore = "the process that the test below starts"]
fn child_that_saves_and_makes_a_key() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return; // by itself, not a test
    };
    eprintln!("{}", gettid());
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let key = AgeKeyFile::new(folder.join("age.key"));
    let store = SecureConfigStore::open(folder.join("app.db"), key).unwrap();
    save(&store, &text(1));
    eprintln!("saved");
    AgeKeyFile::new(folder.join("new.key")).generate().unwrap();
    eprintln!("made");
    let careless = Connection::open(folder.join("app.db")).unwrap();
    careless
        .execute_batch("PRAGMA synchronous = NORMAL; INSERT INTO notes VALUES ('unsynced')")
        .unwrap();
    eprintln!("inserted");
}

/// A system call that matters, with the file that it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Call {
    Write(PathBuf),
    Sync(PathBuf),
}

/// A process whose system calls are looked at, of the thread that does the work.
struct Traced {
    process: Child,
    thread: Pid,
}

impl Traced {
    fn start(folder: &std::path::Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("synced::child_that_saves_and_makes_a_key")
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let thread = Pid::from_raw(lines.next().unwrap().unwrap().parse().unwrap());
        // Few lines follow, which fit into the pipe. It is read so that nobody writes to a closed one.
        std::thread::spawn(move || lines.count());
        ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD).unwrap();
        ptrace::interrupt(thread).unwrap();
        let stopped = waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        assert!(
            matches!(stopped, WaitStatus::PtraceEvent(..)),
            "{stopped:?}"
        );
        process.stdin.as_ref().unwrap().write_all(b"go\n").unwrap();
        Self { process, thread }
    }

    /// The calls up to the next report of the process, a line on its standard error.
    fn until_a_report(&self) -> Vec<Call> {
        let (mut calls, mut begins, mut signal, mut reported) = (Vec::new(), true, None, false);
        while !reported || !begins {
            ptrace::syscall(self.thread, signal.take()).unwrap();
            match waitpid(self.thread, Some(WaitPidFlag::__WALL)).unwrap() {
                WaitStatus::PtraceSyscall(_) if begins => {
                    begins = false;
                    reported |= self.note(&mut calls);
                }
                WaitStatus::PtraceSyscall(_) => begins = true,
                WaitStatus::Stopped(_, sent) => signal = Some(sent),
                other => panic!("{other:?} after {calls:?}"),
            }
        }
        calls
    }

    /// Notes the call that the thread is about to make; whether it is a report.
    fn note(&self, calls: &mut Vec<Call>) -> bool {
        let of = |what: &str| format!("/proc/{}/{what}", self.process.id());
        let now = fs::read_to_string(of(&format!("task/{}/syscall", self.thread))).unwrap();
        let mut words = now.split_whitespace();
        let Some(number) = words.next().and_then(|word| word.parse().ok()) else {
            panic!("{now}")
        };
        let file = || {
            let digits = words.clone().next().unwrap().trim_start_matches("0x");
            let descriptor = u64::from_str_radix(digits, 16).unwrap() as u32;
            let path = fs::read_link(of(&format!("fd/{descriptor}"))).unwrap();
            (descriptor, path)
        };
        match number {
            libc::SYS_fsync | libc::SYS_fdatasync => calls.push(Call::Sync(file().1)),
            libc::SYS_write
            | libc::SYS_pwrite64
            | libc::SYS_writev
            | libc::SYS_pwritev
            | libc::SYS_ftruncate => match file() {
                (2, _) => return true,
                (_, path) => calls.push(Call::Write(path)),
            },
            _ => {}
        }
        false
    }
}

/// Whether the file was written to, and is on the disk since.
fn is_synced(calls: &[Call], file: &PathBuf) -> bool {
    let last = calls
        .iter()
        .rposition(|call| *call == Call::Write(file.clone()));
    let last = last.unwrap_or_else(|| panic!("{file:?} was not written to: {calls:?}"));
    calls[last..].contains(&Call::Sync(file.clone()))
}

#[test]
fn what_is_saved_is_synced_before_it_is_reported_and_so_are_new_keys_with_their_names() {
    let place = Place::new();
    // An application that has it open, so that nothing is checkpointed when the store closes it.
    let application = place.connect();
    application
        .execute_batch("INSERT INTO notes VALUES ('open')")
        .unwrap();
    let folder = place.dir.path().canonicalize().unwrap();
    let traced = Traced::start(&folder);
    let wal = folder.join("app.db-wal");
    let saved = traced.until_a_report();
    assert!(is_synced(&saved, &wal), "{saved:?}");

    let key = folder.join("new.key");
    let made = traced.until_a_report();
    assert!(is_synced(&made, &key), "{made:?}");
    let named = made
        .iter()
        .rposition(|call| *call == Call::Sync(folder.clone()));
    let written = made
        .iter()
        .position(|call| *call == Call::Write(key.clone()));
    assert!(named > written, "its name: {made:?}");

    let inserted = traced.until_a_report();
    assert!(!is_synced(&inserted, &wal), "the probe works: {inserted:?}");
    ptrace::detach(traced.thread, None).unwrap();
    let mut process = traced.process;
    assert!(process.wait().unwrap().success());
}
