//! Comparing a release on the volume with what was published: the archive is fetched and unpacked once more,
//! by the same code, into the staging directory, and both trees are compared byte by byte.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, Metadata},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{MARKER, Marker, Releases, disk_problem, layout::Layout, manifest::MANIFEST};
use crate::{
    core::{Problem, Reason},
    plain_file,
    revision::ReleaseId,
    store::Blocking,
};

/// How a release differs from what was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where, from the release's root.
    pub path: PathBuf,
    /// How.
    pub kind: Kind,
    /// The same for people.
    pub detail: String,
}

/// Kinds of differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
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
    /// What differs, by path, and how many files, directories and links were compared. Needs room for one
    /// more copy of the release.
    ///
    /// # Errors
    /// [`Problem`] when the release is not on the volume, or cannot be fetched.
    pub fn verify_tree(&self, store: &Blocking, id: &ReleaseId) -> Result<(u64, Vec<Difference>), Problem> {
        let marker = self.marker(id)?.ok_or_else(|| {
            let message = format!("{} is not a complete release", self.path(id).display());
            Problem::new(Reason::ReleaseUnknown, message)
        })?;
        let published = store.require(id)?;
        // What it was given besides is in its marker, and may not be what is configured today.
        let plain = Layout { strip_prefix: self.layout.strip_prefix, ..Layout::default() };
        let staged = self.clone().laid_out(plain).unpack_staged(store, id, &published)?;
        let tree = staged.tree.clone();
        let mut comparison = Comparison {
            release: self.path(id),
            published: tree,
            given: given(&marker),
            entries: 0,
            differences: Vec::new(),
        };
        if marker.sha256 != published.sha256 {
            let detail = format!(
                "it was made from an archive with the digest {}, the store has {}",
                marker.sha256, published.sha256
            );
            comparison.differ(Path::new(MARKER), Kind::Changed, detail);
        }
        comparison.directory(Path::new("")).map_err(|(path, error)| disk_problem(&path, &error))?;
        Ok((comparison.entries, comparison.differences))
    }
}

/// The links that the release was given, and what they say.
fn given(marker: &Marker) -> BTreeMap<PathBuf, PathBuf> {
    marker.links.iter().map(|link| (link.path.clone(), link.target.clone())).collect()
}

struct Comparison {
    release: PathBuf,
    published: PathBuf,
    given: BTreeMap<PathBuf, PathBuf>,
    entries: u64,
    differences: Vec<Difference>,
}

type Failed = (PathBuf, io::Error);

impl Comparison {
    fn differ(&mut self, path: &Path, kind: Kind, detail: impl Into<String>) {
        self.differences.push(Difference { path: path.into(), kind, detail: detail.into() });
    }

    /// There is nothing more to be compared at this path.
    fn found(&mut self, path: &Path, kind: Kind, detail: &str) -> Result<(), Failed> {
        self.differ(path, kind, detail);
        Ok(())
    }

    fn directory(&mut self, path: &Path) -> Result<(), Failed> {
        let mut names = names(&self.published.join(path))?;
        names.extend(self::names(&self.release.join(path))?);
        names.extend(
            self.given
                .keys()
                .filter(|link| link.parent() == Some(path))
                .filter_map(|l| Some(l.file_name()?.into())),
        );
        for name in names {
            let path = path.join(name);
            if ![MARKER, MANIFEST].map(Path::new).contains(&&*path) {
                self.entry(&path)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path) -> Result<(), Failed> {
        self.entries += 1;
        let (ours, published) = (self.release.join(path), self.published.join(path));
        let here = look(&ours)?;
        if let Some(target) = self.given.get(path) {
            let is = here.is_some_and(|meta| meta.is_symlink())
                && fs::read_link(&ours).is_ok_and(|is| is == *target);
            if !is {
                let detail = format!("it was given a link to {}", target.display());
                self.differ(path, Kind::Changed, detail);
            }
            return Ok(());
        }
        match (here, look(&published)?) {
            (None, None) => Ok(()),
            (None, Some(_)) => self.found(path, Kind::Missing, ""),
            // It leads to a link that the release was given.
            (Some(meta), None) if meta.is_dir() && self.given.keys().any(|link| link.starts_with(path)) => {
                self.only_here(path)
            }
            (Some(_), None) => self.found(path, Kind::Extra, ""),
            (Some(here), Some(there)) if here.file_type() != there.file_type() => {
                self.found(path, Kind::Changed, "it is of another kind")
            }
            (Some(here), Some(_)) if here.is_dir() => self.directory(path),
            (Some(here), Some(there)) => self.leaf(path, &here, &there),
        }
    }

    /// A directory that was not published as such, but has to be there.
    fn only_here(&mut self, path: &Path) -> Result<(), Failed> {
        for name in names(&self.release.join(path))? {
            self.entry(&path.join(name))?;
        }
        Ok(())
    }

    fn leaf(&mut self, path: &Path, here: &Metadata, there: &Metadata) -> Result<(), Failed> {
        let (ours, published) = (self.release.join(path), self.published.join(path));
        let link = |path: &Path| fs::read_link(path).map_err(|e| (path.to_owned(), e));
        if here.is_symlink() {
            let (is, was) = (link(&ours)?, link(&published)?);
            if is != was {
                self.differ(
                    path,
                    Kind::Changed,
                    format!("leads to {}, not to {}", is.display(), was.display()),
                );
            }
        } else if here.len() != there.len() {
            self.differ(path, Kind::Changed, format!("has {} bytes, not {}", here.len(), there.len()));
        } else if !same(&ours, &published)? {
            self.differ(path, Kind::Changed, "has other bytes");
        } else if executable(here) != executable(there) {
            let is = if executable(here) { "is" } else { "is not" };
            self.differ(path, Kind::Changed, format!("{is} executable"));
        }
        Ok(())
    }
}

fn executable(meta: &Metadata) -> bool {
    meta.permissions().mode() & 0o100 != 0
}

fn look(path: &Path) -> Result<Option<Metadata>, Failed> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(e) if super::is_absence(&e) => Ok(None),
        Err(e) => Err((path.into(), e)),
    }
}

/// None where there is no directory.
fn names(dir: &Path) -> Result<std::collections::BTreeSet<std::ffi::OsString>, Failed> {
    let failed = |e| (dir.to_owned(), e);
    match fs::read_dir(dir) {
        Err(e) if super::is_absence(&e) => Ok(Default::default()),
        Err(e) => Err(failed(e)),
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(failed)?.file_name())).collect(),
    }
}

fn same(ours: &Path, published: &Path) -> Result<bool, Failed> {
    let open = |path: &Path| plain_file::open_no_link(path).map_err(|e| (path.to_owned(), e));
    let (mut here, mut there) = (open(ours)?, open(published)?);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        left.clear();
        right.clear();
        here.by_ref().take(1 << 18).read_to_end(&mut left).map_err(|e| (ours.to_owned(), e))?;
        there.by_ref().take(1 << 18).read_to_end(&mut right).map_err(|e| (published.to_owned(), e))?;
        if left != right || left.is_empty() {
            return Ok(left == right);
        }
    }
}
