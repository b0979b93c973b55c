//! The journal on the volume: what was attempted, verified, rejected. One JSON line each, one write
//! and one sync per line. Later decisions depend on it, so it is read with patience: a torn last line is
//! ignored and cut off before the next append, a damaged line costs only itself, and fields or reasons of
//! a later version are taken as far as they are understood.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::{fs::OFlags, io::Errno};
use serde::{Deserialize, Serialize};
use serde_json::Value;

mod neighbours;

pub use neighbours::neighbours;

use crate::{
    beneath::{self, Held},
    core::{Problem, Reason, Record},
    failpoint,
    procs::ProcessId,
    revision::{RecordEvent, Revision},
    volume,
};

/// What the journals of all pods add up to.
pub(crate) mod standings;

/// Where [`crate::failpoint::hit`] is called in an append, in order.
pub const FAIL_POINTS: &[&str] = &["journal.half_written", "journal.written", "journal.synced"];

/// The journal is rewritten shorter when it has grown beyond this.
const COMPACT_ABOVE_BYTES: u64 = 256 << 10;
/// So many of the newest lines always stay.
const KEEP_NEWEST: usize = 200;
/// Of the older lines, so many of the newest rejections stay.
const KEEP_REJECTED: usize = 200;
/// What is read at most; a journal is compacted long before.
const READ_LIMIT_BYTES: u64 = 16 << 20;

/// Where each pod has a directory.
const PODS: &str = ".pitstop/pods";
const FILE: &str = "revisions.log";

/// The path of a pod's journal.
pub fn path(deploy_to: &Path, pod: &str) -> PathBuf {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let pod: String = pod.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    deploy_to.join(PODS).join(pod).join(FILE)
}

/// The volume's root and the journal below it: nothing in between is followed if it is a link, as others may write
/// there.
fn place(path: &Path) -> (&Path, &Path) {
    let folder = path.parent().unwrap_or(Path::new("."));
    let pods = folder.parent().unwrap_or(folder);
    let root = if pods.ends_with(PODS) { pods.ancestors().nth(2).unwrap_or(folder) } else { folder };
    (root, path.strip_prefix(root).unwrap_or(path))
}

/// Within what a moment and a process id mean something: this boot of the kernel, and this life of
/// the PID namespace, by its first process. A container that is started again on the same disk is another.
pub(crate) fn boot_id() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let first = ProcessId::of(1).map(|process| process.start).unwrap_or_default();
    format!("{}/{first}", kernel.trim())
}

/// A pod's journal, open for appending. Its functions block.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    /// An append failed: nothing behind this offset counts.
    cut_at: Option<u64>,
}

#[derive(Serialize)]
struct Line<'a> {
    v: u32,
    at: String,
    #[serde(flatten)]
    record: &'a Record,
}

impl Log {
    /// Reads the journal; none is an empty one. Changes nothing on the volume.
    ///
    /// # Errors
    /// [`Reason::VolumeUnavailable`] when it is there and cannot be read.
    pub fn open(path: PathBuf) -> Result<(Self, Vec<Record>), Problem> {
        let log = Self { path, cut_at: None };
        let bytes = log.read().map_err(|e| log.problem(&e))?;
        let records = lines(&bytes).filter_map(parse).collect();
        Ok((log, records))
    }

    /// Appends a record and syncs it; but for `signalled`, which outlasts the agent and no loss of power. After an error it counts as not written: the next append
    /// cuts off whatever came of it.
    ///
    /// # Errors
    /// [`Reason::NoSpace`] or [`Reason::VolumeUnavailable`], naming the path.
    pub fn append(&mut self, record: &Record) -> Result<(), Problem> {
        let mut record = record.clone();
        if let Some(baseline) = record.baseline.as_mut().filter(|b| b.boot_id.is_empty()) {
            baseline.boot_id = boot_id();
        }
        self.write(&record).map_err(|e| self.problem(&e))?;
        // Only a convenience: it is tried again with the next append.
        let _ = self.compact();
        Ok(())
    }

    /// When each move was last rejected, by the wall clock (RFC 3339): for people, nothing is
    /// decided by it. What cannot be read is left out.
    pub(crate) fn rejected_at(&self) -> HashMap<Revision, String> {
        let bytes = self.read().unwrap_or_default();
        let rejected = |line| {
            let record = parse(line).filter(|record| record.event == RecordEvent::Rejected)?;
            let line: Value = serde_json::from_slice(line).ok()?;
            Some((record.revision, line.get("at")?.as_str()?.to_owned()))
        };
        lines(&bytes).filter_map(rejected).collect()
    }

