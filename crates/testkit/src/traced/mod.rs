//! A process whose system calls are looked at one by one, and some of which fail.

mod changes;

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Sender, channel},
    time::Duration,
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, gettid},
};

pub use changes::Change;

/// A process that takes longer hangs, and is killed.
const DEADLINE: Duration = Duration::from_secs(120);
/// Longer than any path here.
const PATH_BYTES: usize = 1024;

/// What a system call does with a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It gets a descriptor of it.
    Open,
    /// It asks what and whether it is, or to be told of changes.
    Look,
    /// It reads from it.
    Read,
    /// It maps it into memory.
    Map,
    /// It writes to it, or sets its length.
    Write,
    /// It makes it durable.
    Sync,
    /// It locks some of its bytes, or asks who has.
    Lock,
    /// It lets go of some of its bytes, as those do whose locks belong to the process, like SQLite's.
    Unlock,
    /// It lets go of some of its bytes, where the lock belongs to the open file.
    UnlockOpenFile,
    /// It gives this name to a file that has another one, or has had.
    Name,
    /// It takes its name away.
    Delete,
}

/// A system call that matters, with the file that it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// What it does.
    pub action: Action,
    /// With which file.
    pub path: PathBuf,
}

/// What a thread is about to do.
enum About {
    Call(Call),
    /// It writes this to its standard error.
    Report(Vec<u8>),
    Nothing,
}

/// A thread of the process, between two stops.
#[derive(Default)]
struct Thread {
    /// It is in a system call.
    within: bool,
    /// The call is to fail, and had these arguments.
    failing: Option<(Errno, [u64; 2])>,
}

/// Such a process. Of its threads those are looked at that do the work: the one that called [`wait_to_be_traced`],
/// and those that come of it.
///
/// It belongs to the thread that started it, which has no other child meanwhile.
pub struct Traced {
    process: Child,
    memory: File,
    threads: HashMap<Pid, Thread>,
    /// The thread that is to go on next, with the signal that it was sent.
    stopped: Option<(Pid, Option<Signal>)>,
    said: Vec<u8>,
    ended: Option<WaitStatus>,
    /// Whoever kills the process after a while stops waiting when this is dropped.
    _deadline: Sender<()>,
}

/// Says who does the work, and waits until somebody looks at it.
///
/// # Panics
///
/// When its standard input cannot be read.
pub fn wait_to_be_traced() {
    eprintln!("{}", gettid());
    io::stdin()
        .read_line(&mut String::new())
        .expect("somebody answers");
}

