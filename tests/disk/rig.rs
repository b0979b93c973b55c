//! A store, a volume, and the program.

use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    sync::Arc,
    time::Duration,
};

use pitstop::{
    config::S3,
    core::Problem,
    releases::{Limits, Releases, fetch::Fetched},
    revision::ReleaseId,
    store::{self, Blocking},
};
use tokio::runtime::Runtime;

pub struct Rig {
    pub dir: tempfile::TempDir,
    pub deploy_to: PathBuf,
}

pub fn id(text: &str) -> ReleaseId {
    text.parse().unwrap()
}

impl Rig {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let deploy_to = dir.path().join("srv");
        Self { dir, deploy_to }
    }

    pub fn store_dir(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn current(&self) -> PathBuf {
        self.deploy_to.join("current")
    }

    /// An app whose files say which release they are.
    pub fn app(&self, release: &str) -> PathBuf {
        let app = self.dir.path().join("apps").join(release);
        fs::create_dir_all(app.join("config")).unwrap();
        for n in 0..5 {
            fs::write(app.join(format!("config/{n}.rb")), format!("RELEASE = {release}, {n}")).unwrap();
        }
        fs::write(app.join("config.ru"), release).unwrap();
        let _ = symlink("config.ru", app.join("link.ru"));
        app
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pitstop"));
        command.args(args).env("PITSTOP_SOURCE", self.store_dir()).env("PITSTOP_DEPLOY_TO", &self.deploy_to);
        command.env("PITSTOP_POD", "web-0");
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The exit code and what it said on standard error.
    pub fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub fn publish(&self, release: &str) {
        let app = self.app(release);
        self.ok(&["publish", app.to_str().unwrap(), "--release", release]);
    }

    pub fn promote(&self, release: &str) {
        self.publish(release);
        self.ok(&["promote", release]);
    }

    pub fn releases(&self) -> Releases {
        self.releases_with(Limits::default())
    }

    pub fn releases_with(&self, limits: Limits) -> Releases {
        Releases::new(self.deploy_to.clone(), self.current(), "web-0", limits)
    }

    pub fn fetch(&self, release: &str) -> Result<Fetched, Problem> {
        self.fetch_with(&self.releases(), release)
    }

    pub fn fetch_with(&self, releases: &Releases, release: &str) -> Result<Fetched, Problem> {
        self.fetch_promised(releases, release, None)
    }

    /// With the digest that a pointer names.
    pub fn fetch_promised(
        &self,
        releases: &Releases,
        release: &str,
        sha256: Option<&str>,
    ) -> Result<Fetched, Problem> {
        let runtime = Runtime::new().unwrap();
        let store = store::open(self.store_dir().to_str(), &S3::default()).unwrap();
        let store = Blocking::new(Arc::clone(&store), runtime.handle().clone(), Duration::from_secs(30));
        releases.fetch(&store, &id(release), sha256)
    }

    /// Puts an archive into the store as a CI would.
    pub fn put_archive(&self, release: &str, extension: &str, bytes: &[u8]) {
        use sha2::{Digest, Sha256};
        let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        self.put_archive_as(release, extension, bytes, &hex);
    }

    pub fn put_archive_as(&self, release: &str, extension: &str, bytes: &[u8], sha256: &str) {
        let dir = self.store_dir().join("releases");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("{release}.{extension}")), bytes).unwrap();
        fs::write(dir.join(format!("{release}.{extension}.sha256")), sha256).unwrap();
    }

    /// What the app server would find: nothing, or one whole release. Resolved once, as `current`
    /// may move at any moment.
    pub fn release_at_current(&self) -> Option<String> {
        let link = || {
            let meta = fs::symlink_metadata(self.current()).ok();
            meta.map(|m| (m.ino(), m.ctime(), m.ctime_nsec()))
        };
        loop {
            let before = link()?;
            let look =
                self.current().canonicalize().map_err(|e| e.to_string()).and_then(|tree| Self::whole(&tree));
            match look {
                Ok(release) => return Some(release),
                Err(what) if link() == Some(before) => {
                    panic!("current does not lead to a whole release: {what}")
                }
                // It was moved on during the look, and the release that it led to may be gone by right.
                Err(_) => {}
            }
        }
    }

    /// Which release this is; all of it must be there.
    pub fn whole(tree: &Path) -> Result<String, String> {
        let read = |path: &str| fs::read_to_string(tree.join(path)).map_err(|e| format!("{path}: {e}"));
        let release = read("config.ru")?;
        for n in 0..5 {
            let path = format!("config/{n}.rb");
            let text = read(&path)?;
            if text != format!("RELEASE = {release}, {n}") {
                return Err(format!("{path} of {release} reads {text}"));
            }
        }
        match fs::read_link(tree.join("link.ru")) {
            Ok(target) if target == Path::new("config.ru") => Ok(release),
            other => Err(format!("link.ru leads to {other:?}")),
        }
    }

    /// Unfinished work that was moved aside, to be deleted in the background.
    pub fn abandoned(&self) -> Vec<String> {
        let entries = fs::read_dir(self.deploy_to.join(".pitstop/trash")).into_iter().flatten();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('+')).collect()
    }

    /// Unfinished work on the volume and beside `current` that is not moved aside, and releases that are.
    pub fn leftovers(&self) -> Vec<String> {
        let names = |dir: PathBuf| {
            let entries = fs::read_dir(dir).into_iter().flatten();
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        let mut left = names(self.deploy_to.join(".pitstop/staging"));
        left.extend(names(self.deploy_to.join(".pitstop/trash")).into_iter().filter(|n| !n.starts_with('+')));
        left.extend(names(self.deploy_to.clone()).into_iter().filter(|n| n.starts_with(".pitstop-link")));
        left
    }
}

/// Deletes as fast as it can.
pub fn at_once(_: Duration) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The caller itself needs nothing.
pub fn nothing() -> BTreeMap<ReleaseId, String> {
    BTreeMap::new()
}

/// Ended when dropped.
pub struct Running(pub Child);

impl Running {
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
