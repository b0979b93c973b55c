//! Bringing a tree that is no release to the state of one, from which what differs is copied.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    time::Instant,
};

use rustix::fs::{AtFlags, Mode, OFlags, chmodat, fchmod, mkdirat, openat, renameat, symlinkat, unlinkat};

use super::{
    delete::Pace,
    inside::Inside,
    manifest::{Entry, FileEntry, Manifest},
    parallel::in_parallel,
    spare_making::rest,
    tree_scan::{Found, Scan, above, directory, hash},
};
use crate::{beneath, failpoint, plain_file};

const HANDFUL: usize = 32;
const BUFFER_BYTES: usize = 256 << 10;

/// What is brought where.
pub(super) struct Update<'a> {
    pub(super) tree: OwnedFd,
    /// The release that it is to be like.
    pub(super) from: OwnedFd,
    /// What has to leave the tree as a whole is put here.
    pub(super) out: OwnedFd,
    /// What is in that release.
    pub(super) wanted: &'a Manifest,
    /// So many operations at once.
    pub(super) threads: usize,
    /// Called after each handful.
    pub(super) pace: Pace<'a>,
}

impl Update<'_> {
    /// Does it. Files whose identity is in `known` are not read again.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when the tree is not as it should be in the end; [`io::ErrorKind::Interrupted`] when
    /// there was no time for it; else what the volume says.
    pub(super) fn run(&self, known: &Manifest) -> io::Result<Manifest> {
        let found = self.scan(known)?;
        self.take_away(&found)?;
        self.make(&found)?;
        let known = entries(found);
        let made = self.scan(&known)?;
        let count = made.len();
        let made = entries(made);
        let differs = self.wanted.iter().find(|(path, entry)| !is_like(made.get(path.as_bytes()), entry));
        match differs {
            None if count == self.wanted.len() => Ok(made),
            None => Err(doubt("something is in it that is not in the release")),
            Some((path, _)) => Err(doubt(&format!("it differs from the release at {}", path.show()))),
        }
    }

    fn scan(&self, known: &Manifest) -> io::Result<Found> {
        let tree = self.tree.try_clone()?;
        Scan { tree, known, threads: self.threads, pace: self.pace }.run()
    }

    /// What is not wanted, or not as it is.
    fn take_away(&self, found: &Found) -> io::Result<()> {
        let mut gone: BTreeSet<&[u8]> = BTreeSet::new();
        let mut since = Instant::now();
        for (path, entry) in found {
            if above(path.as_bytes()).any(|above| gone.contains(above)) || self.stays(path, entry.as_ref()) {
                continue;
            }
            let (dir, name) = self.parent(path)?;
            if matches!(entry, Some(Entry::Directory { .. })) {
                renameat(&dir, name, &self.out, format!("{}", gone.len()))?;
                gone.insert(path.as_bytes());
            } else {
                unlinkat(&dir, name, AtFlags::empty())?;
            }
            rest(self.pace, &mut since)?;
        }
        Ok(())
    }

    fn stays(&self, path: &Inside, entry: Option<&Entry>) -> bool {
        match (entry, self.wanted.get(path.as_bytes())) {
            (Some(Entry::Directory { .. }), Some(Entry::Directory { .. })) => true,
            (entry, Some(wanted)) => is_like(entry, wanted),
            (_, None) => false,
        }
    }

    fn make(&self, found: &Found) -> io::Result<()> {
        let mut since = Instant::now();
        let is = |path: &Inside| found.get(path).and_then(Option::as_ref);
        let lacking = || self.wanted.iter().filter(|(path, entry)| !is_like(is(path), entry));
        for (path, entry) in lacking() {
            let Entry::Directory { mode } = entry else { continue };
            let (dir, name) = self.parent(path)?;
            let there = matches!(is(path), Some(Entry::Directory { .. }));
            if !there {
                mkdirat(&dir, name, Mode::from_raw_mode(mode | 0o700))?;
            }
            if there || is_masked(*mode) {
                chmodat(&dir, name, Mode::from_raw_mode(*mode), AtFlags::empty())?;
            }
            rest(self.pace, &mut since)?;
        }
        let files = lacking().filter_map(|(path, entry)| match entry {
            Entry::File(file) => Some((path, file)),
            _ => None,
        });
        let files: Vec<_> = files.collect();
        in_parallel(self.threads, files.chunks(HANDFUL).collect(), &|files: &[(&Inside, &FileEntry)]| {
            let mut since = Instant::now();
            let mut buffer = vec![0; BUFFER_BYTES];
            files.iter().try_for_each(|(path, file)| self.copy(path, file, &mut buffer))?;
            rest(self.pace, &mut since).map(|()| Vec::new())
        })?;
        for (path, entry) in lacking() {
            let Entry::Link { target } = entry else { continue };
            let (dir, name) = self.parent(path)?;
            symlinkat(OsStr::from_bytes(target), &dir, name)?;
        }
        Ok(())
    }

    fn copy(&self, path: &Inside, wanted: &FileEntry, buffer: &mut [u8]) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | plain_file::FLAGS;
        let from = beneath::open(&self.from, path.path(), flags, Mode::empty())?;
        let mut from = plain_file::only(Ok(File::from(from)))?;
        let (dir, name) = self.parent(path)?;
        let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(wanted.mode);
        let mut copy = File::from(openat(&dir, name, new, mode)?);
        let copied = hash(&mut from, buffer, |piece| copy.write_all(piece))?;
        failpoint::hit("spare.mid_copy");
        if copied != (wanted.bytes, wanted.sha256) {
            return Err(doubt(&format!("{} of the release is not as its manifest says", path.show())));
        }
        if is_masked(wanted.mode) {
            fchmod(&copy, mode)?;
        }
        // A network file system may say only now that it could not write.
        Ok(nix::unistd::close(copy)?)
    }

    fn parent<'p>(&self, path: &'p Inside) -> io::Result<(OwnedFd, &'p OsStr)> {
        let (parents, name) = path.split().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((directory(&self.tree, parents, OFlags::PATH)?, name))
    }
}

/// What the usual umask would take away.
fn is_masked(mode: u32) -> bool {
    mode & 0o022 != 0
}

/// All but where a file is.
pub(super) fn is_like(is: Option<&Entry>, wanted: &Entry) -> bool {
    match (is, wanted) {
        (Some(Entry::File(is)), Entry::File(wanted)) => {
            (is.mode, is.bytes, is.sha256) == (wanted.mode, wanted.bytes, wanted.sha256)
        }
        (is, wanted) => is == Some(wanted),
    }
}

/// What was found, but what no release has.
pub(super) fn entries(found: Found) -> Manifest {
    found.into_iter().filter_map(|(path, entry)| Some((path, entry?))).collect()
}

fn doubt(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the spare tree cannot be used: {why}"))
}
