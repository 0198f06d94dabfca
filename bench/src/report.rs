//! Samples, and what is printed of them.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::subject::Subject;

/// Which numbers are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Lower,
    Higher,
}

/// One measured quantity.
#[derive(Debug)]
struct Metric {
    name: String,
    unit: &'static str,
    better: Better,
    samples: Vec<(Subject, Vec<f64>)>,
}

/// Everything measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    metrics: Vec<Metric>,
}

impl Report {
    /// Adds one sample.
    pub(crate) fn add(
        &mut self,
        name: &str,
        unit: &'static str,
        better: Better,
        subject: Subject,
        value: f64,
    ) {
        let metric = match self.metrics.iter().position(|metric| metric.name == name) {
            Some(place) => &mut self.metrics[place],
            None => {
                let name = name.to_owned();
                self.metrics.push(Metric {
                    name,
                    unit,
                    better,
                    samples: Vec::new(),
                });
                self.metrics.last_mut().expect("pushed a line above")
            }
        };
        match metric
            .samples
            .iter_mut()
            .find(|(known, _)| *known == subject)
        {
            Some((_, samples)) => samples.push(value),
            None => metric.samples.push((subject, vec![value])),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let metrics: Vec<_> = self.metrics.iter().map(Metric::to_json).collect();
        json!({
            "evertide": env!("CARGO_PKG_VERSION"),
            "litestream": "0.5.17",
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "metrics": metrics,
        })
    }
}

impl Metric {
    fn median(&self, subject: Subject) -> Option<f64> {
        let (_, samples) = self.samples.iter().find(|(known, _)| *known == subject)?;
        median(samples)
    }

    /// How many times better we are than `other`; below 1 we are worse.
    fn ratio(&self, other: Subject) -> Option<f64> {
        let (ours, theirs) = (self.median(Subject::Evertide)?, self.median(other)?);
        Some(match self.better {
            Better::Lower => theirs / ours,
            Better::Higher => ours / theirs,
        })
    }

    /// Its row of the table.
    fn cells(&self) -> [String; COLUMNS.len()] {
        let number = |subject| self.median(subject).map_or(String::new(), shown);
        let times = |subject| match self.ratio(subject) {
            Some(ratio) => format!("{}x", shown(ratio)),
            None => String::new(),
        };
        [
            self.name.clone(),
            self.unit.to_owned(),
            number(Subject::Baseline),
            number(Subject::Evertide),
            number(Subject::Litestream),
            times(Subject::Baseline),
            times(Subject::Litestream),
        ]
    }

    fn to_json(&self) -> Value {
        let mut results = serde_json::Map::new();
        for (subject, samples) in &self.samples {
            let value = json!({"median": median(samples), "samples": samples});
            results.insert(subject.to_string(), value);
        }
        json!({
            "name": self.name,
            "unit": self.unit,
            "better": if self.better == Better::Lower { "lower" } else { "higher" },
            "results": results,
            "times_better_than_litestream": self.ratio(Subject::Litestream),
            "times_better_than_baseline": self.ratio(Subject::Baseline),
        })
    }
}

/// Heads of the columns, and how wide each is: rows are printed before those that follow are known.
const COLUMNS: [(&str, usize); 7] = [
    ("median of all rounds", 44),
    ("unit", 14),
    ("baseline", 8),
    ("evertide", 8),
    ("litestream", 10),
    ("to baseline", 11),
    ("to litestream", 13),
];

/// The table of a report, printed row by row as measurements end.
#[derive(Debug, Default)]
pub(crate) struct Printer {
    /// Metrics printed so far.
    rows: usize,
}

impl Printer {
    /// Prints what was measured since the last call, and flushes: a run that is stopped has lost nothing.
    pub(crate) fn print(&mut self, report: &Report, out: &mut impl Write) -> io::Result<()> {
        let new = report.metrics.get(self.rows..).unwrap_or_default();
        if self.rows == 0 && !new.is_empty() {
            row(out, COLUMNS.map(|(head, _)| head.to_owned()))?;
            row(out, COLUMNS.map(|(_, width)| "-".repeat(width)))?;
        }
        for metric in new {
            row(out, metric.cells())?;
        }
        self.rows = report.metrics.len();
        out.flush()
    }

    /// Prints what the columns mean.
    pub(crate) fn explain(out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "\nThe last columns say how many times better Evertide is: above 1 better, below worse.\n\
             Baseline: no backup, and for restores `cp` with `fsync`. Bytes written are those to local disk\n\
             and to the replica together."
        )
    }
}

fn row(out: &mut impl Write, cells: [String; COLUMNS.len()]) -> io::Result<()> {
    for (index, (cell, (_, width))) in cells.iter().zip(COLUMNS).enumerate() {
        match index {
            0 | 1 => write!(out, "| {cell:<width$} ")?,
            _ => write!(out, "| {cell:>width$} ")?,
        }
    }
    writeln!(out, "|")
}

fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (
        sorted.get(sorted.len().wrapping_sub(1) / 2)?,
        sorted.get(sorted.len() / 2)?,
    );
    Some((low + high) / 2.0)
}

/// Three digits that matter.
fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_say_how_many_times_better_we_are_whichever_way_is_good() {
        let mut report = Report::default();
        for (name, better) in [("lag", Better::Lower), ("speed", Better::Higher)] {
            for (subject, value) in [(Subject::Evertide, 2.0), (Subject::Litestream, 8.0)] {
                report.add(name, "s", better, subject, value);
            }
        }
        assert_eq!(report.metrics[0].ratio(Subject::Litestream), Some(4.0));
        assert_eq!(report.metrics[1].ratio(Subject::Litestream), Some(0.25));
        assert_eq!(report.metrics[0].ratio(Subject::Baseline), None);
    }

    #[test]
    fn rows_are_printed_when_they_are_known_and_once() {
        let (mut report, mut printer, mut out) =
            (Report::default(), Printer::default(), Vec::new());
        for (name, value) in [("restore of 1 MiB", 0.5), ("restore of 2 MiB", 1.5)] {
            report.add(name, "s", Better::Lower, Subject::Evertide, value);
            report.add(name, "s", Better::Lower, Subject::Baseline, 0.75);
            printer.print(&report, &mut out).expect("into memory");
        }
        printer.print(&report, &mut out).expect("into memory");
        let text = String::from_utf8(out).expect("text");
        let rows: Vec<_> = text.lines().collect();
        assert_eq!(rows.len(), 4, "{text}");
        assert!(rows[2].contains("restore of 1 MiB"), "{text}");
        assert!(
            rows[2].contains("1.50x") && rows[3].contains("0.50x"),
            "{text}"
        );
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{text}");
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[]), None);
    }
}
