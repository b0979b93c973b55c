//! The volume: does it take what a deploy does to it, and where does `current` lead?

use std::{
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock, statvfs};

use crate::{
    cli::Failure,
    config::Config,
    core::Problem,
    finding::{Check, Code, Finding},
    lane::Lane,
    releases::Releases,
};

const ABOUT: &str = "volume";

/// A disk that needs longer for a handful of small files hangs, as far as a deploy is concerned.
const LIMIT: Duration = Duration::from_secs(10);

/// What doctor makes begins with this; a release's id never begins with a dot.
const PREFIX: &str = ".pitstop-doctor";

/// Everything about the volume.
///
/// # Errors
/// When there is no thread for it.
pub(crate) async fn checks(config: &Config) -> Result<Vec<Check>, Failure> {
    let lane = Lane::start("doctor")?;
    let volume = Volume {
        releases: crate::cli::on_volume(config),
        deploy_to: config.deploy_to.clone(),
        current: config.current(),
    };
    Ok(within(LIMIT, &lane, &config.deploy_to, move || volume.checks()).await)
}

/// A volume that hangs is told from one that answers.
pub(super) async fn within(
    limit: Duration,
    lane: &Lane,
    deploy_to: &Path,
    look: impl FnOnce() -> Vec<Check> + Send + 'static,
) -> Vec<Check> {
    let hangs = || {
        let shown = deploy_to.display();
        let message = format!("{shown} did not answer within {limit:?}: no deploy starts while it hangs");
        let remedy = "check the network file system's server and its mount; drains work without the volume";
        vec![Check::found(ABOUT, Finding::broken(Code::VolumeHangs, message, remedy))]
    };
    lane.run(limit, look).await.unwrap_or_else(|_| hangs())
}

struct Volume {
    releases: Releases,
    deploy_to: PathBuf,
    current: PathBuf,
}

impl Volume {
    fn checks(&self) -> Vec<Check> {
        if let Err(problem) = self.releases.check_volume() {
            let remedy = "mount the volume there, or correct deploy_to";
            return vec![Check::found(
                ABOUT,
                Finding::broken(Code::VolumeMissing, problem.message.as_str(), remedy),
            )];
        }
        vec![self.takes_releases(), self.takes_links(), self.locks(), self.has_room(), self.current()]
    }

