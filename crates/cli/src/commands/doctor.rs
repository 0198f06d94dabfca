//! `evertide doctor`

use anyhow::bail;
use evertide_storage::{Ability, Examination, OsDisk, SystemClock, Verdict, examine};
use serde::Serialize;

use super::source::{Source, sources};
use crate::{args::DoctorArgs, failure::described, logs, output};

/// One replica, as it is shown.
#[derive(Serialize)]
struct Examined {
    replica: String,
    database: Option<String>,
    taken_for: Option<String>,
    works: bool,
    clock_ahead_ms: Option<i64>,
    checks: Vec<Check>,
}

/// One check, as it is shown.
#[derive(Serialize)]
struct Check {
    check: &'static str,
    outcome: &'static str,
    problem: Option<String>,
    meaning: Option<&'static str>,
}

#[derive(Serialize)]
struct Document<'a> {
    works: bool,
    replicas: &'a [Examined],
}

pub(crate) fn doctor(args: &DoctorArgs) -> anyhow::Result<()> {
    logs::start_quiet();
    let sources = sources(&args.source)?;
    let examined = super::block_on(async {
        let mut examined = Vec::with_capacity(sources.len());
        for source in &sources {
            let client = source.client.as_ref();
            let found = examine(&source.destination, client, &OsDisk, &SystemClock).await;
            examined.push(Examined::new(source, &found));
        }
        Ok(examined)
    })?;
    let bad = examined.iter().filter(|one| !one.works).count();
    if args.json {
        output::json(&Document {
            works: bad == 0,
            replicas: &examined,
        })?;
    } else {
        examined.iter().try_for_each(print)?;
    }
    match (bad, examined.len()) {
        (0, 0) => bail!("the settings have no replica to examine: add one"),
        (0, _) => Ok(()),
        (1, 1) => bail!("the destination cannot do all that is needed"),
        (bad, all) => bail!("{bad} of {all} destinations cannot do all that is needed"),
    }
}

impl Examined {
    fn new(source: &Source, found: &Examination) -> Self {
        let checks = found.verdicts.iter();
        Self {
            replica: source.label(),
            database: source
                .database
                .as_ref()
                .map(|path| path.display().to_string()),
            taken_for: source.destination.taken_for(),
            works: found.works(),
            clock_ahead_ms: found.clock_ahead_ms,
            checks: checks
                .map(|(ability, verdict)| Check::new(*ability, verdict))
                .collect(),
        }
    }
}

impl Check {
    fn new(ability: Ability, verdict: &Verdict) -> Self {
        let (outcome, problem) = match verdict {
            Verdict::Works => ("works", None),
            Verdict::Fails(error) => ("fails", Some(described(error))),
            Verdict::Ignored => (
                "ignored",
                Some("the store took a condition and ignored it".into()),
            ),
            Verdict::Skewed => {
                let problem =
                    "the store's clock and this machine's differ by more than five minutes";
                ("skewed", Some(problem.into()))
            }
            Verdict::NotPromised => ("not_promised", None),
            _ => ("untried", None),
        };
        let (check, fails, not_promised) = texts(ability);
        let meaning = match verdict {
            Verdict::Works | Verdict::Untried => None,
            Verdict::NotPromised => Some(not_promised),
            _ => Some(fails),
        };
        Self {
            check,
            outcome,
            problem,
            meaning,
        }
    }
}

/// What an ability is called, and what it means that it fails, or is not promised.
fn texts(ability: Ability) -> (&'static str, &'static str, &'static str) {
    match ability {
        Ability::List => (
            "list",
            "Nothing can be restored, and no replication begins. Check that the destination can be reached, and allow \
             to list (S3: s3:ListBucket).",
            "",
        ),
        Ability::Put => (
            "put",
            "Nothing can be replicated; restores do without. Allow to store (S3: s3:PutObject; a directory: write).",
            "",
        ),
        Ability::Get => (
            "get",
            "Nothing can be restored, and no replication begins. Allow to read (S3: s3:GetObject, and s3:ListBucket, \
             without which what is not there is refused).",
            "",
        ),
        Ability::ConditionalCreate => (
            "conditional create",
            "Two processes that write to this replica could replace each other's files. If the store does not honour \
             If-None-Match, set conditional_writes to false, and see to it that only one writes.",
            "The lease alone keeps two processes from writing to this replica at a time: see to it that only one does.",
        ),
        Ability::CompareAndSet => (
            "compare and set",
            "Two processes could take the lease of this replica at the same moment. If the store does not honour \
             If-Match, set conditional_writes to false, and see to it that only one writes.",
            "The lease is kept by reading before writing, which is best effort: see to it that only one process writes.",
        ),
        Ability::Clock => (
            "clock",
            "Services refuse signatures of another time, and leases and points in time are not what they seem. Have a \
             time server set both clocks.",
            "The store tells no time to compare with.",
        ),
        Ability::Delete => (
            "delete",
            "What is compacted or older than the retention stays, and the replica grows for ever; uploads and restores \
             go on. Allow to delete (S3: s3:DeleteObject).",
            "",
        ),
        _ => ("something", "", ""),
    }
}

fn print(examined: &Examined) -> anyhow::Result<()> {
    let verdict = match examined.works {
        true => "can do all that is needed",
        false => "cannot do all that is needed",
    };
    output::line(format!("{} {verdict}", examined.replica))?;
    if let Some(provider) = &examined.taken_for {
        output::line(format!("  {:<12}  {provider}", "taken for"))?;
    }
    for check in &examined.checks {
        let outcome = match check.outcome {
            "not_promised" => "not promised",
            outcome => outcome,
        };
        let ahead = examined.clock_ahead_ms.filter(|_| check.check == "clock");
        let ahead = ahead.map_or_else(String::new, |ms| match ms {
            0 => " (right)".to_owned(),
            1.. => format!(" (the store's is {ms} ms ahead)"),
            _ => format!(" (the store's is {} ms behind)", ms.unsigned_abs()),
        });
        let problem = check.problem.as_deref();
        let problem = problem.map_or_else(String::new, |problem| format!(": {problem}"));
        output::line(format!("  {outcome:<12}  {}{ahead}{problem}", check.check))?;
        if let Some(meaning) = check.meaning {
            output::line(format!("                {meaning}"))?;
        }
    }
    Ok(())
}
