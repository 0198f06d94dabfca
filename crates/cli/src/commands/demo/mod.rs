//! `evertide demo`: the whole story on local files, told in plain words with real numbers.

mod app;
mod client;
mod litestream;
mod process;
mod traffic;
mod verify;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, bail};
use evertide::{CONFIG_SCOPE, RestoreOptions};
use evertide_ltx::Level;
use evertide_server::settings::parse_toml;
use evertide_storage::{Destination, Disk, OsDisk};
use evertide_vault::{AgeKeyFile, ConfigFormat, SecureConfigStore};
use tempfile::TempDir;

pub(crate) use self::app::demo_app;
use self::{process::Application, traffic::Confirmed};
use crate::{args::DemoArgs, output};

pub(crate) fn demo(args: &DemoArgs) -> anyhow::Result<()> {
    let place = Place::new(args.dir.as_deref())?;
    super::block_on(async {
        tokio::select! {
            told = tell(&place) => told,
            signal = super::ended_by_signal() => Err(signal?),
        }
    })?;
    place.leave()
}

/// Where the demo happens.
struct Place {
    root: PathBuf,
    /// Deleted at the end, however that comes, unless the user named the directory.
    temporary: Option<TempDir>,
}

impl Place {
    fn new(given: Option<&Path>) -> anyhow::Result<Self> {
        let Some(given) = given else {
            let temporary = tempfile::Builder::new().prefix("evertide-demo-").tempdir();
            let temporary = temporary.context("cannot make a temporary directory")?;
            return Ok(Self {
                root: temporary.path().to_owned(),
                temporary: Some(temporary),
            });
        };
        let root = std::path::absolute(given).context("cannot find the working directory")?;
        let context = || format!("cannot use {} for the demo", root.display());
        OsDisk.create_dir_all(&root, 0o755).with_context(context)?;
        if !OsDisk.read_dir(&root).with_context(context)?.is_empty() {
            bail!(
                "{} is not empty: give a directory that is empty or does not exist",
                root.display()
            );
        }
        Ok(Self {
            root,
            temporary: None,
        })
    }

    fn key(&self) -> PathBuf {
        self.root.join("age.key")
    }

    fn replica(&self) -> PathBuf {
        self.root.join("replica")
    }

    /// A directory that stands for a machine.
    fn machine(&self, name: &str) -> anyhow::Result<TempDir> {
        let machine = tempfile::Builder::new()
            .prefix(name)
            .rand_bytes(0)
            .tempdir_in(&self.root);
        machine.with_context(|| format!("cannot make a directory in {}", self.root.display()))
    }

    fn leave(self) -> anyhow::Result<()> {
        match self.temporary {
            Some(_) => say(0, "Everything the demo made is deleted again."),
            None => say(
                0,
                &format!("What the demo made is in {}.", self.root.display()),
            ),
        }
    }
}

/// Says something; step 0 is the frame of the story.
fn say(step: u8, text: &str) -> anyhow::Result<()> {
    if step == 0 {
        output::line(format!("\n{text}"))
    } else {
        output::line(format!("\n{step}. {text}"))
    }
}

fn tell_more(text: impl AsRef<str>) -> anyhow::Result<()> {
    output::line(format!("   {}", text.as_ref()))
}

/// A number with separators: `12,345`.
fn number(value: usize) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

async fn tell(place: &Place) -> anyhow::Result<()> {
    let begun = Instant::now();
    output::line(format!(
        "Evertide, from start to finish, in {}",
        place.root.display()
    ))?;
    let machine = place.machine("machine")?;
    let database = machine.path().join("app.db");
    make_key(place)?;
    store_settings(place, &database)?;
    let application = start(place, &database).await?;
    let mut confirmed = use_it(place, &application).await?;
    lose_the_machine(application, machine, &mut confirmed).await?;
    let new_machine = place.machine("new-machine")?;
    let restored = new_machine.path().join("app.db");
    restore(place, &restored).await?;
    check(&restored, &confirmed)?;
    compare_with_litestream(place, &restored).await?;
    go_on(place, &restored, &mut confirmed).await?;
    if place.temporary.is_none() {
        // The user wants to look at it.
        let _ = new_machine.keep();
    }
    say(
        0,
        &format!(
            "Done in {}: nothing that was confirmed as replicated was lost.",
            output::duration(begun.elapsed())
        ),
    )
}

