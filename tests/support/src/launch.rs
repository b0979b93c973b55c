use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Where Puma and its Ruby come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// This machine's own: Puma shares its file system with everybody.
    Machine,
    /// Debian 13, with Puma 6.6, in a root and a mount namespace of its own. Needs root.
    Trixie,
    /// Debian's newest, with Puma 8.0 or later, likewise.
    Sid,
    /// Debian 13 with Rails 7.2, likewise.
    Rails,
}

impl Image {
    /// The one that a whole run of the tests is about: `RIG_PUMA=trixie`, `RIG_PUMA=sid`, or this machine's.
    ///
    /// # Panics
    /// When the variable says anything else.
    pub fn of_this_run() -> Self {
        match std::env::var("RIG_PUMA").as_deref() {
            Err(_) | Ok("") => Self::Machine,
            Ok("trixie") => Self::Trixie,
            Ok("sid") => Self::Sid,
            Ok(other) => panic!("RIG_PUMA is {other}: it can be trixie or sid"),
        }
    }

    /// The image's file system; `None` for this machine's.
    ///
    /// # Panics
    /// When it was not made yet.
    pub fn root(self) -> Option<PathBuf> {
        let suite = match self {
            Self::Machine => return None,
            Self::Trixie => "trixie",
            Self::Sid => "sid",
            Self::Rails => "rails",
        };
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or(built, PathBuf::from);
        let root = target.join("roots").join(suite);
        assert!(root.join(".stamp").exists(), "{} is missing: run .ci/setup {suite}", root.display());
        Some(root)
    }
}

/// What stands between the container and Puma.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapper {
    /// Nothing: Puma is the container's first process.
    None,
    /// `sh -c "puma …; true"`: a shell that stays, and that a signal would kill.
    Shell,
    /// A mount namespace of its own, whose control socket and state file nobody outside sees by path.
    MountNamespace,
    /// `bundle exec puma`, with the bundle of the release.
    Bundler,
    /// `tini --`: an init that stays and passes signals on.
    Tini,
    /// `dumb-init --`, likewise.
    DumbInit,
    /// `rackup -s puma -p PORT`: the port is no part of Puma's own configuration then.
    Rackup,
    /// Nothing, and PWD is not in Puma's environment.
    WithoutPwd,
    /// This command line for a shell, as an image's CMD.
    Command(&'static str),
}

impl Wrapper {
    /// Whether it stays in front of Puma, which is its child then.
    pub(crate) fn stays(self) -> bool {
        matches!(self, Self::Shell | Self::Tini | Self::DumbInit)
    }

    /// The init that the container is started with.
    fn init(self) -> &'static [&'static str] {
        match self {
            Self::Tini => &["tini", "--"],
            Self::DumbInit => &["dumb-init", "--"],
            _ => &[],
        }
    }
}

/// Where the container sees what the rig has made.
#[derive(Debug, Clone)]
pub(crate) struct Mounts {
    pub root: PathBuf,
    /// The rig's own directory, as everybody sees it.
    pub scratch: PathBuf,
}

/// The volume and the directory for sockets are elsewhere than for the agent, as in a pod.
const VOLUME: &str = "/srv/app";
const RUN: &str = "/run/puma";

impl Mounts {
    /// The container's name for a path on the volume or in the directory for sockets.
    pub fn inside(&self, path: &Path) -> PathBuf {
        for (here, there) in [("app", VOLUME), ("run", RUN)] {
            if let Ok(rest) = path.strip_prefix(self.scratch.join(here)) {
                return Path::new(there).join(rest);
            }
        }
        path.to_owned()
    }

