//! What the benchmark does itself, in processes of its own: the floor, a writer that has everything in memory; and an
//! app that reads its files.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    ops::ControlFlow,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Condvar, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use pitstop::releases::{Limits, Releases};
use pitstop_rig::Dice;

use crate::tree::list;

/// Says to this program which part it plays.
const PART: &str = "BENCH_FETCH_PART";
const IN_FLIGHT: usize = 64;

/// Plays a part, if one was given: then the program is done.
pub fn played() -> io::Result<bool> {
    let Ok(part) = std::env::var(PART) else { return Ok(false) };
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    match (part.as_str(), &paths[..]) {
        ("floor", [from, to]) => floor(from, to)?,
        ("app", [release]) => read_like_an_app(release)?,
        ("spare", [deploy_to]) => make_spare(deploy_to),
        _ => return Err(io::Error::other("no such part")),
    }
    Ok(true)
}

fn part(name: &str, paths: &[&Path]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.env(PART, name).args(paths);
    command
}

/// Makes the spare tree of a volume like its release v1, as an agent does when nothing else is to do.
pub fn spare(deploy_to: &Path) -> Command {
    part("spare", &[deploy_to])
}

fn make_spare(deploy_to: &Path) {
    let releases = Releases::new(deploy_to.into(), deploy_to.join("current"), "web-0", Limits::default());
    let v1 = "v1".parse().expect("it is an id");
    let made = releases.make_spare(&v1, 5, &BTreeMap::new, &|_| ControlFlow::Continue(()));
    assert!(made.is_ok_and(|made| made.is_some()), "a spare tree");
}

/// Seconds in which a tree that is in memory is written with as much in flight as an NFS client has slots.
pub fn floor_seconds(from: &Path, to: &Path) -> f64 {
    let output = part("floor", &[from, to]).stderr(Stdio::inherit()).output().expect("the floor starts");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("the floor said {text:?}"))
}

/// So many files wait open for their content: a process may not have them all.
const OPEN_FILES_MAX: usize = 512;

/// A directory with what is in it.
struct Dir {
    path: PathBuf,
    dirs: Vec<Dir>,
    files: Vec<(PathBuf, Vec<u8>)>,
}

fn load(from: &Path, to: PathBuf) -> io::Result<Dir> {
    let mut dir = Dir { path: to, dirs: Vec::new(), files: Vec::new() };
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = dir.path.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            dir.dirs.push(load(&entry.path(), to)?);
        } else {
            dir.files.push((to, fs::read(entry.path())?));
        }
    }
    Ok(dir)
}

/// One name after the other in each directory, as the kernel has it anyway; contents beside it.
enum Job {
    Names { dirs: Vec<Dir>, files: Vec<(PathBuf, Vec<u8>)> },
    Content(File, Vec<u8>),
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<(VecDeque<Job>, usize)>,
    changed: Condvar,
}

impl Queue {
    fn push(&self, job: Job) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.1 += 1;
        match job {
            Job::Names { .. } => jobs.0.push_front(job),
            Job::Content(..) => jobs.0.push_back(job),
        }
        self.changed.notify_one();
    }

    fn next(&self) -> Option<Job> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = jobs.0.pop_front() {
                return Some(job);
            }
            if jobs.1 == 0 {
                return None;
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn waiting(&self) -> usize {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).0.len()
    }

    fn done(&self) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.1 -= 1;
        if jobs.1 == 0 {
            self.changed.notify_all();
        }
    }

    fn work(&self) -> io::Result<()> {
        while let Some(job) = self.next() {
            match job {
                Job::Names { mut dirs, mut files } => {
                    if let Some(dir) = dirs.pop() {
                        fs::create_dir(&dir.path)?;
                        self.push(Job::Names { dirs: dir.dirs, files: dir.files });
                    } else if let Some((path, bytes)) = files.pop() {
                        let file =
                            fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
                        if self.waiting() < OPEN_FILES_MAX {
                            self.push(Job::Content(file, bytes));
                        } else {
                            (&file).write_all(&bytes)?;
                        }
                    }
                    if !dirs.is_empty() || !files.is_empty() {
                        self.push(Job::Names { dirs, files });
                    }
                }
                Job::Content(mut file, bytes) => file.write_all(&bytes)?,
            }
            self.done();
        }
        Ok(())
    }
}

fn floor(from: &Path, to: &Path) -> io::Result<()> {
    let top = load(from, to.to_owned())?;
    let began = Instant::now();
    let queue = Queue::default();
    queue.push(Job::Names { dirs: vec![top], files: Vec::new() });
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..IN_FLIGHT).map(|_| scope.spawn(|| queue.work())).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    println!("{}", began.elapsed().as_secs_f64());
    Ok(())
}

/// What an app noticed of its volume.
#[derive(Debug, Clone, Copy)]
pub struct Reads {
    /// So many files were read.
    pub files: u64,
    pub mean_ms: f64,
    pub p99_ms: f64,
}

/// An app that reads its files one after the other, while something else goes on.
pub struct App {
    child: Child,
    stop: ChildStdin,
    says: BufReader<ChildStdout>,
}

impl App {
    /// Reads what is in `release`, again and again. It knows its files by then.
    pub fn start(release: &Path) -> Self {
        let mut command = part("app", &[release]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the app starts");
        let stop = child.stdin.take().expect("it was piped");
        let mut says = BufReader::new(child.stdout.take().expect("it was piped"));
        says.read_line(&mut String::new()).expect("the app says that it reads");
        Self { child, stop, says }
    }

    /// What it noticed.
    pub fn stop(mut self) -> Reads {
        drop(self.stop);
        let mut text = String::new();
        self.says.read_to_string(&mut text).expect("the app says what it noticed");
        self.child.wait().expect("the app ends");
        let numbers: Option<Vec<f64>> = text.split_whitespace().map(|number| number.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[files, mean_ms, p99_ms]) => Reads { files: files as u64, mean_ms, p99_ms },
            _ => panic!("the app said {text:?}"),
        }
    }

    /// The same for an app that is alone.
    pub fn alone(release: &Path) -> Reads {
        let app = Self::start(release);
        std::thread::sleep(Duration::from_secs(5));
        app.stop()
    }
}

fn read_like_an_app(release: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    list(release, &mut files)?;
    println!("reading");
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    let (mut dice, mut times) = (Dice(3), Vec::new());
    while end.try_recv().is_err() {
        let path = &files[dice.below(files.len() as u64) as usize];
        let began = Instant::now();
        // What is pruned meanwhile does not count.
        if fs::read(path).is_ok() {
            times.push(began.elapsed().as_secs_f64() * 1000.0);
        }
    }
    times.sort_by(f64::total_cmp);
    let (count, sum) = (times.len(), times.iter().sum::<f64>());
    let p99 = times.get((count * 99).div_ceil(100).max(1) - 1).copied().unwrap_or_default();
    println!("{count} {} {p99}", sum / count.max(1) as f64);
    Ok(())
}