fn make_key(place: &Place) -> anyhow::Result<()> {
    say(
        1,
        "A key, with which settings are encrypted (evertide keygen)",
    )?;
    let public_key = AgeKeyFile::new(place.key()).generate()?;
    tell_more(format!("{} for {public_key}", place.key().display()))
}

fn store_settings(place: &Place, database: &Path) -> anyhow::Result<()> {
    say(
        2,
        "Settings, encrypted in the application's own database (evertide insert-config)",
    )?;
    let text = filled_in(evertide_server::blueprint(), &place.replica())?;
    let settings =
        parse_toml(&text).map_err(|errors| crate::settings::mistakes("the blueprint", &errors))?;
    let store = SecureConfigStore::create(database, AgeKeyFile::new(place.key()))?;
    let saved = store.save(
        CONFIG_SCOPE,
        text.as_bytes(),
        &ConfigFormat::Toml,
        Some("demo"),
    )?;
    for replica in settings.replicas {
        tell_more(format!("replica {}: {}", replica.name, replica.destination))?;
    }
    tell_more(format!(
        "{} of TOML, {} encrypted, in table app_config of {}",
        output::bytes(text.len() as u64),
        output::bytes(saved.info.stored_bytes),
        database.display()
    ))
}

/// The blueprint with its one placeholder replaced, as a user would in an editor, and with a lease that
/// lets the new machine go on at once: the usual one makes it wait two minutes for the lost one.
fn filled_in(blueprint: &str, replica: &Path) -> anyhow::Result<String> {
    let path = toml::Value::from(replica.display().to_string());
    let mut found = false;
    let lines: Vec<_> = blueprint
        .lines()
        .map(|line| match line.strip_prefix("file_path") {
            Some(_) => {
                found = true;
                format!("file_path = {path}")
            }
            None if line.starts_with("#lease_duration") => "lease_duration = \"1s\"".to_owned(),
            None => line.to_owned(),
        })
        .collect();
    if !found {
        bail!("the blueprint has no `file_path` to fill in");
    }
    Ok(lines.join("\n") + "\n")
}

async fn start(place: &Place, database: &Path) -> anyhow::Result<Application> {
    say(
        3,
        "A web application with its backup inside: one process, no other program",
    )?;
    let began = Instant::now();
    let application = Application::start(database, &place.key()).await?;
    tell_more(format!(
        "process {} serves http://{} after {}",
        application.pid,
        application.address,
        output::duration(began.elapsed())
    ))?;
    Ok(application)
}

async fn use_it(place: &Place, application: &Application) -> anyhow::Result<Confirmed> {
    say(4, "Customers place orders")?;
    let address = application.address;
    let mut confirmed = Confirmed::default();
    let lags = traffic::one_by_one(address, 100, &mut confirmed).await?;
    tell_more(format!(
        "100 orders, each answered when it was on the replica: {} after its commit in the median, \
         {} at worst",
        output::duration(lags.median),
        output::duration(lags.worst)
    ))?;
    let burst = traffic::burst(address, std::time::Duration::from_secs(1), &mut confirmed).await?;
    tell_more(format!(
        "{} orders in {} from {} customers who do not wait for the replica",
        number(burst.orders),
        output::duration(burst.took),
        burst.customers
    ))?;
    let status = client::Client::connect(address).await?.backup().await?;
    let (files, bytes) = contents(&place.replica()).await?;
    tell_more(format!(
        "the database has {}; the replica has {} with {}",
        output::bytes(status.database_bytes),
        output::count(files, "file"),
        output::bytes(bytes)
    ))?;
    Ok(confirmed)
}

