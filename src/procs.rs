//! Processes as /proc shows them: identity, titles, threads, working directories, signals.
//!
//! A pid alone names nobody: it is reused, and it survives an exec. A process is (pid, start time),
//! an [`Image`] is (pid, start time, AT_RANDOM): the kernel puts those sixteen random bytes at
//! another address in each exec, and `/proc/PID/auxv` tells the address.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read},
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use procfs::{ProcError, process::Process as ProcDir};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, test_kill_process};
use sha2::{Digest, Sha256};

use crate::core::{GenerationKey, ProcessKey};

mod descent;
mod error;
/// Who uses a directory.
pub(crate) mod in_use;
/// Which files of releases are loaded.
pub(crate) mod loaded;
/// How much memory there is.
pub(crate) mod memory;
mod root;
mod sockets;

pub(crate) use descent::{Descent, age_ms, same_user, share_a_socket};
pub use error::ProcsError;
pub(crate) use root::in_root_of;
pub(crate) use sockets::{Acceptor, acceptor, sockets_of, unix_sockets};

/// The index of the address of sixteen random bytes in the auxiliary vector (`AT_RANDOM`).
const AT_RANDOM: u64 = 25;

/// Whatever a process writes there, in bytes.
const LONGEST_TITLE: u64 = 64 << 10;

/// One process: a pid together with the time it started at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId {
    pub(crate) pid: i32,
    /// When it started, in clock ticks since the kernel's boot.
    pub(crate) start: u64,
}

impl ProcessId {
    /// The same for ever for the same process, also in another agent.
    pub(crate) fn key(self) -> ProcessKey {
        ProcessKey(hash([self.pid.unsigned_abs().into(), self.start, 0]))
    }

    /// The process that has this pid now.
    ///
    /// # Errors
    /// When there is none; a zombie is gone.
    pub fn of(pid: i32) -> Result<Self, ProcsError> {
        ProcDir::new(pid).map_err(|e| ProcsError::of(pid, e)).and_then(|dir| alive(&dir)).map(|(id, _)| id)
    }

    /// Whether it is still there and no zombie.
    pub(crate) fn lives(self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == self)
    }
}

/// One image of a process: changes with every exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Image {
    pub(crate) process: ProcessId,
    /// Where the kernel put its random bytes.
    pub(crate) at_random: u64,
}

impl Image {
    /// The same for ever for the same image, also in another agent.
    pub(crate) fn generation_key(self) -> GenerationKey {
        GenerationKey(hash([self.process.pid.unsigned_abs().into(), self.process.start, self.at_random]))
    }

    /// The key of one generation of what this image runs, where it outlives them: `name` tells them apart.
    pub(crate) fn generation_named(self, name: &str) -> GenerationKey {
        let name = Sha256::digest(name).iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte));
        GenerationKey(hash([self.generation_key().0, name, 0]))
    }

    /// The key of an image that itself serves, rather than its children.
    pub(crate) fn process_key(self) -> ProcessKey {
        ProcessKey(self.generation_key().0)
    }

    /// The image that this process runs now.
    ///
    /// # Errors
    /// When it is gone, may not be looked into, or is between two images.
    pub(crate) fn of(pid: i32) -> Result<Self, ProcsError> {
        let dir = ProcDir::new(pid).map_err(|e| ProcsError::of(pid, e))?;
        let (process, _) = alive(&dir)?;
        let auxv = dir.auxv().map_err(|e| ProcsError::of(pid, e))?;
        let at_random = *auxv.get(&AT_RANDOM).ok_or(ProcsError::Torn(pid))?;
        Ok(Self { process, at_random })
    }

    /// Sends a signal to exactly this image.
    ///
    /// # Errors
    /// When the image is gone or another by now, or must not be signalled. Nothing was sent then.
    pub(crate) fn signal(self, signal: Signal) -> Result<(), ProcsError> {
        // The descriptor holds on to whatever process has the pid now; if that is the right one,
        // no other can slip in between the check and the signal.
        self.process.signal_if(signal, || match Self::of(self.process.pid)? {
            now if now == self => Ok(()),
            _ => Err(ProcsError::AnotherImage(self.process.pid)),
        })
    }

    /// The same, to none that somebody has stopped (SIGSTOP, a debugger).
    ///
    /// # Errors
    /// As [`Image::signal`].
    pub(crate) fn signal_if_it_runs(self, signal: Signal) -> Result<(), ProcsError> {
        let pid = self.process.pid;
        let stat = ProcDir::new(pid).and_then(|dir| dir.stat()).map_err(|e| ProcsError::of(pid, e))?;
        if matches!(stat.state, 'T' | 't') { Err(ProcsError::Torn(pid)) } else { self.signal(signal) }
    }
}

