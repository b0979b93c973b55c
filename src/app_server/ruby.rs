//! What servers that run Ruby have in common in their set-up: configuration files that are Ruby programs, paths that
//! name one release, and links that a restart follows. It is evidence, and nothing is executed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::procs::{self, Inode, WorkingDirectory};

/// The method that a line calls, and its arguments.
pub(super) fn call(line: &str) -> Option<(&str, &str)> {
    let end = line.find([' ', '(']).unwrap_or(line.len());
    let (method, rest) = line.split_at(end);
    let rest = rest.trim_start_matches([' ', '(']);
    let plain =
        !method.is_empty() && method.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b'!'));
    let is_given_a_value = rest.starts_with("= ") || rest.starts_with("||=");
    (plain && !is_given_a_value).then_some((method, rest))
}

/// Plain text in quotes.
pub(super) fn literal(arguments: &str) -> Option<String> {
    let quote = arguments.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let (inside, _) = arguments.get(1..)?.split_once(quote)?;
    (!inside.contains("#{")).then(|| inside.to_owned())
}

/// `…/releases/v42/…`, in whichever container's words: `v42`.
pub(super) fn release_named(path: &Path) -> Option<&str> {
    let mut parts = path.components().map(|part| part.as_os_str());
    let below = path.is_absolute() && parts.any(|part| part == "releases");
    below.then(|| parts.next()?.to_str()).flatten()
}

/// Whether a path lies in one release.
pub(super) fn names_a_release(path: &Path) -> bool {
    release_named(path).is_some()
}

/// A path goes through a link, and does not name the running release itself.
pub(super) fn follows(pid: i32, path: &str) -> bool {
    let path = Path::new(path);
    let running = WorkingDirectory::of(pid).ok();
    let running = running.as_ref().and_then(|cwd| cwd.name.file_name());
    // A directory elsewhere may have the same name: the image's /app, and /srv/app.
    let cwd = Inode::of(Path::new(&format!("/proc/{pid}/cwd"))).ok();
    let is_running = |part: &Path| {
        let found = Inode::of(&procs::in_root_of(pid, part)).ok();
        part.file_name() == running && (found == cwd || found.is_none())
    };
    let names_the_release = running.is_some() && path.ancestors().any(is_running);
    let is_link = |path: &Path| {
        let Some((parent, name)) = path.parent().zip(path.file_name()) else { return false };
        fs::symlink_metadata(procs::in_root_of(pid, parent).join(name)).is_ok_and(|m| m.is_symlink())
    };
    path.is_absolute() && !names_the_release && path.ancestors().any(is_link)
}

/// What a process names by this path: its container may have another file system than ours.
pub(super) fn located(pid: i32, path: &Path) -> PathBuf {
    if path.is_absolute() {
        procs::in_root_of(pid, path)
    } else {
        PathBuf::from(format!("/proc/{pid}/cwd")).join(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_below_releases_names_one() {
        assert_eq!(release_named(Path::new("/srv/app/releases/v1/Gemfile")), Some("v1"));
        for path in ["/srv/app/current/Gemfile", "config.ru", "/srv/releases", "releases/v1/x"] {
            assert_eq!(release_named(Path::new(path)), None, "{path}");
        }
    }
}
