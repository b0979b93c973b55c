//! Comparing a release on the volume with what was published: the archive is read from the store once more, by the
//! same code, into nothing, and what it holds is compared with what is in the tree. Where signatures count, the signed
//! statement says which archive that is. Nothing is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    MARKER, Marker, Releases,
    delete::Pace,
    disk_problem,
    download::Patience,
    fetch::{Failed, Wanted},
    inside::Inside,
    layout::Layout,
    manifest::{Entry, FileEntry, MANIFEST, Manifest},
    tree_scan::{Found, Scan, above, open_tree},
    unpack::Destination,
};
use crate::{
    core::{Problem, Reason},
    revision::ReleaseId,
    store::Blocking,
};

/// How a release differs from what was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    /// Where, from the release's root.
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    /// The same for people.
    pub(crate) detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Published, and not there.
    Missing,
    /// Not as it was published.
    Changed,
    /// There, and not published.
    Extra,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Missing => "missing",
            Kind::Changed => "changed",
            Kind::Extra => "extra",
        };
        write!(f, "{kind:<8} {}", self.path.display())?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", self.detail) }
    }
}

impl Releases {
    /// What differs, by path, and how many files, directories and links were compared. `pace` may pause the reads.
    ///
    /// # Errors
    /// [`Problem`] when the release is not on the volume, or its archive cannot be had.
    pub(crate) fn verify_tree(
        &self,
        store: &Blocking,
        id: &ReleaseId,
        pace: Pace<'_>,
    ) -> Result<(u64, Vec<Difference>), Problem> {
        let marker = self.marker(id)?.ok_or_else(|| {
            let message = format!("{} is not a complete release", self.path(id).display());
            Problem::new(Reason::ReleaseUnknown, message)
        })?;
        let (published, _) = self.published(store, id)?;
        // What it was given besides is in its marker, and may not be what is configured today.
        let layout = Layout { strip_prefix: self.layout.strip_prefix, ..Layout::default() };
        let wanted = Wanted { store, id, published: &published };
        let reader = self.clone().laid_out(layout);
        let mut patience = Patience::default();
        let unpacked = loop {
            match reader.read_published(wanted, Destination::Nowhere, &mut patience) {
                Ok((unpacked, _)) => break unpacked,
                Err(Failed::Problem(problem)) => return Err(problem),
                Err(Failed::Changed(error)) => patience.changed(error)?,
                Err(Failed::Spare(why)) => return Err(Problem::new(Reason::Internal, why)),
            }
        };
        let found = self.scan_release(id, pace).map_err(|e| disk_problem(&self.path(id), &e))?;
        let mut comparison = Comparison {
            published: unpacked.manifest,
            given: given(&marker),
            closed: BTreeSet::new(),
            entries: 0,
            differences: Vec::new(),
        };
        comparison.run(&found);
        comparison.differences.sort_by(|a, b| a.path.cmp(&b.path));
        if marker.sha256 != published.sha256 {
            let detail = format!(
                "it was made from an archive with the digest {}, the store has {}",
                marker.sha256, published.sha256
            );
            let difference = Difference { path: MARKER.into(), kind: Kind::Changed, detail };
            comparison.differences.insert(0, difference);
        }
        Ok((comparison.entries, comparison.differences))
    }

    /// What is in a release, but what says that it is one.
    fn scan_release(&self, id: &ReleaseId, pace: Pace<'_>) -> io::Result<Found> {
        let (tree, known) = (open_tree(&self.path(id))?, Manifest::default());
        let mut found = Scan { tree, known: &known, threads: self.in_flight(), pace }.run()?;
        for name in [MARKER, MANIFEST] {
            found.remove(&Inside::of(Path::new(name)));
        }
        Ok(found)
    }
}

/// The links that the release was given, and what they say.
fn given(marker: &Marker) -> BTreeMap<Inside, PathBuf> {
    marker.links.iter().map(|link| (Inside::of(&link.path), link.target.clone())).collect()
}

struct Comparison {
    published: Manifest,
    given: BTreeMap<Inside, PathBuf>,
    /// What is below these needs no comparison any more.
    closed: BTreeSet<Inside>,
    entries: u64,
    differences: Vec<Difference>,
}

impl Comparison {
    fn run(&mut self, found: &Found) {
        let published = self.published.iter().map(|(path, _)| path);
        // A path comes before what is below it.
        let all: BTreeSet<Inside> = found.keys().chain(published).chain(self.given.keys()).cloned().collect();
        for path in all {
            if !above(path.as_bytes()).any(|above| self.closed.contains(above)) {
                self.entries += 1;
                self.entry(&path, found.get(&path));
            }
        }
    }

    fn entry(&mut self, path: &Inside, here: Option<&Option<Entry>>) {
        if let Some(target) = self.given.get(path) {
            let target = target.as_os_str().as_bytes();
            if !matches!(here, Some(Some(Entry::Link { target: is })) if **is == *target) {
                let target = String::from_utf8_lossy(target);
                let detail = format!("it was given a link to {target}");
                self.differ(path, Kind::Changed, &detail);
            }
            self.closed.insert(path.clone());
            return;
        }
        match (here, self.published.get(path.as_bytes()).cloned()) {
            (None, _) => self.close(path, Kind::Missing, ""),
            // It leads to a link that the release was given.
            (Some(Some(Entry::Directory { .. })), None)
                if self.given.keys().any(|link| path.is_on_the_way(link)) => {}
            (Some(_), None) => self.close(path, Kind::Extra, ""),
            (Some(Some(Entry::Directory { .. })), Some(Entry::Directory { .. })) => {}
            (Some(Some(Entry::File(is))), Some(Entry::File(was))) => self.file(path, is, &was),
            (Some(Some(Entry::Link { target: is })), Some(Entry::Link { target: was })) => {
                if *is != was {
                    let text = |target| String::from_utf8_lossy(target).into_owned();
                    let detail = format!("leads to {}, not to {}", text(is), text(&was));
                    self.differ(path, Kind::Changed, &detail);
                }
            }
            (Some(_), Some(_)) => self.close(path, Kind::Changed, "it is of another kind"),
        }
    }

    fn file(&mut self, path: &Inside, is: &FileEntry, was: &FileEntry) {
        let executable = |file: &FileEntry| file.mode & 0o100 != 0;
        if is.bytes != was.bytes {
            let detail = format!("has {} bytes, not {}", is.bytes, was.bytes);
            self.differ(path, Kind::Changed, &detail);
        } else if is.sha256 != was.sha256 {
            self.differ(path, Kind::Changed, "has other bytes");
        } else if executable(is) != executable(was) {
            let detail = if executable(is) { "is executable" } else { "is not executable" };
            self.differ(path, Kind::Changed, detail);
        }
    }

    fn differ(&mut self, path: &Inside, kind: Kind, detail: &str) {
        self.differences.push(Difference { path: path.path().into(), kind, detail: detail.into() });
    }

    /// There is nothing more to be compared below.
    fn close(&mut self, path: &Inside, kind: Kind, detail: &str) {
        self.differ(path, kind, detail);
        self.closed.insert(path.clone());
    }
}
