//! Put, get, list and delete the LTX files of a replica, anywhere.
//!
//! A *replica* is one destination of one database. [`Destination`] says where it is,
//! [`ReplicaClient`] is what can be done there, [`Disk`] and [`Clock`] are the file system and the
//! time of day that the whole product goes through.
//!
//! ```
//! use std::sync::Arc;
//!
//! use evertide_ltx::{Level, LtxName, Txid};
//! use evertide_storage::{Destination, OsDisk, bytes_stream, collect};
//!
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! # let folder = tempfile::tempdir()?;
//! # let url = format!("file://{}/replica", folder.path().display());
//! let replica = Destination::parse(&url)?.connect(Arc::new(OsDisk))?;
//! let name = LtxName { min: Txid::FIRST, max: Txid::FIRST };
//! let created = std::time::UNIX_EPOCH;
//! replica.put(Level::L0, name, created, bytes_stream("an LTX file".into())).await?;
//!
//! let objects = replica.list(Level::L0, None).await?;
//! assert_eq!(objects.len(), 1);
//! let content = replica.get(Level::L0, name, None).await?;
//! assert_eq!(collect(content, 1 << 20).await?, "an LTX file");
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Features: `s3` adds replicas in S3 and what speaks like it, `gcs` in Google Cloud Storage, `azure` in
//! Azure Blob Storage, `oss` in Alibaba Cloud OSS, `webdav` on a WebDAV share, `sftp` on a server with SSH, `nats` in
//! an object store of NATS JetStream. `testing` adds a disk and a client that fail on request, a disk that replays power cuts, a
//! clock that tests turn, and the suite that every client must pass.

mod client;
mod clock;
#[cfg(feature = "testing")]
pub mod conformance;
#[cfg(any(feature = "nats", feature = "sftp"))]
mod connected;
mod count;
mod destination;
mod disk;
mod doctor;
mod error;
#[cfg(feature = "testing")]
mod faulty;
mod file;
mod layout;
mod lease;
#[cfg(any(feature = "nats", feature = "sftp", feature = "webdav"))]
mod leftovers;
mod limit;
#[cfg(feature = "testing")]
mod memory;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "_object")]
mod object;
mod secret;
#[cfg(feature = "sftp")]
mod sftp;
mod stream;
#[cfg(any(feature = "sftp", feature = "webdav"))]
mod times;
#[cfg(feature = "_tls")]
mod tls;
#[cfg(feature = "_url")]
#[allow(dead_code)] // no store needs all of it
mod url;
mod v3;
#[cfg(feature = "_http")]
mod web;
#[cfg(feature = "webdav")]
mod webdav;

#[cfg(feature = "nats")]
pub use self::nats::NatsOptions;
#[cfg(feature = "azure")]
pub use self::object::AzureOptions;
#[cfg(feature = "gcs")]
pub use self::object::GcsOptions;
#[cfg(feature = "oss")]
pub use self::object::OssOptions;
#[cfg(feature = "s3")]
pub use self::object::S3Options;
#[cfg(feature = "sftp")]
pub use self::sftp::SftpOptions;
#[cfg(feature = "webdav")]
pub use self::webdav::WebdavOptions;
pub use self::{
    client::{
        Capabilities, LtxObject, Precondition, ReplicaClient, SmallKey, SmallObject, Stray,
        StrayKind, Version,
    },
    clock::{Clock, SystemClock},
    count::{CountingClient, RequestKind, Requests},
    destination::{Destination, FileOptions},
    disk::{DirEntry, Disk, DiskFile, FileKind, Metadata, OsDisk},
    doctor::{Ability, Examination, Verdict, examine},
    error::Error,
    file::FileClient,
    lease::{
        Identity, Lease, LeaseRecord, LeaseState, LeasedClient, NotAnIdentity, Owner, Taken,
        TxidRange,
    },
    limit::LimitedClient,
    secret::Secret,
    stream::{ByteStream, bytes_stream, collect, file_stream},
    v3::{V3Key, V3Object, V3Part},
};
#[cfg(feature = "testing")]
pub use self::{
    clock::ManualClock,
    disk::{CrashPoint, Fault, FaultDisk, RecordingDisk, Unsynced},
    faulty::{FaultClient, ReadFault, failing_runs},
    memory::MemoryClient,
};
