//! `evertide verify`

use anyhow::bail;
use evertide::{
    Finding, ProvenRestore, Severity, VerifiedV3, VerifyDepth, VerifyOptions, VerifyReport,
};
use evertide_ltx::Txid;
use serde::Serialize;

use super::source::{Source, sources};
use crate::{
    args::VerifyArgs,
    failure::described,
    logs, output,
    progress::{RestoreBar, Show},
};

/// What has become of one replica.
struct Verified {
    source: Source,
    outcome: anyhow::Result<VerifyReport>,
}

impl Verified {
    fn is_sound(&self) -> bool {
        self.outcome.as_ref().is_ok_and(VerifyReport::is_sound)
    }
}

pub(crate) fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    logs::start_quiet();
    let sources = sources(&args.source)?;
    let depth = if args.deep {
        VerifyDepth::Restore
    } else {
        VerifyDepth::Files
    };
    let verified = super::block_on(async {
        tokio::select! {
            done = verify_all(sources, depth) => Ok(done),
            signal = super::ended_by_signal() => Err(signal?),
        }
    })?;
    if args.json {
        output::json(&Document::new(&verified))?;
    } else {
        verified.iter().try_for_each(print)?;
    }
    match verified.iter().filter(|one| !one.is_sound()).count() {
        0 if verified.is_empty() => bail!("the settings have no replica to verify: add one"),
        0 => Ok(()),
        1 if verified.len() == 1 => bail!("the replica is not sound"),
        bad => bail!("{bad} of {} replicas are not sound", verified.len()),
    }
}

/// One after the other: each uses all the connections it is allowed.
async fn verify_all(sources: Vec<Source>, depth: VerifyDepth) -> Vec<Verified> {
    let mut all = Vec::with_capacity(sources.len());
    for source in sources {
        let bar = RestoreBar::new(Show::OnTerminal);
        let watched = bar.clone();
        let mut options = VerifyOptions::new(source.client.clone());
        options.depth = depth;
        let options = options.on_progress(move |progress| watched.verifying(progress));
        let outcome = evertide::verify(options).await.map_err(anyhow::Error::from);
        bar.end();
        all.push(Verified { source, outcome });
    }
    all
}

fn print(verified: &Verified) -> anyhow::Result<()> {
    let label = verified.source.label();
    let report = match &verified.outcome {
        Ok(report) => report,
        Err(error) => {
            let why = described(error.as_ref());
            return output::line(format!("{label} cannot be verified: {why}"));
        }
    };
    for finding in &report.findings {
        let kind = severity(finding);
        output::line(format!("{kind}: {}: {}", finding.object, finding.problem))?;
        output::line(format!("    {}", finding.meaning))?;
    }
    let verdict = match report.problems().count() {
        0 => "is sound".to_owned(),
        problems => format!(
            "is not sound, {}",
            output::count(problems as u64, "problem")
        ),
    };
    let read = format!(
        "{} with {} read in {}",
        output::count(report.files, "file"),
        output::bytes(report.bytes),
        output::duration(report.duration)
    );
    let restorable = match report.created {
        Some(created) => format!(
            "{} can be restored, {} of them with the checksum recorded at capture, the newest is \
             transaction {} of {}",
            output::count(report.states, "state"),
            report.proven,
            report.txid,
            output::time(created)
        ),
        None if report.v3.is_some() => "nothing of it is in the format of today".to_owned(),
        None => "nothing can be restored".to_owned(),
    };
    let old = report.v3.map_or_else(String::new, |old| {
        format!(
            "; of Litestream 0.3 there are {} with {} in {}, the newest of {}",
            output::count(old.files, "file"),
            output::bytes(old.bytes),
            output::count(old.generations, "generation"),
            output::time(old.newest)
        )
    });
    let restored = report
        .restored
        .as_ref()
        .map_or_else(String::new, |restored| {
            let state = match restored.txid {
                Txid::ZERO => "the newest state".to_owned(), // of Litestream 0.3
                txid => format!("transaction {txid}"),
            };
            format!(
                "; {state} was restored, a database of {}, and SQLite found nothing wrong with it",
                output::bytes(restored.database_bytes)
            )
        });
    output::line(format!(
        "{label} {verdict}: {read}; {restorable}{old}{restored}"
    ))
}

