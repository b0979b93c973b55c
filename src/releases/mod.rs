//! Releases on the volume.
//!
//! ```text
//! deploy_to/releases/<id>/                  complete: it came there by one rename, and holds its marker
//! deploy_to/releases/<id>/.pitstop-release  the marker: which archive it was made from
//! deploy_to/releases/<id>/.pitstop-manifest what is in it, file by file
//! deploy_to/current -> releases/<id>
//! deploy_to/shared/                         what linked_dirs and linked_files of every release lead to; the assets of all
//! deploy_to/.pitstop/staging/               what is being made
//! deploy_to/.pitstop/fetching/<id>          which pod makes it for all of them
//! deploy_to/.pitstop/spare/                 a tree that the next one is made from
//! deploy_to/.pitstop/trash/                 what is being deleted
//! deploy_to/.pitstop/leases/<pod>           what each pod needs
//! ```
//!
//! The marker lies inside the tree, so that the one rename that makes a release visible carries its
//! proof along, and deleting or replacing the tree takes the proof away. It is written last, after
//! everything else is on disk. A directory without it was not made here: it is neither used nor deleted.
//!
//! All functions block; callers run them on a [`crate::lane::Lane`].

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use self::layout::{Layout, Link};
use crate::{
    beneath,
    core::{Problem, Reason},
    revision::ReleaseId,
    trust::Trust,
    volume,
};

mod archive_manifest;
mod assets;
mod caches;
mod decoder;
mod delete;
mod download;
mod fallback;
pub mod fetch;
pub mod fetch_lock;
mod in_flight;
pub(crate) mod inside;
pub mod layout;
pub mod leases;
mod links;
pub mod manifest;
pub(crate) mod one_pass;
pub(crate) mod pack;
mod parallel;
pub(crate) mod pax;
mod places;
pub(crate) mod protection;
pub mod prune;
pub(crate) mod publish;
mod signed;
mod spare;
pub mod spare_making;
mod spare_update;
pub(crate) mod staging;
mod tar_stream;
pub(crate) mod trash;
mod tree;
mod tree_finish;
mod tree_large;
mod tree_node;
mod tree_scan;
pub mod unpack;
pub mod unpack_error;
pub(crate) mod verify_tree;
mod write_queue;
mod writers;

/// The name of the marker in a complete release.
pub(crate) const MARKER: &str = ".pitstop-release";

/// A marker is at most so long.
const MARKER_BYTES_MAX: u64 = 1 << 20;

/// Where [`crate::failpoint::hit`] is called on the way of a release onto the volume, in order.
pub const FAIL_POINTS: &[&str] = &[
    "fetch.locked",
    "fetch.staged",
    "fetch.mid_download",
    "fetch.mid_unpack",
    "fetch.downloaded",
    "fetch.unpacked",
    "fetch.linked",
    "fetch.synced",
    "fetch.marker_written",
    "fetch.marked",
    "fetch.renamed",
    "fetch.done",
    "fetch.abandoned",
    "fetch.unlocked",
    "publish.linked",
    "publish.renamed",
    "publish.synced",
    "prune.renamed",
    "prune.unmarked",
    "prune.mid_delete",
    "lease.written",
    "lease.renamed",
];

/// What an archive may be, at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Bytes of all files together, unpacked.
    pub unpacked_bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of one path inside the release.
    pub path_bytes: usize,
    /// Symbolic links: where each leads is kept in memory until the last entry was read.
    pub links: usize,
    /// Bytes of their paths and targets together.
    pub link_bytes: usize,
    /// How many times its archive's size a large release may have. Code packs to a tenth at best; an
    /// archive that grows a thousandfold is made to fill the volume.
    pub expansion: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            archive_bytes: 8 << 30,
            unpacked_bytes: 16 << 30,
            entries: 1_000_000,
            path_bytes: 1024,
            links: 100_000,
            link_bytes: 16 << 20,
            expansion: 200,
        }
    }
}

