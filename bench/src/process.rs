//! What a process cost, as the kernel counts it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// Ticks of /proc/PID/stat in a second: fixed by the kernel's interface on Linux.
const TICKS: u64 = 100;

/// What a process has used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Processor time, of all threads, in user and kernel mode.
    pub(crate) cpu: Duration,
    /// Bytes it read, from the page cache or from the disk.
    pub(crate) read: u64,
    /// Bytes it caused to be written to the disk, sooner or later.
    pub(crate) written: u64,
    /// The most memory it had resident.
    pub(crate) peak_rss: u64,
}

impl Usage {
    pub(crate) fn of(id: u32) -> Result<Self> {
        let (io, stat) = (read(id, "io")?, read(id, "stat")?);
        // The second field is the name, in parentheses, and may hold anything.
        let (_, fields) = stat
            .rsplit_once(") ")
            .context("the name in /proc/PID/stat")?;
        let fields: Vec<_> = fields.split(' ').collect();
        let ticks = |index: usize| -> Result<u64> {
            Ok(fields
                .get(index)
                .context("too few fields in /proc/PID/stat")?
                .parse()?)
        };
        let cpu = Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / TICKS);
        Ok(Self {
            cpu,
            read: field(&io, "rchar:")?,
            written: field(&io, "write_bytes:")?,
            peak_rss: peak_rss(id).unwrap_or_default(), // has ended
        })
    }
}

fn peak_rss(id: u32) -> Result<u64> {
    Ok(field(&read(id, "status")?, "VmHWM:")? * 1024)
}

fn read(id: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{id}/{file}");
    std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))
}

fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.with_context(|| format!("no {name}"))?.trim();
    Ok(value.trim_end_matches(" kB").parse()?)
}

/// How long a command ran, and what it used. The most memory is that of the last look, a few
/// milliseconds before the end.
pub(crate) fn timed(command: &mut Command) -> Result<(Duration, Usage)> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let mut peak = 0;
    while !has_ended(&child)? {
        peak = peak_rss(child.id()).unwrap_or(peak);
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = started.elapsed();
    // What it used can be read as long as nobody has waited for it.
    let usage = Usage {
        peak_rss: peak,
        ..Usage::of(child.id())?
    };
    let status = child.wait()?;
    if !status.success() {
        bail!("{command:?} ended with {status}: {}", said(&mut child));
    }
    Ok((took, usage))
}

/// Whether a process has ended, which leaves it to be waited for.
fn has_ended(child: &Child) -> Result<bool> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let id = Pid::from_raw(i32::try_from(child.id())?);
    Ok(waitid(Id::Pid(id), flags)? != WaitStatus::StillAlive)
}

fn said(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(stderr) = &mut child.stderr {
        std::io::Read::read_to_string(stderr, &mut text).ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something() {
        let usage = Usage::of(std::process::id()).expect("reading /proc");
        assert!(usage.peak_rss > 1 << 20, "{usage:?}");
    }

    #[test]
    fn what_a_command_used_is_known_when_it_has_ended() {
        let mut command = Command::new("sh");
        let (_, usage) =
            timed(command.args(["-c", "head -c 1000000 /dev/zero; sleep 0.1"])).unwrap();
        assert!(usage.peak_rss > 100_000, "{usage:?}");
        let (_, usage) = timed(Command::new("cat").arg("/proc/self/exe")).unwrap();
        let size = std::fs::metadata("/bin/cat").unwrap().len();
        assert!(usage.read >= size, "{usage:?}");
    }

    #[test]
    fn a_command_that_fails_is_an_error_with_its_words() {
        let error = timed(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().ends_with("no\n"), "{error}");
    }
}
