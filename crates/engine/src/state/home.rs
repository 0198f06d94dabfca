//! Which machine this is, for those who are refused because of it.

use std::path::Path;

use evertide_ltx::{Checksum, Pgno};
use evertide_storage::{Disk, Identity, OsDisk, Owner};

/// The owner of the leases of a database's replicas.
pub(crate) fn owner(id: Identity, database: &Path) -> Owner {
    let host = host();
    let boot = boot_id();
    let machine = read("/etc/machine-id");
    let program = std::env::current_exe().ok();
    let program = program.as_deref().and_then(Path::file_name);
    let program = program.unwrap_or_default().to_string_lossy();
    let home = [
        machine.as_bytes(),
        host.as_bytes(),
        database.as_os_str().as_encoded_bytes(),
    ];
    Owner {
        id,
        boot: checksum(boot.as_bytes()),
        home: checksum(&home.join(&0)),
        process: format!("{} ({program})", std::process::id()),
        host,
    }
}

/// A checksum that tells this start of the machine from others; 0 where nothing does.
pub(crate) fn boot() -> u32 {
    match boot_id().as_str() {
        "" => 0,
        id => (checksum(id.as_bytes()) as u32).max(1),
    }
}

fn boot_id() -> String {
    read("/proc/sys/kernel/random/boot_id")
}

fn host() -> String {
    let name = nix::unistd::gethostname();
    name.map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// A short file of the system; nothing where there is none.
fn read(path: &str) -> String {
    let mut bytes = [0; 128];
    let file = OsDisk.open_read(Path::new(path));
    let read = file.and_then(|file| file.read_at(&mut bytes, 0));
    let text = bytes.get(..read.unwrap_or_default()).unwrap_or_default();
    String::from_utf8_lossy(text).trim().to_owned()
}

fn checksum(bytes: &[u8]) -> u64 {
    Checksum::page(Pgno::FIRST, bytes).get()
}
