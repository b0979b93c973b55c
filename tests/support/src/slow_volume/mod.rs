//! A volume with the latency of a network file system, which counts what it is asked.
//!
//! Its client is the kernel's FUSE, set up to ask as an NFSv4.1 client without delegations does: a small new file
//! costs CREATE and WRITE, data leaves at close(), attributes are believed for 3 s (files) and 30 s
//! (directories), opening a file or directory asks once (close-to-open), and a file has at most 177 links. Free of
//! charge is what such a client does not send: the look-up before each create, times after data, CLOSE, and
//! all of a listing but its first part. A real client also waits for CLOSE; no NFS server was measured.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};

use self::{nodes::Nodes, server::Server};

mod nodes;
mod power;
mod server;
mod steps;

pub use self::{
    power::{Snapshot, Survives},
    steps::{Among, Gone, Steps, Trouble},
};

/// Enough that what is asked besides is answered while some of it is held up.
const SLOTS_OF_FAULTS: usize = 16;

macro_rules! operations {
    ($($name:ident: $costs:literal),* $(,)?) => {
        #[expect(non_camel_case_types, reason = "named as the kernel names them")]
        #[derive(Clone, Copy)]
        pub(crate) enum Operation { $($name),* }

        const OPERATIONS: &[Operation] = &[$(Operation::$name),*];

        impl Operation {
            fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            /// Whether it goes over the network.
            const fn costs(self) -> bool {
                match self { $(Self::$name => $costs),* }
            }
        }
    };
}
operations! {
    lookup: true, getattr: true, setattr: true, readlink: true, create: true, open: true, open_truncating: true, opendir: true,
    readdir: true, mkdir: true, symlink: true, link: true, unlink: true, rmdir: true, rename: true, read: true,
    write: true, fsync: true, statfs: true,
    lookup_absent: false, cached_times: false, flush: false, readdir_more: false, fsyncdir: false,
}

struct Shared {
    nodes: Mutex<Nodes>,
    steps: Steps,
    delay_us: AtomicU64,
    counts: Vec<AtomicU64>,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    handles: AtomicU64,
}

/// A slow volume, mounted; in memory, and gone with its last client.
///
/// It is served by this process: ask it for much from other processes only.
pub struct SlowVolume {
    shared: Arc<Shared>,
    mount_point: PathBuf,
    slots: usize,
    /// Ends when nobody uses the mount any more.
    _session: BackgroundSession,
}

/// What a volume was asked, since it was mounted or [`SlowVolume::reset`].
#[derive(Debug, Clone)]
pub struct Counts {
    /// How often each operation was, also those that cost nothing.
    pub by_name: BTreeMap<&'static str, u64>,
    /// Those that go over the network.
    pub operations: u64,
    /// Bytes of files that were read.
    pub bytes_read: u64,
    /// Bytes of files that were written.
    pub bytes_written: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} operations", self.operations)?;
        let mut by_name: Vec<_> = self.by_name.iter().filter(|(_, n)| **n > 0).collect();
        by_name.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        by_name.iter().try_for_each(|(name, n)| write!(f, ", {name} {n}"))
    }
}

impl SlowVolume {
    /// Mounts an empty volume at `mount_point`, where each operation takes `delay` and at most `slots` are in
    /// flight (an NFS client has 64). Needs root and `/dev/fuse`.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn mount(mount_point: &Path, delay: Duration, slots: usize) -> Self {
        let volume = Self::with(Nodes::default(), mount_point, slots);
        volume.set_delay(delay);
        volume
    }

    /// A volume without latency, on which everything is as it was and synced.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn mount_again(mount_point: &Path, snapshot: &Snapshot) -> Self {
        Self::with(snapshot.nodes().afresh(), mount_point, SLOTS_OF_FAULTS)
    }

    fn with(nodes: Nodes, mount_point: &Path, slots: usize) -> Self {
        let shared = Shared {
            nodes: Mutex::new(nodes),
            steps: Steps::default(),
            delay_us: AtomicU64::new(0),
            counts: OPERATIONS.iter().map(|_| AtomicU64::new(0)).collect(),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            handles: AtomicU64::new(1),
        };
        Self::client(Arc::new(shared), mount_point, slots)
    }

    /// What is there now.
    pub fn snapshot(&self) -> Snapshot {
        let nodes = self.shared.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        Snapshot::of(&nodes)
    }

    /// What it is asked, step by step, and the trouble that begins at one of them.
    pub fn steps(&self) -> &Steps {
        &self.shared.steps
    }

    /// The same volume at another place, as another node sees it: with caches and slots of its own.
    #[must_use]
    pub fn from_another_node(&self, mount_point: &Path) -> Self {
        Self::client(self.shared.clone(), mount_point, self.slots)
    }

    fn client(shared: Arc<Shared>, mount_point: &Path, slots: usize) -> Self {
        fs::create_dir_all(mount_point).expect("the volume's directory");
        let server = Server { shared: shared.clone(), listings: Mutex::new(HashMap::new()) };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("slow-volume".into()), MountOption::NoAtime];
        config.acl = SessionACL::All;
        config.n_threads = Some(slots);
        config.clone_fd = true;
        let session = Session::new(server, mount_point, &config).and_then(Session::spawn);
        let _session = session.expect("the volume is mounted (this needs root and /dev/fuse)");
        Self { shared, mount_point: mount_point.to_owned(), slots, _session }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// From now on each operation takes so long.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.delay_us.store(delay.as_micros() as u64, Relaxed);
    }

    /// What all its clients have asked.
    pub fn counts(&self) -> Counts {
        let counted = || OPERATIONS.iter().zip(&self.shared.counts).map(|(op, n)| (*op, n.load(Relaxed)));
        Counts {
            by_name: counted().map(|(operation, n)| (operation.name(), n)).collect(),
            operations: counted().filter(|(operation, _)| operation.costs()).map(|(_, n)| n).sum(),
            bytes_read: self.shared.bytes_read.load(Relaxed),
            bytes_written: self.shared.bytes_written.load(Relaxed),
        }
    }

    /// Counts from zero again.
    pub fn reset(&self) {
        let bytes = [&self.shared.bytes_read, &self.shared.bytes_written];
        self.shared.counts.iter().chain(bytes).for_each(|count| count.store(0, Relaxed));
    }
}

impl Drop for SlowVolume {
    fn drop(&mut self) {
        // Who still uses it should come to an end soon.
        self.shared.steps.heal();
        self.set_delay(Duration::ZERO);
        let _ = rustix::mount::unmount(&self.mount_point, rustix::mount::UnmountFlags::DETACH);
    }
}