fn severity(finding: &Finding) -> &'static str {
    match finding.kind.severity() {
        Severity::Problem => "problem",
        Severity::Note => "note",
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    sound: bool,
    replicas: Vec<Replica<'a>>,
}

#[derive(Serialize)]
struct Replica<'a> {
    replica: String,
    database: Option<String>,
    sound: bool,
    error: Option<String>,
    #[serde(flatten)]
    report: Option<Report<'a>>,
}

#[derive(Serialize)]
struct Report<'a> {
    txid: String,
    timestamp: Option<String>,
    states: u64,
    proven: u64,
    files: u64,
    bytes: u64,
    page_size: Option<u32>,
    pages: u32,
    database_checksum: Option<String>,
    litestream_v3: Option<Old>,
    restored: Option<Restored>,
    duration_ms: u128,
    findings: Vec<Found<'a>>,
}

#[derive(Serialize)]
struct Old {
    files: u64,
    bytes: u64,
    generations: u64,
    timestamp: String,
}

#[derive(Serialize)]
struct Restored {
    txid: String,
    database_bytes: u64,
    database_checksum: String,
    duration_ms: u128,
}

#[derive(Serialize)]
struct Found<'a> {
    severity: &'a str,
    kind: &'a str,
    object: &'a str,
    problem: &'a str,
    meaning: &'a str,
}

impl<'a> Document<'a> {
    fn new(verified: &'a [Verified]) -> Self {
        Self {
            sound: !verified.is_empty() && verified.iter().all(Verified::is_sound),
            replicas: verified.iter().map(Replica::new).collect(),
        }
    }
}

impl<'a> Replica<'a> {
    fn new(verified: &'a Verified) -> Self {
        let source = &verified.source;
        let name = source.name.clone();
        let database = source.database.as_ref();
        Self {
            replica: name.unwrap_or_else(|| source.client.location()),
            database: database.map(|path| path.display().to_string()),
            sound: verified.is_sound(),
            error: verified
                .outcome
                .as_ref()
                .err()
                .map(|error| described(error.as_ref())),
            report: verified.outcome.as_ref().ok().map(Report::new),
        }
    }
}

impl<'a> Report<'a> {
    fn new(report: &'a VerifyReport) -> Self {
        let found = |finding: &'a Finding| Found {
            severity: severity(finding),
            kind: finding.kind.as_str(),
            object: &finding.object,
            problem: &finding.problem,
            meaning: &finding.meaning,
        };
        Self {
            txid: report.txid.to_string(),
            timestamp: report.created.map(output::time),
            states: report.states,
            proven: report.proven,
            files: report.files,
            bytes: report.bytes,
            page_size: report.page_size.map(|size| size.get()),
            pages: report.pages,
            database_checksum: report.database_checksum.map(|sum| format!("{sum:016x}")),
            litestream_v3: report.v3.as_ref().map(Old::new),
            restored: report.restored.as_ref().map(Restored::new),
            duration_ms: report.duration.as_millis(),
            findings: report.findings.iter().map(found).collect(),
        }
    }
}

impl Old {
    fn new(old: &VerifiedV3) -> Self {
        Self {
            files: old.files,
            bytes: old.bytes,
            generations: old.generations,
            timestamp: output::time(old.newest),
        }
    }
}

impl Restored {
    fn new(restored: &ProvenRestore) -> Self {
        Self {
            txid: restored.txid.to_string(),
            database_bytes: restored.database_bytes,
            database_checksum: format!("{:016x}", restored.database_checksum),
            duration_ms: restored.duration.as_millis(),
        }
    }
}
