//! `make bench BENCH=fetch`: how long a release takes onto a volume with the latency of a network file system, onto a
//! local disk, and into the store; beside what else is deployed with.
//!
//! One run on one machine, all with the same release, as large as a Rails app's. The volume is the rig's own
//! (`pitstop_rig::SlowVolume`): 64 slots, `BENCH_DELAY_MS` (5) for each operation. `BENCH_FILES` (33240) makes a smaller release,
//! `BENCH_RUNS` (5) decides how often the first fetch is measured, and `BENCH_ONLY` takes some of its parts:
//! `publish,first,local,pods,superseded,delta,app,idle,elsewhere`. Needs root.
//!
//! Left out: ripunzip and node-tar, which are not packaged in Debian; tar on the slow volume, since it takes a quarter of
//! an hour; `rsync --link-dest` of more than 4,000 files, for the same reason.

mod measure;
mod parts;
mod peers;
mod rig;
mod tree;

use std::{
    fs, io,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use measure::{Measured, median, run};
use parts::App;
use pitstop_rig::{
    SlowVolume,
    figures::{Comparison, publish},
};
use rig::{Moto, Rig, SLOTS};

/// With more files rsync takes too long.
const RSYNC_FILES_MAX: usize = 4000;

/// A fetch with so little in flight takes minutes,
const FEW: usize = 4;
/// and is left after so long, or in its middle.
const LARGE_FETCH: Duration = Duration::from_secs(60);

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

struct Bench {
    /// Holds everything that is made.
    home: tempfile::TempDir,
    rig: Rig,
    runs: usize,
    files: usize,
    git: peers::Git,
    figures: Vec<Comparison>,
}

impl Bench {
    fn prepare() -> io::Result<Self> {
        let files = number("BENCH_FILES", tree::FILES);
        let delay = Duration::from_millis(number("BENCH_DELAY_MS", 5) as u64);
        println!("two releases of {files} files, and a repository with both …");
        let below = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let home = tempfile::Builder::new().prefix("bench-fetch-").tempdir_in(below)?;
        tree::make(home.path(), files)?;
        let git = peers::Git::prepare(home.path());
        let rig = Rig::in_a_directory(home.path(), delay);
        Ok(Self { home, rig, runs: number("BENCH_RUNS", 5).max(1), files, git, figures: Vec::new() })
    }

    fn figure(&mut self, name: &str, figures: (f64, f64), unit: &str, (peer, how): (&str, &str)) {
        let how = format!(
            "{how}; release of {} files; {} ms for each operation where the volume is slow, {SLOTS} slots",
            self.files,
            self.rig.delay.as_millis()
        );
        self.figures.push(Comparison::smaller_is_better(name, figures, unit).against(peer, &how));
    }

    /// Into the store, by turns with a bare tar and zstd.
    fn publish(&mut self) {
        let (mut ours, mut peer) = (Vec::new(), Vec::new());
        for number in 0..self.runs.min(3) {
            let release = format!("p{number}");
            ours.push(self.rig.publish("v1", &release));
            peer.push(run(
                "tar | zstd -3",
                &mut peers::pack(&self.rig.path("v1"), &self.rig.path(&format!("{release}.tar.zst"))),
                None,
            ));
        }
        self.publish_all();
        let (ours, peer) = (median(ours), median(peer));
        let how = "medians of at most three, by turns; pitstop's with all checks, its manifest and the copy into the store";
        self.figure("publish", (ours.seconds, peer.seconds), "s", ("tar | zstd -3", how));
    }

    /// What the rest needs.
    fn publish_all(&self) {
        for (tree, release) in [("v1", "v1"), ("v2", "v2"), ("v2", "v3")] {
            self.rig.publish(tree, release);
        }
    }

    fn first_fetch(&mut self) {
        self.rig.promote("v1");
        let (mut ours, mut as_is, mut git, mut rclone, mut floor) = (vec![], vec![], vec![], vec![], vec![]);
        for number in 0..self.runs {
            let volume = self.rig.volume("fetched");
            ours.push(run(
                "first fetch, 64 in flight",
                &mut self.rig.fetch(volume.path(), Some(SLOTS)),
                Some(&volume),
            ));
            drop(volume);
            let volume = self.rig.volume("fetched-as-is");
            as_is.push(run("first fetch", &mut self.rig.fetch(volume.path(), None), Some(&volume)));
            drop(volume);
            let volume = self.rig.volume("git");
            let into = volume.path().join("v1");
            git.push(run("git, 64 workers", &mut self.git.checkout("v1", &into), Some(&volume)));
            drop(volume);
            let volume = self.rig.volume("rclone");
            let into = volume.path().join("v1");
            rclone.push(run(
                "rclone, 64 transfers",
                &mut peers::rclone(
                    &self.rig.archive("v1"),
                    &self.rig.path(&format!("unpacked-{number}")),
                    &into,
                ),
                Some(&volume),
            ));
            drop(volume);
            let volume = self.rig.volume("floor");
            floor.push(parts::floor_seconds(&self.rig.path("v1"), &volume.path().join("v1")));
            println!("  floor: {:.2} s", floor[floor.len() - 1]);
        }
        floor.sort_by(f64::total_cmp);
        let (ours, as_is, floor) = (median(ours), median(as_is), floor[floor.len() / 2]);
        let (git, rclone) = (median(git), median(rclone));
        let (best, name) = if git.seconds <= rclone.seconds {
            (&git, "git, 64 workers")
        } else {
            (&rclone, "rclone, 64 transfers")
        };
        let how = format!(
            "median of {} runs; store in a local directory; check, decompression and sync in the time of each, but \
             git has its objects there, and the floor its files in memory",
            self.runs
        );
        let figure = |bench: &mut Self, what: &str, figures, unit, peer| {
            bench.figure(what, figures, unit, (peer, &how))
        };
        figure(self, "first fetch, 64 in flight", (ours.seconds, best.seconds), "s", name);
        figure(self, "first fetch", (as_is.seconds, best.seconds), "s", name);
        figure(
            self,
            "first fetch, 64 in flight, and the floor",
            (ours.seconds, floor),
            "s",
            "all in memory, 64 in flight",
        );
        let per_file = |measured: &Measured| measured.operations() as f64 / self.files as f64;
        let operations = (per_file(&ours), per_file(&git));
        figure(self, "operations for each file", operations, "operations", "git, 64 workers");
        figure(self, "peak memory, 64 in flight", (ours.rss_mib, git.rss_mib), "MiB", "git, 64 workers");
        figure(self, "peak memory", (as_is.rss_mib, git.rss_mib), "MiB", "git, 64 workers");
    }

    /// On the local disk, by turns. Nothing is deleted before the end: ext4 would look for free inodes.
    fn local(&mut self) {
        let (mut ours, mut peer) = (Vec::new(), Vec::new());
        for number in 0..self.runs {
            let (own, other) =
                (self.rig.path(&format!("own-{number}")), self.rig.path(&format!("other-{number}")));
            fs::create_dir(&own).expect("a directory");
            ours.push(run("fetch onto the local disk", &mut self.rig.fetch(&own, None), None));
            peer.push(run("tar onto the local disk", &mut peers::tar(&self.rig.archive("v1"), &other), None));
        }
        let how = format!("medians of {} runs, by turns", self.runs);
        let peer_name = "sha256sum && zstd -dc | tar x && sync -f";
        self.figure(
            "fetch onto a local disk",
            (median(ours).seconds, median(peer).seconds),
            "s",
            (peer_name, &how),
        );
    }

    /// What few files differ in, beside the release that is there.
    fn delta(&mut self, volume: &SlowVolume) -> Measured {
        let ours = next_release(&self.rig, volume);
        let read = run("zstd -dc | sha256sum", &mut peers::read(&self.rig.archive("v2")), None);
        let into = volume.path().join("git-v2");
        let git = run("git, the next release", &mut self.git.checkout("v2", &into), Some(volume));
        let how = delta_how();
        self.figure(
            "fetch of the next release",
            (ours.seconds, git.seconds),
            "s",
            ("git into a new directory", &how),
        );
        let bound = 1.5 * read.seconds + 0.5;
        let least = "1.5 × (zstd -dc | sha256sum) + 0.5 s";
        self.figure("fetch of the next release, and the least", (ours.seconds, bound), "s", (least, &how));
        if self.files <= RSYNC_FILES_MAX {
            let (before, into) = (volume.path().join("releases/v1"), volume.path().join("rsync-v2"));
            let mut rsync = peers::rsync_link_dest(&self.rig.path("v2"), &before, &into);
            let rsync = run("rsync --link-dest", &mut rsync, Some(volume));
            let figures = (ours.seconds, rsync.seconds);
            self.figure("fetch of the next release, and rsync", figures, "s", ("rsync --link-dest", &how));
        }
        ours
    }

    /// The same where everything else is twice as much, and from a server of S3's protocol.
    fn delta_elsewhere(&mut self, once: &Measured) -> io::Result<()> {
        let home = self.home.path().join("twice");
        tree::make(&home, 2 * self.files)?;
        let twice = Rig::in_a_directory(&home, self.rig.delay);
        let (ours, read) = (delta_with(&twice), peers::read(&twice.archive("v2")));
        let (mut read, mut read_once) = (read, peers::read(&self.rig.archive("v2")));
        let stream = run("zstd -dc | sha256sum of the larger one", &mut read, None).seconds;
        let stream_once = run("zstd -dc | sha256sum", &mut read_once, None).seconds;
        let how = format!("{}; less what reading that archive takes by zstd -dc | sha256sum", delta_how());
        let figures = (ours.seconds - stream, once.seconds - stream_once);
        self.figure("the same of twice the files", figures, "s", ("of the files once", &how));
        fs::remove_dir_all(&home)?;
        match Moto::start() {
            Some(server) => {
                let ours = delta_with(&self.rig.in_s3(&server));
                let how =
                    format!("{}; the server is moto, a slow one in Python, on the same cores", delta_how());
                let figures = (ours.seconds, once.seconds);
                self.figure("the same from S3", figures, "s", ("from a directory", &how));
            }
            None => println!("  left out, since `.ci/setup moto` was not run: the same from S3"),
        }
        Ok(())
    }

    fn four_pods(&mut self) {
        self.rig.promote("v1");
        let of_pods = |bench: &Self, volume: &SlowVolume, count: usize| {
            let pod = |number: usize| {
                let mut fetch = bench.rig.fetch(volume.path(), Some(SLOTS));
                let state = bench.rig.path(&format!("state-{number}"));
                fetch.env("PITSTOP_POD", format!("web-{number}")).env("PITSTOP_STATE_DIR", &state);
                let current = bench
                    .rig
                    .path(&format!("current-{}-{number}", volume.path().display()).replace('/', "-"));
                fetch.env("PITSTOP_CURRENT", current);
                fetch
            };
            let mut pods: Vec<_> = (0..count).map(pod).collect();
            measure::all(&format!("first fetch by {count} pods"), pods.iter_mut().collect(), Some(volume))
        };
        let (one, four) = (self.rig.volume("one-pod"), self.rig.volume("four-pods"));
        let (one, four) = (of_pods(self, &one, 1), of_pods(self, &four, 4));
        let figures = (four.operations() as f64, one.operations() as f64);
        self.figure(
            "operations of four pods",
            figures,
            "operations",
            ("one pod", "all at once, on one volume"),
        );
    }

    /// In the middle of a fetch the pointer moves on.
    fn superseded(&mut self) {
        self.rig.promote("v1");
        let volume = self.rig.volume("superseded");
        let began = Instant::now();
        let _agent = self.rig.agent(volume.path(), Some(FEW));
        let half = (self.files / 2) as u64;
        while began.elapsed() < LARGE_FETCH && volume.counts().by_name["write"] < half {
            std::thread::sleep(Duration::from_millis(100));
        }
        let at = began.elapsed().as_secs();
        let (moved, next) = (Instant::now(), volume.path().join(".pitstop/fetching/v2"));
        self.rig.promote("v2");
        while !next.exists() {
            assert!(moved.elapsed() < LARGE_FETCH, "the fetch of v2 does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        let seconds = moved.elapsed().as_secs_f64();
        println!("  moved {at} s into a fetch: the next one starts after {seconds:.2} s");
        let how = format!(
            "{at} s into a fetch with {FEW} in flight; seconds from `promote` until the next fetch starts"
        );
        self.figure(
            "a newer move in the middle of a fetch",
            (seconds, 2.0),
            "s",
            ("what is wanted at most", &how),
        );
    }

    /// What an app on the same volume notices, and how long the rest takes.
    fn beside_an_app(&mut self, volume: &SlowVolume) {
        // What an app reads is in use, so that nobody prunes it.
        let release = |id: &str| volume.path().join("releases").join(id);
        let alone = App::alone(&release("v1"));
        println!("  an app reads a file in {:.1} ms, p99 {:.1} ms", alone.mean_ms, alone.p99_ms);
        let on_the_node = self.rig.path("on-the-node");
        fs::create_dir(&on_the_node).expect("a directory");
        self.rig.promote("v1");
        run("fetch onto the local disk", &mut self.rig.fetch(&on_the_node, None), None);
        let local = App::alone(&on_the_node.join("releases/v1"));
        let how = "an app that boots reads some thousand files, one after the other";
        let figures = (local.mean_ms, alone.mean_ms);
        self.figure("a file read from a tree on the local disk", figures, "ms", ("on the slow volume", how));
        let beside = |bench: &mut Self, what: &str, reads: &str, command: &mut Command| {
            let app = App::start(&release(reads));
            let measured = run(what, command, Some(volume));
            let reads = app.stop();
            println!("  beside it in {:.1} ms, p99 {:.1} ms", reads.mean_ms, reads.p99_ms);
            let how = "the app reads files of another release, one after the other, and so it does alone";
            for (of, figures) in
                [("", (reads.mean_ms, alone.mean_ms)), (", p99", (reads.p99_ms, alone.p99_ms))]
            {
                bench.figure(&format!("an app's reads beside {what}{of}"), figures, "ms", ("alone", how));
            }
            // To open and to read a file is one each.
            (measured.seconds, measured.operations().saturating_sub(2 * reads.files))
        };
        self.rig.promote("v3");
        let fetch = &mut self.rig.fetch(volume.path(), None);
        beside(self, "fetch", "v1", fetch);
        let verify = &mut self.rig.pitstop(&["verify-tree", "v3"], volume.path());
        let verify = beside(self, "verify-tree", "v1", verify);
        let prune = &mut self.rig.pitstop(&["prune", "--keep", "1"], volume.path());
        let prune = beside(self, "prune", "v3", prune);
        assert!(!release("v1").exists(), "v1 was pruned");
        for (what, (seconds, operations)) in [("verify-tree", verify), ("prune", prune)] {
            let in_turn = operations as f64 * self.rig.delay.as_secs_f64();
            let how = "beside an app that reads; the other figure is worked out";
            self.figure(what, (seconds, in_turn), "s", ("its operations one after the other", how));
        }
    }

    /// On the local disk: that is what the memory does not depend on.
    fn idle_memory(&mut self) {
        let deploy_to = self.rig.path("idle-pod");
        let figures = self.rig.idle_mib("v1", &deploy_to);
        println!("  idle: {:.1} MiB after a fetch, {:.1} MiB without one", figures.0, figures.1);
        let how = "VmRSS of the agent's process, its shared pages included, once it is the same for 3 s; no app server";
        self.figure("idle memory after a fetch", figures, "MiB", ("an agent that fetched nothing", how));
    }
}

fn delta_how() -> String {
    format!(
        "{} files differ, and a spare tree was there; pointer moved before, until current is moved",
        tree::DELTA
    )
}

/// On a volume where v1 is.
fn next_release(rig: &Rig, volume: &SlowVolume) -> Measured {
    run("a spare tree", &mut parts::spare(volume.path()), Some(volume));
    rig.promote("v2");
    run("fetch of the next release", &mut rig.fetch(volume.path(), Some(SLOTS)), Some(volume))
}

/// Into an empty store and onto an empty volume first.
fn delta_with(rig: &Rig) -> Measured {
    rig.publish("v1", "v1");
    rig.publish("v2", "v2");
    rig.promote("v1");
    let volume = rig.volume("elsewhere");
    run("first fetch", &mut rig.fetch(volume.path(), Some(SLOTS)), Some(&volume));
    next_release(rig, &volume)
}

/// A part of the benchmark.
type Part = fn(&mut Bench);

fn main() -> io::Result<()> {
    if parts::played()? {
        return Ok(());
    }
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let is_wanted = |part: &str| only.is_empty() || only.split(',').any(|wanted| wanted == part);
    let mut bench = Bench::prepare()?;
    if is_wanted("publish") {
        bench.publish();
    } else {
        bench.publish_all();
    }
    let parts: [(&str, Part); 4] = [
        ("first", Bench::first_fetch),
        ("local", Bench::local),
        ("pods", Bench::four_pods),
        ("superseded", Bench::superseded),
    ];
    parts.iter().filter(|(name, _)| is_wanted(name)).for_each(|(_, part)| part(&mut bench));
    if ["delta", "app", "elsewhere"].into_iter().any(is_wanted) {
        bench.rig.promote("v1");
        let volume = bench.rig.volume("volume");
        run("first fetch", &mut bench.rig.fetch(volume.path(), Some(SLOTS)), Some(&volume));
        let once = bench.delta(&volume);
        if is_wanted("app") {
            bench.beside_an_app(&volume);
        }
        drop(volume);
        if is_wanted("elsewhere") {
            bench.delta_elsewhere(&once)?;
        }
    }
    if is_wanted("idle") {
        bench.idle_memory();
    }
    publish(Path::new(env!("CARGO_MANIFEST_DIR")), "fetch", &bench.figures)
}
