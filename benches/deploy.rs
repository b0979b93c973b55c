//! `make bench BENCH=deploy`: from the moved pointer to the signal, and to the first answer of the new release, by
//! pitstop and by a shell script that does the same steps (download, tar, ln, mv, kill) and nothing else.
//!
//! `cargo bench --bench deploy -- signal` measures the first alone.
//!
//! Both sides get the same Puma, the same release and the same store, by turns in one run. The script is told
//! to go; pitstop has to notice. That, the check of every byte, the sync to the disk and the journal are part
//! of its figures.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use pitstop_rig::{
    AgentRig, App, PumaRig, Setup,
    figures::{Comparison, publish},
    s3::{REGION, S3Rig},
    until,
};

const RUNS: usize = 3;
/// A signal takes less time than a fetch, so that the machine's noise counts for more.
const SIGNAL_RUNS: usize = 9;
const POLL: &str = "1s";
/// About what a small Rails app with its gems comes to, once packed.
const FILES: usize = 1_500;
const LARGEST_FILE_BYTES: usize = 20_000;

#[derive(Clone, Copy)]
enum Mode {
    Phased,
    Hot,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Phased => "phased",
            Self::Hot => "hot",
        }
    }

    fn signal(self) -> &'static str {
        match self {
            Self::Phased => "USR1",
            Self::Hot => "USR2",
        }
    }

    /// What Puma writes to its log as soon as it has the signal.
    fn heard(self) -> &'static str {
        match self {
            Self::Phased => "Starting phased worker restart",
            Self::Hot => "* Restarting...",
        }
    }
}

/// Where the pointer is, and with it the release.
#[derive(Clone, Copy)]
enum Kind {
    File,
    Directory,
    S3,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::File => "file: pointer",
            Self::Directory => "directory store",
            Self::S3 => "S3",
        }
    }
}

/// A Puma on `v1`, and a store for it.
struct Side {
    agent: AgentRig,
    puma: PumaRig,
    s3: Option<S3Rig>,
    kind: Kind,
    mode: Mode,
}

impl Side {
    fn prepare(kind: Kind, mode: Mode) -> Self {
        let puma = PumaRig::empty(Setup { boot_seconds: 1.0, ..Setup::default() });
        let mut agent = AgentRig::prepare(Path::new(env!("CARGO_BIN_EXE_pitstop")), &puma);
        let s3 = matches!(kind, Kind::S3).then(S3Rig::start);
        agent.env.extend(s3.iter().flat_map(S3Rig::env));
        agent.env.push(("PITSTOP_RESTART_MODE".into(), mode.name().into()));
        agent.env.push(("PITSTOP_POLL_INTERVAL".into(), POLL.into()));
        // A pod has one Puma. Here are two, the script's as well.
        agent.env.push(("PITSTOP_PUMA_MATCH".into(), format!("tcp://127.0.0.1:{}", puma.port())));
        if matches!(kind, Kind::File) {
            let pointer = puma.scratch().join("pointer/release");
            fs::create_dir(pointer.parent().expect("it has one")).expect("the pointer's directory");
            agent.env.push(("PITSTOP_POINTER".into(), format!("file:{}", pointer.display())));
        }
        Self { agent, puma, s3, kind, mode }
    }

    /// Small releases that are on the volume before anybody deploys them.
    fn put_there(&mut self, ids: &[String]) {
        // Nothing is pruned before its turn.
        self.agent.env.push(("PITSTOP_KEEP_RELEASES".into(), "50".into()));
        for id in ids {
            self.agent.publish(&self.puma, App::Good, id);
            self.move_pointer(id);
            self.agent.must(&["fetch"]);
        }
    }

    /// Puma boots from `v1`; the agent, where there is to be one, has proved it.
    fn start(&mut self, with_agent: bool) {
        self.publish("v1");
        self.move_pointer("v1");
        self.agent.must(&["fetch"]);
        self.puma.run();
        self.puma.wait_for_release("v1");
        if with_agent {
            self.agent.start();
            self.agent.wait_in_sync("v1");
        }
    }

    /// Into the store, as a CI would: one tar.gz.
    fn publish(&self, id: &str) {
        let tree = self.agent.build(&self.puma, App::Good, id);
        ballast(&tree);
        let archive = self.puma.scratch().join(format!("{id}.tar.gz"));
        let packed = Command::new("tar").arg("-C").arg(&tree).arg("-czf").arg(&archive).arg(".").status();
        assert!(packed.expect("tar is there").success());
        self.agent.must(&["publish", "--archive", &archive.to_string_lossy(), "--release", id]);
    }

