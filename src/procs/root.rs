use std::{
    ffi::OsString,
    fs,
    path::{Component, Path, PathBuf},
};

/// As many links as the kernel follows on one path.
const LINKS_AT_MOST: usize = 40;

/// Where a process's path is for us, when it lives in another mount namespace. Links are followed as
/// the process would: an absolute one (`/var/run`, in most images) starts at its root and not at ours.
/// Asks its file systems, and so may hang as long as they do.
pub(crate) fn in_root_of(pid: i32, path: &Path) -> PathBuf {
    below(&PathBuf::from(format!("/proc/{pid}/root")), path)
}

fn below(root: &Path, path: &Path) -> PathBuf {
    let (mut inside, mut links) = (PathBuf::new(), 0);
    let mut ahead = parts(path);
    while let Some(part) = ahead.pop() {
        if part == ".." {
            inside.pop();
            continue;
        }
        match fs::read_link(root.join(&inside).join(&part)) {
            Ok(target) if links < LINKS_AT_MOST => {
                links += 1;
                if target.is_absolute() {
                    inside.clear();
                }
                ahead.extend(parts(&target));
            }
            _ => inside.push(part),
        }
    }
    root.join(inside)
}

/// The first part last.
fn parts(path: &Path) -> Vec<OsString> {
    let kept = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().rev().filter(kept).map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_inside_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("run/puma")).unwrap();
        fs::create_dir(root.join("var")).unwrap();
        symlink("/run", root.join("var/run")).unwrap();
        symlink("../../../run", root.join("var/up")).unwrap();
        symlink("run/puma", root.join("short")).unwrap();
        symlink("/loop", root.join("loop")).unwrap();
        let socket = root.join("run/puma/control.sock");
        for path in ["/run/puma/control.sock", "/var/run/puma/control.sock", "/short/control.sock"] {
            assert_eq!(below(root, Path::new(path)), socket, "{path}");
        }
        assert_eq!(
            below(root, Path::new("/var/up/puma/../puma/control.sock")),
            socket,
            "never above the root"
        );
        assert_eq!(below(root, Path::new("/absent/x")), root.join("absent/x"));
        assert_eq!(below(root, Path::new("/loop")), root.join("loop"));
        assert_eq!(below(root, Path::new("/")), root);
    }
}
