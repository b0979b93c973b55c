use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::until;

/// A directory that can stop answering, as a network volume does: a FUSE file system that shows
/// another directory, and whose server can be stopped.
pub struct HangingVolume {
    server: Child,
    mount_point: PathBuf,
}

impl HangingVolume {
    /// Shows the directory `real` at `mount_point`. Needs root, `/dev/fuse` and `bindfs`.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn mount(real: &Path, mount_point: &Path) -> Self {
        for dir in [real, mount_point] {
            fs::create_dir_all(dir).expect("the volume's directories");
        }
        fs::write(real.join(".mounted"), "").expect("a mark in the volume");
        let mut command = Command::new("setpriv");
        // Nothing is answered from a cache, so that every look needs the server.
        let options = ["-f", "-o", "attr_timeout=0,entry_timeout=0,negative_timeout=0,allow_other"];
        command.args(["--pdeathsig", "KILL", "--", "bindfs"]).args(options).arg(real).arg(mount_point);
        let server = command.stdin(Stdio::null()).spawn().expect("bindfs starts (make setup installs it)");
        let volume = Self { server, mount_point: mount_point.to_owned() };
        until("the volume is mounted", || mount_point.join(".mounted").exists().then_some(()));
        volume
    }

    /// From now on nothing on the volume is answered.
    pub fn hang(&self) {
        self.signal(Signal::STOP);
    }

    /// Answers again, also what was asked meanwhile.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.server), signal).expect("the volume's server is there");
    }
}

impl Drop for HangingVolume {
    fn drop(&mut self) {
        self.resume();
        let _ = Command::new("umount").arg("--lazy").arg(&self.mount_point).status();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