    /// What follows in the command runs in the image, in this directory of it.
    pub fn enter(&self, command: &mut Command, cwd: &Path) {
        command.args(["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, "enter"]);
        command.env("RIG_ROOT", &self.root).env("RIG_SCRATCH", &self.scratch).env("RIG_CWD", cwd);
    }

    /// Likewise, with the rig's own directory under its usual name as well.
    pub fn enter_with_all(&self, command: &mut Command) {
        self.enter(command, Path::new("/"));
        command.env("RIG_BOTH", "yes");
    }
}

/// A container's root: the image read-only, and `.` is where it is put together. What a test calls the image's
/// own code is in it by the same name. `pod` is mounted at the same
/// path as for everybody, as a `pod_dir` has to be.
const ENTER: &str = r#"set -e
mount --bind "$RIG_ROOT" "$RIG_SCRATCH/root"
cd "$RIG_SCRATCH/root"
mount -o remount,bind,ro .
mount --rbind /dev dev
mount -t proc proc proc
for dir in tmp run srv; do mount -t tmpfs -o mode=1777 rig "$dir"; done
mkdir srv/app run/puma
mount --bind "$RIG_SCRATCH/app" srv/app
if [ -d "$RIG_SCRATCH/image" ]; then mkdir -p ".$RIG_SCRATCH/image"; mount --bind "$RIG_SCRATCH/image" ".$RIG_SCRATCH/image"; fi
if [ -n "$RIG_BOTH" ]; then mkdir -p ".$RIG_SCRATCH"; mount --bind "$RIG_SCRATCH" ".$RIG_SCRATCH"; fi
if [ -n "$RIG_HIDDEN" ]; then mount -t tmpfs -o mode=1777 rig run/puma
else mount --bind "$RIG_SCRATCH/run" run/puma; fi
if [ -d "$RIG_SCRATCH/pod" ]; then mkdir -p ".$RIG_SCRATCH/pod"; mount --bind "$RIG_SCRATCH/pod" ".$RIG_SCRATCH/pod"; fi
pivot_root . .
umount --lazy .
cd "$RIG_CWD"
export PWD
unset OLDPWD RIG_ROOT RIG_SCRATCH RIG_HIDDEN RIG_BOTH RIG_CWD
exec "$@""#;

/// All that decides how Puma's process comes to be.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub mounts: Option<Mounts>,
    pub wrapper: Wrapper,
    pub uid: Option<u32>,
    /// The link that Puma is started in, as everybody sees it.
    pub current: PathBuf,
    /// Whether PWD shall name the release instead of the link.
    pub resolved_pwd: bool,
    pub env: Vec<(String, String)>,
}

const UNWANTED: [&str; 6] =
    ["WEB_CONCURRENCY", "RAILS_ENV", "RACK_ENV", "RUBYOPT", "BUNDLE_GEMFILE", "OLDPWD"];

impl Launch {
    pub fn command(&self) -> Command {
        let pwd = if self.resolved_pwd {
            fs::canonicalize(&self.current).expect("current resolves")
        } else {
            self.current.clone()
        };
        let mut command = Command::new("setpriv");
        // Even a killed test leaves no Puma behind.
        command.args(["--pdeathsig", "KILL"]);
        if !self.wrapper.init().is_empty() {
            command.arg("--").args(self.wrapper.init()).args(["setpriv", "--pdeathsig", "KILL"]);
        }
        match &self.mounts {
            Some(mounts) => self.enter(&mut command, mounts, &pwd),
            None => {
                command.args(self.user()).arg("--").current_dir(&self.current).env("PWD", pwd);
            }
        }
        command.args(self.wrapped());
        UNWANTED.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Root makes the namespace; only then the user is changed, and with it the signal of the parent's
    /// death is lost and asked for again.
    fn enter(&self, command: &mut Command, mounts: &Mounts, pwd: &Path) {
        command.arg("--");
        mounts.enter(command, &mounts.inside(pwd));
        command.args(["setpriv", "--pdeathsig", "KILL"]).args(self.user()).arg("--");
        command.env("RIG_HIDDEN", if self.wrapper == Wrapper::MountNamespace { "yes" } else { "" });
    }

    fn user(&self) -> Vec<String> {
        let ids = |uid| vec![format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()];
        self.uid.map(ids).unwrap_or_default()
    }

    fn wrapped(&self) -> Vec<&'static str> {
        const NAMESPACE: [&str; 5] = ["unshare", "--mount", "--propagation", "private", "sh"];
        let mount_and_run = "mount -t tmpfs rig \"$RIG_RUN\" && exec puma -C \"$RIG_CONFIG\"";
        match self.wrapper {
            Wrapper::MountNamespace if self.mounts.is_none() => {
                NAMESPACE.into_iter().chain(["-c", mount_and_run]).collect()
            }
            Wrapper::None | Wrapper::MountNamespace | Wrapper::Tini | Wrapper::DumbInit => {
                vec!["sh", "-c", "exec puma -C \"$RIG_CONFIG\""]
            }
            Wrapper::Shell => vec!["sh", "-c", "puma -C \"$RIG_CONFIG\"; exit $?"],
            Wrapper::Command(line) => vec!["sh", "-c", line],
            Wrapper::Bundler => vec!["sh", "-c", "exec bundle exec puma -C \"$RIG_CONFIG\""],
            Wrapper::Rackup => vec!["sh", "-c", "exec rackup -s puma -o \"$RIG_HOST\" -p \"$RIG_PORT\""],
            Wrapper::WithoutPwd => vec!["sh", "-c", "exec env -u PWD puma -C \"$RIG_CONFIG\""],
        }
    }
}