    fn problem(&self, error: &io::Error) -> Problem {
        let (path, kind) = (self.path.display(), error.kind());
        if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
            let message = format!(
                "{path} is a link, or lies below one, and pitstop follows none here: remove the link"
            );
            return Problem::new(Reason::VolumeUnavailable, message);
        }
        let full = volume::full(&self.path, error);
        let error = beneath::plain_error(error);
        if let Some(full) = full {
            return Problem::new(Reason::NoSpace, format!("{full} ({path}: {error})"));
        }
        match kind {
            io::ErrorKind::InvalidInput => {
                let message = format!("{path} is not a regular file: move it away, pitstop makes a new one");
                Problem::new(Reason::VolumeUnavailable, message)
            }
            _ => Problem::new(Reason::VolumeUnavailable, format!("{path}: {error}")),
        }
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let (root, journal) = place(&self.path);
        match beneath::file(root, journal) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            file => drop(file?.take(READ_LIMIT_BYTES).read_to_end(&mut bytes)?),
        }
        let whole = self
            .cut_at
            .map_or(bytes.len(), |cut| bytes.len().min(usize::try_from(cut).unwrap_or(usize::MAX)));
        bytes.truncate(whole);
        Ok(bytes)
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let mut line = serde_json::to_vec(&Line { v: 1, at, record })?;
        line.push(b'\n');
        let mut file = self.open_for_append()?;
        let end = self.end(&mut file)?;
        self.cut_at = Some(end);
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        tear(&mut file, &line)?;
        let written = file.write(&line)?;
        if written < line.len() {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        failpoint::hit("journal.written");
        if record.event == RecordEvent::Signalled {
            // No power, no restart under way: then nobody believes the line (`boot_id`), and it need not outlast that. A
            // network file system writes it now.
            nix::unistd::close(file)?;
        } else {
            file.sync_data()?;
        }
        failpoint::hit("journal.synced");
        self.cut_at = None;
        Ok(())
    }

    /// Where the last whole line ends.
    fn end(&self, file: &mut File) -> io::Result<u64> {
        if let Some(cut) = self.cut_at {
            return Ok(cut);
        }
        let mut bytes = Vec::new();
        file.rewind()?;
        Read::by_ref(file).take(READ_LIMIT_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at as u64 + 1))
    }

    fn open_for_append(&self) -> io::Result<File> {
        let (root, journal) = place(&self.path);
        let open = || {
            let folder = Held::open(root, journal.parent().unwrap_or(Path::new("")))?;
            folder.file(self.name(), OFlags::RDWR)
        };
        match open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.create(),
            // Another name of it may lie anywhere: what is written is a file of our own.
            Ok(file) if file.metadata()?.nlink() > 1 => {
                self.rewrite(&self.read()?)?;
                open()
            }
            file => file,
        }
    }

    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// A new journal whose name survives a crash as well, with all directories that lead to it.
    fn create(&self) -> io::Result<File> {
        let (root, journal) = place(&self.path);
        let folder = journal.parent().unwrap_or(Path::new(""));
        let file = Held::make(root, folder)?.file(self.name(), OFlags::RDWR | OFlags::CREATE)?;
        for dir in folder.ancestors() {
            Held::open(root, dir)?.sync()?;
        }
        Ok(file)
    }

    /// Rewrites a journal that has grown long, with what still matters.
    fn compact(&self) -> io::Result<()> {
        if fs::symlink_metadata(&self.path)?.len() <= COMPACT_ABOVE_BYTES {
            return Ok(());
        }
        let bytes = self.read()?;
        let all: Vec<(&[u8], Record)> = lines(&bytes).filter_map(|l| Some((l, parse(l)?))).collect();
        let text: Vec<u8> = kept(&all).into_iter().flat_map(|line| [line, b"\n"].concat()).collect();
        self.rewrite(&text)
    }

    /// Puts a new file in its place.
    fn rewrite(&self, text: &[u8]) -> io::Result<()> {
        let (root, journal) = place(&self.path);
        let dir = Held::open(root, journal.parent().unwrap_or(Path::new("")))?;
        let mut temp = tempfile::Builder::new().prefix(".revisions-").tempfile_in(dir.path())?;
        temp.write_all(text)?;
        temp.as_file().sync_all()?;
        temp.persist(dir.join(self.name())).map_err(|e| e.error)?;
        dir.sync()
    }
}

/// For tests that kill in the middle of a write: writes half a line first.
fn tear(file: &mut File, line: &[u8]) -> io::Result<()> {
    if !failpoint::wanted("journal.half_written") {
        return Ok(());
    }
    file.write_all(&line[..line.len() / 2])?;
    failpoint::hit("journal.half_written");
    Ok(())
}

