//! An application that writes with threads of its own and has its backup inside:
//! `torture-application SEED DB REPLICA`. It ends in order when its standard input ends.

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use evertide::{ReplicaOptions, Replication, ReplicationOptions};
use evertide_storage::Destination;
use evertide_testkit::{WriterOptions, WriterThread};

const DEADLINE: Duration = Duration::from_secs(100);

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .json()
        .with_writer(io::stderr)
        .init();
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("torture-application: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<String>) -> Result<(), Box<dyn Error>> {
    let [seed, database, replica] =
        <[String; 3]>::try_from(arguments).map_err(|_| "usage: SEED DB REPLICA")?;
    let seed: u64 = seed.parse()?;
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut options = ReplicaOptions::new("file", Destination::parse(&replica)?);
    options.sync_interval = Duration::from_millis([1, 5, 20, 100, 1000][rng.usize(0..5)]);
    let backup = Replication::builder(&database)
        .options(ReplicationOptions::default())
        .replica(options)
        .rotate_at_frames(rng.u32(20..2000))
        .build()?;
    // Writers before the start of the backup and after it: both find the other's locks.
    let start_writer = |number: u32| {
        let id = 1_000_000 + u32::try_from(seed % 1_000_000).unwrap_or(0) * 2 + number;
        let writer = WriterOptions {
            id,
            max_bytes: 24 << 20,
            pause: Duration::from_millis(4),
            ..WriterOptions::seeded(seed ^ u64::from(number))
        };
        WriterThread::start(&database, writer)
    };
    let first = start_writer(0)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(backup.start())?;
    let second = start_writer(1)?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    first.stop()?;
    second.stop()?;
    runtime.block_on(backup.stop(DEADLINE))?;
    Ok(())
}
