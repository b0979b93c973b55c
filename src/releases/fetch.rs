//! From the store onto the volume: complete or absent.
//!
//! The archive is unpacked while it comes and is hashed: into a staging directory, by a parser that is made for hostile
//! input. Nothing is sealed (marked, renamed) before all of it was hashed and the digest is the published one; the
//! signed one, where keys are configured, which is verified before the archive is read (`signed.rs`). The tree is synced as a whole
//! (`syncfs`: a sync per file costs minutes for a Rails tree), then marked, then renamed to its place. Several agents of
//! one volume may do this at once: the first rename wins, and the others use what is there.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::{
    MARKER, MARKER_BYTES_MAX, Marker, Releases, disk_problem,
    download::{Downloaded, Patience, download},
    is_absence,
    layout::Link,
    manifest::{MANIFEST, Manifest},
    places::RELEASES,
    staging::Stage,
    sync_dir,
    unpack::{Archive, Destination, Rules, Unpacked, unpack},
    unpack_error::UnpackError,
};
use crate::{
    core::{Problem, Reason},
    failpoint,
    revision::ReleaseId,
    store::{Blocking, StoreError, archive::Published},
    volume,
};

/// A tree of code takes at least so many times its archive's size.
const SPACE_FACTOR: u64 = 2;

/// How a release came onto the volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes downloaded; 0 when it was there already.
    pub(crate) downloaded_bytes: u64,
    /// Whether it was on the volume before, or another agent was faster.
    pub was_there: bool,
    /// Files, directories and links in it.
    pub(crate) entries: u64,
    /// Bytes of all its files.
    pub(crate) bytes: u64,
}

/// Which archive is read.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) store: &'a Blocking,
    pub(super) id: &'a ReleaseId,
    pub(super) published: &'a Published,
}

/// Why an archive was not unpacked.
pub(super) enum Failed {
    Problem(Problem),
    /// Another one was put in its place meanwhile.
    Changed(StoreError),
    /// The spare tree is another than was noted.
    Spare(String),
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// A release that is not sealed yet.
pub(super) struct Staged {
    pub(super) stage: Stage,
    pub(super) tree: PathBuf,
    unpacked: Unpacked,
    downloaded_bytes: u64,
}

impl Releases {
    /// Makes the release complete on the volume, or leaves it absent. Blocks for as long as that takes.
    /// `promised` is the digest of the archive that was promoted, where the pointer names one: nothing that was
    /// made of another archive counts as this release.
    ///
    /// # Errors
    /// [`Problem`] with what failed: `release_unknown`, `release_corrupt`, `store_unreachable`,
    /// `store_denied`, `no_space` or `volume_unavailable`.
    pub fn fetch(
        &self,
        store: &Blocking,
        id: &ReleaseId,
        promised: Option<&str>,
    ) -> Result<Fetched, Problem> {
        let off = || StoreError::CalledOff(format!("fetching {id}")).into();
        self.in_turn(id, store.off(), || self.fetch_all(store, id, promised))
            .map_err(|problem| if store.off().is_called() { off() } else { problem })
    }

    fn fetch_all(
        &self,
        store: &Blocking,
        id: &ReleaseId,
        promised: Option<&str>,
    ) -> Result<Fetched, Problem> {
        if let Some(marker) = self.marker(id)? {
            self.check_promise(id, &marker, promised)?;
            self.check_signature(Some(store), &marker)?;
            self.use_as_it_is(&marker)?;
            let Marker { entries, bytes, .. } = marker;
            return Ok(Fetched { downloaded_bytes: 0, was_there: true, entries, bytes });
        }
        self.refuse_foreign(id)?;
        self.place(RELEASES)?;
        let (published, signed) = self.published(store, id)?;
        if let Some(promised) = promised.filter(|promised| *promised != published.sha256) {
            let (key, now) = (published.kind.key(id), &published.sha256);
            let why = format!(
                "{key} has the digest {now} in the store, and the pointer names {promised}: the archive was replaced \
                 after {id} was promoted"
            );
            return Err(corrupt(id, &why));
        }
        let Staged { stage, tree, unpacked, downloaded_bytes } = self.unpack_staged(store, id, &published)?;
        let Unpacked { entries, bytes, .. } = unpacked;
        tracing::info!(downloaded_bytes, files = entries, bytes, "unpacked");
        self.make_targets(&unpacked.links)?;
        failpoint::hit("fetch.linked");
        self.seal(&tree, (id, &published, signed), unpacked)?;
        let was_there = !self.settle(&stage, &tree, id)?;
        failpoint::hit("fetch.done");
        Ok(Fetched { downloaded_bytes, was_there, entries, bytes })
    }

    /// Whether the tree on the volume was made from the archive that was promoted.
    fn check_promise(&self, id: &ReleaseId, marker: &Marker, promised: Option<&str>) -> Result<(), Problem> {
        let Some(promised) = promised.filter(|promised| *promised != marker.sha256) else { return Ok(()) };
        let why = format!(
            "{} was made from an archive with the digest {}, and the pointer names {promised}",
            self.path(id).display(),
            marker.sha256
        );
        Err(corrupt(id, &why))
    }

