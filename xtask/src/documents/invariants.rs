//! docs/invariants.md says what holds each promise and each trap, and names the tests that do; they have to exist, and to
//! be run.
//!
//! A test is named in inline code, alone (`a_sentence_with_underscores`) or behind the path of its
//! file or module.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::markdown::Document;

/// How many promises and traps there are: with a new one this grows, and none goes unnoticed.
const PROMISES: usize = 11;
const TRAPS: usize = 42;

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
    let lines: Vec<usize> = named.iter().map(|(line, _)| **line).collect();
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    for (line, title) in without_a_test(&text, &lines) {
        problems.push(format!("{}:{line}: no test holds {title}", path.display()));
    }
    for (line, title) in without_a_mechanism(&text) {
        let path = path.display();
        problems.push(format!(
            "{path}:{line}: fewer than two sentences say what holds {title}"
        ));
    }
    let wrong = misnumbered(&text, PROMISES, TRAPS).into_iter();
    problems.extend(wrong.map(|wrong| format!("{}: {wrong}", path.display())));
    Ok(named.len())
}

/// The promises (`## 1. Never..`) and traps (`- **T1, ..`) of a text: for each the line, the title, and the line where the
/// next heading or trap is.
fn items(text: &str) -> Vec<(usize, &str, usize)> {
    let mut items: Vec<(usize, Option<&str>)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let heading = line.strip_prefix("## ");
        let promise = heading.filter(|title| number(title).is_some());
        let trap = trap(line).map(|_| line);
        if heading.is_some() || trap.is_some() {
            items.push((index + 1, promise.or(trap)));
        }
    }
    let ends = items.iter().skip(1).map(|(line, _)| *line);
    let ends = ends.chain([usize::MAX]);
    let spans = items.iter().zip(ends);
    spans
        .filter_map(|((line, title), end)| title.map(|title| (*line, title, end)))
        .collect()
}

/// Those that none of the tests is named for that are on these lines.
fn without_a_test<'a>(text: &'a str, named: &[usize]) -> Vec<(usize, &'a str)> {
    let is_held = |from, end| named.iter().any(|named| (from..end).contains(named));
    let missing = items(text).into_iter();
    missing
        .filter(|(line, _, end)| !is_held(*line, *end))
        .map(|(line, title, _)| (line, title))
        .collect()
}

/// Those of which less is said than two sentences, the mechanism: of a promise between its title and its list of tests,
/// of a trap between its title and the first test.
fn without_a_mechanism(text: &str) -> Vec<(usize, &str)> {
    let said = |(line, title, end): &(usize, &str, usize)| {
        let lines = text.lines().skip(*line).take(end - line - 1);
        let is_promise = !title.starts_with("- ");
        let own: Vec<&str> = lines
            .take_while(|line| !(is_promise && line.starts_with("- ")))
            .collect();
        let behind_title = title.rsplit_once("**").filter(|_| !is_promise);
        let behind_title = behind_title.map_or("", |(_, rest)| rest);
        sentences(&format!("{behind_title} {}", own.join(" "))) >= 2
    };
    let missing = items(text).into_iter().filter(|item| !said(item));
    missing.map(|(line, title, _)| (line, title)).collect()
}

/// How many sentences there are before the first test that is named. What is in code ends none, and is one word.
fn sentences(text: &str) -> usize {
    /// Fewer words are none, or only lead to a name.
    const WORDS: usize = 3;
    let parts = text.split('`').enumerate();
    let before = parts.take_while(|(at, part)| at % 2 == 0 || test_name(part).is_none());
    let prose = before.map(|(at, part)| if at % 2 == 0 { part } else { "code" });
    let (mut sentences, mut words) = (0, 0);
    for word in prose.collect::<String>().split_whitespace() {
        words += usize::from(word.contains(char::is_alphabetic));
        let ends = word
            .trim_end_matches([')', '"', '*'])
            .ends_with(['.', '?', '!']);
        let abbreviates = ["e.g.", "i.e.", "etc.", "cf.", "vs."]
            .contains(&word.trim_start_matches('(').to_lowercase().as_str());
        if ends && !abbreviates {
            sentences += usize::from(words >= WORDS);
            words = 0;
        }
    }
    sentences
}

/// Which promises and traps are missing, there more than once, or not known: deleted with its tests, one would be
/// missed by nobody.
fn misnumbered(text: &str, promises: usize, traps: usize) -> Vec<String> {
    let headings = text.lines().filter_map(|line| line.strip_prefix("## "));
    let mut wrong = Vec::new();
    for (kind, found, expected) in [
        ("promise ", headings.filter_map(number).collect(), promises),
        ("trap T", text.lines().filter_map(trap).collect(), traps),
    ] {
        let found: Vec<usize> = found;
        for number in 1..=expected {
            match found.iter().filter(|found| **found == number).count() {
                0 => wrong.push(format!("{kind}{number} is missing")),
                1 => {}
                _ => wrong.push(format!("{kind}{number} is there more than once")),
            }
        }
        let unknown = found
            .iter()
            .filter(|found| !(1..=expected).contains(*found));
        wrong.extend(unknown.map(|number| format!("{kind}{number} is not counted in xtask")));
    }
    wrong
}

/// The number of the trap that begins with this line.
fn trap(line: &str) -> Option<usize> {
    number(line.strip_prefix("- **T")?)
}

/// The number that a text begins with.
fn number(text: &str) -> Option<usize> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    text.get(..end.unwrap_or(text.len()))?.parse().ok()
}

