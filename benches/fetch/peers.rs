//! The others: what is deployed with where pitstop is not.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// As many as an NFS client has slots.
const AT_ONCE: &str = "64";

/// A command line of bash's, which ends with the first that fails.
pub fn shell(script: &str, args: &[&Path]) -> Command {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script, "bash"]).args(args);
    command
}

/// Both releases in a repository.
pub struct Git {
    repository: PathBuf,
    index: PathBuf,
}

impl Git {
    pub fn prepare(home: &Path) -> Self {
        let git = Self { repository: home.join("repository"), index: home.join("index") };
        let script = r#"
            export GIT_DIR=$1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
            git init -q --bare "$1"; git config gc.auto 0; git config core.bare false
            for release in v1 v2; do
              GIT_WORK_TREE=$2/$release git add -A -f .
              GIT_WORK_TREE=$2/$release git commit -q -m $release
              git tag $release
            done
            git -c pack.window=0 repack -adq"#;
        let status = shell(script, &[&git.repository, home]).status();
        assert!(status.is_ok_and(|status| status.success()), "a repository");
        git
    }

    /// A release into a new directory, with nothing else there: its index and repository are on the local disk.
    pub fn checkout(&self, release: &str, into: &Path) -> Command {
        let script = r#"
            rm -f "$GIT_INDEX_FILE"; mkdir "$GIT_WORK_TREE"
            git -c checkout.workers=$WORKERS -c checkout.thresholdForParallelism=1 checkout -q -f --detach "$1"
            sync -f "$GIT_WORK_TREE""#;
        let mut command = shell(script, &[Path::new(release)]);
        command.env("GIT_DIR", &self.repository).env("GIT_INDEX_FILE", &self.index);
        command.env("GIT_WORK_TREE", into).env("WORKERS", AT_ONCE).current_dir(&self.repository);
        command
    }
}

/// The same work as a fetch: from an archive, which is checked, through `unpacked` on the local disk.
pub fn rclone(archive: &Path, unpacked: &Path, into: &Path) -> Command {
    let script = r#"
        mkdir "$2"; sha256sum "$1"; zstd -dcq "$1" | tar -xf - -C "$2"
        rclone --quiet --config /dev/null copy --transfers $AT_ONCE --checkers $AT_ONCE "$2" "$3"; sync -f "$3""#;
    let mut command = shell(script, &[archive, unpacked, into]);
    command.env("AT_ONCE", AT_ONCE);
    command
}

/// Without parallel writes.
pub fn tar(archive: &Path, into: &Path) -> Command {
    let script = r#"mkdir "$2"; sha256sum "$1"; zstd -dcq "$1" | tar -xf - -C "$2"; sync -f "$2""#;
    shell(script, &[archive, into])
}

/// Beside the release before, whose files it links.
pub fn rsync_link_dest(from: &Path, before: &Path, into: &Path) -> Command {
    let mut command = Command::new("rsync");
    command.arg("-a").arg("--link-dest").arg(before);
    command.arg(from.join("")).arg(into.join(""));
    command
}

/// A compressed archive of a directory, as `publish` makes one.
pub fn pack(dir: &Path, archive: &Path) -> Command {
    shell(r#"tar -C "$1" -cf - . | zstd -q -3 -o "$2""#, &[dir, archive])
}

/// Reading and hashing what an archive holds is the least that can be done with it.
pub fn read(archive: &Path) -> Command {
    shell(r#"zstd -dcq "$1" | sha256sum"#, &[archive])
}
