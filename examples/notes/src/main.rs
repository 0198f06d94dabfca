//! A web application that backs up its own database. All that is about the backup is marked.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use evertide_server::{BackupDaemon, Server};
use evertide_vault::AgeKeyFile;
use notes::Notes;

/// A page of notes, backed up with every commit.
#[derive(Debug, Parser)]
struct Args {
    /// The database of notes; its backup settings are stored in it
    #[arg(long, default_value = "notes.db")]
    db: PathBuf,
    /// The age identity that decrypts the settings
    #[arg(long, default_value = "age.key")]
    age_key: PathBuf,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();

    // Backup: its settings come, encrypted, from the database itself.
    let key = AgeKeyFile::new(args.age_key);
    let backup = BackupDaemon::from_store(&args.db, key, evertide::CONFIG_SCOPE).await?;

    // The application. It gets a handle to ask how the backup is doing.
    let router = notes::router(Notes::open(&args.db)?, backup.replication());

    // Backup: started before the first request, stopped after the last one.
    Server::new(router)
        .listen(args.listen)
        .add_daemon(backup)
        .run()
        .await?;
    Ok(())
}
