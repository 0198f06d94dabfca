//! A process whose system calls are looked at one by one, and some of which fail.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace::{self, Options},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, gettid},
};

use crate::FOLDER;

/// A system call that matters, with the file that it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    Open,
    Write(PathBuf),
    Sync(PathBuf),
}

/// What the thread is about to do.
enum About {
    Call(Call),
    /// It writes a line to its standard error.
    Report,
    Nothing,
}

/// Such a process. Of its threads the one that does the work is looked at.
pub(crate) struct Traced {
    process: Child,
    thread: Pid,
    reports: Receiver<String>,
}

/// Says who does the work, and waits until somebody looks at it.
pub(crate) fn wait_to_be_traced() {
    eprintln!("{}", gettid());
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

impl Traced {
    /// Starts a test of this program which nobody else calls, with what it does and where, and looks at it from
    /// [`wait_to_be_traced`] on.
    pub(crate) fn start(test: &str, what: &str, folder: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", test])
            .env(FOLDER, folder)
            .env(super::WHAT, what)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let thread = Pid::from_raw(lines.next().unwrap().unwrap().parse().unwrap());
        let (said, reports) = channel();
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .for_each(|line| said.send(line).unwrap_or(()));
        });
        ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD).unwrap();
        ptrace::interrupt(thread).unwrap();
        let stopped = waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        assert!(
            matches!(stopped, WaitStatus::PtraceEvent(..)),
            "{stopped:?}"
        );
        process.stdin.as_ref().unwrap().write_all(b"go\n").unwrap();
        Self {
            process,
            thread,
            reports,
        }
    }

    /// The calls up to the next report of the process, a line on its standard error, which it gives too. Those fail
    /// for which there is an error, and do nothing.
    pub(crate) fn until_a_report(
        &self,
        mut error: impl FnMut(&Call) -> Option<Errno>,
    ) -> (Vec<Call>, String) {
        let (mut calls, mut begins, mut signal, mut reports) = (Vec::new(), true, None, false);
        let mut failing = None;
        loop {
            ptrace::syscall(self.thread, signal.take()).unwrap();
            match waitpid(self.thread, Some(WaitPidFlag::__WALL)).unwrap() {
                WaitStatus::PtraceSyscall(_) if begins => {
                    begins = false;
                    match self.about() {
                        About::Report => reports = true,
                        About::Nothing => {}
                        About::Call(call) => {
                            let errno = error(&call);
                            failing = errno.map(|errno| (errno, self.make_void()));
                            calls.push(call);
                        }
                    }
                }
                WaitStatus::PtraceSyscall(_) => {
                    begins = true;
                    if let Some((errno, arguments)) = failing.take() {
                        self.fail(errno, arguments);
                    }
                    // Not yet, where a line is written piece by piece.
                    let patience = Duration::from_secs(5) * u32::from(std::mem::take(&mut reports));
                    if let Ok(report) = self.reports.recv_timeout(patience) {
                        return (calls, report);
                    }
                }
                WaitStatus::Stopped(_, sent) => signal = Some(sent),
                other => panic!("{other:?} after {calls:?}"),
            }
        }
    }

    /// Goes on unwatched, to a successful end.
    pub(crate) fn finish(mut self) {
        ptrace::detach(self.thread, None).unwrap();
        assert!(self.process.wait().unwrap().success());
    }

    /// The call that the thread is about to make.
    fn about(&self) -> About {
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
            libc::SYS_openat => About::Call(Call::Open),
            libc::SYS_fsync | libc::SYS_fdatasync => About::Call(Call::Sync(file().1)),
            libc::SYS_write
            | libc::SYS_pwrite64
            | libc::SYS_writev
            | libc::SYS_pwritev
            | libc::SYS_ftruncate => match file() {
                (2, _) => About::Report,
                (_, path) => About::Call(Call::Write(path)),
            },
            _ => About::Nothing,
        }
    }

    /// Has the call that begins do nothing: it gets no descriptor, and no path. Gives what it was to get.
    fn make_void(&self) -> (u64, u64) {
        let mut registers = ptrace::getregs(self.thread).unwrap();
        let [first, second] = arguments(&mut registers);
        let before = (*first, *second);
        (*first, *second) = (u64::MAX, 0);
        ptrace::setregs(self.thread, registers).unwrap();
        before
    }

    /// Has the call that ends give this error.
    fn fail(&self, errno: Errno, (first, second): (u64, u64)) {
        let mut registers = ptrace::getregs(self.thread).unwrap();
        let places = arguments(&mut registers);
        (*places[0], *places[1]) = (first, second);
        *result(&mut registers) = (-(errno as i64)) as u64;
        ptrace::setregs(self.thread, registers).unwrap();
    }
}

/// The first two arguments of a call.
#[cfg(target_arch = "x86_64")]
fn arguments(registers: &mut libc::user_regs_struct) -> [&mut u64; 2] {
    [&mut registers.rdi, &mut registers.rsi]
}

#[cfg(target_arch = "x86_64")]
fn result(registers: &mut libc::user_regs_struct) -> &mut u64 {
    &mut registers.rax
}

#[cfg(target_arch = "aarch64")]
fn arguments(registers: &mut libc::user_regs_struct) -> [&mut u64; 2] {
    let [first, second, ..] = &mut registers.regs;
    [first, second]
}

#[cfg(target_arch = "aarch64")]
fn result(registers: &mut libc::user_regs_struct) -> &mut u64 {
    &mut registers.regs[0]
}
