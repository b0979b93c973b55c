//! How the parent starts a server: what is seen of that in /proc, once for each parent.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    app_server::{fit::Misfit, ruby::release_named},
    config::SLOT_VARIABLE,
    procs::{self, Descent, WorkingDirectory},
};

/// Listened on by the kubelet, and by it alone, when both are: its API, and its own health.
const KUBELET_PORTS: [u16; 2] = [10250, 10248];

/// How the parent starts a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Start {
    /// The parent, and the Puma that it was looked at with.
    of: (i32, i32),
    /// That Puma was started in a slot.
    in_slot: bool,
    /// The command, word by word.
    command: Vec<String>,
    /// Where it starts, where that is the same for every release.
    pub(super) stays_in: Option<PathBuf>,
    /// It is in the network of a whole node.
    on_node: bool,
}

fn descends(pid: i32, from: i32) -> bool {
    procs::list(|_| true).is_ok_and(|all| Descent::of(&all).descends(pid, from))
}

impl Start {
    /// `live` is the Puma that the parent has started, `current` the link that deploys move. `None` where the parent may
    /// not be looked into. Asks the volume.
    pub(crate) fn of(parent: i32, live: i32, current: &Path) -> Option<Self> {
        let raw = fs::read(format!("/proc/{parent}/cmdline")).ok()?;
        let words = raw.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        Some(Self {
            of: (parent, live),
            // A long title is written over the environment that shows.
            in_slot: procs::environment(live, SLOT_VARIABLE).is_some() || descends(live, parent),
            command: command(words.filter(|word| !word.is_empty()).collect()),
            stays_in: stays_in(parent, live, current)?,
            on_node: is_on_node(&procs::ports_in_network_of(parent, |_| true)),
        })
    }

    pub(super) fn is_of(&self, parent: i32, live: i32) -> bool {
        self.of == (parent, live)
    }

    pub(super) fn is_able(&self) -> Result<(), Misfit> {
        if !self.in_slot {
            let why =
                format!("the Puma that serves (process {}) was not started by `pitstop exec`", self.of.1);
            return Err(Misfit::new(why, "start no other Puma in the pod, or select this one by puma.match"));
        }
        if self.on_node {
            let why = "the pod uses the network of its node (hostNetwork), where any process of the same user could take \
                       a part of the connections";
            return Err(Misfit::new(why, "remove hostNetwork from the pod"));
        }
        Ok(())
    }

    /// A path in one release, in a word of the command; Puma's own configuration may be of another one.
    pub(super) fn names_release(&self) -> Option<&str> {
        let words =
            || self.command.iter().flat_map(|word| word.split([' ', '\'', '"', '=', ';', '\t', '\n']));
        let words: Vec<&str> = words().filter(|word| !word.is_empty()).collect();
        let is_config = |at: usize| {
            let before = at.checked_sub(1).and_then(|at| words.get(at));
            before.is_some_and(|flag| matches!(*flag, "-C" | "--config"))
        };
        let named = |at: &usize| words.get(*at).is_some_and(|word| release_named(word.as_ref()).is_some());
        let found = (0..words.len()).filter(|at| !is_config(*at)).find(named)?;
        words.get(found).copied()
    }

    /// A shell of the command's own goes elsewhere first, or Puma is told to.
    pub(super) fn changes_directory(&self) -> bool {
        let words = || self.command.iter().flat_map(|word| word.split([' ', ';', '&', '=', '\n']));
        words().any(|word| matches!(word, "cd" | "pushd" | "--dir" | "--chdir"))
    }
}

/// What follows `pitstop exec`, its own flags left out.
fn command(words: Vec<String>) -> Vec<String> {
    match words.iter().position(|word| word == "--") {
        Some(at) => words.into_iter().skip(at + 1).collect(),
        None => words.into_iter().skip_while(|word| word != "exec").skip(1).collect(),
    }
}

/// The parent starts a server in `X/current` where it stands in `X/releases/ID` itself, else where it stands. Whoever
/// has left that place was led on by something.
fn stays_in(parent: i32, live: i32, current: &Path) -> Option<Option<PathBuf>> {
    let (stands, runs) = (WorkingDirectory::of(parent).ok()?, WorkingDirectory::of(live).ok()?);
    let beside_releases =
        root_of_releases(&stands.name).map(|dir| procs::in_root_of(parent, dir).join("current"));
    let moves_on = beside_releases.is_some_and(|link| is_same_link(&link, current));
    Some((!moves_on && stands == runs).then_some(stands.name))
}

/// `/srv/app`, of a place in `/srv/app/releases/v1`.
fn root_of_releases(stands: &Path) -> Option<&Path> {
    release_named(stands)?;
    stands.ancestors().find(|place| place.ends_with("releases"))?.parent()
}

