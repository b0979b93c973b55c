//! kill -9 at each step of a restart beside: of the parent, of the agent, of the new server, of all at once. The steps are
//! the parent's fail points; none is left out.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use pitstop::init::{FAIL_POINTS, ORDER_POINTS};
use pitstop_rig::{
    App, ExecPod, Load, Setup, Signal, exec::descendants, load::Plan, needs_root, pod::rejection,
    puma::children, side_by_side, signal, tried, until, until_within,
};

use super::{RECOVERY, assert_unnoticed, slot};
use crate::PITSTOP;

/// The first server does not take its sockets: nothing is ever started beside it.
const WITHOUT_SLOTS: [&str; 2] = ["parent.inherited.close", "parent.end.spawn"];

/// So many trials follow one another.
const IN_A_POD: usize = 7;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whom {
    Agent,
    /// The server that was started last.
    Server,
    /// `pitstop exec` alone: the agent is in another container.
    Parent,
    /// `pitstop exec` with all that it has started.
    All,
}

/// What leads to a fail point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A good release arrives.
    Forward,
    /// A bad one is ended.
    Back,
    /// One that takes no notice of SIGTERM is.
    Kill,
    /// The live server ends while another one has a share.
    TakeOver,
    /// The same while the other one is not proved.
    Unproved,
    /// The same while the other one has not booted.
    Unbooted,
    /// The container starts.
    Start,
    /// It ends.
    End,
}

impl Way {
    fn to(point: &str) -> Self {
        match point {
            "parent.stop.kill" => Self::Kill,
            "parent.steer.empty" => Self::TakeOver,
            "parent.look.close" | "parent.look.over" => Self::Unproved,
            "parent.end.close" | "parent.end.signal" | "parent.end.over" => Self::Unbooted,
            _ if point.starts_with("parent.begin.") => Self::Start,
            _ if point.starts_with("parent.term.") => Self::End,
            _ if point.starts_with("parent.stop.") => Self::Back,
            _ => Self::Forward,
        }
    }

    /// Who is there to be killed.
    fn victims(self, point: &str) -> &'static [Whom] {
        let not_started =
            ["parent.moves_aside", "parent.start.empty", "parent.start.steer", "parent.start.spawn"];
        let first_left = ["parent.look.signal", "parent.end.steer", "parent.end.empty", "parent.brings_back"];
        match self {
            Self::Forward if not_started.contains(&point) || first_left.contains(&point) => {
                &[Whom::Agent, Whom::Parent, Whom::All]
            }
            Self::Forward | Self::Back => &[Whom::Server, Whom::Agent, Whom::Parent, Whom::All],
            Self::Kill | Self::TakeOver => &[Whom::Agent, Whom::All],
            Self::Unproved | Self::Unbooted | Self::End | Self::Start => &[Whom::All],
        }
    }
}

struct Pod {
    pod: ExecPod,
    marks: PathBuf,
    /// What serves, and the number of the next release.
    serves: String,
    next: u32,
}

impl Pod {
    fn started(whom: Whom) -> Self {
        let setup = Setup { workers: 1, ..Setup::preloading() };
        let mut pod = ExecPod::prepare(Path::new(PITSTOP), setup);
        pod.sidecar = whom == Whom::Parent;
        let marks = pod.puma.scratch().join("marks");
        fs::create_dir(&marks).expect("a directory for marks");
        for (name, value) in [
            ("PITSTOP_FAILPOINT_DIR", marks.to_str().expect("a path")),
            ("PITSTOP_RESTART_MODE", "beside"),
            ("PITSTOP_RESTART_SHIFT", "50%,100%"),
            ("PITSTOP_RESTART_SHIFT_REQUESTS", "1"),
            ("PITSTOP_RESTART_SHIFT_TIMEOUT", "2s"),
            ("PITSTOP_RESTART_TIMEOUT", "20s"),
            ("PITSTOP_VERIFY_TIMEOUT", "1s"),
        ] {
            pod.set(name, value);
        }
        pod.parent_listens();
        let mut pod = pod.published();
        pod.start_kept();
        pod.agent.wait_in_sync_within(RECOVERY, "v1");
        let pod = Self { pod, marks, serves: "v1".into(), next: 2 };
        pod.wait_for_one();
        pod
    }

    fn deploy(&mut self, app: App) -> String {
        let id = format!("v{}", self.next);
        self.next += 1;
        self.pod.deploy(app, &id);
        id
    }

