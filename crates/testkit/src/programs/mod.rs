//! The programs of others that Evertide is tested against.

mod age;
mod authority;
mod azure;
mod behind_proxy;
mod clock;
mod gcs;
mod google;
mod install;
mod litestream;
mod nats;
mod packages;
mod s3;
mod server;
mod sftp;
mod sts;
mod webdav;

pub use age::{age, age_keygen, install_age};
pub use authority::Authority;
pub use azure::AzureServer;
pub use clock::{install_faketime, with_clock};
pub use gcs::GcsServer;
pub use google::GoogleHosts;
pub use install::{
    InstallError, install_azurite, install_fake_gcs, install_litestream, install_litestream_v3,
    install_ministack, install_nats, install_rclone, install_wsgidav,
};
pub use litestream::{
    RestoreError, litestream, litestream_command, litestream_v3, litestream_v3_command,
    replica_url, restore_with_litestream, try_restore_with_litestream,
};
pub use nats::NatsServer;
pub use packages::install_openssh;
pub use s3::{S3Kind, S3Server};
pub use sftp::{SftpKind, SftpServer};
pub use sts::StsServer;
pub use webdav::{WebdavKind, WebdavServer};