    /// A directory made where releases are made ready, and moved to where they stand.
    fn takes_releases(&self) -> Check {
        let (staging, releases) = (self.deploy_to.join(".pitstop/staging"), self.deploy_to.join("releases"));
        let held = (self.releases.nearest(".pitstop/staging"), self.releases.nearest("releases"));
        let (from, to) = match held {
            (Ok(from), Ok(to)) => (from, to),
            (Err(problem), _) => return Check::found(ABOUT, refused(&staging, problem)),
            (_, Err(problem)) => return Check::found(ABOUT, refused(&releases, problem)),
        };
        let made = match tempfile::Builder::new().prefix(PREFIX).tempdir_in(from.path()) {
            Ok(made) => made,
            Err(error) => return Check::found(ABOUT, not_writable(from.name(), &error)),
        };
        let moved = to.join(format!("{PREFIX}-{}", std::process::id()));
        match fs::rename(made.path(), &moved) {
            Ok(()) => {
                let _ = fs::remove_dir(&moved);
                Check::fine(
                    ABOUT,
                    format!("releases can be created and renamed below {}", to.name().display()),
                )
            }
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                Check::found(ABOUT, split(&staging, &releases))
            }
            Err(error) => Check::found(ABOUT, not_writable(to.name(), &error)),
        }
    }

    /// A link renamed over another, beside `current`.
    fn takes_links(&self) -> Check {
        let Some(dir) = self.current.parent() else {
            return Check::unknown(ABOUT, "`current` is the root of the file system");
        };
        let held = match self.releases.current_dir() {
            Ok(held) => held,
            Err(problem) => return Check::found(ABOUT, refused(dir, problem)),
        };
        let (link, over) = (held.join(format!("{PREFIX}-link")), held.join(format!("{PREFIX}-over")));
        let swapped = symlink("a", &over).and_then(|()| symlink("b", &link)).and_then(|()| {
            fs::rename(&link, &over)?;
            fs::read_link(&over)
        });
        for made in [&link, &over] {
            let _ = fs::remove_file(made);
        }
        match swapped {
            Ok(target) if target == Path::new("b") => {
                Check::fine(ABOUT, format!("`current` can be switched in {}", dir.display()))
            }
            Ok(_) => Check::unknown(
                ABOUT,
                format!("a symlink in {} was renamed but could not be read back", dir.display()),
            ),
            Err(error) => Check::found(ABOUT, not_writable(dir, &error)),
        }
    }

    /// Unfinished work carries a lock, so that nobody takes it away from who lives.
    fn locks(&self) -> Check {
        let dir = self.deploy_to.join(".pitstop/staging");
        let held = self.releases.nearest(".pitstop/staging");
        let held = held.map_err(|problem| io::Error::new(io::ErrorKind::PermissionDenied, problem.message));
        let locked = held.and_then(|held| {
            let file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(held.path())?;
            let other = File::open(file.path())?;
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err())
        });
        match locked {
            Ok(true) => Check::fine(ABOUT, "locks hold"),
            Ok(false) => Check::found(ABOUT, no_locks("two take the same lock")),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Check::unknown(ABOUT, format!("locks: {}: {error}", dir.display()))
            }
            Err(error) => Check::found(ABOUT, no_locks(&error.to_string())),
        }
    }

    /// Room for one more release of the largest size that is there, twice over: it lies there as an
    /// archive first.
    fn has_room(&self) -> Check {
        let room = match statvfs(&self.deploy_to) {
            Ok(room) => room,
            Err(error) => return Check::unknown(ABOUT, format!("the free space is unknown: {error}")),
        };
        let largest = self.releases.list().unwrap_or_default().into_iter();
        let (bytes, entries) = largest.fold((0, 0), |(bytes, entries), release| {
            (release.marker.bytes.max(bytes), release.marker.entries.max(entries))
        });
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        // Some file systems do not count inodes: they say that there are none.
        let inodes = if room.f_files == 0 { u64::MAX } else { room.f_favail };
        room_for((bytes, entries), free, inodes)
    }

    fn current(&self) -> Check {
        let shown = self.current.display();
        let meta = match fs::symlink_metadata(&self.current) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Check::fine(
                    ABOUT,
                    format!("{shown} does not exist yet: the first deploy creates it"),
                );
            }
            Err(error) => return Check::unknown(ABOUT, format!("{shown}: {error}")),
        };
        if !meta.is_symlink() {
            let message = format!(
                "{shown} is not a symlink: pitstop does not replace it, so no release can be deployed"
            );
            let remedy = "move it away; `pitstop fetch` or the agent creates the symlink";
            return Check::found(ABOUT, Finding::broken(Code::CurrentNotALink, message, remedy));
        }
        match self.releases.current() {
            Ok(Some(release)) => {
                Check::fine(ABOUT, format!("{shown} points to {release}, a complete release"))
            }
            Ok(None) if self.current.exists() => {
                let message = format!(
                    "{shown} points to something that pitstop did not create: /startup fails until a verified \
                     release is in place"
                );
                let remedy = "deploy a published release with `pitstop fetch` or the agent";
                Check::found(ABOUT, Finding::risky(Code::CurrentUnchecked, message, remedy))
            }
            Ok(None) => {
                let message = format!(
                    "{shown} is a dangling symlink: Puma cannot start from it, and a restart ends Puma"
                );
                let remedy = "promote a release that is in the store, or run `pitstop fetch`";
                Check::found(ABOUT, Finding::broken(Code::CurrentDangling, message, remedy))
            }
            Err(problem) => Check::unknown(ABOUT, problem.message),
        }
    }
}

/// The nearest directory of this path that is there: what is not there yet is made in it.
pub(super) fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|dir| dir.is_dir()).unwrap_or(path).to_owned()
}

/// Of the largest release, bytes and entries; free bytes and inodes.
pub(super) fn room_for((bytes, entries): (u64, u64), free: u64, inodes: u64) -> Check {
    let megabytes = |bytes: u64| bytes >> 20;
    if free >= bytes.saturating_mul(2) && inodes >= entries.saturating_mul(2) {
        return Check::fine(ABOUT, format!("{} MB free", megabytes(free)));
    }
    let message = format!(
        "{} MB and {inodes} inodes are free, and the largest release here has {} MB and {entries} entries: the next \
         one may not fit",
        megabytes(free),
        megabytes(bytes)
    );
    let remedy = "free space, lower keep_releases, or enlarge the volume";
    Check::found(ABOUT, Finding::risky(Code::VolumeNearlyFull, message, remedy))
}

fn refused(dir: &Path, problem: Problem) -> Finding {
    not_writable(dir, &io::Error::other(problem.message))
}

fn not_writable(dir: &Path, error: &io::Error) -> Finding {
    Finding::broken(
        Code::VolumeNotWritable,
        format!("{} is not writable ({error}): nothing can be deployed", dir.display()),
        "mount the volume writable for the agent's user (fsGroup or runAsUser)",
    )
}

fn split(staging: &Path, releases: &Path) -> Finding {
    Finding::broken(
        Code::VolumeSplit,
        format!(
            "{} and {} are on different file systems: a release cannot be renamed into place",
            staging.display(),
            releases.display()
        ),
        "mount one volume at deploy_to, and nothing below it",
    )
}

pub(super) fn no_locks(why: &str) -> Finding {
    Finding::risky(
        Code::VolumeWithoutLocks,
        format!(
            "file locks do not work on this volume ({why}): pods that share it may delete each other's work"
        ),
        "mount it with locking (NFS: without `nolock`), or use one volume per pod",
    )
}
