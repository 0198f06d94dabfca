//! As much of Markdown as the checks need: headings, links, inline code and code blocks.

use std::path::PathBuf;

/// What a Markdown file says, with line numbers.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) path: PathBuf,
    /// Anchors of its headings, as they are made on the usual hosts.
    pub(super) anchors: Vec<String>,
    /// Targets of links.
    pub(super) links: Vec<(usize, String)>,
    /// Inline code, and the lines of code blocks.
    pub(super) code: Vec<(usize, String)>,
}

impl Document {
    pub(super) fn new(path: PathBuf, text: &str) -> Self {
        let mut document = Self {
            path,
            anchors: Vec::new(),
            links: Vec::new(),
            code: Vec::new(),
        };
        let mut fenced = false;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            } else if fenced {
                document.code.push((number, line.trim().to_owned()));
            } else {
                document.add_prose(number, line);
            }
        }
        document
    }

    fn add_prose(&mut self, number: usize, line: &str) {
        if let Some(heading) = line.strip_prefix('#') {
            self.anchors
                .push(anchor(heading.trim_start_matches('#').trim()));
        }
        // Every second part is between backticks.
        let mut prose = String::new();
        for (index, part) in line.split('`').enumerate() {
            if index % 2 == 1 {
                self.code.push((number, part.to_owned()));
            } else {
                prose.push_str(part);
            }
        }
        for part in prose.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                self.links.push((number, target.to_owned()));
            }
        }
    }
}

/// Lower case, spaces to hyphens, punctuation dropped.
fn anchor(heading: &str) -> String {
    heading
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| {
            if c == ' ' {
                '-'
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_links_and_code_are_found_and_code_blocks_hide_links() {
        let text = "# Two words, one `code`\nsee [this](a.md#b) and `x y`\n```sh\n[no](b)\n```\n";
        let document = Document::new(PathBuf::new(), text);
        assert_eq!(document.anchors, ["two-words-one-code"]);
        assert_eq!(document.links, [(2, "a.md#b".to_owned())]);
        let code: Vec<_> = document
            .code
            .iter()
            .map(|(line, code)| (*line, &**code))
            .collect();
        assert_eq!(code, [(1, "code"), (2, "x y"), (4, "[no](b)")]);
    }
}