/// Two names of one link, which may be replaced in between.
fn is_same_link(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| {
        let link = fs::symlink_metadata(path).ok().filter(|found| found.is_symlink())?;
        Some((link.dev(), link.ino()))
    };
    (0..3).any(|_| identity(one).is_some_and(|one| identity(other) == Some(one)))
}

fn is_on_node(ports: &[u16]) -> bool {
    KUBELET_PORTS.iter().all(|port| ports.contains(port))
}

#[cfg(test)]
impl Start {
    /// A Puma in a slot, started by this command.
    pub(crate) fn given(command: &[&str], stays_in: Option<PathBuf>) -> Self {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        Self { of: (1, 100), in_slot: true, command, stays_in, on_node: false }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::symlink,
        process::{Child, Command},
    };

    use super::*;

    struct Sleeper(Child);

    impl Sleeper {
        fn start(dir: &Path, slot: bool) -> Self {
            let mut command = Command::new("sleep");
            command.arg("600").current_dir(dir);
            if slot {
                command.env("PITSTOP_SLOT", "a");
            }
            let started = Self(command.spawn().unwrap());
            // The environment of an image shows a moment after its exec.
            let shows =
                || fs::read(format!("/proc/{}/environ", started.pid())).is_ok_and(|text| !text.is_empty());
            while !shows() {
                std::thread::yield_now();
            }
            started
        }

        fn pid(&self) -> i32 {
            self.0.id().try_into().unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_server_starts_where_current_leads_if_the_parent_stands_in_a_release_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (v1, image) = (dir.join("releases/v1"), dir.join("app"));
        let current = dir.join("current");
        fs::create_dir_all(v1.join("web")).unwrap();
        fs::create_dir(&image).unwrap();
        let stays = |parent: &Path, live: &Path| {
            let (parent, live) = (Sleeper::start(parent, false), Sleeper::start(live, true));
            let start = Start::of(parent.pid(), live.pid(), &current).unwrap();
            assert!(
                start.is_of(parent.pid(), live.pid())
                    && !start.is_of(parent.pid(), 1)
                    && start.is_able().is_ok()
            );
            start.stays_in
        };
        assert_eq!(stays(&v1, &v1), Some(v1.clone()), "there is no link to go through");
        symlink("releases/v1", &current).unwrap();
        assert_eq!(stays(&v1, &v1), None);
        assert_eq!(stays(&v1.join("web"), &v1.join("web")), None);
        assert_eq!(stays(&image, &image), Some(image.clone()), "as where `current` leads into the image");
        assert_eq!(stays(&dir, &v1), None, "its command goes there by itself");
        fs::rename(&current, dir.join("pod-0")).unwrap();
        symlink("pod-0", &current).unwrap();
        let (parent, live) = (Sleeper::start(&v1, false), Sleeper::start(&v1, true));
        let other = Start::of(parent.pid(), live.pid(), &dir.join("pod-0")).unwrap();
        assert_eq!(other.stays_in, Some(v1), "deploys move another link than the one beside the releases");
    }

    #[test]
    fn a_puma_of_somebody_elses_is_told_from_the_parents() {
        let other = Sleeper::start(Path::new("/"), false);
        let refused = Start::of(other.pid(), other.pid(), Path::new("/")).unwrap().is_able().unwrap_err();
        assert!(refused.why.contains(&other.pid().to_string()), "{refused:?}");
    }

    #[test]
    fn a_puma_whose_title_has_covered_its_environment_is_known_by_its_descent() {
        let live = Sleeper::start(Path::new("/"), false);
        let parent = std::process::id().cast_signed();
        assert!(Start::of(parent, live.pid(), Path::new("/")).unwrap().is_able().is_ok());
    }

    #[test]
    fn the_command_is_what_follows_exec() {
        let of = |words: &[&str]| command(words.iter().map(|word| (*word).to_owned()).collect()).join(" ");
        assert_eq!(of(&["/opt/pitstop", "exec", "--sidecar", "--", "puma", "-C", "x"]), "puma -C x");
        assert_eq!(of(&["pitstop", "exec", "bundle", "exec", "puma"]), "bundle exec puma");
        assert_eq!(of(&["pitstop", "exec", "--", "sh", "-c", "puma -- x"]), "sh -c puma -- x");
    }

    #[test]
    fn the_network_of_a_node_has_a_kubelet() {
        assert!(is_on_node(&[22, 10248, 10250, 10256]));
        assert!(!is_on_node(&[3000, 9750]) && !is_on_node(&[10250]), "others use that port as well");
        let node = Start { on_node: true, ..Start::given(&["puma"], None) };
        assert!(node.is_able().unwrap_err().why.contains("hostNetwork"));
    }
}
