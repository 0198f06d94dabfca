//! Which machine this is, for those who are refused because of it.

use std::{
    io::{
        self,
        ErrorKind::{NotFound, PermissionDenied},
    },
    path::Path,
    sync::OnceLock,
};

use evertide_ltx::{Checksum, Pgno};
use evertide_storage::{Disk, Identity, OsDisk, Owner};

/// What tells this machine, and this start of it, from others.
struct Machine {
    host: String,
    /// From /etc/machine-id; nothing where there is none.
    id: String,
    /// Of the kernel since it started; nothing where it has none.
    boot: String,
}

/// Read once in a process. Who has no descriptor left for it must not be taken for another machine.
fn machine() -> io::Result<&'static Machine> {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    if let Some(machine) = MACHINE.get() {
        return Ok(machine);
    }
    let name = nix::unistd::gethostname();
    let machine = Machine {
        host: name
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        id: read("/etc/machine-id")?,
        boot: read("/proc/sys/kernel/random/boot_id")?,
    };
    Ok(MACHINE.get_or_init(|| machine))
}

/// The owner of the leases of a database's replicas.
///
/// # Errors
///
/// Where what the system says of itself cannot be read now.
pub(crate) fn owner(id: Identity, database: &Path) -> io::Result<Owner> {
    let machine = machine()?;
    let program = std::env::current_exe().ok();
    let program = program.as_deref().and_then(Path::file_name);
    let program = program.unwrap_or_default().to_string_lossy();
    let home = [
        machine.id.as_bytes(),
        machine.host.as_bytes(),
        database.as_os_str().as_encoded_bytes(),
    ];
    Ok(Owner {
        id,
        boot: checksum(machine.boot.as_bytes()),
        home: checksum(&home.join(&0)),
        process: format!("{} ({program})", std::process::id()),
        host: machine.host.clone(),
    })
}

/// A checksum that tells this start of the machine from others; 0 where nothing does.
pub(crate) fn boot() -> u32 {
    match machine().map(|machine| machine.boot.as_str()) {
        Err(_) | Ok("") => 0,
        Ok(id) => (checksum(id.as_bytes()) as u32).max(1),
    }
}

/// A short file of the system; nothing where there is none, or not for us.
fn read(path: &str) -> io::Result<String> {
    let file = match OsDisk.open_read(Path::new(path)) {
        Err(error) if matches!(error.kind(), NotFound | PermissionDenied) => {
            return Ok(String::new());
        }
        file => file?,
    };
    let mut bytes = [0; 128];
    let read = file.read_at(&mut bytes, 0)?;
    let text = bytes.get(..read).unwrap_or_default();
    Ok(String::from_utf8_lossy(text).trim().to_owned())
}

fn checksum(bytes: &[u8]) -> u64 {
    Checksum::page(Pgno::FIRST, bytes).get()
}
