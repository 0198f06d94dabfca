//! Checking file after file: each by itself, and against the database that those before it make up.
//!
//! Files come in the order of `reading_order`. Each one that leads on from the current position is
//! applied to the table of page checksums, which so passes through every state that can be restored,
//! by the finest files there are. Every other file that ends where the table stands must agree with
//! it: hold no page with another content, and every page that changed in its range.

use std::{collections::BTreeMap, io, io::Read};

use evertide_ltx::{Checksum, Decoder, Header, LtxName, PageSize, Pgno, Txid};
use evertide_storage::LtxObject;

use super::{
    finding::{Finding, FindingKind, label},
    records::Record,
    table::{Entry, Table},
};
use crate::restore::Missing;

/// What is wrong with one file.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) file: LtxObject,
    pub(super) kind: FindingKind,
    pub(super) problem: String,
}

/// Files whose time is not that of their header.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Times {
    pub(super) files: usize,
    pub(super) first: Option<LtxObject>,
}

/// What has been found out.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) broken: Vec<Broken>,
    pub(super) findings: Vec<Finding>,
    pub(super) times: Times,
    /// How many states are those whose checksum was recorded when they were captured.
    pub(super) proven: u64,
    /// The newest state that the files lead to.
    pub(super) position: Txid,
    pub(super) page_size: Option<PageSize>,
    /// The size of the database there, in pages, and its checksum where every page is known.
    pub(super) pages: u32,
    pub(super) database: Option<Checksum>,
}

/// Why a file fails.
enum Problem {
    Ltx(evertide_ltx::Error),
    Misplaced(String),
    /// The table cannot be kept: nobody's fault here.
    Table(io::Error),
}

impl From<evertide_ltx::Error> for Problem {
    fn from(error: evertide_ltx::Error) -> Self {
        Self::Ltx(error)
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Table(error)
    }
}

/// The check of a whole replica.
pub(super) struct Checker {
    table: Table,
    /// The files that were applied. The table refers to them by number.
    steps: Vec<LtxName>,
    missing: Missing,
    /// A page that is missing, and since which state.
    incomplete: Option<(Pgno, LtxObject)>,
    /// What was recorded, by transaction.
    records: BTreeMap<Txid, Record>,
    /// Whether the state before was another one than recorded: those after it will be, too.
    differs: bool,
    result: Checked,
    page: Vec<u8>,
}

impl Checker {
    pub(super) fn new(table: Table, records: Vec<Record>) -> Self {
        Self {
            table,
            steps: Vec::new(),
            missing: Missing::default(),
            incomplete: None,
            records: records
                .into_iter()
                .map(|record| (record.txid, record))
                .collect(),
            differs: false,
            result: Checked::default(),
            page: Vec::new(),
        }
    }

    /// Checks the next file. An error is one of the table.
    pub(super) fn file(
        &mut self,
        file: &LtxObject,
        content: impl Read,
    ) -> io::Result<Option<Broken>> {
        let (kind, problem) = match self.try_file(file, content) {
            Ok(()) => return Ok(None),
            Err(Problem::Ltx(error)) => (FindingKind::Damaged, error.to_string()),
            Err(Problem::Misplaced(reason)) => (FindingKind::Misplaced, reason),
            Err(Problem::Table(error)) => return Err(error),
        };
        Ok(Some(Broken {
            file: file.clone(),
            kind,
            problem,
        }))
    }

    /// The file cannot be used.
    pub(super) fn broken(&mut self, broken: Broken) {
        self.result.broken.push(broken);
    }

    /// What has been found out.
    pub(super) fn finish(mut self) -> Checked {
        if let Some((page, since)) = self.incomplete.take() {
            self.report_incomplete(page, &since, self.result.position);
        }
        self.result.pages = self.missing.size();
        let whole = |size| self.table.database(size);
        self.result.database = self.result.page_size.and_then(whole);
        self.result
    }

    fn try_file(&mut self, file: &LtxObject, content: impl Read) -> Result<(), Problem> {
        let mut decoder = Decoder::new(content)?;
        let header = decoder.header().clone();
        if header.name() != file.name {
            let reason = format!("its header says that it is {}", header.name());
            return Err(Problem::Misplaced(reason));
        }
        self.page.resize(header.page_size.len(), 0);
        if file.name.extends(self.result.position) {
            self.apply(file, decoder, &header)?;
        } else if file.name.max == self.result.position {
            self.compare(file, decoder, &header)?;
        } else {
            while decoder.decode_page(&mut self.page)?.is_some() {}
            decoder.finish()?;
        }
        self.check_time(file, &header);
        Ok(())
    }

    /// Applies a file that leads on. If it fails, what it has written is forgotten.
    fn apply(
        &mut self,
        file: &LtxObject,
        decoder: Decoder<impl Read>,
        header: &Header,
    ) -> Result<(), Problem> {
        let page_size = *self.result.page_size.get_or_insert(header.page_size);
        if page_size != header.page_size && !header.is_snapshot() {
            let found = header.page_size;
            let reason = format!("its pages have {found} bytes, those before it {page_size}");
            return Err(Problem::Misplaced(reason));
        }
        let before = self.missing.clone();
        let step = self.steps.len() as u32;
        if page_size != header.page_size {
            self.table.resize(0)?;
        }
        if let Err(problem) = self.write(decoder, header, step) {
            if page_size != header.page_size {
                self.table.resize(0)?;
            }
            self.table.forget_step(step)?;
            self.table.resize(before.size())?;
            self.missing = before;
            return Err(problem);
        }
        self.steps.push(file.name);
        self.result.position = file.name.max;
        self.result.page_size = Some(header.page_size);
        match (self.missing.first(), self.incomplete.take()) {
            (Some(page), None) => self.incomplete = Some((page, file.clone())),
            (None, Some((page, since))) => {
                self.report_incomplete(page, &since, file.name.min.previous());
            }
            (_, incomplete) => self.incomplete = incomplete,
        }
        self.compare_with_record(file, header);
        Ok(())
    }

