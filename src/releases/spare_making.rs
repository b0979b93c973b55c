//! The spare tree of a volume, kept in the state of a release that runs, so that the next fetch writes only what
//! differs.
//!
//! ```text
//! deploy_to/.pitstop/spare/release/    the tree: no release, and nothing leads to it
//! deploy_to/.pitstop/spare/manifest    what is in it, and which files these are
//! deploy_to/.pitstop/spare/like        the digest of the archive that the same tree would be made from
//! ```
//!
//! It is made in a stage of its own, in the background: of the spare tree before, of a release that would be deleted now,
//! or of nothing. What differs is copied from the running release, all of it is compared with the manifest of that
//! release, and only then it is moved to its place in one rename. A fetch takes it by one rename, too: the first
//! wins. Whatever is doubtful goes to the trash, and the next fetch writes the whole release.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Write},
    ops::ControlFlow,
    path::Path,
    time::Instant,
};

use super::{
    Marker, Releases,
    delete::Pace,
    disk_problem, is_absence,
    manifest::{MANIFEST, Manifest},
    places::PRIVATE,
    protection::Protection,
    prune,
    spare_update::{Update, entries},
    staging::Stage,
    tree_scan::{Scan, open_tree},
};
use crate::{beneath, core::Problem, failpoint, plain_file, revision::ReleaseId, volume};

/// Where [`crate::failpoint::hit`] is called while a spare tree is made or taken, in order.
pub const FAIL_POINTS: &[&str] = &[
    "spare.recycled",
    "spare.unmarked",
    "spare.mid_copy",
    "spare.compared",
    "spare.sealed",
    "spare.renamed",
    "spare.taken",
];

/// Held by who makes one; beside the locks of fetches, whose names are those of releases.
const LOCK: &str = "+spare";
const SPARE: &str = "spare";
const LIKE: &str = "like";
const TREE: &str = "release";
const LIKE_BYTES_MAX: u64 = 1 << 10;
/// Packed; what it may be unpacked, the manifest knows.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// A background job leaves most of a network client's slots to the app.
const THREADS_MAX: usize = 16;

/// What a spare tree was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MadeOf {
    /// The one before.
    Spare,
    /// A release that would have been deleted.
    Release(ReleaseId),
    /// Nothing: all of it was copied.
    Nothing,
}

impl fmt::Display for MadeOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spare => write!(f, "the spare tree before"),
            Self::Release(release) => write!(f, "{release}, which was to be deleted"),
            Self::Nothing => write!(f, "copies"),
        }
    }
}

impl Releases {
    /// The same, with spare trees or without.
    #[must_use]
    pub fn with_spares(self, spares: bool) -> Self {
        Self { spares, ..self }
    }

    /// Moves the spare tree to `release` in the stage, if there is one, and answers what is in it. It has neither
    /// marker nor manifest in it, and was found to be as its manifest says.
    pub(super) fn take_spare(&self, stage: &Stage) -> Option<Manifest> {
        let private = self.place(PRIVATE).ok().flatten().filter(|_| self.spares)?;
        let taken = stage.dir().join(SPARE);
        fs::rename(private.join(SPARE), &taken).ok()?;
        failpoint::hit("spare.taken");
        let manifest = read_manifest(&taken, Path::new("manifest"));
        let manifest = manifest.and_then(|noted| self.as_it_is(&taken.join(TREE), noted));
        let manifest = manifest
            .and_then(|manifest| fs::rename(taken.join(TREE), stage.dir().join(TREE)).map(|()| manifest));
        let unusable = |error: &io::Error| tracing::warn!(%error, "the spare tree cannot be used");
        manifest.inspect_err(unusable).ok()
    }

    /// On a local volume it costs little to see what somebody has changed since. Over a network it would take longer
    /// than to write what differs.
    fn as_it_is(&self, tree: &Path, noted: Manifest) -> io::Result<Manifest> {
        if volume::is_networked(&self.deploy_to) {
            return Ok(noted);
        }
        let pace: Pace<'_> = &|_| ControlFlow::Continue(());
        let found = Scan { tree: open_tree(tree)?, known: &noted, threads: self.in_flight(), pace }.run()?;
        let count = found.len();
        let is = entries(found);
        let what = "there is something in it that no release has";
        if is.len() == count { Ok(is) } else { Err(io::Error::new(io::ErrorKind::InvalidData, what)) }
    }

    /// Gives the spare tree up, for its room. Answers whether there was one.
    pub(super) fn discard_spare(&self) -> Result<bool, Problem> {
        let Some(private) = self.place(PRIVATE)? else { return Ok(false) };
        if fs::symlink_metadata(private.join(SPARE)).is_err() {
            return Ok(false);
        }
        let stage = self.stage()?;
        Ok(fs::rename(private.join(SPARE), stage.dir().join(SPARE)).is_ok())
    }