impl ProcessId {
    /// Sends a signal to exactly this process.
    ///
    /// # Errors
    /// When it is gone, or must not be signalled. Nothing was sent then.
    pub(crate) fn signal(self, signal: Signal) -> Result<(), ProcsError> {
        self.signal_if(signal, || if self.lives() { Ok(()) } else { Err(ProcsError::Gone(self.pid)) })
    }

    fn signal_if(
        self,
        signal: Signal,
        is_meant: impl FnOnce() -> Result<(), ProcsError>,
    ) -> Result<(), ProcsError> {
        let Self { pid, .. } = self;
        let off_limits = pid <= 1 || pid.unsigned_abs() == std::process::id();
        let target = Pid::from_raw(pid).filter(|_| !off_limits).ok_or(ProcsError::OffLimits(pid))?;
        let fd = pidfd_open(target, PidfdFlags::empty()).map_err(|e| ProcsError::io(pid, e.into()))?;
        is_meant()?;
        pidfd_send_signal(&fd, signal).map_err(|error| match error {
            Errno::ACCESS => ProcsError::SignalDenied { pid, errno: "EACCES" },
            // Another user's is refused before, by `may_signal`.
            Errno::PERM if may_signal(pid) => ProcsError::SignalDenied { pid, errno: "EPERM" },
            error => ProcsError::io(pid, error.into()),
        })
    }
}

/// What anybody may see of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: ProcessId,
    pub(crate) parent: i32,
    /// Its command line: the title that it gave itself, or its arguments with spaces between.
    pub(crate) title: String,
}

impl Entry {
    /// Looks at one process.
    ///
    /// # Errors
    /// When it is gone; a zombie is gone.
    pub(crate) fn read(pid: i32) -> Result<Self, ProcsError> {
        let dir = ProcDir::new(pid).map_err(|e| ProcsError::of(pid, e))?;
        let title = title(&dir).map_err(|e| ProcsError::of(pid, e))?;
        Self::with_title(&dir, title)
    }

    fn with_title(dir: &ProcDir, title: String) -> Result<Self, ProcsError> {
        let (id, parent) = alive(dir)?;
        Ok(Self { id, parent, title })
    }
}

/// The process and its parent.
fn alive(dir: &ProcDir) -> Result<(ProcessId, i32), ProcsError> {
    let pid = dir.pid();
    let stat = dir.stat().map_err(|e| ProcsError::of(pid, e))?;
    if matches!(stat.state, 'Z' | 'X') {
        return Err(ProcsError::Gone(pid));
    }
    Ok((ProcessId { pid, start: stat.starttime }, stat.ppid))
}

fn title(dir: &ProcDir) -> Result<String, ProcError> {
    let mut raw = Vec::new();
    dir.open_relative("cmdline")?.take(LONGEST_TITLE).read_to_end(&mut raw)?;
    Ok(String::from_utf8_lossy(&raw).trim_end_matches('\0').replace('\0', " "))
}

/// All processes whose title passes. Those that vanish meanwhile are left out.
///
/// # Errors
/// When /proc cannot be listed.
pub(crate) fn list(mut wanted: impl FnMut(&str) -> bool) -> io::Result<Vec<Entry>> {
    let all = procfs::process::all_processes().map_err(|e| io::Error::other(e.to_string()))?;
    let entries = all.flatten().filter_map(|dir| {
        let title = title(&dir).ok().filter(|title| wanted(title))?;
        Entry::with_title(&dir, title).ok()
    });
    Ok(entries.collect())
}

/// The processes that have ended and that their parents have not waited for, by the name of their
/// program. Their command line is gone.
pub(crate) fn zombies(mut wanted: impl FnMut(&str) -> bool) -> Vec<i32> {
    let all = procfs::process::all_processes().into_iter().flatten().flatten();
    let ended = all.filter_map(|dir| dir.stat().ok()).filter(|stat| stat.state == 'Z' && wanted(&stat.comm));
    ended.map(|stat| stat.pid).collect()
}