impl Traced {
    /// Starts a test of this program which nobody else calls, with this environment, and looks at it from
    /// [`wait_to_be_traced`] on.
    ///
    /// # Panics
    ///
    /// When it cannot be started or traced.
    pub fn start(test: &str, environment: &[(&str, &OsStr)]) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("this program has a path"))
            .args(["--ignored", "--exact", "--nocapture", test])
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("this program starts");
        let mut reports = BufReader::new(process.stderr.take().expect("it is piped"));
        let mut thread = String::new();
        reports.read_line(&mut thread).expect("it says who it is");
        let thread = Pid::from_raw(thread.trim().parse().expect("the id of a thread"));
        // What it reports is read before it is written.
        std::thread::spawn(move || io::copy(&mut reports, &mut io::sink()));
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(thread, options).expect("it can be traced");
        ptrace::interrupt(thread).expect("it can be stopped");
        let stopped = waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it is our child");
        assert!(
            matches!(stopped, WaitStatus::PtraceEvent(..)),
            "{stopped:?}"
        );
        let memory = File::open(format!("/proc/{thread}/mem")).expect("it has a memory");
        let deadline = kill_after(DEADLINE, Pid::from_raw(process.id().cast_signed()));
        let mut traced = Self {
            process,
            memory,
            threads: HashMap::new(),
            stopped: Some((thread, None)),
            said: Vec::new(),
            ended: None,
            _deadline: deadline,
        };
        let mut input = traced.process.stdin.take().expect("it is piped");
        input.write_all(b"go\n").expect("it waits for this");
        traced.process.stdin = Some(input);
        traced
    }

    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The standard input of the process, for somebody who answers to its reports.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.process.stdin.take()
    }

    /// The calls up to the next report of the process, a line on its standard error, which it gives too, or to its
    /// end. Those fail for which there is an error, and do nothing.
    ///
    /// # Panics
    ///
    /// When the process cannot be traced any more.
    pub fn until_a_report(
        &mut self,
        mut error: impl FnMut(&Call) -> Option<Errno>,
    ) -> (Vec<Call>, Option<String>) {
        let mut calls = Vec::new();
        loop {
            if let Some(line) = self.next_line() {
                return (calls, Some(line));
            }
            let Some(thread) = self.next_stop() else {
                return (calls, None);
            };
            let mut state = self.threads.remove(&thread).unwrap_or_default();
            state.within = !state.within;
            if state.within {
                match self.about(thread) {
                    About::Report(bytes) => self.said.extend(bytes),
                    About::Nothing => {}
                    About::Call(call) => {
                        state.failing = error(&call).map(|errno| (errno, make_void(thread)));
                        calls.push(call);
                    }
                }
            } else if let Some((errno, before)) = state.failing.take() {
                fail(thread, errno, before);
            }
            self.threads.insert(thread, state);
        }
    }

    /// The next line that it has written to its standard error.
    fn next_line(&mut self) -> Option<String> {
        let end = self.said.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.said.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Goes on, and nothing fails any more, to a successful end.
    ///
    /// # Panics
    ///
    /// When the end is another one.
    pub fn finish(mut self) {
        while self.until_a_report(|_| None).1.is_some() {}
        let ended = self.ended.expect("it has ended");
        assert!(matches!(ended, WaitStatus::Exited(_, 0)), "{ended:?}");
    }

    /// Has the thread that stands go on, and gives the next one that begins a system call or ends one; `None` at the
    /// end of the process.
    fn next_stop(&mut self) -> Option<Pid> {
        while self.ended.is_none() {
            if let Some((thread, signal)) = self.stopped.take() {
                // One that was killed meanwhile is waited for.
                tolerate_death(ptrace::syscall(thread, signal));
            }
            // Children of other threads are those of other tests.
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            match waitpid(None, Some(flags)).expect("the process is our child") {
                WaitStatus::PtraceSyscall(thread) => {
                    self.stopped = Some((thread, None));
                    return Some(thread);
                }
                WaitStatus::Stopped(thread, signal) => self.stopped = Some((thread, Some(signal))),
                // A thread begins, or has made another one.
                WaitStatus::PtraceEvent(thread, ..) => self.stopped = Some((thread, None)),
                status => {
                    let id = status.pid().expect("somebody's end");
                    self.threads.remove(&id);
                    if id.as_raw().cast_unsigned() == self.process.id() {
                        self.ended = Some(status);
                    }
                }
            }
        }
        None
    }

    /// The call that the thread is about to make.
    fn about(&self, thread: Pid) -> About {
        let Some(mut registers) = tolerate_death(ptrace::getregs(thread)) else {
            return About::Nothing;
        };
        let number = number(&registers).cast_signed();
        let [first, second, third, fourth, fifth] = arguments(&mut registers).map(|place| *place);
        let descriptor = |descriptor: u64| {
            let descriptor = descriptor as u32;
            fs::read_link(format!("/proc/{thread}/fd/{descriptor}")).ok()
        };
        let named = |address| Some(self.path_at(address)).filter(|path| *path != PathBuf::new());
        let (action, path) = match number {
            libc::SYS_write if first as u32 == 2 => {
                return About::Report(self.bytes_at(second, third as usize));
            }
            libc::SYS_openat => (Action::Open, named(second)),
            libc::SYS_newfstatat | libc::SYS_statx => {
                (Action::Look, named(second).or_else(|| descriptor(first)))
            }
            libc::SYS_faccessat | libc::SYS_faccessat2 => (Action::Look, named(second)),
            libc::SYS_inotify_add_watch => (Action::Look, named(second)),
            libc::SYS_fstat => (Action::Look, descriptor(first)),
            libc::SYS_read | libc::SYS_pread64 | libc::SYS_readv | libc::SYS_preadv => {
                (Action::Read, descriptor(first))
            }
            libc::SYS_mmap => (Action::Map, descriptor(fifth)),
            libc::SYS_write
            | libc::SYS_pwrite64
            | libc::SYS_writev
            | libc::SYS_pwritev
            | libc::SYS_ftruncate => (Action::Write, descriptor(first)),
            libc::SYS_fsync | libc::SYS_fdatasync => (Action::Sync, descriptor(first)),
            libc::SYS_fcntl => match self.locks(second, third) {
                Some(action) => (action, descriptor(first)),
                None => return About::Nothing,
            },
            libc::SYS_unlinkat => (Action::Delete, named(second)),
            libc::SYS_renameat | libc::SYS_renameat2 | libc::SYS_linkat => {
                (Action::Name, named(fourth))
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_access | libc::SYS_stat | libc::SYS_lstat | libc::SYS_readlink => {
                (Action::Look, named(first))
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink => (Action::Delete, named(first)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rename | libc::SYS_link => (Action::Name, named(second)),
            _ => return About::Nothing,
        };
        match path {
            Some(path) => About::Call(Call { action, path }),
            None => About::Nothing,
        }
    }

    /// Whether a call of `fcntl` is about locks, and lets go of one.
    fn locks(&self, command: u64, lock: u64) -> Option<Action> {
        let unlocks = || self.bytes_at(lock, 2) == (libc::F_UNLCK as i16).to_ne_bytes();
        match command as i32 {
            libc::F_SETLK | libc::F_SETLKW if unlocks() => Some(Action::Unlock),
            libc::F_OFD_SETLK | libc::F_OFD_SETLKW if unlocks() => Some(Action::UnlockOpenFile),
            libc::F_SETLK | libc::F_SETLKW | libc::F_OFD_SETLK | libc::F_OFD_SETLKW => {
                Some(Action::Lock)
            }
            libc::F_GETLK | libc::F_OFD_GETLK => Some(Action::Lock),
            _ => None,
        }
    }

    fn path_at(&self, address: u64) -> PathBuf {
        let mut bytes = self.bytes_at(address, PATH_BYTES);
        let end = bytes.iter().position(|byte| *byte == 0);
        bytes.truncate(end.unwrap_or_default());
        PathBuf::from(OsStr::from_bytes(&bytes))
    }

    /// As many of these bytes of its memory as there are.
    fn bytes_at(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = self.memory.read_at(&mut bytes, address).unwrap_or_default();
        bytes.truncate(read);
        bytes
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // It is not waited for yet, so the id is still its own.
            self.process.kill().ok();
            while self.next_stop().is_some() {}
        }
    }
}

/// Kills the process after a while, unless what this gives is dropped before.
fn kill_after(deadline: Duration, process: Pid) -> Sender<()> {
    let (ended, end) = channel::<()>();
    std::thread::spawn(move || {
        if end.recv_timeout(deadline) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            kill(process, Signal::SIGKILL).ok();
        }
    });
    ended
}

/// What was done with a thread, unless it was killed meanwhile.
fn tolerate_death<T>(done: nix::Result<T>) -> Option<T> {
    match done {
        Ok(done) => Some(done),
        Err(Errno::ESRCH) => None,
        Err(errno) => panic!("cannot trace: {errno}"),
    }
}

/// Has the call that begins do nothing: it gets no descriptor, and no path. Gives what it was to get.
fn make_void(thread: Pid) -> [u64; 2] {
    let Some(mut registers) = tolerate_death(ptrace::getregs(thread)) else {
        return [0; 2];
    };
    let [first, second, ..] = arguments(&mut registers);
    let before = [*first, *second];
    (*first, *second) = (u64::MAX, 0);
    tolerate_death(ptrace::setregs(thread, registers));
    before
}

/// Has the call that ends give this error.
fn fail(thread: Pid, errno: Errno, before: [u64; 2]) {
    let Some(mut registers) = tolerate_death(ptrace::getregs(thread)) else {
        return;
    };
    let [first, second, ..] = arguments(&mut registers);
    (*first, *second) = (before[0], before[1]);
    *result(&mut registers) = (-(errno as i64)).cast_unsigned();
    tolerate_death(ptrace::setregs(thread, registers));
}

#[cfg(target_arch = "x86_64")]
fn number(registers: &libc::user_regs_struct) -> u64 {
    registers.orig_rax
}

/// The first five arguments of a call.
#[cfg(target_arch = "x86_64")]
fn arguments(registers: &mut libc::user_regs_struct) -> [&mut u64; 5] {
    [
        &mut registers.rdi,
        &mut registers.rsi,
        &mut registers.rdx,
        &mut registers.r10,
        &mut registers.r8,
    ]
}

#[cfg(target_arch = "x86_64")]
fn result(registers: &mut libc::user_regs_struct) -> &mut u64 {
    &mut registers.rax
}

#[cfg(target_arch = "aarch64")]
fn number(registers: &libc::user_regs_struct) -> u64 {
    registers.regs[8]
}

/// The first five arguments of a call.
#[cfg(target_arch = "aarch64")]
fn arguments(registers: &mut libc::user_regs_struct) -> [&mut u64; 5] {
    let [first, second, third, fourth, fifth, ..] = &mut registers.regs;
    [first, second, third, fourth, fifth]
}

#[cfg(target_arch = "aarch64")]
fn result(registers: &mut libc::user_regs_struct) -> &mut u64 {
    &mut registers.regs[0]
}