    /// Compares the database with what it was when it was captured, if that is known.
    fn compare_with_record(&mut self, file: &LtxObject, header: &Header) {
        let recorded = self.records.get(&file.name.max);
        let recorded = recorded.filter(|record| record.timestamp_ms == header.timestamp_ms);
        let (Some(record), Some(found)) = (recorded, self.table.database(header.page_size)) else {
            return;
        };
        let same = (record.checksum, record.pages) == (found, header.commit);
        if same {
            self.result.proven += 1;
        } else if !self.differs {
            let (expected, pages) = (record.checksum, record.pages);
            self.result.findings.push(Finding::new(
                FindingKind::Checksum,
                label(file),
                format!(
                    "the database had {pages} pages and the checksum {expected} when it was \
                     captured, and the files make one of {} with {found}",
                    header.commit
                ),
                "what is restored to this transaction or a later one, up to the next snapshot, is \
                 not what was backed up",
            ));
        }
        self.differs = !same;
    }

    fn write(
        &mut self,
        mut decoder: Decoder<impl Read>,
        header: &Header,
        step: u32,
    ) -> Result<(), Problem> {
        self.table.resize(header.commit)?;
        if header.is_snapshot() {
            self.missing.replace(header.commit);
        } else {
            self.missing.resize(header.commit, header.page_size);
        }
        while let Some(pgno) = decoder.decode_page(&mut self.page)? {
            let checksum = Checksum::page(pgno, &self.page);
            self.table.set(pgno, Some(Entry { checksum, step }))?;
            self.missing.fill(pgno);
        }
        decoder.finish()?;
        Ok(())
    }

    /// Compares a file that ends where the table stands.
    fn compare(
        &mut self,
        file: &LtxObject,
        mut decoder: Decoder<impl Read>,
        header: &Header,
    ) -> Result<(), Problem> {
        // Pages changed by later steps than this one changed within the range of the file.
        let outside = |step: &LtxName| step.min < file.name.min;
        let first = self.steps.iter().rposition(outside).map_or(0, |at| at + 1);
        let mut difference = self.compare_size(header);
        let comparable = difference.is_none();
        let mut next = 1;
        while let Some(pgno) = decoder.decode_page(&mut self.page)? {
            if comparable && difference.is_none() {
                difference = self.find_unlisted(next..pgno.get(), first)?;
            }
            if comparable && difference.is_none() {
                difference = self.compare_page(pgno)?;
            }
            next = pgno.get() + 1;
        }
        if comparable && difference.is_none() {
            difference = self.find_unlisted(next..header.commit.saturating_add(1), first)?;
        }
        decoder.finish()?;
        if let Some(problem) = difference {
            let meaning = format!(
                "which database a restore to transaction {} gives depends on the files it takes; if \
                 two processes have written here, start a new replica",
                file.name.max
            );
            let found = Finding::new(FindingKind::Disagreement, label(file), problem, meaning);
            self.result.findings.push(found);
        }
        Ok(())
    }

    fn compare_size(&self, header: &Header) -> Option<String> {
        let (commit, size) = (header.commit, self.missing.size());
        let page_size = self.result.page_size?;
        let last = self.steps.last()?;
        if header.page_size != page_size {
            let found = header.page_size;
            return Some(format!(
                "its pages have {found} bytes, those of {last} {page_size}"
            ));
        }
        (commit != size).then(|| format!("it leaves {commit} pages, {last} leaves {size}"))
    }

    fn compare_page(&mut self, pgno: Pgno) -> io::Result<Option<String>> {
        let Some(entry) = self.table.get(pgno.get())? else {
            return Ok(None);
        };
        if entry.checksum == Checksum::page(pgno, &self.page) {
            return Ok(None);
        }
        let other = self.step(entry.step);
        Ok(Some(format!("page {pgno} is not the one of {other}")))
    }

    /// The first page in the range that a step from `first` on has written.
    fn find_unlisted(
        &mut self,
        range: std::ops::Range<u32>,
        first: usize,
    ) -> io::Result<Option<String>> {
        if first >= self.steps.len() {
            return Ok(None);
        }
        for number in range {
            if let Some(entry) = self.table.get(number)?
                && entry.step as usize >= first
            {
                let other = self.step(entry.step);
                return Ok(Some(format!(
                    "page {number} is missing, which {other} changed"
                )));
            }
        }
        Ok(None)
    }

    fn step(&self, step: u32) -> String {
        let name = self.steps.get(step as usize);
        name.map_or_else(|| "the files before".to_owned(), LtxName::to_string)
    }

    fn report_incomplete(&mut self, page: Pgno, since: &LtxObject, until: Txid) {
        let first = since.name.max;
        let states = if first == until {
            format!("the state after transaction {first} cannot")
        } else {
            format!("states from transaction {first} to {until} cannot")
        };
        self.result.findings.push(Finding::new(
            FindingKind::Incomplete,
            label(since),
            format!("the database grows over page {page}, which no file holds"),
            format!("{states} be restored"),
        ));
    }

    /// A point in time goes by the time of the object, which copying may change.
    fn check_time(&mut self, file: &LtxObject, header: &Header) {
        let created = match file
            .created
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
        {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        };
        if header.timestamp_ms != 0 && created.abs_diff(header.timestamp_ms) > 1_000 {
            self.result.times.files += 1;
            self.result.times.first.get_or_insert_with(|| file.clone());
        }
    }
}