/// Files on a replica, and their bytes.
async fn contents(replica: &Path) -> anyhow::Result<(u64, u64)> {
    let client = Destination::file(replica)?.connect(std::sync::Arc::new(OsDisk))?;
    let (mut files, mut bytes) = (0, 0);
    for level in Level::all() {
        for object in client.list(level, None).await? {
            files += 1;
            bytes += object.size;
        }
    }
    Ok((files, bytes))
}

async fn lose_the_machine(
    application: Application,
    machine: TempDir,
    confirmed: &mut Confirmed,
) -> anyhow::Result<()> {
    say(5, "The machine is lost, in the middle of writes")?;
    let pid = application.pid;
    let cut_short = traffic::until_killed(application, confirmed).await?;
    tell_more(format!(
        "process {pid} killed with SIGKILL; {} never got their answers",
        output::count(cut_short as u64, "customer")
    ))?;
    let path = machine.path().to_owned();
    machine
        .close()
        .with_context(|| format!("cannot delete {}", path.display()))?;
    tell_more(format!(
        "{} deleted: database, WAL, everything",
        path.display()
    ))?;
    tell_more(format!(
        "confirmed until then: {} orders as replicated, {} without waiting for that",
        number(confirmed.durable.len()),
        number(confirmed.others.len())
    ))
}

async fn restore(place: &Place, output_path: &Path) -> anyhow::Result<()> {
    say(
        6,
        "Another machine gets the database back (evertide restore)",
    )?;
    let client = Destination::file(place.replica())?.connect(std::sync::Arc::new(OsDisk))?;
    let mut options = RestoreOptions::new(client, output_path);
    options.integrity_check = evertide::IntegrityCheck::Full;
    let report = evertide::restore(options).await?;
    tell_more(format!(
        "{} with {} read, a database of {} written and checked, in {}",
        output::count(report.files, "file"),
        output::bytes(report.bytes),
        output::bytes(report.database_bytes),
        output::duration(report.duration)
    ))
}

fn check(restored: &Path, confirmed: &Confirmed) -> anyhow::Result<()> {
    say(7, "Is everything there?")?;
    let found = verify::verify(restored, confirmed)?;
    tell_more("PRAGMA integrity_check: ok")?;
    tell_more(format!(
        "all {} orders that were confirmed as replicated are there, word for word",
        number(found.durable)
    ))?;
    let lost = found.others_missing;
    tell_more(format!(
        "of the {} that did not wait, {}",
        number(found.others + lost),
        match lost {
            0 => "all are there too".to_owned(),
            _ => format!(
                "{} are there; the last {} were too young",
                number(found.others),
                number(lost)
            ),
        }
    ))
}

async fn compare_with_litestream(place: &Place, restored: &Path) -> anyhow::Result<()> {
    let Some(program) = litestream::find() else {
        return Ok(());
    };
    let output_path = place.root.join("litestream.db");
    let took = litestream::restore(&program, &place.replica(), &output_path).await?;
    verify::same_orders(restored, &output_path)?;
    tell_more(format!(
        "the official litestream restores the same orders from the same replica, in {}",
        output::duration(took)
    ))
}

async fn go_on(place: &Place, restored: &Path, confirmed: &mut Confirmed) -> anyhow::Result<()> {
    say(
        8,
        "The application goes on where it was, with the settings that were restored with it",
    )?;
    let application = Application::start(restored, &place.key()).await?;
    let lags = traffic::one_by_one(application.address, 10, confirmed).await?;
    let (files, _) = contents(&place.replica()).await?;
    tell_more(format!(
        "process {}: 10 more orders on the replica, {} after the commit in the median; {} there \
         now",
        application.pid,
        output::duration(lags.median),
        output::count(files, "file")
    ))?;
    application.terminate().await?;
    verify::verify(restored, confirmed)?;
    tell_more("ended with SIGTERM, in order")
}