    fn move_pointer(&self, id: &str) {
        match self.kind {
            Kind::File => {
                let pointer = self.puma.scratch().join("pointer");
                fs::write(pointer.join(".next"), id).expect("the pointer is written");
                fs::rename(pointer.join(".next"), pointer.join("release")).expect("the pointer moves");
            }
            Kind::Directory | Kind::S3 => drop(self.agent.promote(id)),
        }
    }

    /// The same steps by hand, without those that get the release.
    fn switch(&self, id: &str) -> String {
        format!(
            "ln -s releases/{id} next; mv -T next current; kill -{signal} {master}",
            signal = self.mode.signal(),
            master = self.puma.master().expect("Puma runs"),
        )
    }

    /// The same steps by hand.
    fn script(&self, id: &str) -> String {
        let name = format!("releases/{id}.tar.gz");
        let archive = self.puma.scratch().join("by-hand.tar.gz");
        let download = match &self.s3 {
            None => format!("cp {} {}", self.agent.store().join(&name).display(), archive.display()),
            Some(s3) => {
                let keys = s3.keys();
                let path = s3.source().replacen("s3://", "", 1);
                format!(
                    "curl -sSf --aws-sigv4 aws:amz:{REGION}:s3 --user {}:{} -H 'x-amz-content-sha256: \
                     UNSIGNED-PAYLOAD' -o {} {}/{path}/{name}",
                    keys.access,
                    keys.secret,
                    archive.display(),
                    s3.endpoint()
                )
            }
        };
        format!(
            "set -e; cd {deploy_to}; {download}; mkdir releases/{id}; tar -xzf {archive} -C releases/{id}; {switch}",
            deploy_to = self.puma.deploy_to().display(),
            archive = archive.display(),
            switch = self.switch(id),
        )
    }

    fn signals(&self) -> usize {
        fs::read_to_string(self.puma.log()).unwrap_or_default().matches(self.mode.heard()).count()
    }

    /// Seconds until Puma has its signal, from a moved pointer.
    fn signal_by_pitstop(&self, id: &str) -> f64 {
        let (before, began) = (self.signals(), Instant::now());
        self.move_pointer(id);
        let seconds = self.until_signal(before, began);
        self.agent.wait_in_sync(id);
        seconds
    }

    /// The same, from the script's start.
    fn signal_by_hand(&self, id: &str) -> f64 {
        let script = format!("set -e; cd {}; {}", self.puma.deploy_to().display(), self.switch(id));
        let (before, began) = (self.signals(), Instant::now());
        run(&script);
        let seconds = self.until_signal(before, began);
        self.only_answers_of(id);
        seconds
    }

    fn until_signal(&self, before: usize, began: Instant) -> f64 {
        while self.signals() == before {
            assert!(began.elapsed() < Duration::from_secs(120), "Puma gets no signal");
            std::thread::sleep(Duration::from_millis(1));
        }
        began.elapsed().as_secs_f64()
    }

