//! `current`: one link, moved by a rename.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use super::{Releases, disk_problem, is_absence, places};
use crate::{
    beneath::Held,
    core::{Problem, Reason},
    failpoint,
    revision::ReleaseId,
};

impl Releases {
    /// The complete release that `current` resolves to; `None` when it is absent, dangling, no link,
    /// or leads to anything else.
    ///
    /// # Errors
    /// [`Reason::VolumeUnavailable`] when the volume does not tell.
    pub fn current(&self) -> Result<Option<ReleaseId>, Problem> {
        match fs::read_link(&self.current) {
            Ok(target) if self.is_fallback_link(&target) => return Ok(Some(ReleaseId::fallback())),
            Ok(_) => {}
            Err(e) if is_absence(&e) || e.kind() == io::ErrorKind::InvalidInput => return Ok(None),
            Err(e) => return Err(disk_problem(&self.current, &e)),
        }
        let resolve = |path: &Path| match path.canonicalize() {
            Ok(path) => Ok(Some(path)),
            Err(e) if is_absence(&e) => Ok(None),
            Err(e) => Err(disk_problem(path, &e)),
        };
        let (Some(target), Some(home)) = (resolve(&self.current)?, resolve(&self.releases_dir())?) else {
            return Ok(None);
        };
        let name = target.strip_prefix(&home).ok().and_then(Path::to_str);
        match name.and_then(|n| n.parse::<ReleaseId>().ok()) {
            Some(id) if self.is_complete(&id)? => Ok(Some(id)),
            _ => Ok(None),
        }
    }

    /// Points `current` to a complete release: a new link under a name of its own, renamed over the
    /// old one, synced and read back. After an error `current` is what it was, unless the volume refuses that as
    /// well: who needs to know looks at [`Self::current`].
    ///
    /// # Errors
    /// [`Reason::VolumeUnavailable`] or [`Reason::NoSpace`], naming the path;
    /// [`Reason::ReleaseCorrupt`] when the release is not complete.
    pub fn publish(&self, id: &ReleaseId) -> Result<(), Problem> {
        if id.is_fallback() {
            return self.publish_fallback();
        }
        let Some(marker) = self.marker(id)? else {
            let message = format!("{} is not a complete release", self.path(id).display());
            return Err(Problem::new(Reason::ReleaseCorrupt, message));
        };
        self.check_before_use(&marker)?;
        // On the way back nothing was fetched. A missing directory must not keep a pod on bad code.
        self.try_to_make_targets(&marker.links);
        let before = self.link_before()?;
        let dir = self.current_dir()?;
        let target = self.target_from(&dir, id)?;
        self.swap(&dir, &target)?;
        let done = dir.sync().map_err(|e| disk_problem(dir.name(), &e)).and_then(|()| self.read_back(id));
        failpoint::hit("publish.synced");
        if let (Err(_), Some(before)) = (&done, before) {
            // A move that is not proven must not stay; if this fails too, the volume is beyond help.
            let _ = self.swap(&dir, &before);
        }
        done
    }

    /// What `current` points to now; refuses what no rename may replace.
    pub(super) fn link_before(&self) -> Result<Option<PathBuf>, Problem> {
        match fs::symlink_metadata(&self.current) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(disk_problem(&self.current, &e)),
            Ok(meta) if meta.is_symlink() => {
                fs::read_link(&self.current).map(Some).map_err(|e| disk_problem(&self.current, &e))
            }
            Ok(meta) => Err(self.no_link(if meta.is_dir() { "a directory" } else { "a file" })),
        }
    }

    fn no_link(&self, what: &str) -> Problem {
        let path = self.current.display();
        let message = format!(
            "{path} is {what} and not a link; move it away (mv {path} {path}.old), or let `current` name another path"
        );
        Problem::new(Reason::VolumeUnavailable, message)
    }

    /// The directory that holds `current`, open. On the volume and in `pod_dir` others may put links on the way:
    /// there none is followed.
    ///
    /// # Errors
    /// [`Reason::VolumeUnavailable`] naming the directory, or the link.
    pub(crate) fn current_dir(&self) -> Result<Held, Problem> {
        let dir = self.current.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let shared = [&self.deploy_to, &self.layout.pod_dir];
        let below = shared.iter().find_map(|root| Some((root.as_path(), dir.strip_prefix(root).ok()?)));
        let (root, rest) = below.unwrap_or((dir, Path::new("")));
        Held::open(root, rest).map_err(|e| places::refused(root, rest, &e))
    }

    /// The release as seen from `dir`: relative, so that containers may mount the volume at
    /// different paths; absolute where they have nothing but the root in common.
    fn target_from(&self, dir: &Held, id: &ReleaseId) -> Result<PathBuf, Problem> {
        let real = |path: &Path| path.canonicalize().map_err(|e| disk_problem(path, &e));
        let (dir, path) = (real(&dir.path())?, real(&self.path(id))?);
        Ok(relative(&dir, &path).unwrap_or(path))
    }

    pub(super) fn swap(&self, dir: &Held, target: &Path) -> Result<(), Problem> {
        let link = |path: &Path| std::os::unix::fs::symlink(target, path);
        let temp = tempfile::Builder::new()
            .prefix(&self.temp_link_prefix())
            .make_in(dir.path(), link)
            .map_err(|e| disk_problem(dir.name(), &e))?;
        failpoint::hit("publish.linked");
        match fs::rename(temp.path(), dir.join(self.current.file_name().unwrap_or_default())) {
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => return Err(self.no_link("a directory")),
            done => done.map_err(|e| disk_problem(&self.current, &e))?,
        }
        failpoint::hit("publish.renamed");
        Ok(())
    }

    fn read_back(&self, id: &ReleaseId) -> Result<(), Problem> {
        let identity =
            |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).map_err(|e| disk_problem(path, &e));
        if identity(&self.current)? == identity(&self.path(id))? {
            return Ok(());
        }
        let message = format!(
            "{} does not lead to {id} though it was just moved there; does something else move it?",
            self.current.display()
        );
        Err(Problem::new(Reason::VolumeUnavailable, message))
    }

    fn temp_link_prefix(&self) -> String {
        format!(".pitstop-link+{}+", self.pod)
    }

    /// Removes the temporary links that a killed agent of this pod left beside `current`.
    pub(super) fn clean_links(&self) -> Result<(), Problem> {
        let Ok(dir) = self.current_dir() else { return Ok(()) };
        let prefix = OsString::from(self.temp_link_prefix());
        let failed = |e: io::Error| disk_problem(dir.name(), &e);
        for entry in fs::read_dir(dir.path()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let ours = entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
            if ours && entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                match fs::remove_file(entry.path()) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(disk_problem(&entry.path(), &e));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// `to` as seen from the directory `from`; both absolute and without links. `None` when only the
/// root is common.
fn relative(from: &Path, to: &Path) -> Option<PathBuf> {
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    if shared < 2 {
        return None;
    }
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    Some(up.chain(to.components().skip(shared)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_relative_where_the_paths_have_something_in_common() {
        let target = |from: &str, to: &str| relative(Path::new(from), Path::new(to));
        assert_eq!(target("/srv/app", "/srv/app/releases/v1"), Some("releases/v1".into()));
        assert_eq!(target("/srv/run/pod", "/srv/app/releases/v1"), Some("../../app/releases/v1".into()));
        assert_eq!(target("/run/pod", "/srv/app/releases/v1"), None);
    }
}