    fn arm(&self, point: &str) {
        fs::write(self.marks.join(format!("{point}.wanted")), "").expect("a mark");
    }

    fn wait_for(&self, point: &str) {
        until_within(RECOVERY, point, || self.marks.join(point).exists().then_some(()));
    }

    /// What stands there goes on, if it still lives.
    fn let_go(&self, point: &str) {
        fs::remove_file(self.marks.join(format!("{point}.wanted"))).expect("it was armed");
        let _ = fs::remove_file(self.marks.join(point));
    }

    /// The processes that the parent has started, without an agent; the oldest comes first.
    fn servers(&self) -> Vec<i32> {
        let is_agent = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("\0run\0--child-of\0")
        };
        let mut servers: Vec<i32> =
            children(self.pod.first()).into_iter().filter(|pid| !is_agent(pid)).collect();
        servers.sort_unstable();
        servers
    }

    fn kill(&mut self, whom: Whom) {
        match whom {
            Whom::Agent => self.pod.kill_agent(),
            Whom::Server => {
                signal(until("the second server", || self.servers().get(1).copied()), Signal::KILL);
            }
            Whom::Parent | Whom::All => {
                // The platform ends the rest of the container with its first process.
                let (first, rest) = (self.pod.first(), descendants(self.pod.first()));
                [first].into_iter().chain(rest).for_each(|pid| signal(pid, Signal::KILL));
            }
        }
    }

    /// One server is left, and it is the parent's.
    fn wait_for_one(&self) {
        until_within(RECOVERY, "one server that lives", || {
            let one = matches!(&self.pod.servers()[..], [one] if one.role == "live");
            (one && self.servers().len() == 1 && slot(&self.pod, "live").is_some()).then_some(())
        });
        let (first, run) = (self.pod.first(), format!("RIG_RUN={}\0", self.pod.puma.run_dir().display()));
        until_within(RECOVERY, "the end of servers that nobody owns", || {
            let mut owned = descendants(first);
            owned.push(first);
            let is_stranger = |pid: &i32| {
                let env = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                let ours = String::from_utf8_lossy(&env).contains(&run);
                ours && !owned.contains(pid) && !children(*pid).contains(&first)
            };
            let all = fs::read_dir("/proc").ok()?.flatten();
            let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
            pids.find(is_stranger).is_none().then_some(())
        });
    }

    /// The agent has come to rest: on this release, or on the one before, for a reason.
    fn arrives(&mut self, id: &str, context: &str) {
        let before = self.serves.clone();
        let now = until_within(RECOVERY, &format!("{context}: the end of the deploy of {id}"), || {
            let status = self.pod.agent.status()?;
            let there = status["in_sync"] == true && status["running"] == id;
            let back = rejection(&status, id).is_some() && status["running"] == before.as_str();
            (status["stage"] == "steady" && (there || back))
                .then(|| status["running"].as_str().map(str::to_owned))?
        });
        self.wait_for_one();
        assert!(self.pod.current().ends_with(&now), "{context}");
        for _ in 0..5 {
            let answer = until("an answer", || self.pod.puma.get("/").ok());
            assert_eq!(answer.release.as_deref(), Some(&*now), "{context}: one release that is proved");
        }
        self.serves = now;
    }

    fn trial(&mut self, point: &str, whom: Whom) {
        let context = format!("{point}, {whom:?} killed");
        println!("{context}");
        let load =
            (whom == Whom::Agent && matches!(Way::to(point), Way::Forward | Way::Back)).then(|| self.load());
        let before = self.serves.clone();
        self.arm(point);
        let mut starts = self.pod.starts();
        let mut id = self.lead_to(point);
        while !self.meets(point, starts) {
            // Nobody took over in time, and so the container has ended first.
            let next = self.deploy(App::Good);
            self.arrives(&next, &context);
            starts = self.pod.starts();
            id = self.lead_to(point);
        }
        self.kill(whom);
        self.let_go(point);
        // What was not rejected in this time gives way to a newer one.
        let id = id.unwrap_or_else(|| self.deploy(App::Good));
        self.arrives(&id, &context);
        let good = !matches!(Way::to(point), Way::Back | Way::Kill);
        // A candidate that was killed while it booted is rejected.
        assert!((self.serves == id) == good || whom == Whom::Server, "{context}: {}", self.serves);
        if let Some(load) = load {
            assert_unnoticed(load, &[&before, &self.serves]);
        }
    }

    /// Begins what leads there. Gives the release that is to arrive, or to be rejected.
    fn lead_to(&mut self, point: &str) -> Option<String> {
        match Way::to(point) {
            Way::Forward => return Some(self.deploy(App::Good)),
            Way::Back => return Some(self.deploy(App::UnhealthyPath)),
            Way::Kill => {
                let id = format!("v{}", self.next);
                self.next += 1;
                self.pod.deploy_changed(&id, never_well_and_never_over);
                return Some(id);
            }
            Way::TakeOver => return Some(self.lose_live_at("parent.share.steer", App::Good)),
            Way::Unproved => drop(self.lose_live_at("parent.listens", App::UnhealthyPath)),
            Way::Unbooted => drop(self.lose_live_at("parent.spawned", App::HangsOnBoot)),
            Way::End => self.pod.term(),
            Way::Start => signal(self.pod.first(), Signal::KILL),
        }
        None
    }

    fn lose_live_at(&mut self, step: &str, app: App) -> String {
        self.arm(step);
        let id = self.deploy(app);
        self.wait_for(step);
        signal(*self.servers().first().expect("the live server"), Signal::KILL);
        if app == App::UnhealthyPath {
            // It would end the candidate before the parent does.
            self.pod.kill_agent();
        }
        self.let_go(step);
        id
    }

    /// False: the container was started anew instead.
    fn meets(&self, point: &str, starts: usize) -> bool {
        let live = [Way::TakeOver, Way::Unproved, Way::Unbooted].contains(&Way::to(point));
        let reached = self.marks.join(point);
        until_within(RECOVERY, point, || {
            let met = reached.exists();
            (met || live && self.pod.starts() > starts).then_some(met)
        })
    }

    fn load(&self) -> Load {
        Load::start(Plan { at_most: RECOVERY * 2, ..Plan::modest(self.pod.puma.port()) }, "kill")
    }
}