/// Whom a process acts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Its effective capabilities, one bit each.
    pub(crate) capabilities: u64,
}

impl Credentials {
    /// Anybody may ask for anybody's.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn of(pid: i32) -> Result<Self, ProcsError> {
        let status = ProcDir::new(pid).and_then(|dir| dir.status()).map_err(|e| ProcsError::of(pid, e))?;
        Ok(Self { uid: status.euid, gid: status.egid, capabilities: status.capeff })
    }

    /// Our own.
    ///
    /// # Errors
    /// When /proc is not there.
    pub(crate) fn of_this_process() -> Result<Self, ProcsError> {
        Self::of(rustix::process::getpid().as_raw_nonzero().get())
    }
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {} group {}", self.uid, self.gid)
    }
}

/// Whether we may signal this process. Root could signal any; but beside another user's app it would also follow
/// whatever that user plants on the volume: only root's own are meant for it.
pub(crate) fn may_signal(pid: i32) -> bool {
    let roots = || Credentials::of(pid).is_ok_and(|theirs| theirs.uid == 0);
    if rustix::process::geteuid().is_root() && !roots() {
        return false;
    }
    Pid::from_raw(pid).is_some_and(|pid| !matches!(test_kill_process(pid), Err(Errno::PERM | Errno::ACCESS)))
}

/// Which signals a process has handlers for: bit `n - 1` for signal `n`.
///
/// # Errors
/// When it is gone.
pub(crate) fn caught_signals(pid: i32) -> Result<u64, ProcsError> {
    let status = ProcDir::new(pid).and_then(|dir| dir.status()).map_err(|e| ProcsError::of(pid, e))?;
    Ok(status.sigcgt)
}

/// The names of a process's threads, as far as the kernel keeps them: 15 bytes.
pub(crate) fn threads(pid: i32) -> Vec<String> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    // A name has at most 15 bytes. One read for each: a look has many of them.
    let name = |task: fs::DirEntry| {
        let mut bytes = [0; 32];
        let read = File::open(task.path().join("comm")).and_then(|mut file| file.read(&mut bytes)).ok()?;
        Some(String::from_utf8_lossy(&bytes[..read]).trim_end().to_owned())
    };
    tasks.flatten().filter_map(name).collect()
}

/// A variable of the environment that the process was started with.
pub fn environment(pid: i32, name: &str) -> Option<String> {
    let raw = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let found =
        raw.split(|b| *b == 0).find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(String::from_utf8_lossy(found).into_owned())
}

/// The ports that a process itself listens on over TCP.
pub(crate) fn listening_ports(pid: i32) -> Vec<u16> {
    let sockets = sockets_of(pid);
    ports_in_network_of(pid, |socket| sockets.contains(&socket))
}

/// The ports that anybody listens on over TCP in the network of this process, whose sockets pass.
pub(crate) fn ports_in_network_of(pid: i32, wanted: impl Fn(u64) -> bool) -> Vec<u16> {
    let Ok(dir) = ProcDir::new(pid) else { return Vec::new() };
    let tables = [dir.tcp(), dir.tcp6()];
    let listening = tables
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.state == procfs::net::TcpState::Listen && wanted(entry.inode));
    let mut ports: Vec<u16> = listening.map(|entry| entry.local_address.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// The sockets in our network that listen on exactly this address, each by its inode.
pub(crate) fn listening_at(address: SocketAddr) -> Vec<u64> {
    let table = match address {
        SocketAddr::V4(_) => procfs::net::tcp(),
        SocketAddr::V6(_) => procfs::net::tcp6(),
    };
    let listens = |entry: &procfs::net::TcpNetEntry| {
        entry.state == procfs::net::TcpState::Listen && entry.local_address == address
    };
    table.unwrap_or_default().into_iter().filter(listens).map(|entry| entry.inode).collect()
}

/// A working directory, by name and by identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkingDirectory {
    /// As the process's own mount namespace names it; tells nothing sure about ours.
    pub(crate) name: PathBuf,
    pub(crate) deleted: bool,
}