impl Limits {
    /// The limits of one archive; up to `small_bytes` it may be packed as well as it likes.
    fn of_archive(&self, archive_bytes: u64, small_bytes: u64) -> Self {
        let expanded = archive_bytes.saturating_mul(self.expansion).max(small_bytes);
        Self { unpacked_bytes: self.unpacked_bytes.min(expanded), ..self.clone() }
    }
}

/// The releases of one volume, as one pod uses them.
#[derive(Debug, Clone)]
pub struct Releases {
    deploy_to: PathBuf,
    current: PathBuf,
    pod: String,
    limits: Limits,
    layout: Layout,
    in_flight: usize,
    fallback: Option<PathBuf>,
    spares: bool,
    patience: fetch_lock::Patience,
    waiting: fetch_lock::Waiting,
    trust: Arc<Trust>,
    /// Those whose signatures were verified in this process.
    verified: Arc<Mutex<BTreeSet<ReleaseId>>>,
}

/// What a complete release was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    pub(crate) v: u32,
    pub(crate) release: ReleaseId,
    /// The SHA-256 of its archive.
    pub sha256: String,
    /// Files, directories and links in it.
    pub(crate) entries: u64,
    /// Bytes of all its files.
    pub(crate) bytes: u64,
    /// What it needs of the image, as it was published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) requires: Vec<String>,
    /// The links that it was given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) links: Vec<Link>,
    /// The signed statement that it was fetched by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signed: Option<String>,
}

/// A complete release on the volume.
#[derive(Debug, Clone)]
pub(crate) struct OnVolume {
    /// What its marker says.
    pub(crate) marker: Marker,
    /// When it was completed.
    pub(crate) completed: SystemTime,
}

impl Releases {
    /// The releases under `deploy_to`; `current` is the link that the app server runs from, `pod`
    /// the name that this pod's unfinished work carries.
    pub fn new(deploy_to: PathBuf, current: PathBuf, pod: &str, limits: Limits) -> Self {
        Self {
            deploy_to,
            current,
            pod: staging::plain(pod),
            limits,
            layout: Layout::default(),
            in_flight: 0,
            fallback: None,
            spares: true,
            patience: fetch_lock::Patience::default(),
            waiting: fetch_lock::Waiting::default(),
            trust: Arc::default(),
            verified: Arc::default(),
        }
    }