/// The last part of a path, when it reads like a sentence.
fn test_name(code: &str) -> Option<&str> {
    let name = code.rsplit("::").next()?;
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let sentence = name.matches('_').count() >= 2 && name.chars().all(word);
    sentence.then_some(name)
}

/// The names of all functions below a `#[test]`, `#[tokio::test]` or the like that every run calls, and the cases of the
/// suite for stores, of which a macro makes such functions.
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
    let (mut is_test, mut is_ignored, mut is_case) = (false, false, false);
    for line in text.lines().map(str::trim) {
        if line.starts_with("$crate::conformance!(@cases") {
            is_case = true;
        } else if is_case && line.starts_with(')') {
            is_case = false;
        } else if is_case {
            tests.push(line.to_owned());
        } else if line.starts_with("#[") {
            is_test |= line.contains("test]") || line.contains("test(");
            is_ignored |= line.starts_with("#[ignore");
        } else if let Some((_, rest)) = line.split_once("fn ") {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            if is_test && !is_ignored {
                tests.push(rest[..end.unwrap_or(rest.len())].to_owned());
            }
            (is_test, is_ignored) = (false, false);
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_told_from_other_functions() {
        let text = "fn helper() {}\n#[test]\n#[ignore = \"a process\"]\nfn that_nobody_calls() {}\n\
                    #[test]\nfn one_of_them() {}\n\
                    #[tokio::test(flavor = \"multi_thread\")]\nasync fn another_of_them() {}\n\
                    fn no_test_here() {}";
        assert_eq!(tests_in(text), ["one_of_them", "another_of_them"]);
        let text = "        $crate::conformance!(@cases $store;\n            of_two_one_wins\n        );\n    };\n\
                    fn no_test_here() {}";
        assert_eq!(tests_in(text), ["of_two_one_wins"]);
    }

    #[test]
    fn a_promise_or_trap_that_no_test_is_named_for_is_found() {
        let text = "# Title\n## 1. Held\n\n- `a_b_c`\n## 2. Not held\n\n## Traps\n- **T1, held.** `a_b_c`\n\
                    - **T2, not held.**\n  `a_b`\n- **T3, held.**\n  `a_b_c`\n";
        let missing = without_a_test(text, &[4, 8, 12]);
        assert_eq!(missing, [(5, "2. Not held"), (9, "- **T2, not held.**")]);
    }

    #[test]
    fn a_promise_or_trap_of_which_two_sentences_do_not_say_what_holds_it_is_found() {
        let text = "## 1. Held\n\nSomething sees to it. Nothing else does.\n\n- `a_b_c`\n\
                    ## 2. Not held\n\n- nobody says how. It is held. It is not said. `a_b_c`\n\
                    ## 3. Half held\n\nSomething sees to it, and nothing else does.\n\n- `a_b_c`\n\n## Traps\n\
                    - **T1, held (#1).** Something sees to it. Nothing else does. `a_b_c`\n\
                    - **T2, held.**\n  Something sees to it\n  (`a`). `b.c` does not. `a_b_c`\n\
                    - **T3, half held.**\n  Something sees to it.\n  `a_b_c`\n\
                    - **T4, not held.** `a_b_c`; `cargo xtask torture. Yes`,\n  `a_b_c`\n\
                    - **T5, not held, with a title. Of many words.**\n  `a_b_c`\n## More\n\nOf this. And that is all.\n";
        let missing = without_a_mechanism(text);
        let titles: Vec<_> = missing.iter().map(|(_, title)| &title[..5]).collect();
        let expected = ["2. No", "3. Ha", "- **T", "- **T", "- **T"];
        assert_eq!(titles, expected, "{missing:?}");
        let lines: Vec<_> = missing.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [6, 9, 20, 23, 25], "{missing:?}");
    }

    #[test]
    fn a_sentence_is_counted_by_its_end_and_not_by_every_period() {
        assert_eq!(sentences("A lock sees to it. It is held (see there)."), 2);
        assert_eq!(
            sentences("A lock sees to it (from 3.51.3 on, e.g. here), see [it](a.md#b)."),
            1
        );
        assert_eq!(sentences("A lock sees to it. Yes. (Now.)"), 1);
        assert_eq!(sentences("A lock sees to it, and `nothing. else` does"), 0);
        assert_eq!(
            sentences("A lock does it. `a_b_c`; what it leaves, is left. `d_e_f`"),
            1
        );
    }

    #[test]
    fn a_promise_or_trap_that_is_gone_is_missed() {
        let text = "## 1. One\n## Traps\n- **T1, one.**\n- **T2, two (T9).**\n## 2. Two\n";
        assert!(misnumbered(text, 2, 2).is_empty());
        let gone = text.replace("## 1. One\n", "").replace("T2, two", "two");
        assert_eq!(
            misnumbered(&gone, 2, 2),
            ["promise 1 is missing", "trap T2 is missing"]
        );
        let twice = text.replace("T2, two", "T1, two");
        assert_eq!(
            misnumbered(&twice, 2, 2),
            ["trap T1 is there more than once", "trap T2 is missing"]
        );
        let more = text.replace("2. Two", "3. Three");
        assert_eq!(
            misnumbered(&more, 2, 1),
            [
                "promise 2 is missing",
                "promise 3 is not counted in xtask",
                "trap T2 is not counted in xtask"
            ]
        );
    }

    #[test]
    fn a_sentence_in_code_is_a_test_and_other_code_is_not() {
        assert_eq!(test_name("engine::capture::a_b_c"), Some("a_b_c"));
        assert_eq!(test_name("wal_autocheckpoint"), None);
        assert_eq!(test_name("a_b_c.rs"), None);
        assert_eq!(test_name("BEGIN IMMEDIATE"), None);
    }
}
