//! What a process cost, as the kernel counts it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Ticks of /proc/PID/stat in a second: fixed by the kernel's interface on Linux.
const TICKS: u64 = 100;

/// What a process has used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Processor time, of all threads, in user and kernel mode.
    pub(crate) cpu: Duration,
    /// Bytes it caused to be written to the disk, sooner or later.
    pub(crate) written: u64,
    /// The most memory it had resident.
    pub(crate) peak_rss: u64,
}

impl Usage {
    pub(crate) fn of(id: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{id}/{file}");
            std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))
        };
        let stat = read("stat")?;
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
            written: field(&read("io")?, "write_bytes:")?,
            peak_rss: field(&read("status")?, "VmHWM:")? * 1024,
        })
    }
}

fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.with_context(|| format!("no {name}"))?.trim();
    Ok(value.trim_end_matches(" kB").parse()?)
}

/// How long a command ran, and the most memory it had resident while it was looked at.
pub(crate) fn timed(command: &mut Command) -> Result<(Duration, u64)> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let mut peak = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        // The numbers go before the process does: the last look is a few milliseconds early.
        peak = Usage::of(child.id()).map_or(peak, |usage| usage.peak_rss);
        std::thread::sleep(Duration::from_millis(2));
    };
    let took = started.elapsed();
    if !status.success() {
        bail!("{command:?} ended with {status}: {}", said(&mut child));
    }
    Ok((took, peak))
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
    fn a_command_that_fails_is_an_error_with_its_words() {
        let error = timed(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().ends_with("no\n"), "{error}");
    }
}