    /// The same, with links that releases are given.
    #[must_use]
    pub fn laid_out(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// With code in the app's image that `current` may lead to as well ([`ReleaseId::fallback`]).
    #[must_use]
    pub fn with_fallback(self, fallback: Option<PathBuf>) -> Self {
        Self { fallback, ..self }
    }

    /// The directory of a release, whether it is there or not.
    pub(crate) fn path(&self, id: &ReleaseId) -> PathBuf {
        self.releases_dir().join(id.as_str())
    }

    /// The link that the app server runs from.
    pub(crate) fn current_path(&self) -> &Path {
        &self.current
    }

    fn releases_dir(&self) -> PathBuf {
        self.deploy_to.join("releases")
    }

    /// Whether the volume is there at all. An empty place where it should be mounted looks like a pod
    /// without a past, which would forget what was rejected.
    ///
    /// # Errors
    /// [`Reason::VolumeUnavailable`] when `deploy_to` is no directory.
    pub(crate) fn check_volume(&self) -> Result<(), Problem> {
        match fs::metadata(&self.deploy_to) {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => {
                let message = format!("{} is no directory; mount the volume there", self.deploy_to.display());
                Err(Problem::new(Reason::VolumeUnavailable, message))
            }
            Err(e) => Err(Problem::new(
                Reason::VolumeUnavailable,
                format!("{}: {e}; mount the volume there, or correct `deploy_to`", self.deploy_to.display()),
            )),
        }
    }

    /// The marker of a complete release; `None` when there is none of this id.
    ///
    /// # Errors
    /// [`Reason::VolumeUnavailable`] when the volume does not tell.
    pub fn marker(&self, id: &ReleaseId) -> Result<Option<Marker>, Problem> {
        use io::ErrorKind as K;
        let path = marker_path(id);
        match beneath::read(&self.deploy_to, &path, MARKER_BYTES_MAX) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok().filter(|m: &Marker| m.release == *id)),
            // What is no file that we could have written is no marker.
            Err(e) if is_absence(&e) || matches!(e.kind(), K::InvalidInput | K::FileTooLarge) => Ok(None),
            Err(e) => Err(disk_problem(&self.deploy_to.join(path), &e)),
        }
    }

    /// Whether the release is on the volume, complete and checked.
    ///
    /// # Errors
    /// [`Reason::VolumeUnavailable`] when the volume does not tell.
    pub fn is_complete(&self, id: &ReleaseId) -> Result<bool, Problem> {
        if id.is_fallback() {
            return Ok(self.fallback.is_some());
        }
        Ok(self.marker(id)?.is_some())
    }

    /// The complete releases, newest first.
    ///
    /// # Errors
    /// [`Reason::VolumeUnavailable`] when the volume does not tell.
    pub(crate) fn list(&self) -> Result<Vec<OnVolume>, Problem> {
        let dir = self.releases_dir();
        let entries = match fs::read_dir(&dir) {
            Err(e) if is_absence(&e) => return Ok(Vec::new()),
            entries => entries.map_err(|e| disk_problem(&dir, &e))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| disk_problem(&dir, &e))?.file_name();
            let Some(id) = name.to_str().and_then(|n| n.parse::<ReleaseId>().ok()) else { continue };
            // Another agent may take the release away between two looks.
            if let Some(marker) = self.marker(&id)?
                && let Some(completed) = self.completed(&id)?
            {
                found.push(OnVolume { marker, completed });
            }
        }
        found.sort_by(|a, b| (b.completed, &b.marker.release).cmp(&(a.completed, &a.marker.release)));
        Ok(found)
    }

    fn completed(&self, id: &ReleaseId) -> Result<Option<SystemTime>, Problem> {
        let path = marker_path(id);
        match beneath::file(&self.deploy_to, &path).and_then(|file| file.metadata()?.modified()) {
            Ok(modified) => Ok(Some(modified)),
            Err(e) if is_absence(&e) => Ok(None),
            Err(e) => Err(disk_problem(&self.deploy_to.join(path), &e)),
        }
    }
}

fn marker_path(id: &ReleaseId) -> PathBuf {
    Path::new(places::RELEASES).join(id.as_str()).join(MARKER)
}

/// The path is not there, or leads nowhere.
fn is_absence(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = Errno::from_io_error(error);
    matches!(code, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG))
}

/// What an error of the volume is called.
fn disk_problem(path: &Path, error: &io::Error) -> Problem {
    use io::ErrorKind as K;
    let (path, kind) = (beneath::shown(path), error.kind());
    let full = volume::full(&path, error);
    let error = beneath::plain_error(error);
    if let Some(full) = full {
        let message = format!("{full}, or lower keep_releases ({}: {error})", path.display());
        return Problem::new(Reason::NoSpace, message);
    }
    let path = path.display();
    match kind {
        K::ReadOnlyFilesystem => Problem::new(
            Reason::VolumeUnavailable,
            format!("{path}: the volume is read-only; mount it writable for the agent"),
        ),
        K::PermissionDenied => Problem::new(
            Reason::VolumeUnavailable,
            format!("{path}: {error}; let the agent's user write there (fsGroup or runAsUser)"),
        ),
        _ => Problem::new(Reason::VolumeUnavailable, format!("{path}: {error}")),
    }
}

/// Makes what a directory lists durable. Some file systems cannot, and say so: then there is no more to do.
fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        done => done,
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// The proof of a complete release is of that release.
    pub(crate) fn marker(bytes: &[u8]) {
        let dir = tempfile::tempdir().expect("a directory");
        let id: ReleaseId = "v1".parse().expect("an id");
        let path = dir.path().join(marker_path(&id));
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("it is made");
        std::fs::write(path, bytes).expect("it is written");
        let text = beneath::read(dir.path(), &marker_path(&id), MARKER_BYTES_MAX).unwrap_or_default();
        let marker: Option<Marker> = serde_json::from_slice(&text).ok();
        let _ = marker.map(|marker| serde_json::to_string(&marker));
    }
}
