//! A writer as a process of its own: the program `evertide-writer`.
//!
//! The options travel as arguments, the report comes back on standard output, and the writer stops
//! in order when its standard input ends. So it also stops when its parent is killed.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::create::AutoVacuum;
use super::thread::Stop;
use super::writer::{Writer, WriterOptions, WriterReport};
use crate::process::ChildProcess;

/// A writer in a process of its own; killed when dropped.
#[derive(Debug)]
pub struct WriterProcess {
    child: ChildProcess,
    report: tempfile::NamedTempFile,
}

impl WriterProcess {
    /// Builds the program unless it is fresh, and starts it.
    ///
    /// # Errors
    ///
    /// When the process cannot be started.
    ///
    /// # Panics
    ///
    /// When the program does not build.
    pub fn start(path: impl AsRef<Path>, options: &WriterOptions) -> io::Result<Self> {
        let program = crate::workspace_program("evertide-testkit", "evertide-writer");
        let report = tempfile::NamedTempFile::new()?;
        let mut command = Command::new(program);
        command
            .arg(path.as_ref())
            .args(to_arguments(options))
            .stdin(Stdio::piped())
            .stdout(report.reopen()?);
        Ok(Self {
            child: ChildProcess::spawn(&mut command)?,
            report,
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it with SIGKILL, in the middle of whatever it does.
    ///
    /// # Errors
    ///
    /// When it cannot be reaped.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill().map(|_| ())
    }

    /// Lets the current operation finish, and returns what was done.
    ///
    /// # Errors
    ///
    /// When the writer failed, or did not stop within `deadline`.
    pub fn stop(mut self, deadline: Duration) -> io::Result<WriterReport> {
        drop(self.child.take_stdin());
        let status = self.child.wait(deadline)?;
        if !status.success() {
            let message = format!("writer {} ended with {status}; see above", self.id());
            return Err(io::Error::other(message));
        }
        let mut text = String::new();
        self.report.as_file_mut().read_to_string(&mut text)?;
        from_lines(&text).ok_or_else(|| io::Error::other(format!("not a report: {text:?}")))
    }
}

/// The program `evertide-writer`: writes until standard input ends, then prints a report.
///
/// # Errors
///
/// When the arguments are wrong or the writer failed.
pub fn run_writer_process(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let (path, rest) = arguments
        .split_first()
        .ok_or("usage: evertide-writer DB KEY=VALUE...")?;
    let (options, time) = from_arguments(rest)?;
    let stop = Stop::new();
    let theirs = stop.clone();
    std::thread::spawn(move || {
        match time {
            Some(time) => std::thread::sleep(time),
            None => drop(io::copy(&mut io::stdin(), &mut io::sink())),
        }
        theirs.request();
    });
    let mut writer = Writer::open(path, options)?;
    let report = writer.run_until(&stop)?.clone();
    io::stdout().write_all(to_lines(&report).as_bytes())?;
    Ok(())
}

fn to_arguments(options: &WriterOptions) -> Vec<String> {
    let auto_vacuum = match options.database.auto_vacuum {
        AutoVacuum::None => "none",
        AutoVacuum::Full => "full",
        AutoVacuum::Incremental => "incremental",
    };
    vec![
        format!("seed={}", options.seed),
        format!("id={}", options.id),
        format!("page-size={}", options.database.page_size),
        format!("auto-vacuum={auto_vacuum}"),
        format!("max-bytes={}", options.max_bytes),
        format!("busy-timeout-ms={}", options.busy_timeout.as_millis()),
        format!("pause-us={}", options.pause.as_micros()),
    ]
}

type Parsed = (WriterOptions, Option<Duration>);

fn from_arguments(arguments: &[String]) -> Result<Parsed, Box<dyn std::error::Error>> {
    let mut options = WriterOptions::seeded(0);
    let mut time = None;
    for argument in arguments {
        let (key, value) = argument.split_once('=').ok_or("expected KEY=VALUE")?;
        match key {
            "seed" => options.seed = value.parse()?,
            "id" => options.id = value.parse()?,
            "page-size" => options.database.page_size = value.parse()?,
            "auto-vacuum" => options.database.auto_vacuum = parse_auto_vacuum(value)?,
            "max-bytes" => options.max_bytes = value.parse()?,
            "busy-timeout-ms" => options.busy_timeout = Duration::from_millis(value.parse()?),
            "pause-us" => options.pause = Duration::from_micros(value.parse()?),
            "seconds" => time = Some(Duration::from_secs_f64(value.parse()?)),
            _ => return Err(format!("unknown option {key:?}").into()),
        }
    }
    Ok((options, time))
}

fn parse_auto_vacuum(value: &str) -> Result<AutoVacuum, String> {
    match value {
        "none" => Ok(AutoVacuum::None),
        "full" => Ok(AutoVacuum::Full),
        "incremental" => Ok(AutoVacuum::Incremental),
        _ => Err(format!(
            "auto-vacuum is none, full or incremental, not {value:?}"
        )),
    }
}

fn to_lines(report: &WriterReport) -> String {
    let mut text = format!(
        "transactions={}\nbusy={}\n",
        report.transactions, report.busy
    );
    for (name, count) in &report.operations {
        text.push_str(&format!("{name}={count}\n"));
    }
    text
}

fn from_lines(text: &str) -> Option<WriterReport> {
    let mut report = WriterReport::default();
    let mut lines = text.lines();
    report.transactions = lines.next()?.strip_prefix("transactions=")?.parse().ok()?;
    report.busy = lines.next()?.strip_prefix("busy=")?.parse().ok()?;
    for line in lines {
        let (name, count) = line.split_once('=')?;
        report
            .operations
            .insert(name.to_owned(), count.parse().ok()?);
    }
    Some(report)
}