impl WorkingDirectory {
    /// Asks the kernel, not the volume.
    ///
    /// # Errors
    /// When the process is gone or may not be looked into.
    pub(crate) fn of(pid: i32) -> Result<Self, ProcsError> {
        let link = fs::read_link(format!("/proc/{pid}/cwd")).map_err(|e| ProcsError::io(pid, e))?;
        let text = link.to_string_lossy();
        match text.strip_suffix(" (deleted)") {
            Some(name) => Ok(Self { name: name.into(), deleted: true }),
            None => Ok(Self { name: link, deleted: false }),
        }
    }
}

/// A directory's identity, the same through every mount of its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    /// Asks the volume: may hang as long as the volume does.
    ///
    /// # Errors
    /// When there is nothing at this path.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self { device: found.dev(), number: found.ino() })
    }
}

/// Not the standard library's hash: this one is written to disk and read by later versions.
/// The key of a server that this parent has started: the same for ever, whatever images it has.
pub(crate) fn run_key(parent: i32, number: u64, start: u64) -> GenerationKey {
    GenerationKey(hash([parent.unsigned_abs().into(), number, start]))
}

fn hash(words: [u64; 3]) -> u64 {
    let digest =
        words.iter().fold(Sha256::new(), |hasher, word| hasher.chain_update(word.to_le_bytes())).finalize();
    digest.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    struct Ended(Child);

    impl Ended {
        fn start(command: &str) -> Self {
            Self(Command::new("sh").args(["-c", command]).spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            self.0.id().try_into().unwrap()
        }
    }

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn until<T>(mut condition: impl FnMut() -> Option<T>) -> T {
        for _ in 0..3000 {
            if let Some(found) = condition() {
                return found;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("waited in vain");
    }

    #[test]
    fn an_exec_is_another_image_of_the_same_process() {
        let child = Ended::start("sleep 0.2; exec sleep 60");
        let before = until(|| Image::of(child.pid()).ok());
        let after = until(|| {
            Image::of(child.pid()).ok().filter(|_| Entry::read(child.pid()).unwrap().title == "sleep 60")
        });
        assert_eq!(before.process, after.process);
        assert_ne!(before.generation_key(), after.generation_key());
        assert!(matches!(before.signal(Signal::KILL), Err(ProcsError::AnotherImage(_))));
        assert!(after.process.lives());
        after.signal(Signal::KILL).unwrap();
        until(|| (!after.process.lives()).then_some(()));
        assert!(matches!(after.signal(Signal::KILL), Err(ProcsError::Gone(_))));
    }

    #[test]
    fn pid_1_and_the_agent_itself_are_never_signalled() {
        let ours = Image::of(std::process::id().try_into().unwrap()).unwrap();
        let init = Image { process: ProcessId { pid: 1, start: 0 }, at_random: 0 };
        assert!(matches!(ours.signal(Signal::CONT), Err(ProcsError::OffLimits(_))));
        assert!(matches!(init.signal(Signal::CONT), Err(ProcsError::OffLimits(1))));
    }

    #[test]
    fn keys_are_written_to_disk_and_so_never_change() {
        let process = ProcessId { pid: 4711, start: 123_456 };
        let image = Image { process, at_random: 0x7fff_dead_beef };
        let keys = (process.key().0, image.generation_key().0);
        assert_eq!(keys, (11_130_357_913_252_650_085, 4_727_823_483_320_030_428));
    }

    #[test]
    fn a_deleted_working_directory_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        fs::create_dir(&gone).unwrap();
        let child = Ended(Command::new("sleep").arg("60").current_dir(&gone).spawn().unwrap());
        let before = until(|| WorkingDirectory::of(child.pid()).ok().filter(|cwd| cwd.name == gone));
        assert!(!before.deleted);
        fs::remove_dir(&gone).unwrap();
        assert_eq!(
            WorkingDirectory::of(child.pid()).unwrap(),
            WorkingDirectory { name: gone, deleted: true }
        );
    }

    #[test]
    fn listening_ports_are_those_of_the_process_alone() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let ours = std::process::id().try_into().unwrap();
        assert!(listening_ports(ours).contains(&port));
        let child = Ended::start("exec sleep 60");
        assert_eq!(listening_ports(child.pid()), Vec::<u16>::new());
    }
}