    /// Brings the volume's spare tree to the state of a release. `None` where that is not wanted, not possible, or
    /// done already. A release that `keep` does not keep is taken for it.
    ///
    /// # Errors
    /// [`Problem`] with what was doubtful; then there is no spare tree.
    pub fn make_spare(
        &self,
        release: &ReleaseId,
        keep: usize,
        protection: Protection<'_>,
        pace: Pace<'_>,
    ) -> Result<Option<MadeOf>, Problem> {
        let Some(marker) = self.marker(release)?.filter(|_| self.spares) else { return Ok(None) };
        if self.spare_is_like(&marker) {
            return Ok(None);
        }
        // One pod makes it for all; without locks nobody does.
        let Some(_lock) = self.background_lock(LOCK) else { return Ok(None) };
        if self.spare_is_like(&marker) {
            return Ok(None);
        }
        let running = self.path(release);
        // Releases that older agents made have none.
        let Ok(wanted) = read_manifest(&running, Path::new(MANIFEST)) else { return Ok(None) };
        let stage = self.stage()?;
        let tree = stage.dir().join(TREE);
        let Some((made_of, known)) = self.base(&stage, &tree, keep, protection)? else { return Ok(None) };
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::InvalidData => Problem::new(crate::core::Reason::VolumeUnavailable, e.to_string()),
            _ => disk_problem(&tree, &e),
        };
        let update = || {
            let out = stage.dir().join("out");
            fs::create_dir(&out)?;
            let update = Update {
                tree: open_tree(&tree)?,
                from: open_tree(&running)?,
                out: open_tree(&out)?,
                wanted: &wanted,
                threads: self.in_flight().min(THREADS_MAX),
                pace,
            };
            update.run(&known)
        };
        match update() {
            // The room is needed, or the pod ends.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(None),
            made => self.seal_spare(&stage, &marker, &made.map_err(failed)?).map_err(failed)?,
        }
        Ok(Some(made_of))
    }

    /// A tree at this path, to begin with, and what is known of it.
    fn base(
        &self,
        stage: &Stage,
        tree: &Path,
        keep: usize,
        protection: Protection<'_>,
    ) -> Result<Option<(MadeOf, Manifest)>, Problem> {
        if let Some(known) = self.take_spare(stage) {
            return Ok(Some((MadeOf::Spare, known)));
        }
        let all = self.judge(protection)?;
        if self.is_short_of_room(&all, 0) {
            return Ok(None);
        }
        if let Some(goes) = prune::next(&all, keep, || false)
            && self.recycle(&goes.release, tree, protection)?
        {
            return Ok(Some((MadeOf::Release(goes.release.clone()), Manifest::default())));
        }
        let largest = all.iter().map(|one| one.bytes).max().unwrap_or_default();
        if self.is_short_of_room(&all, -i128::from(largest)) {
            return Ok(None);
        }
        fs::create_dir(tree).map_err(|e| disk_problem(tree, &e))?;
        Ok(Some((MadeOf::Nothing, Manifest::default())))
    }

    /// Everything to disk, then the one rename. Another pod's spare tree stays.
    fn seal_spare(&self, stage: &Stage, marker: &Marker, manifest: &Manifest) -> io::Result<()> {
        failpoint::hit("spare.compared");
        let sealed = stage.dir().join(SPARE);
        // Left by the spare tree before.
        let old = stage.dir().join("old");
        match fs::rename(&sealed, &old) {
            Err(e) if is_absence(&e) => {}
            done => done?,
        }
        fs::create_dir(&sealed)?;
        fs::rename(stage.dir().join(TREE), sealed.join(TREE))?;
        let mut text = Vec::new();
        manifest.write(&mut text)?;
        for (name, content) in [("manifest", &text[..]), (LIKE, marker.sha256.as_bytes())] {
            let mut file = File::create_new(sealed.join(name))?;
            file.write_all(content)?;
            nix::unistd::close(file)?;
        }
        rustix::fs::syncfs(File::open(&sealed)?)?;
        failpoint::hit("spare.sealed");
        let private = beneath::Held::open(&self.deploy_to, Path::new(PRIVATE))?;
        fs::rename(&sealed, private.join(SPARE))?;
        failpoint::hit("spare.renamed");
        private.sync()
    }

    fn spare_is_like(&self, marker: &Marker) -> bool {
        let path = Path::new(PRIVATE).join(SPARE).join(LIKE);
        let like = beneath::read(&self.deploy_to, &path, LIKE_BYTES_MAX);
        like.is_ok_and(|like| like == marker.sha256.as_bytes())
    }
}

fn read_manifest(dir: &Path, name: &Path) -> io::Result<Manifest> {
    let text = plain_file::read_all(beneath::file(dir, name)?, MANIFEST_BYTES_MAX)?;
    Manifest::read(&text[..])
}

/// For work in steps.
pub(super) fn rest(pace: Pace<'_>, since: &mut Instant) -> io::Result<()> {
    let go_on = pace(since.elapsed());
    *since = Instant::now();
    match go_on {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(io::ErrorKind::Interrupted.into()),
    }
}