/// The whole lines; what follows the last line break was never finished.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    bytes[..whole].split(|b| *b == b'\n').filter(|line| !line.is_empty())
}

/// The records of any pod's journal, each with the wall clock of its line (RFC 3339): good enough to tell which of two is
/// newer. Empty where the journal cannot be read.
fn dated_records(journal: PathBuf) -> Vec<(String, Record)> {
    let bytes = (Log { path: journal, cut_at: None }).read().unwrap_or_default();
    let at = |line| {
        let line: Value = serde_json::from_slice(line).ok()?;
        Some(line.get("at")?.as_str()?.to_owned())
    };
    lines(&bytes).filter_map(|line| Some((at(line).unwrap_or_default(), parse(line)?))).collect()
}

/// A line as far as it is understood; `None` if it is no record.
fn parse(line: &[u8]) -> Option<Record> {
    #[derive(Deserialize)]
    struct Known {
        event: RecordEvent,
        #[serde(flatten)]
        revision: Revision,
        #[serde(default)]
        reason: Option<String>,
        #[serde(default)]
        baseline: Option<Value>,
        #[serde(default)]
        mode: Option<Value>,
    }
    let known: Known = serde_json::from_slice(line).ok()?;
    // A reason of a later version must not cost a rejection.
    let reason =
        |code: String| Reason::ALL.iter().copied().find(|r| r.code() == code).unwrap_or(Reason::Internal);
    Some(Record {
        event: known.event,
        revision: known.revision,
        reason: known.reason.map(reason),
        baseline: known.baseline.and_then(|b| serde_json::from_value(b).ok()),
        mode: known.mode.and_then(|mode| serde_json::from_value(mode).ok()),
    })
}

/// The lines that still matter: the newest, and of the older ones the newest rejections and the last
/// two verified releases.
fn kept<'a>(all: &[(&'a [u8], Record)]) -> Vec<&'a [u8]> {
    let (old, new) = all.split_at(all.len().saturating_sub(KEEP_NEWEST));
    let newest_of = |event: RecordEvent, count: usize| {
        let of_event = old.iter().enumerate().filter(move |(_, (_, record))| record.event == event);
        let mut found: Vec<usize> = of_event.map(|(at, _)| at).collect();
        found.drain(..found.len().saturating_sub(count));
        found
    };
    let mut keep = newest_of(RecordEvent::Rejected, KEEP_REJECTED);
    keep.extend(last_two_releases(old));
    keep.sort_unstable();
    keep.dedup();
    keep.into_iter().map(|at| old[at].0).chain(new.iter().map(|(line, _)| *line)).collect()
}

