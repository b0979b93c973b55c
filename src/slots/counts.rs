//! What a server has served, as the app's middleware counts it (`pitstop middleware`): a directory of each run, in it a
//! file of each process that serves, rewritten with each answer.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::{
    beneath::{self, Held},
    core::observation::Served,
};

/// In `state_dir`.
const DIR: &str = "counts";
/// As many as the middleware makes.
const FILES_MAX: u16 = 1000;
const FILE_BYTES_MAX: u64 = 1024;
/// A file that is read while it is written may be half the old and half the new one.
const TRIES: u32 = 3;

/// Makes the directory of a run, and forgets those of runs that are not told of any more.
///
/// # Errors
/// What the system says.
pub(crate) fn prepare(state_dir: &Path, run: u64, known: impl Fn(u64) -> bool) -> io::Result<PathBuf> {
    let all = Held::make(state_dir, Path::new(DIR))?;
    for name in all.list()? {
        let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
        if number.is_none_or(|number| number == run || !known(number)) {
            fs::remove_dir_all(all.join(&name))?;
        }
    }
    DirBuilder::new().mode(0o700).create(all.join(run.to_string()))?;
    Ok(state_dir.join(DIR).join(run.to_string()))
}

/// What all processes of a run have counted; `None`: nobody counts, or it cannot be read.
pub(crate) fn read(state_dir: &Path, run: u64) -> Option<Served> {
    let dir = Path::new(DIR).join(run.to_string());
    let held = Held::open(state_dir, &dir).ok()?;
    let names = held.list().ok()?;
    let is_one = |name: &&str| name.parse::<u16>().is_ok_and(|number| number < FILES_MAX);
    let files: Vec<Counted> = names
        .iter()
        .filter_map(|name| name.to_str())
        .filter(is_one)
        .map(|name| (0..TRIES).find_map(|_| Counted::of_file(state_dir, &dir.join(name))))
        .collect::<Option<_>>()?;
    let all = files.into_iter().reduce(Counted::and)?;
    Some(Served { requests: all.requests, errors: Some(all.errors), p95_ms: all.p95_ms() })
}

/// One line of numbers of the same width: requests, those that failed, milliseconds in all, requests by the bits of
/// their milliseconds, and the sum of all these.
#[derive(Debug)]
struct Counted {
    requests: u64,
    errors: u64,
    times: Vec<u64>,
}

impl Counted {
    fn of_file(root: &Path, file: &Path) -> Option<Self> {
        let raw = beneath::read(root, file, FILE_BYTES_MAX).ok()?;
        let text = String::from_utf8(raw).ok()?;
        // It was made and nothing was counted yet.
        if text.is_empty() {
            return Some(Self { requests: 0, errors: 0, times: Vec::new() });
        }
        let numbers: Option<Vec<u64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
        let numbers = numbers?;
        let (sum, counts) = numbers.split_last()?;
        let is_whole = counts.iter().try_fold(0_u64, |all, one| all.checked_add(*one)) == Some(*sum);
        match counts {
            [requests, errors, _, times @ ..] if is_whole => {
                Some(Self { requests: *requests, errors: *errors, times: times.to_vec() })
            }
            _ => None,
        }
    }

    fn and(mut self, other: Self) -> Self {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        self.times.resize(self.times.len().max(other.times.len()), 0);
        for (mine, its) in self.times.iter_mut().zip(other.times) {
            *mine = mine.saturating_add(its);
        }
        self
    }

    /// The most that the times with so many bits can be.
    fn p95_ms(&self) -> Option<u64> {
        let most = self.requests.saturating_mul(95).div_ceil(100);
        let mut so_far = 0_u64;
        let mut bits = self.times.iter().map(|count| {
            so_far = so_far.saturating_add(*count);
            so_far
        });
        let bits = bits.position(|upto| upto >= most.max(1))?;
        Some(1_u64.checked_shl(u32::try_from(bits).ok()?)?.saturating_sub(1))
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// What the app's middleware has counted.
    pub(crate) fn counted(bytes: &[u8]) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("0"), bytes).expect("it is written");
        let read = || Counted::of_file(dir.path(), Path::new("0"));
        if let (Some(one), Some(other)) = (read(), read()) {
            let _ = one.and(other).p95_ms();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const RUBY: &str = r#"
        require ARGV.fetch(0)
        app = PitstopCounts.new(lambda do |env|
          sleep env["takes"].to_f
          raise "no" if env["status"] == "raises"
          throw :away if env["status"] == "thrown"
          [env["status"] || 200, {}, []]
        end)
        ask = ->(env = {}) { catch(:away) { app.call(env) } rescue nil }
        ask.()
        workers = 2.times.map do
          fork do
            4.times.map { Thread.new { 50.times { ask.() }; ask.("status" => 503); ask.("status" => "raises") } }.each(&:join)
            ask.("HTTP_USER_AGENT" => "kube-probe/1.34", "status" => 500)
            ask.("HTTP_USER_AGENT" => "pitstop", "status" => 500)
            ask.("status" => "thrown")
            exit! # as if it was killed
          end
        end
        workers.each { |pid| Process.wait(pid) }
        2.times { Process.wait(fork { ask.("takes" => 0.3) }) }
        raise "what the app raises has to be raised" if (app.call("status" => "raises") rescue nil)
    "#;

    fn ruby(counts: Option<&Path>) {
        let middleware = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/middleware/pitstop_counts.rb");
        let mut ruby = Command::new("ruby");
        ruby.args(["-W", "-e", RUBY, middleware]).env_remove("PITSTOP_COUNTS").stderr(Stdio::piped());
        let done = ruby.envs(counts.map(|dir| ("PITSTOP_COUNTS", dir))).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.is_empty(), "{said}");
    }

