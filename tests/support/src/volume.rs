use std::{
    fs,
    io::{self, Read},
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

/// A volume that fills up, or becomes read-only: a small file system of its own, in memory.
pub struct SmallVolume {
    mount_point: PathBuf,
}

impl SmallVolume {
    /// Mounts it, with so many bytes. Needs root.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn mount(mount_point: &Path, bytes: u64) -> Self {
        fs::create_dir_all(mount_point).expect("the volume's directory");
        let volume = Self { mount_point: mount_point.to_owned() };
        volume.call("mount", &["-t", "tmpfs", "-o", &format!("size={bytes},mode=0777"), "rig"]);
        volume
    }

    /// Takes what space is left.
    ///
    /// # Panics
    /// When there was more space than a small volume has.
    pub fn fill(&self) {
        let mut filler = fs::File::create(self.filler()).expect("a file to fill the volume");
        let full = io::copy(&mut io::repeat(0).take(1 << 30), &mut filler);
        assert_eq!(full.expect_err("the volume is full").kind(), io::ErrorKind::StorageFull);
    }

    /// Gives it back.
    ///
    /// # Panics
    /// When the volume was not filled.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("the volume was filled");
    }

    /// Gives it another size in bytes.
    pub fn resize(&self, bytes: u64) {
        self.call("mount", &["-o", &format!("remount,size={bytes}")]);
    }

    /// Nothing on it can be changed any more.
    pub fn read_only(&self) {
        // Not while a file is open for writing, as the agent's are when it makes a spare tree.
        until("the volume to be read-only", || self.done("mount", &["-o", "remount,ro"]).then_some(()));
    }

    /// Everything can be changed again.
    pub fn writable(&self) {
        self.call("mount", &["-o", "remount,rw"]);
    }

    fn filler(&self) -> PathBuf {
        self.mount_point.join("filler")
    }

    fn call(&self, program: &str, args: &[&str]) {
        assert!(self.done(program, args), "{program} {args:?} (this needs root)");
    }

    fn done(&self, program: &str, args: &[&str]) -> bool {
        Command::new(program).args(args).arg(&self.mount_point).status().expect("mount is there").success()
    }
}

impl Drop for SmallVolume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.mount_point).status();
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
