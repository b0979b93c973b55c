//! podman with runc, in a storage of its own: nothing of the machine's containers, and nothing left behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// One pod's podman.
pub(super) struct Podman {
    dir: PathBuf,
    images: PathBuf,
}

impl Podman {
    /// Below `dir`, with the images that `.ci/pod-images` made.
    pub(super) fn below(dir: &Path) -> Self {
        let podman = Self { dir: dir.to_owned(), images: target().join("pods/images") };
        assert!(podman.images.exists(), "no images for pods: run .ci/setup pods and .ci/pod-images, as root");
        fs::write(dir.join("containers.conf"), podman.engine()).expect("podman's configuration");
        fs::write(dir.join("storage.conf"), podman.storage()).expect("podman's configuration");
        podman
    }

    /// Files as locks: the others would be in /dev/shm, the machine's own.
    fn engine(&self) -> String {
        let dir = self.dir.display();
        format!(
            "[containers]\ndefault_ulimits = [\"nofile=16384:16384\", \"nproc=8192:8192\"]\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nruntime = \"runc\"\nevents_logger = \"none\"\n\
             lock_type = \"file\"\nstatic_dir = \"{dir}/libpod\"\ntmp_dir = \"{dir}/tmp\"\n\
             volume_path = \"{dir}/volumes\"\n"
        )
    }

    fn storage(&self) -> String {
        format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"{dir}/storage\"\nrunroot = \"{dir}/run\"\n\
             [storage.options]\nadditionalimagestores = [\"{images}\"]\n\
             [storage.options.overlay]\nskip_mount_home = \"true\"\n",
            dir = self.dir.display(),
            images = self.images.display(),
        )
    }

    pub(super) fn run(&self, args: &[&str]) -> Output {
        Command::new("podman")
            .args(args)
            // Where conmon leaves a file when a container has run out of memory.
            .current_dir(&self.dir)
            .env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.dir.join("storage.conf"))
            .output()
            .expect("podman is there")
    }

    /// As conmon left it. `podman wait` would wait 20 s for a helper that does not know this storage.
    pub(super) fn exit_code(&self, container: &str) -> Option<i32> {
        fs::read_to_string(self.dir.join("tmp/exits").join(container)).ok()?.trim().parse().ok()
    }

    /// Runs what has to work, and gives what it printed.
    #[track_caller]
    pub(super) fn must(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let erred = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman {args:?}: {}\n{erred}", output.status);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

/// Where everything is built.
pub(super) fn target() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(built, PathBuf::from);
    target.canonicalize().expect("the target directory")
}
