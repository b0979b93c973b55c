//! What a release is given that is not in its archive: links to directories and files that outlive
//! it, Capistrano's way.
//!
//! ```text
//! releases/v1/storage  -> deploy_to/shared/storage  linked_dirs, linked_files: relative, as containers
//!                                                   may mount the volume at different paths
//! releases/v1/log      -> /srv/pod/log              pod_dirs: absolute, the same path in every pod
//! ```
//!
//! The links are part of the release: made before it is complete, noted in its marker, and never
//! changed afterwards. What they lead to belongs to the volume or to the pod, and is made where it is missing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Releases, disk_problem, is_absence, places::make_dir_below, unpack_error::UnpackError};
use crate::{
    core::{Problem, Reason},
    revision::ReleaseId,
};

/// Where the directories and files of the volume are that releases share.
pub(super) const SHARED: &str = "shared";

/// How a release is laid out, beyond what its archive says.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Take the content of an archive's only directory as the release.
    pub strip_prefix: bool,
    /// Directories under `deploy_to/shared`, relative.
    pub linked_dirs: Vec<PathBuf>,
    /// Files under `deploy_to/shared`, relative.
    pub linked_files: Vec<PathBuf>,
    /// Directories under `pod_dir`, relative.
    pub pod_dirs: Vec<PathBuf>,
    /// Where each pod has those of its own.
    pub pod_dir: PathBuf,
    /// Directories whose files are reachable for all releases, relative.
    pub asset_dirs: Vec<PathBuf>,
}

impl Default for Layout {
    fn default() -> Self {
        let none = Vec::new;
        Self {
            strip_prefix: false,
            linked_dirs: none(),
            linked_files: none(),
            pod_dirs: none(),
            pod_dir: "/srv/pod".into(),
            asset_dirs: none(),
        }
    }
}

/// The key that asks for a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LinkKey {
    /// A directory of the volume.
    LinkedDirs,
    /// A file of the volume.
    LinkedFiles,
    /// A directory of the pod.
    PodDirs,
}

impl LinkKey {
    fn name(self) -> &'static str {
        match self {
            Self::LinkedDirs => "linked_dirs",
            Self::LinkedFiles => "linked_files",
            Self::PodDirs => "pod_dirs",
        }
    }
}

/// A link of a release, as its marker has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Who asked for it.
    pub(crate) key: LinkKey,
    /// Where it is, from the release's root.
    pub path: PathBuf,
    pub(crate) target: PathBuf,
    /// Directories that the release had in its place, empty ones, and expects to find there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) dirs: Vec<PathBuf>,
}

impl Layout {
    /// Whether it is the same for all releases already, or a part of it.
    pub(super) fn is_linked(&self, dir: &Path) -> bool {
        self.links().iter().any(|link| link.path.starts_with(dir) || dir.starts_with(&link.path))
    }

    /// The links that every release gets.
    pub(crate) fn links(&self) -> Vec<Link> {
        // Without a slash at the end.
        let plain = |path: &PathBuf| path.components().collect::<PathBuf>();
        let link = move |key, path: PathBuf, target| Link { key, path, target, dirs: Vec::new() };
        let shared = |key| move |path| link(key, plain(path), from_release(&plain(path)));
        let of_pod = |path| link(LinkKey::PodDirs, plain(path), self.pod_dir.join(plain(path)));
        let dirs = self.linked_dirs.iter().map(shared(LinkKey::LinkedDirs));
        let files = self.linked_files.iter().map(shared(LinkKey::LinkedFiles));
        dirs.chain(files).chain(self.pod_dirs.iter().map(of_pod)).collect()
    }
}

/// For `public/uploads`: up out of `public`, of the release, of `releases`; into `shared`.
fn from_release(path: &Path) -> PathBuf {
    let up = path.components().count() + 1;
    std::iter::repeat_n("..", up).collect::<PathBuf>().join("shared").join(path)
}

/// The refusal of a release that has something of its own where a link comes.
pub(super) fn in_the_way(link: &Link, what: &Path) -> UnpackError {
    UnpackError::Refused(format!(
        "it has {:?}, but `{}` makes {:?} a link: pack the release without it, or take that from the key",
        what.display().to_string(),
        link.key.name(),
        link.path.display().to_string(),
    ))
}