fn last_two_releases(old: &[(&[u8], Record)]) -> Vec<usize> {
    let mut found: Vec<usize> = Vec::new();
    for (at, (_, record)) in old.iter().enumerate().rev() {
        let known = found.iter().any(|f: &usize| old[*f].1.revision.release == record.revision.release);
        if record.event == RecordEvent::Verified && !known && found.len() < 2 {
            found.push(at);
        }
    }
    found
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    use crate::revision::Revision;

    /// Whatever is in a journal, it takes another line and forgets none.
    pub(crate) fn journal(bytes: &[u8]) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = path(dir.path(), "web-0");
        fs::create_dir_all(path.parent().expect("a directory")).expect("it is made");
        fs::write(&path, bytes).expect("it is written");
        let (mut log, before) = Log::open(path.clone()).expect("a plain file");
        let revision = Revision { release: "v3".parse().expect("an id"), sequence: Some(3) };
        let event = RecordEvent::Verified;
        let added = Record { event, revision, reason: None, baseline: None, mode: None };
        log.append(&added).expect("it is written");
        assert_eq!(Log::open(path).expect("a plain file").1, [before, vec![added]].concat());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(event: RecordEvent, release: &str, sequence: u64) -> Record {
        let revision = Revision { release: release.parse().unwrap(), sequence: Some(sequence) };
        Record { event, revision, reason: None, baseline: None, mode: None }
    }

    fn reopen(log: &Log) -> Vec<Record> {
        Log::open(log.path.clone()).unwrap().1
    }

    #[test]
    fn a_link_in_place_of_the_journal_is_named_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (dir.path().join("revisions.log"), dir.path().join("elsewhere"));
        fs::write(&elsewhere, "no journal").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        let problem = Log::open(path).unwrap_err();
        assert!(problem.message.contains("revisions.log is a link"), "{problem:?}");
        assert_eq!(fs::read_to_string(elsewhere).unwrap(), "no journal");
    }

    #[test]
    fn what_was_appended_is_read_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, none) = Log::open(path(dir.path(), "web-0")).unwrap();
        assert!(none.is_empty());
        let all = [record(RecordEvent::Attempt, "v1", 1), record(RecordEvent::Verified, "v1", 1)];
        all.iter().for_each(|r| log.append(r).unwrap());
        assert_eq!(reopen(&log), all);
    }

    #[test]
    fn a_line_torn_at_any_byte_costs_only_itself_and_is_cut_before_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path().join("revisions.log")).unwrap();
        let first = record(RecordEvent::Attempt, "v1", 1);
        log.append(&first).unwrap();
        let whole = fs::read(&log.path).unwrap();
        log.append(&record(RecordEvent::Verified, "v1", 1)).unwrap();
        let both = fs::read(&log.path).unwrap();
        for torn_at in whole.len()..both.len() {
            fs::write(&log.path, &both[..torn_at]).unwrap();
            let (mut again, read) = Log::open(log.path.clone()).unwrap();
            assert_eq!(read, std::slice::from_ref(&first), "torn at {torn_at}");
            let next = record(RecordEvent::Rejected, "v1", 1);
            again.append(&next).unwrap();
            assert_eq!(reopen(&again), [first.clone(), next], "torn at {torn_at}");
        }
    }

    #[test]
    fn damage_in_the_middle_and_news_of_later_versions_lose_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revisions.log");
        let lines = [
            r#"{"v":1,"at":"x","event":"verified","release":"v1","sequence":1,"reason":null,"canary":[1]}"#,
            "\u{0}\u{0}garbage",
            r#"{"v":2,"at":"x","event":"rejected","release":"v2","sequence":2,"reason":"news"}"#,
            r#"{"v":2,"at":"x","event":"news","release":"v2"}"#,
        ];
        fs::write(&path, lines.map(|l| format!("{l}\n")).concat()).unwrap();
        let read = Log::open(path).unwrap().1;
        let rejected = Record { reason: Some(Reason::Internal), ..record(RecordEvent::Rejected, "v2", 2) };
        assert_eq!(read, [record(RecordEvent::Verified, "v1", 1), rejected]);
    }

    #[test]
    fn a_journal_of_the_version_before_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revisions.log");
        let lines = [
            r#"{"v":1,"at":"2026-11-20T10:00:00Z","event":"attempt","release":"v2","sequence":7,"reason":null}"#,
            r#"{"v":1,"at":"2026-11-20T10:00:01Z","event":"signalled","release":"v2","sequence":7,"reason":null,"baseline":{"at":5,"boot_id":"b","mode":"phased","generations":[1],"processes":[2,3],"healthy":true}}"#,
            r#"{"v":1,"at":"2026-11-20T10:00:31Z","event":"rejected","release":"v2","sequence":7,"reason":"boot_failed"}"#,
        ];
        fs::write(&path, lines.map(|l| format!("{l}\n")).concat()).unwrap();
        let [attempt, signalled, rejected] = &Log::open(path).unwrap().1[..] else {
            panic!("a line is lost")
        };
        assert_eq!(*attempt, record(RecordEvent::Attempt, "v2", 7));
        let baseline = signalled.baseline.as_ref().unwrap();
        assert!(
            baseline.mode == crate::core::Mode::Phased && baseline.healthy && baseline.processes.len() == 2
        );
        assert_eq!(rejected.reason, Some(Reason::BootFailed));
    }

    #[test]
    fn a_long_journal_keeps_what_decisions_need() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path().join("revisions.log")).unwrap();
        log.append(&record(RecordEvent::Verified, "old", 1)).unwrap();
        log.append(&record(RecordEvent::Rejected, "bad", 2)).unwrap();
        // Grown as by years of deploys, in one write instead of thousands of syncs.
        let line = r#"{"v":1,"at":"x","event":"attempt","release":"new","sequence":3,"reason":null}"#;
        let mut text = fs::read_to_string(&log.path).unwrap();
        while text.len() as u64 <= COMPACT_ABOVE_BYTES {
            text.push_str(&format!("{line}\n"));
        }
        fs::write(&log.path, &text).unwrap();
        log.append(&record(RecordEvent::Verified, "new", 3)).unwrap();
        let read = reopen(&log);
        assert!(read.len() < 250, "{} lines", read.len());
        assert_eq!(read[0], record(RecordEvent::Verified, "old", 1));
        assert_eq!(read[1], record(RecordEvent::Rejected, "bad", 2));
        assert_eq!(read.last(), Some(&record(RecordEvent::Verified, "new", 3)));
    }
}