    #[test]
    fn threads_and_processes_are_counted_together_and_probes_are_not() {
        let state_dir = tempfile::tempdir().unwrap();
        let dir = prepare(state_dir.path(), 7, |_| true).unwrap();
        assert_eq!(read(state_dir.path(), 7), None, "nobody counts yet");
        ruby(Some(&dir));
        let served = read(state_dir.path(), 7).unwrap();
        // 1, then 2 times 4 times 52 and 1, then 2, then 1.
        assert_eq!((served.requests, served.errors), (422, Some(17)));
        assert!(served.p95_ms.is_some_and(|ms| ms < 255), "{served:?}");
        // Two workers at a time: those that came later went on with the files of those that had ended.
        assert!(fs::read_dir(&dir).unwrap().count() <= 3);
    }

    #[test]
    fn where_nothing_can_be_counted_the_app_serves_all_the_same() {
        ruby(None);
        ruby(Some(Path::new("/nowhere")));
        ruby(Some(Path::new("/proc")));
    }

    fn line(numbers: &[u64]) -> String {
        let sum: u64 = numbers.iter().sum();
        let words: Vec<String> = numbers.iter().chain([&sum]).map(|n| format!("{n:015}")).collect();
        words.join(" ") + "\n"
    }

    #[test]
    fn the_slowest_of_ninety_five_in_a_hundred_is_known_to_a_power_of_two() {
        let p95 = |times: &[u64]| {
            let numbers = [&[times.iter().sum(), 0, 9], times].concat();
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("0"), line(&numbers)).unwrap();
            Counted::of_file(dir.path(), Path::new("0")).unwrap().p95_ms()
        };
        assert_eq!(p95(&[100, 0, 0]), Some(0));
        assert_eq!(p95(&[0, 0, 95, 5]), Some(3));
        assert_eq!(p95(&[0, 0, 94, 6]), Some(7));
        assert_eq!(p95(&[0, 0, 0, 0, 1]), Some(15));
        assert_eq!(p95(&[0, 0]), None);
    }

    #[test]
    fn what_is_half_written_or_no_count_at_all_is_not_taken_for_one() {
        let state_dir = tempfile::tempdir().unwrap();
        let dir = prepare(state_dir.path(), 1, |_| true).unwrap();
        let put = |text: &str| fs::write(dir.join("0"), text).unwrap();
        put(&line(&[9, 1, 80, 9]));
        fs::write(dir.join("notes"), "").unwrap();
        fs::write(dir.join("1"), "").unwrap();
        let served = Served { requests: 9, errors: Some(1), p95_ms: Some(0) };
        assert_eq!(read(state_dir.path(), 1), Some(served));
        for odd in
            [&line(&[9, 1, 80, 9])[..40], "9 1 80 9 98\n", "x\n", &line(&[9]), "99999999999999999999 1 1 1 1"]
        {
            put(odd);
            assert_eq!(read(state_dir.path(), 1), None, "{odd}");
        }
        fs::remove_file(dir.join("0")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.join("0")).unwrap();
        assert_eq!(read(state_dir.path(), 1), None, "a link");
        fs::remove_file(dir.join("0")).unwrap();
        nix::unistd::mkfifo(&dir.join("0"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(state_dir.path(), 1), None, "a pipe");
    }

    #[test]
    fn a_run_begins_with_nothing_and_those_that_are_over_are_forgotten() {
        let state_dir = tempfile::tempdir().unwrap();
        for run in 1..=3 {
            let dir = prepare(state_dir.path(), run, |_| true).unwrap();
            fs::write(dir.join("0"), line(&[run, 0, 0, run])).unwrap();
        }
        prepare(state_dir.path(), 2, |number| number != 1).unwrap();
        let requests = |run| read(state_dir.path(), run).map(|served| served.requests);
        assert_eq!([1, 2, 3].map(requests), [None, None, Some(3)]);
    }
}
