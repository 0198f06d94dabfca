//! Whether the documents tell the truth about the checkout.

mod invariants;
mod links;
mod markdown;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use evertide_testkit::checkout_root;

use crate::steps::Tally;
use markdown::Document;

#[cfg(test)]
pub(crate) use invariants::tests_of;

/// Checks every Markdown file of the checkout that is ours.
pub(crate) fn check() -> Result<Tally> {
    let root = checkout_root();
    let documents = documents(&root)?;
    let mut problems = Vec::new();
    for document in &documents {
        problems.extend(links::check(document, &root));
        problems.extend(links::check_commands(document, &crate::task_names()));
    }
    let named = invariants::check(&root, &documents, &mut problems)?;
    for problem in &problems {
        println!("{problem}");
    }
    println!(
        "{} documents, {named} tests named in docs/invariants.md",
        documents.len()
    );
    Ok(Tally {
        passed: documents.len() as u64,
        failed: problems.len() as u64,
        skipped: 0,
    })
}

fn documents(root: &Path) -> Result<Vec<Document>> {
    let mut paths = Vec::new();
    collect(root, "md", &mut paths)?;
    paths
        .into_iter()
        .map(|path| {
            let text =
                fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            Ok(Document::new(path, &text))
        })
        .collect()
}

/// Every file with this extension, except below hidden folders and what cargo builds.
pub(crate) fn collect(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.starts_with('.') || name == "target" || name == "node_modules" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(&path, extension, found)?;
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}
