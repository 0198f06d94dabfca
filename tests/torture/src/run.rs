//! One run: write, kill, start again, catch up, restore, compare.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use evertide_testkit::{
    AutoVacuum, DatabaseOptions, Operation, Writer, WriterOptions, WriterProcess, create_database,
    entries_ever, temp_dir,
};

use crate::backup::{self, Backup, Form, Running, Subject};
use crate::fault::Fault;
use crate::other_sqlite::OtherSqlite;
use crate::tally::Tally;
use crate::verdict::{Verdict, verify};
use crate::wal::WalWatch;

/// How long a writer may take for the operation it is in the middle of.
const WRITER_DEADLINE: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long to write.
    pub seconds: u64,
    /// Everything random follows from it.
    pub seed: u64,
    /// Processes that write.
    pub writers: u32,
    /// Whose backup.
    pub subject: Subject,
    /// How the backup runs; drawn at each start when not given.
    pub form: Option<Form>,
    /// Damage to the replica before the restores.
    pub plant: Option<Fault>,
    /// Keep all files.
    pub keep: bool,
}

/// Starts of the backup after which each of its forms has come.
const MANY: u32 = 12;

/// Runs the torture and compares.
///
/// # Errors
///
/// When something other than the comparison went wrong: a writer failed, the backup ended by
/// itself, or would not stop. What was written is kept then, and its folder printed.
pub fn torture(options: &Options) -> Result<Verdict> {
    backup::build_programs();
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let dir = temp_dir();
    let database = DatabaseOptions {
        page_size: [512, 1024, 4096, 4096, 4096, 16384, 65536][rng.usize(0..7)],
        auto_vacuum: [
            AutoVacuum::None,
            AutoVacuum::None,
            AutoVacuum::Full,
            AutoVacuum::Incremental,
        ][rng.usize(0..4)],
    };
    println!(
        "seed {}: {} s, {} writers, pages of {} bytes, auto-vacuum {:?}",
        options.seed, options.seconds, options.writers, database.page_size, database.auto_vacuum
    );
    let backup = Backup {
        subject: options.subject,
        database: dir.path().join("app.db"),
        replica: dir.path().join("replica"),
        log: dir.path().join("backup.log"),
        form: options.form,
    };
    create_database(&backup.database, database)?;
    let outcome = write_and_kill(options, &backup, &mut rng)
        .and_then(|tally| verify(options, &backup, tally, &mut rng));
    let good = outcome.as_ref().is_ok_and(Verdict::is_good);
    if options.keep || (!good && options.plant.is_none()) {
        println!("kept: {}", dir.keep().display());
    }
    outcome
}

fn write_and_kill(options: &Options, backup: &Backup, rng: &mut fastrand::Rng) -> Result<Tally> {
    let wal = WalWatch::start(&backup.database);
    let mut tally = Tally::default();
    let mut writers = Vec::new();
    for id in 0..options.writers {
        writers.push(start_writer(backup, id, rng)?);
    }
    let mut other = OtherSqlite::start(&backup.database, rng.u64(..))?;
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let mut turn: u32 = 0;
    let drawn = options.form.is_none() && matches!(options.subject, Subject::Evertide);
    while Instant::now() < end {
        turn += 1;
        let form = match turn {
            1 if drawn => Form::Inside,
            _ => backup.draw_form(rng),
        };
        let mut running = backup.start(form, rng.u64(..))?;
        tally.started(form == Form::Inside);
        let most = end.saturating_duration_since(Instant::now());
        std::thread::sleep(Duration::from_millis(rng.u64(300..5000)).min(most));
        end_backup(&mut running, backup, rng, &mut tally)?;
        if rng.u32(0..4) == 0 {
            std::thread::sleep(Duration::from_millis(rng.u64(0..800)));
        }
        // A writer that dies takes its locks with it, and others recover the wal-index.
        if turn.is_multiple_of(5) && !writers.is_empty() {
            let victim = rng.usize(0..writers.len());
            let id = u32::try_from(victim)?;
            writers.swap_remove(victim).kill()?;
            tally.writer_kills += 1;
            writers.push(start_writer(backup, 100 * turn + id, rng)?);
        }
        if turn.is_multiple_of(7) {
            other.kill(&mut tally.other_sqlite)?;
            tally.writer_kills += 1;
            other = OtherSqlite::start(&backup.database, rng.u64(..))?;
        }
    }
    other.stop(WRITER_DEADLINE, &mut tally.other_sqlite)?;
    tally.other_sqlite.must_have_written()?;
    for writer in writers {
        let report = writer.stop(WRITER_DEADLINE).context("stopping a writer")?;
        tally.writers.add(&report);
    }
    if rng.bool() {
        // A long freelist at the end, and a last connection that closes: the WAL may be gone.
        let options = WriterOptions::seeded(rng.u64(..));
        Writer::open(&backup.database, options)?.perform(Operation::DeleteMost)?;
    }
    tally.wal_generations = wal.stop();
    if tally.writers.transactions == 0 && options.writers > 0 {
        bail!("no writer committed anything, so nothing was tested");
    }
    if drawn && turn >= MANY && (tally.starts_inside == 0 || tally.starts_beside == 0) {
        bail!("the backup never ran inside the application, or never beside it");
    }
    backup.catch_up(rng).context("the last, orderly run")?;
    tally.rows = entries_ever(&backup.database)?;
    Ok(tally)
}

/// One in six is stopped in order, so that both kinds of end follow each other.
fn end_backup(
    running: &mut Running,
    backup: &Backup,
    rng: &mut fastrand::Rng,
    tally: &mut Tally,
) -> Result<()> {
    if rng.u32(0..6) == 0 {
        tally.orderly_stops += 1;
        running.stop_in_order(backup)
    } else {
        tally.kills += 1;
        running.kill(backup)
    }
}

fn start_writer(backup: &Backup, id: u32, rng: &mut fastrand::Rng) -> Result<WriterProcess> {
    let options = WriterOptions {
        id,
        max_bytes: 24 << 20,
        busy_timeout: Duration::from_millis(rng.u64(20..2000)),
        pause: Duration::from_micros(rng.u64(500..8000)),
        ..WriterOptions::seeded(rng.u64(..))
    };
    WriterProcess::start(&backup.database, &options).context("starting a writer")
}
