//! Links that lead to a file or heading that is there, and commands that exist.
//!
//! Links to other sites are not followed: a check must not fail because the network does.

use std::fs;
use std::path::Path;

use super::markdown::Document;

/// One sentence for each link that leads nowhere.
pub(super) fn check(document: &Document, root: &Path) -> Vec<String> {
    let folder = document.path.parent().unwrap_or(root);
    let mut problems = Vec::new();
    for (line, link) in &document.links {
        if link.contains("://") || link.starts_with("mailto:") {
            continue;
        }
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let nowhere = match file {
            "" => !document.anchors.iter().any(|found| found == anchor),
            file => !leads_somewhere(&folder.join(file), anchor),
        };
        if nowhere {
            let place = document.path.display();
            problems.push(format!("{place}:{line}: the link {link:?} leads nowhere"));
        }
    }
    problems
}

fn leads_somewhere(target: &Path, anchor: &str) -> bool {
    if anchor.is_empty() {
        return target.exists();
    }
    let Ok(text) = fs::read_to_string(target) else {
        return false;
    };
    Document::new(target.to_path_buf(), &text)
        .anchors
        .iter()
        .any(|found| found == anchor)
}

/// One sentence for each `cargo xtask …` in code that names no task.
pub(super) fn check_commands(document: &Document, tasks: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    for (line, code) in &document.code {
        for rest in code.split("cargo xtask ").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            let task = &rest[..end.unwrap_or(rest.len())];
            let known = task.is_empty() || task == "help" || tasks.iter().any(|t| t == task);
            if !known {
                let place = document.path.display();
                problems.push(format!(
                    "{place}:{line}: there is no task `cargo xtask {task}`"
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document::new(evertide_testkit::checkout_root().join("README.md"), text)
    }

    #[test]
    fn a_link_to_nowhere_is_found_and_a_good_one_is_not() {
        let root = evertide_testkit::checkout_root();
        let text = "# Here\n[a](Cargo.toml) [b](#here) [c](https://example.org/nowhere)";
        assert!(check(&document(text), &root).is_empty());
        let found = check(&document("[a](no-such.md)\n[b](#no-such)"), &root);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("README.md:1"), "{found:?}");
    }

    #[test]
    fn a_task_that_does_not_exist_is_found() {
        let tasks = ["test".to_owned()];
        let text = "`cargo xtask test` `cargo xtask help`\n```\ncargo xtask tset --seconds 1\n```";
        let found = check_commands(&document(text), &tasks);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("cargo xtask tset"), "{found:?}");
    }
}
