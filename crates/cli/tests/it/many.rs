//! Many databases in one process: what they take of it.

use std::{collections::BTreeMap, ffi::OsString, fs, path::Path, time::Duration};

use evertide_testkit::{ChildProcess, wait_until};

use super::support::{PATIENCE, Workplace, bytes, insert};

/// What a process may open if nobody says otherwise, on most machines.
const DESCRIPTORS: &str = "--nofile=1024:";

/// How many directories the databases are in.
const FOLDERS: usize = 10;

/// At rest, whatever the number of databases.
const MOST_THREADS: u64 = 16;

/// For each database: it, its WAL and its index, of SQLite's connection and of ours, and three files of local state.
const MOST_DESCRIPTORS: u64 = 9;

/// How long nothing happens, and how often a thread may be woken meanwhile: less often than once a second.
const IDLE: Duration = Duration::from_secs(4);
const MOST_WAKE_UPS: u64 = 3;

/// In KiB, for each database, in a build without optimisation.
const MOST_MEMORY: u64 = 320;

/// In KiB, whatever the number of databases.
const BASE_MEMORY: u64 = 64 << 10;

/// A number in a file that the kernel keeps about a process.
fn number(process: &ChildProcess, file: &str, name: &str) -> u64 {
    number_in(
        &fs::read_to_string(format!("/proc/{}/{file}", process.id())).unwrap(),
        name,
    )
}

fn number_in(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let digits = line
        .unwrap()
        .trim_start_matches(':')
        .trim()
        .trim_end_matches(" kB");
    digits.parse().unwrap()
}

/// What the kernel says of each thread of a process.
fn threads(process: &ChildProcess) -> BTreeMap<OsString, String> {
    let threads = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    let status = threads.filter_map(|thread| {
        let thread = thread.ok()?;
        let text = fs::read_to_string(thread.path().join("status")).ok()?;
        Some((thread.file_name(), text))
    });
    status.collect()
}

/// Whether any thread of a process waits for the disk, in which time it neither reads nor writes.
fn waits_for_the_disk(process: &ChildProcess) -> bool {
    let waits = |text: &String| text.lines().any(|line| line.starts_with("State:\tD"));
    threads(process).values().any(waits)
}

/// How often threads of a process went to sleep, and so were woken before: those that are there at both looks. Each
/// system call in which somebody waits counts, `epoll` and `futex` as well.
fn wake_ups(process: &ChildProcess, time: Duration) -> u64 {
    let look = || -> BTreeMap<OsString, u64> {
        let sleeps = |text: &String| number_in(text, "voluntary_ctxt_switches");
        let threads = threads(process).into_iter();
        threads.map(|(id, text)| (id, sleeps(&text))).collect()
    };
    let before = look();
    std::thread::sleep(time);
    let after = look();
    assert!(
        after.keys().all(|id| before.contains_key(id)),
        "a new thread"
    );
    after.iter().map(|(id, sleeps)| sleeps - before[id]).sum()
}

/// Databases by the hundred, each with a row.
fn create(place: &Workplace, count: usize) {
    drop(place.database("template.db", 1));
    let template = bytes(&place.path("template.db"));
    for index in 0..count {
        let path = place.path(&path(index));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &template).unwrap();
    }
}

fn path(index: usize) -> String {
    format!("data/{}/{index}.db", index % FOLDERS)
}

/// How many databases have a snapshot on their replica.
fn backed_up(backup: &Path) -> usize {
    let folders = fs::read_dir(backup).into_iter().flatten().flatten();
    let replicas = folders.flat_map(|folder| fs::read_dir(folder.path()).unwrap().flatten());
    let whole = |replica: &fs::DirEntry| {
        let names = fs::read_dir(replica.path().join("ltx/9"));
        let names = names.into_iter().flatten().flatten();
        names
            .filter(|entry| entry.file_name().to_string_lossy().ends_with(".ltx"))
            .count()
            > 0
    };
    replicas.filter(whole).count()
}

#[test]
fn databases_by_the_hundred_take_few_threads_descriptors_and_memory_and_rest_when_idle() {
    let count = std::env::var("EVERTIDE_DATABASES").map_or(300, |count| count.parse().unwrap());
    let patience = PATIENCE * (1 + count as u32 / 500);
    let place = Workplace::new();
    create(&place, count);
    place.write(
        "litestream.yml",
        "dbs: [{dir: data, pattern: '*.db', recursive: true, watch: true, monitor-interval: 1h,\n\
         replica: {path: backup, sync-interval: 50ms}}]\n",
    );
    let replicate = place.command(&["replicate", "--config", "litestream.yml"]);
    let mut limited = std::process::Command::new("prlimit");
    limited.arg(DESCRIPTORS).arg(replicate.get_program());
    limited
        .args(replicate.get_args())
        .current_dir(place.path(""));
    let mut process = ChildProcess::spawn_logged(&mut limited, &place.path("log")).unwrap();
    let backup = place.path("backup");
    wait_until(patience, "a snapshot of each", || {
        backed_up(&backup) == count
    });

    let memory = number(&process, "status", "VmHWM");
    let descriptors = || {
        let open = fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap();
        open.count() as u64
    };
    let many = count as u64;
    // The last uploads are still under way.
    wait_until(patience, "few descriptors", || {
        descriptors() <= many * MOST_DESCRIPTORS + 64
    });
    let descriptors = descriptors();
    eprintln!("{count} databases: {descriptors} descriptors, {memory} KiB");
    assert!(memory <= many * MOST_MEMORY + BASE_MEMORY, "{memory} KiB");

    // Whoever has nothing to do neither reads nor writes.
    let calls = || ["syscr", "syscw"].map(|kind| number(&process, "io", kind));
    wait_until(patience, "rest", || {
        let before = calls();
        std::thread::sleep(Duration::from_secs(2));
        calls() == before
            && number(&process, "status", "Threads") <= MOST_THREADS
            && !waits_for_the_disk(&process)
    });

    // Nor does it wake up: what it looks at from time to time it looks at each `monitor-interval`, and at nothing else.
    let woken = wake_ups(&process, IDLE);
    eprintln!("woken {woken} times in {IDLE:?}");
    assert!(woken <= MOST_WAKE_UPS, "{woken} of {count} databases");

    // Each is still looked after.
    for index in [0, count / 2, count - 1] {
        let database = rusqlite::Connection::open(place.path(&path(index))).unwrap();
        insert(&database, 3);
        let replica = format!("backup/{}/{index}.db", index % FOLDERS);
        place.wait_for_rows(&replica, 4);
    }
    let ended = process.terminate(patience).unwrap();
    assert!(ended.success(), "{}", process.log());
}
