use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A process and its group, optionally started again whenever it ends, as a kubelet does. All of it
/// is killed when this is dropped, and if the owner itself is killed.
pub struct Container {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
    log: PathBuf,
}

struct Shared {
    pid: Mutex<Option<Pid>>,
    restart: AtomicBool,
    starts: AtomicUsize,
    last_exit_code: Mutex<Option<i32>>,
}

/// Builds the same command anew for each start.
pub type Recipe = Box<dyn Fn() -> Command + Send>;

impl Container {
    /// Starts what the recipe says; its output goes to the end of `log`.
    pub fn start(recipe: Recipe, log: PathBuf, restart: bool) -> Self {
        let shared = Arc::new(Shared {
            pid: Mutex::new(None),
            restart: AtomicBool::new(restart),
            starts: AtomicUsize::new(0),
            last_exit_code: Mutex::new(None),
        });
        let keeper = thread::spawn({
            let (shared, log) = (shared.clone(), log.clone());
            // The child dies with the thread that started it: this one, which waits for it.
            move || shared.keep(&recipe, &log)
        });
        let container = Self { shared, keeper: Some(keeper), log };
        crate::until("the container's first start", || (container.starts() > 0).then_some(()));
        container
    }

    /// The process that was started (a wrapper, where one was asked for); `None` between two starts.
    pub fn pid(&self) -> Option<i32> {
        self.shared.pid().map(|pid| pid.as_raw_nonzero().get())
    }

    /// How often it was started.
    pub fn starts(&self) -> usize {
        self.shared.starts.load(Ordering::SeqCst)
    }

    /// How its last process ended; `None` while the first one runs, and after a signal.
    pub fn exit_code(&self) -> Option<i32> {
        *self.shared.last_exit_code.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits until it has ended for good, and gives its last exit code.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn wait_for_end(&self) -> Option<i32> {
        crate::wait_until("the container's end", || self.ended());
        self.exit_code()
    }

    /// Whether it has ended for good.
    pub fn ended(&self) -> bool {
        self.keeper.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// When it ends, it is not started again.
    pub fn keep_ended(&self) {
        self.shared.restart.store(false, Ordering::SeqCst);
    }

    /// Ends it as a kubelet does, SIGTERM to its first process, and waits for the end.
    pub fn terminate(&mut self) {
        self.keep_ended();
        if let Some(pid) = self.shared.pid() {
            let _ = kill_process(pid, Signal::TERM);
        }
        // Now and then a worker of Puma 6.6 hangs in its stop, until its time-out (30 s by default) is over.
        let ended = crate::poll(crate::PATIENCE * 3, || self.ended().then_some(()));
        assert!(ended.is_some(), "the container has not ended after SIGTERM");
    }
}

impl Shared {
    fn pid(&self) -> Option<Pid> {
        *self.pid.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set_pid(&self, pid: Option<Pid>) {
        *self.pid.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = pid;
    }

    fn keep(&self, recipe: &Recipe, log: &PathBuf) {
        loop {
            let spawned = append(log).and_then(|(out, err)| {
                recipe().process_group(0).stdin(Stdio::null()).stdout(out).stderr(err).spawn()
            });
            let mut child = spawned.expect("the container's command starts");
            let pid = Pid::from_child(&child);
            self.set_pid(Some(pid));
            self.starts.fetch_add(1, Ordering::SeqCst);
            let ended = child.wait().ok().and_then(|status| status.code());
            self.set_pid(None);
            *self.last_exit_code.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = ended;
            end(pid);
            if !self.restart.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

/// What the first process leaves behind ends with the container.
fn end(group: Pid) {
    let _ = kill_process_group(group, Signal::KILL);
    // Who was killed may take a while to end.
    let _ = crate::poll(crate::PATIENCE, || (!lives(group)).then_some(()));
}

fn lives(group: Pid) -> bool {
    let of_group = |stat: String| {
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        let (state, _parent, of) = (fields.next()?, fields.next()?, fields.next()?);
        Some(state != "Z" && of == group.as_raw_nonzero().to_string())
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut stats = processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats.any(|stat| of_group(stat) == Some(true))
}

fn append(log: &PathBuf) -> io::Result<(File, File)> {
    let file = File::options().create(true).append(true).open(log)?;
    Ok((file.try_clone()?, file))
}

impl Drop for Container {
    fn drop(&mut self) {
        self.shared.restart.store(false, Ordering::SeqCst);
        while !self.ended() {
            if let Some(pid) = self.shared.pid() {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            thread::sleep(std::time::Duration::from_millis(10));
        }
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
        if thread::panicking() && !crate::interrupted() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            eprintln!("--- the end of {}", self.log.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}