    /// A release that is on the volume is never changed. What its links lead to may be missing all the
    /// same: each pod has its own `pod_dir`.
    fn use_as_it_is(&self, marker: &Marker) -> Result<(), Problem> {
        let links = |links: &[Link]| links.iter().map(|l| (l.path.clone(), l.target.clone())).collect();
        let (has, wanted): (BTreeSet<_>, BTreeSet<_>) = (links(&marker.links), links(&self.layout.links()));
        if has != wanted {
            let differ = has.symmetric_difference(&wanted).map(|(path, _)| path).collect::<BTreeSet<_>>();
            tracing::warn!(
                release = %marker.release,
                paths = ?differ,
                "it is on the volume since before linked_dirs, linked_files or pod_dirs were changed, and \
                 keeps the links it has; publish it anew under another id to give it those of today"
            );
        }
        self.make_targets(&marker.links)
    }

    /// A directory of that name that was not made here is somebody's: neither used nor deleted.
    fn refuse_foreign(&self, id: &ReleaseId) -> Result<(), Problem> {
        let path = self.path(id);
        match fs::symlink_metadata(&path) {
            Err(e) if is_absence(&e) => Ok(()),
            Err(e) => Err(disk_problem(&path, &e)),
            // It may have been completed just now.
            Ok(_) if self.is_complete(id)? => Ok(()),
            Ok(_) => Err(Problem::new(
                Reason::VolumeUnavailable,
                format!(
                    "{0} is there but was not made by pitstop; move it away: mv {0} {0}.old",
                    path.display()
                ),
            )),
        }
    }

    /// Downloads and unpacks a release into a stage.
    pub(super) fn unpack_staged(
        &self,
        store: &Blocking,
        id: &ReleaseId,
        published: &Published,
    ) -> Result<Staged, Problem> {
        let wanted = Wanted { store, id, published };
        let (mut patience, mut onto_spare) = (Patience::default(), true);
        loop {
            let stage = self.stage()?;
            failpoint::hit("fetch.staged");
            let mut tree = stage.dir().join("release");
            let spare = if onto_spare { self.take_spare(&stage) } else { None };
            let dir = if spare.is_some() { Ok(()) } else { fs::DirBuilder::new().mode(0o755).create(&tree) };
            dir.map_err(|e| disk_problem(&tree, &e))?;
            let into = Destination::Tree { dir: &tree, in_flight: self.in_flight(), spare };
            match self.read_published(wanted, into, &mut patience) {
                Ok((unpacked, downloaded_bytes)) => {
                    failpoint::hit("fetch.unpacked");
                    tree.extend(&unpacked.prefix);
                    return Ok(Staged { stage, tree, unpacked, downloaded_bytes });
                }
                Err(Failed::Problem(problem)) => return Err(problem),
                Err(Failed::Changed(error)) => {
                    tracing::warn!(%error, "the archive was replaced while it was fetched: the download starts over");
                    patience.changed(error)?;
                }
                Err(Failed::Spare(why)) => {
                    tracing::warn!(why, "the spare tree cannot be used: the whole release is written");
                    onto_spare = false;
                }
            }
        }
    }

    /// Reads the archive of a release from the store, checks its digest, and unpacks it meanwhile. Answers how many
    /// bytes it had, too.
    pub(super) fn read_published(
        &self,
        wanted: Wanted<'_>,
        into: Destination<'_>,
        patience: &mut Patience,
    ) -> Result<(Unpacked, u64), Failed> {
        let Wanted { store, id, published } = wanted;
        let key = published.kind.key(id);
        let object = store.read(&key, 0, None).map_err(|e| unread(id, e))?;
        let bytes = object.size_bytes;
        self.check_size(id, published, bytes)?;
        let tree = match &into {
            Destination::Tree { dir, spare, .. } => {
                if spare.is_none() {
                    self.check_space(id, bytes)?;
                }
                dir.to_path_buf()
            }
            Destination::Nowhere => PathBuf::new(),
        };
        let rules = Rules { limits: &self.limits, layout: &self.layout, off: store.off() };
        let (unpacked, came) = download(store, &key, object, patience, |reader| {
            let unpacked =
                unpack(Archive { reader: &mut *reader, bytes, kind: published.kind }, into, &rules);
            // Whether these are the published bytes is the first question.
            if !matches!(unpacked, Err(UnpackError::Disk(..) | UnpackError::Spare(_))) {
                reader.drain();
            }
            unpacked
        });
        match unpacked {
            Err(UnpackError::Spare(why)) => Err(Failed::Spare(why)),
            Err(UnpackError::Disk(path, error)) => {
                Err(disk_problem(&tree.join(path.trim_matches('"')), &error).into())
            }
            unpacked => {
                check_digest(id, published, &came.map_err(|e| unread(id, e))?)?;
                failpoint::hit("fetch.downloaded");
                let unpacked = unpacked.map_err(|refused| corrupt(id, &refused.to_string()))?;
                Ok((unpacked, bytes))
            }
        }
    }

