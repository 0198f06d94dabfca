//! docs/invariants.md names the tests that prove each promise; they have to exist.
//!
//! A test is named in inline code, alone (`a_sentence_with_underscores`) or behind the path of its
//! file or module.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::markdown::Document;

/// Adds a problem for each named test that is nowhere; returns how many are named.
pub(super) fn check(
    root: &Path,
    documents: &[Document],
    problems: &mut Vec<String>,
) -> Result<usize> {
    let path = root.join("docs/invariants.md");
    let Some(document) = documents.iter().find(|document| document.path == path) else {
        problems.push(format!("{} is missing", path.display()));
        return Ok(0);
    };
    let tests = tests_of(root)?;
    let named: Vec<_> = document
        .code
        .iter()
        .filter_map(|(line, code)| Some((line, test_name(code)?)))
        .collect();
    for (line, name) in &named {
        if !tests.contains(*name) {
            problems.push(format!(
                "{}:{line}: there is no test {name}",
                path.display()
            ));
        }
    }
    if named.is_empty() {
        problems.push(format!("{} names no test", path.display()));
    }
    Ok(named.len())
}

/// The last part of a path, when it reads like a sentence.
fn test_name(code: &str) -> Option<&str> {
    let name = code.rsplit("::").next()?;
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let sentence = name.matches('_').count() >= 2 && name.chars().all(word);
    sentence.then_some(name)
}

/// The names of all functions below a `#[test]`, `#[tokio::test]` or the like.
pub(crate) fn tests_of(root: &Path) -> Result<BTreeSet<String>> {
    let mut files = Vec::new();
    super::collect(root, "rs", &mut files)?;
    let mut tests = BTreeSet::new();
    for file in files {
        let text =
            fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        tests.extend(tests_in(&text));
    }
    Ok(tests)
}

fn tests_in(text: &str) -> Vec<String> {
    let mut tests = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            is_test |= line.contains("test]") || line.contains("test(");
        } else if let Some((_, rest)) = line.split_once("fn ") {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            if is_test {
                tests.push(rest[..end.unwrap_or(rest.len())].to_owned());
            }
            is_test = false;
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_told_from_other_functions() {
        let text = "fn helper() {}\n#[test]\n#[ignore]\nfn one_of_them() {}\n\
                    #[tokio::test(flavor = \"multi_thread\")]\nasync fn another_of_them() {}\n\
                    fn no_test_here() {}";
        assert_eq!(tests_in(text), ["one_of_them", "another_of_them"]);
    }

    #[test]
    fn a_sentence_in_code_is_a_test_and_other_code_is_not() {
        assert_eq!(test_name("engine::capture::a_b_c"), Some("a_b_c"));
        assert_eq!(test_name("wal_autocheckpoint"), None);
        assert_eq!(test_name("a_b_c.rs"), None);
        assert_eq!(test_name("BEGIN IMMEDIATE"), None);
    }
}