impl Releases {
    /// Makes what the links of a release lead to, where it is missing.
    ///
    /// # Errors
    /// [`Reason::VolumeUnavailable`] naming the key and the path, also when a linked file is missing:
    /// only its owner knows what belongs into it.
    pub(crate) fn make_targets(&self, links: &[Link]) -> Result<(), Problem> {
        links.iter().try_for_each(|link| match link.key {
            LinkKey::LinkedDirs => make_dirs(link, &self.deploy_to, &Path::new(SHARED).join(&link.path)),
            LinkKey::LinkedFiles => find_file(&self.deploy_to, &Path::new(SHARED).join(&link.path)),
            // Made when `pod_dir` was another one, or by somebody else: nothing is made there.
            LinkKey::PodDirs if link.target != self.layout.pod_dir.join(&link.path) => found(link),
            LinkKey::PodDirs => {
                find_pod_dir(&self.layout.pod_dir)?;
                make_dirs(link, &self.layout.pod_dir, &link.path)
            }
        })
    }

    /// Makes what the links of a release on the volume lead to, as far as that is possible: a pod that was
    /// just born may find the release, and nothing in its own `pod_dir`.
    ///
    /// # Errors
    /// [`Reason::VolumeUnavailable`] when the volume does not tell.
    pub fn prepare(&self, id: &ReleaseId) -> Result<(), Problem> {
        if let Some(marker) = self.marker(id)? {
            self.try_to_make_targets(&marker.links);
        }
        Ok(())
    }

    /// The same for links that nobody must wait for.
    pub(super) fn try_to_make_targets(&self, links: &[Link]) {
        if let Err(problem) = self.make_targets(links) {
            tracing::warn!(detail = problem.message, "a link of the release leads nowhere");
        }
    }
}

fn make_dirs(link: &Link, root: &Path, target: &Path) -> Result<(), Problem> {
    let all = std::iter::once(target.to_path_buf()).chain(link.dirs.iter().map(|dir| target.join(dir)));
    for dir in all {
        let whole = root.join(&dir);
        if fs::metadata(&whole).is_ok_and(|meta| !meta.is_dir()) {
            let (dir, key) = (whole.display(), link.key.name());
            return Err(lacking(format!("{dir} is no directory, but `{key}` needs one; move it away")));
        }
        make_dir_below(root, &dir)?;
    }
    Ok(())
}

fn found(link: &Link) -> Result<(), Problem> {
    if link.target.is_dir() {
        return Ok(());
    }
    let (path, target) = (link.path.display(), link.target.display());
    Err(lacking(format!(
        "the release's link {path} leads to {target}, which is not there and not below today's `pod_dir`: publish the \
         release again under another id, or make the directory"
    )))
}

/// An empty file in place of a missing one would boot, and then be the wrong key or database.
fn find_file(root: &Path, target: &Path) -> Result<(), Problem> {
    if let Some(dir) = target.parent() {
        make_dir_below(root, dir)?;
    }
    let target = &root.join(target);
    let shown = target.display();
    match fs::metadata(target) {
        Ok(meta) if meta.is_file() => Ok(()),
        Ok(_) => Err(lacking(format!("{shown} is no file, but `linked_files` needs one; move it away"))),
        Err(e) if is_absence(&e) => Err(lacking(format!(
            "{shown} is not there, but `linked_files` names it; put the file there (it is looked for again)"
        ))),
        Err(e) => Err(disk_problem(target, &e)),
    }
}

fn find_pod_dir(pod_dir: &Path) -> Result<(), Problem> {
    match fs::metadata(pod_dir) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Err(e) if !is_absence(&e) => Err(disk_problem(pod_dir, &e)),
        _ => Err(lacking(format!(
            "`pod_dirs` needs the directory {}: mount an emptyDir there, in the app's container too, or set `pod_dir`",
            pod_dir.display()
        ))),
    }
}

fn lacking(message: String) -> Problem {
    Problem::new(Reason::VolumeUnavailable, message)
}

/// What an app has at its top: one of them at least.
pub(super) const APP_FILES: [&str; 2] = ["Gemfile", "config.ru"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_is_two_directories_above_the_release() {
        let names = |path: &str| -> Vec<_> {
            from_release(Path::new(path)).iter().map(|name| name.to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names("storage"), ["..", "..", "shared", "storage"]);
        assert_eq!(names("public/uploads"), ["..", "..", "..", "shared", "public", "uploads"]);
    }
}