/// Its health path gets no good answer, and it takes no notice of SIGTERM.
pub fn never_well_and_never_over(dir: &Path) {
    let file = dir.join("config.ru");
    let text = fs::read_to_string(&file).expect("the app");
    let hangs = "use(Class.new { def initialize(app) = @app = app\n\
                 def call(env) = env['PATH_INFO'] == '/up' ? sleep : @app.call(env) })\n\
                 Puma::ThreadPool.prepend(Module.new { def shutdown(*) = [super, sleep] })\n";
    fs::write(&file, format!("{hangs}{text}")).expect("one that hangs");
}

/// Each point, with somebody to kill at it: one of those that are there, or each (`RIG_EVERY`).
fn trials() -> BTreeMap<Whom, Vec<&'static str>> {
    let every = std::env::var_os("RIG_EVERY").is_some();
    let only = std::env::var("RIG_POINT").ok();
    let mut trials = BTreeMap::<Whom, Vec<&str>>::new();
    for (at, point) in FAIL_POINTS.iter().chain(ORDER_POINTS).enumerate() {
        if WITHOUT_SLOTS.contains(point) || only.as_ref().is_some_and(|only| only != point) {
            continue;
        }
        let victims = Way::to(point).victims(point);
        let chosen = if every { victims } else { &victims[at % victims.len()..][..1] };
        chosen.iter().for_each(|whom| trials.entry(*whom).or_default().push(*point));
    }
    trials
}

#[test]
fn e2e_beside_killed_at_each_step_one_proved_release_serves_and_the_next_start_goes_on() {
    needs_root!();
    let trials = trials();
    let count: usize = trials.values().map(Vec::len).sum();
    let rows =
        trials.iter().flat_map(|(whom, points)| points.chunks(IN_A_POD).map(move |points| (*whom, points)));
    side_by_side(
        rows.map(|(whom, points)| (format!("{whom:?} {}", points[0]), (whom, points))),
        |(whom, points)| {
            let mut pod = Pod::started(whom);
            points.iter().for_each(|point| pod.trial(point, whom));
        },
    );
    let test = "e2e_beside_killed_at_each_step_one_proved_release_serves_and_the_next_start_goes_on";
    tried(
        test,
        "kill -9 of parent, agent or second server at each step of a restart beside",
        count as u64,
        "one proven release served",
    );
}