    /// Waits for the first answer of this release. Seconds since `began`.
    fn first_answer(&self, id: &str, began: Instant) -> f64 {
        loop {
            let answered = self.puma.get("/").ok().and_then(|answer| answer.release);
            if answered.as_deref() == Some(id) {
                return began.elapsed().as_secs_f64();
            }
            assert!(began.elapsed() < Duration::from_secs(120), "{id} never answers");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// By pitstop: seconds until the first answer, and until every worker is proved to run it.
    fn by_pitstop(&self, id: &str) -> (f64, f64) {
        self.publish(id);
        let began = Instant::now();
        self.move_pointer(id);
        let first = self.first_answer(id, began);
        self.agent.wait_in_sync(id);
        (first, began.elapsed().as_secs_f64())
    }

    fn by_hand(&self, id: &str) -> f64 {
        self.publish(id);
        let script = self.script(id);
        let began = Instant::now();
        run(&script);
        let first = self.first_answer(id, began);
        self.only_answers_of(id);
        first
    }

    /// The next deploy must not come into this one's way.
    fn only_answers_of(&self, id: &str) {
        let mut in_a_row = 0;
        until("answers of the new release only", || {
            let answered = self.puma.get("/").ok().and_then(|answer| answer.release);
            in_a_row = if answered.as_deref() == Some(id) { in_a_row + 1 } else { 0 };
            (in_a_row == 20).then_some(())
        });
    }
}

fn run(script: &str) {
    let done = Command::new("sh").args(["-c", script]).output().expect("a shell is there");
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Files besides the app's that do not compress well.
fn ballast(tree: &Path) {
    let mut random = fastrand::Rng::with_seed(7);
    for number in 0..FILES {
        let dir: PathBuf = tree.join(format!("vendor/{}", number % 50));
        fs::create_dir_all(&dir).expect("a directory");
        let bytes: Vec<u8> = (0..random.usize(0..LARGEST_FILE_BYTES)).map(|_| random.u8(..)).collect();
        fs::write(dir.join(format!("{number}.rb")), bytes).expect("a file");
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn compare(kind: Kind, mode: Mode) -> Comparison {
    let (mut ours, mut peer) = (Side::prepare(kind, mode), Side::prepare(kind, mode));
    ours.start(true);
    peer.start(false);
    let (mut first, mut proven, mut by_hand) = (Vec::new(), Vec::new(), Vec::new());
    // By turns, so that whatever else this machine does hits both.
    for number in 1..=RUNS {
        println!("{}, {}: {number} of {RUNS}: by pitstop, then by hand …", kind.name(), mode.name());
        let id = format!("v{}", number + 1);
        let (answer, all) = ours.by_pitstop(&id);
        first.push(answer);
        proven.push(all);
        by_hand.push(peer.by_hand(&id));
    }
    let notices = match kind {
        Kind::File => "noticed by inotify".to_owned(),
        Kind::Directory | Kind::S3 => {
            format!("looked at each {POLL} (by default each 30 s: then up to 36 s come on top)")
        }
    };
    let how = format!(
        "median of {RUNS}; seconds from the moved pointer to the first answer of the new release, against the \
         script's start to the same; a release of {FILES} files in a tar.gz, Puma of 2 workers that boots in 1 s; \
         pointer {notices}; ours with every byte checked, synced to disk and journaled, and proven for all workers \
         after {:.1} s (soak 1 s), the script with none of that",
        median(proven)
    );
    let name = format!("{}, {}: first worker", kind.name(), mode.name());
    let download = if matches!(kind, Kind::S3) { "curl" } else { "cp" };
    Comparison::smaller_is_better(&name, (median(first), median(by_hand)), "s")
        .against(&format!("{download}, tar, ln, mv, kill -{}", mode.signal()), &how)
}

/// Nothing but the switch: the release is on the volume, and the pointer is a file.
fn compare_signals(mode: Mode) -> Comparison {
    let (mut ours, mut peer) = (Side::prepare(Kind::File, mode), Side::prepare(Kind::File, mode));
    let ids: Vec<String> = (0..SIGNAL_RUNS).map(|number| format!("v{}", number + 2)).collect();
    for (side, with_agent) in [(&mut ours, true), (&mut peer, false)] {
        side.put_there(&ids);
        side.start(with_agent);
    }
    let (mut by_pitstop, mut by_hand) = (Vec::new(), Vec::new());
    for id in &ids {
        by_pitstop.push(ours.signal_by_pitstop(id));
        by_hand.push(peer.signal_by_hand(id));
        println!("pointer to signal, {}: {by_pitstop:.3?} {by_hand:.3?}", mode.name());
    }
    let how = format!(
        "median of {SIGNAL_RUNS}; seconds from the moved pointer until Puma logs the signal, against the script's \
         start to the same; the release is on the volume, pointer noticed by inotify; ours checked, probed, synced to \
         disk and journaled, the script with none of that"
    );
    Comparison::smaller_is_better(
        &format!("{}, {}: pointer to signal", Kind::File.name(), mode.name()),
        (median(by_pitstop), median(by_hand)),
        "s",
    )
    .against(&format!("ln, mv, kill -{}", mode.signal()), &how)
}

fn main() -> std::io::Result<()> {
    let signals_only = std::env::args().any(|argument| argument == "signal");
    let mut comparisons: Vec<_> = [Mode::Phased, Mode::Hot].into_iter().map(compare_signals).collect();
    if !signals_only {
        let kinds = [Kind::File, Kind::Directory, Kind::S3];
        let each = kinds.into_iter().flat_map(|kind| [(kind, Mode::Phased), (kind, Mode::Hot)]);
        comparisons.extend(each.map(|(kind, mode)| compare(kind, mode)));
    }
    publish(Path::new(env!("CARGO_MANIFEST_DIR")), "deploy", &comparisons)
}