    fn check_size(&self, id: &ReleaseId, published: &Published, archive_bytes: u64) -> Result<(), Problem> {
        if let Some(signed) = published.bytes.filter(|signed| *signed != archive_bytes) {
            return Err(corrupt(id, &format!("its archive has {archive_bytes} bytes, signed were {signed}")));
        }
        if archive_bytes > self.limits.archive_bytes {
            let limit = self.limits.archive_bytes;
            return Err(corrupt(id, &format!("its archive is larger than {limit} bytes")));
        }
        Ok(())
    }

    fn check_space(&self, id: &ReleaseId, archive_bytes: u64) -> Result<(), Problem> {
        let stat =
            rustix::fs::statvfs(&self.deploy_to).map_err(|e| disk_problem(&self.deploy_to, &e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let need = archive_bytes.saturating_mul(SPACE_FACTOR);
        if free >= need {
            return Ok(());
        }
        let no_room = volume::says(&self.deploy_to, &format!("has no room for {id}"));
        let need = need.div_ceil(1 << 20);
        let message =
            format!("{no_room}: it needs about {need} MB; free space on it, or lower keep_releases");
        Err(Problem::new(Reason::NoSpace, message))
    }

    /// The manifest, everything to disk, then the marker, then the marker to disk.
    fn seal(
        &self,
        tree: &Path,
        (id, published, signed): (&ReleaseId, &Published, Option<String>),
        unpacked: Unpacked,
    ) -> Result<(), Problem> {
        let failed = |e: std::io::Error| disk_problem(tree, &e);
        write_manifest(tree, &unpacked.manifest).map_err(failed)?;
        let root = File::open(tree).map_err(failed)?;
        rustix::fs::syncfs(&root).map_err(|e| failed(e.into()))?;
        failpoint::hit("fetch.synced");
        let marker = Marker {
            v: 1,
            release: id.clone(),
            sha256: published.sha256.clone(),
            requires: published.requires.iter().map(ToString::to_string).collect(),
            entries: unpacked.entries,
            bytes: unpacked.bytes,
            links: unpacked.links,
            signed,
        };
        let text = serde_json::to_vec(&marker).map_err(|e| Problem::new(Reason::Internal, e.to_string()))?;
        if text.len() as u64 >= MARKER_BYTES_MAX {
            return Err(corrupt(id, "it has too many empty directories where linked ones come"));
        }
        let mut file = File::create_new(tree.join(MARKER)).map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        failpoint::hit("fetch.marker_written");
        file.sync_all().map_err(failed)?;
        sync_dir(tree).map_err(failed)?;
        failpoint::hit("fetch.marked");
        Ok(())
    }

    /// The one rename; false when another agent's was first.
    fn settle(&self, stage: &Stage, tree: &Path, id: &ReleaseId) -> Result<bool, Problem> {
        let (releases, path) = (self.make_place(RELEASES)?, self.path(id));
        let renamed = match fs::rename(tree, releases.join(id.as_str())) {
            Ok(()) => true,
            // Something is there: the rename of a directory replaces nothing but an empty one.
            Err(_) if self.is_complete(id)? => false,
            Err(e) => {
                self.refuse_foreign(id)?;
                return Err(disk_problem(&path, &e));
            }
        };
        failpoint::hit("fetch.renamed");
        for dir in [stage.place(), &releases] {
            dir.sync().map_err(|e| disk_problem(dir.name(), &e))?;
        }
        for dir in [stage.dir(), &self.deploy_to] {
            sync_dir(dir).map_err(|e| disk_problem(dir, &e))?;
        }
        Ok(renamed)
    }
}

fn write_manifest(tree: &Path, manifest: &Manifest) -> std::io::Result<()> {
    let mut text = Vec::new();
    manifest.write(&mut text)?;
    let mut file = File::create_new(tree.join(MANIFEST))?;
    file.write_all(&text)?;
    nix::unistd::close(file).map_err(Into::into)
}

fn unread(id: &ReleaseId, error: StoreError) -> Failed {
    match error {
        // Its digest is there, so it was published.
        StoreError::Missing(_) => corrupt(id, "its digest is in the store, its archive is not").into(),
        changed @ StoreError::Changed(_) => Failed::Changed(changed),
        error => Problem::from(error).into(),
    }
}

fn check_digest(id: &ReleaseId, published: &Published, came: &Downloaded) -> Result<(), Problem> {
    if came.sha256 == published.sha256 {
        return Ok(());
    }
    let (key, Downloaded { sha256, bytes, encoding }, expected) =
        (published.kind.key(id), came, &published.sha256);
    let mut why = format!("{key} has the digest {sha256} ({bytes} bytes), published was {expected}");
    if let Some(encoding) = encoding {
        why += &format!(
            "; it came with Content-Encoding {encoding}, so the server or a proxy may have changed it on its way: \
             upload it without, and let nothing in between compress"
        );
    }
    Err(corrupt(id, &why))
}

fn corrupt(id: &ReleaseId, why: &str) -> Problem {
    Problem::new(Reason::ReleaseCorrupt, format!("release {id}: {why}; publish it anew under another id"))
}
