//! Whether a second Puma can stand beside the one that runs, each with its own release, until the first is needed no
//! more. Where it cannot, a restart is phased or hot, and a finding says why.

mod room;
mod start;
mod window;

use std::{collections::HashMap, time::Duration};

use super::{Puma, setup::Setup, snapshot::Snapshot, title};
use crate::{
    app_server::{driver::Driver, trouble},
    core::{Problem, Reason},
    procs::{self, ProcessId, memory::Container},
    revision::ReleaseId,
    slots::{List, Role, Run},
};

pub(super) use room::Last;
use room::{Room, Verdict};
use start::Start;

/// /proc answers at once, unless a process hangs in the kernel with its memory locked.
const LIMIT: Duration = Duration::from_secs(1);
/// A first boot is waited for so long, as in the time that a phased restart has for each worker. A Puma that takes longer may
/// hang in a release that has to be replaced.
const BOOT: Duration = Duration::from_secs(60);

/// Why a second server cannot stand beside the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(crate) reason: Reason,
    /// For a sentence: `Puma binds unix:///run/puma.sock`.
    pub(crate) why: String,
    pub(crate) fix: String,
    /// There is no parent at all, so nobody may have wanted it.
    pub(crate) not_offered: bool,
    /// It passes by itself, as the first boot of a Puma does: wait for that, instead of a restart of another kind.
    pub(crate) passing: bool,
}

impl Misfit {
    fn new(why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::because(Reason::ConfigInvalid, why, fix)
    }

    fn because(reason: Reason, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { reason, why: why.into(), fix: fix.into(), not_offered: false, passing: false }
    }

    /// Where nothing else is wanted.
    pub(crate) fn refusal(self) -> Problem {
        let Self { reason, why, fix, .. } = self;
        let message = format!(
            "restart.mode is beside, and no second server can be started beside this Puma: {why}. Nothing was moved; to \
             fix it, {fix}; or set restart.mode to auto"
        );
        Problem::new(reason, message)
    }

    fn unanswered(what: &str) -> Self {
        let why = format!("{what} could not be read in time");
        let passing = Self::because(Reason::VolumeUnavailable, why, "run `pitstop doctor` again");
        Self { passing: true, ..passing }
    }

    /// What a deploy waits for where any kind of restart would do.
    pub(crate) fn wait(self) -> Result<Self, Problem> {
        if self.passing { Err(Problem::new(self.reason, self.why)) } else { Ok(self) }
    }

    fn not_offered() -> Self {
        let why = "Puma was not started by `pitstop exec`";
        let fix = "start it by `pitstop exec -- bundle exec puma …`, with --sidecar where the agent has a container of \
                   its own";
        Self { not_offered: true, ..Self::new(why, fix) }
    }
}

/// How a second server would stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fit {
    /// The server that has lingered longest has to end first.
    pub(crate) make_room: bool,
    /// The memory, in words, where it has a limit.
    pub(crate) memory: Option<String>,
}

/// Whether there could be a second server now, of this release.
pub(super) fn of(snapshot: &Snapshot, release: Option<&ReleaseId>) -> Result<Fit, Misfit> {
    let list = snapshot.parent.as_ref().ok_or_else(Misfit::not_offered)?;
    let around = &snapshot.memory.around;
    let age_ms = live(list).and_then(|run| procs::age_ms(ProcessId { pid: run.pid, start: run.start_time }));
    parent_is_able(list, age_ms)?;
    let title = snapshot.processes.title.as_ref();
    binds_can_be_shared(title.map_or(&[], |title| &title.binds[..]), &list.addresses)?;
    let setup = snapshot.memory.setup.as_ref();
    let setup = setup.ok_or_else(|| Misfit::unanswered("Puma's configuration"))?;
    if around.unanswered {
        return Err(Misfit::unanswered("how Puma was started"));
    }
    let start = around.start.as_ref().ok_or_else(|| {
        let why = format!("process {}, which started Puma, could not be looked into", list.pid);
        let fix = "if this stays, run the agent and Puma's container as the same user and group";
        Misfit::new(why, fix)
    })?;
    start.is_able()?;
    window::of(setup, snapshot.cluster() != Some(false), Some(start)).map_or(Ok(()), Err)?;
    room_for_one(list, around.room(list, &snapshot.memory.taken, release))
}

/// What kept an earlier candidate from booting beside this Puma, and would keep the next one.
pub(super) fn known_trouble(snapshot: &Snapshot) -> Option<Misfit> {
    let (_, problem) = snapshot.memory.around.lasting.as_ref()?;
    let fix = "change Puma's configuration or the Gemfile.lock in a release, or restart the container: the next deploy \
               then starts a second server again";
    Some(Misfit::because(problem.reason, problem.message.as_str(), fix))
}

/// What the files of an app tell, where no Puma runs.
pub(super) fn of_files(setup: &Setup) -> Option<Misfit> {
    window::of(setup, true, None)
}

fn live(list: &List) -> Option<&Run> {
    list.runs().map(|(_, run)| run).find(|run| run.role == Role::Live)
}

/// `age_ms`: for how long the live server has been there.
fn parent_is_able(list: &List, age_ms: Option<u64>) -> Result<(), Misfit> {
    if let Some(why) = &list.unfit {
        return Err(Misfit::new(why, "docs/beside.md has what a second server needs"));
    }
    if list.stopping {
        return Err(Misfit::because(
            Reason::Draining,
            "the container is about to end",
            "wait for the next pod",
        ));
    }
    match live(list).map(|run| run.inherited) {
        Some(Some(true)) => Ok(()),
        Some(Some(false)) => Err(Misfit::because(
            Reason::NotInherited,
            "Puma did not take the listening sockets that it was given",
            "set exec.listen to the addresses as Puma's boot log names them, then restart the container once",
        )),
        Some(None) => Err(Misfit {
            passing: age_ms.is_some_and(|age| u128::from(age) < BOOT.as_millis()),
            ..Misfit::because(
                Reason::NotInherited,
                "Puma has not booted yet, so it is not known whether it takes the listening sockets that it was given",
                "wait until Puma has booted",
            )
        }),
        // It starts one in this moment, or has ended with it.
        None => Err(Misfit {
            passing: true,
            ..Misfit::because(
                Reason::AppServerMissing,
                "`pitstop exec` has no server that serves",
                "wait until Puma has booted",
            )
        }),
    }
}

/// Sockets of other kinds cannot be held twice, and those that the parent does not hold are the first server's alone.
fn binds_can_be_shared(binds: &[String], held: &[String]) -> Result<(), Misfit> {
    let held: Vec<u16> = held.iter().filter_map(|address| title::port(address)).collect();
    for bind in binds {
        let plain = bind.split('?').next().unwrap_or(bind);
        if !plain.starts_with("tcp://") {
            let why = format!("Puma binds {plain}, and only tcp:// addresses can be shared by two servers");
            return Err(Misfit::new(why, "bind a tcp:// address (port 3000 in config/puma.rb)"));
        }
        if title::port(bind).is_none_or(|port| !held.contains(&port)) {
            let why = format!("Puma binds {plain}, for which `pitstop exec` holds no sockets");
            let fix = "name all of Puma's addresses in exec.listen, then restart the container once";
            return Err(Misfit::because(Reason::NotInherited, why, fix));
        }
    }
    Ok(())
}

/// A slot, and memory. A server that lingers gives way to a move.
fn room_for_one(list: &List, room: Option<Room>) -> Result<Fit, Misfit> {
    let lingers = list.runs().any(|(_, run)| run.role == Role::Lingering);
    let is_free = list.slots.iter().any(|slot| slot.run.as_ref().is_none_or(|run| run.ended.is_some()));
    let verdict = room.map_or(Verdict::Enough, Room::verdict);
    let memory = room.map(Room::shown);
    match (verdict, is_free || lingers) {
        (_, false) => {
            Err(Misfit::new("no slot is free for another server", "wait for the server that boots"))
        }
        (Verdict::Enough, true) => Ok(Fit { make_room: !is_free, memory }),
        (Verdict::WithoutLingering, true) => Ok(Fit { make_room: true, memory }),
        (Verdict::Short, true) => Err(Misfit::because(
            Reason::NoMemory,
            memory.unwrap_or_default(),
            room.map(Room::fix).unwrap_or_default(),
        )),
    }
}

/// What is seen of the parent and of the container's memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Around {
    start: Option<Start>,
    container: Option<Container>,
    /// The most that each candidate took, by the number of its run, in bytes.
    peaks: HashMap<u64, u64>,
    /// What the last candidate took that became the live server, once that was looked for.
    last: Option<Option<u64>>,
    /// A release that used up the memory, and what its server took then.
    too_large: Option<(String, u64)>,
    /// Why the candidate has to go.
    pub(crate) trouble: Option<Problem>,
    /// How the parent starts a server was asked for, and there is no answer yet.
    unanswered: bool,
    /// The candidate that was last kept from booting by what the live server holds, by the number of its run.
    lasting: Option<(u64, Problem)>,
}

/// A server of the parent's: its run, and its processes.
pub(super) type Server<'a> = (&'a Run, Vec<i32>);

/// The servers of a parent.
pub(super) struct Servers<'a> {
    pub(crate) parent: i32,
    /// The master of the one that serves.
    pub(crate) live: i32,
    pub(crate) all: &'a [Server<'a>],
    /// What the parent holds sockets for.
    pub(crate) addresses: &'a [String],
    /// What each run took when that was measured last, in bytes.
    pub(crate) taken: &'a HashMap<u64, u64>,
}

impl Around {
    /// Looks again at what may have changed.
    pub(crate) async fn look(&mut self, driver: &Driver<Puma>, last: &Last, servers: Servers<'_>) {
        let (parent, live, lane) = (servers.parent, servers.live, &driver.inspector.processes);
        if !self.start.as_ref().is_some_and(|start| start.is_of(parent, live)) {
            let current = driver.current.clone();
            let look = move || Start::of(parent, live, &current);
            let answer = driver.inspector.files.look(LIMIT, look).await;
            (self.unanswered, self.start) = (answer.is_none(), answer.flatten());
        }
        self.remember_trouble(&servers);
        self.container = lane.look(LIMIT, move || Container::of(live)).await.flatten();
        if self.last.is_none() {
            self.last = Some(last.bytes(lane).await);
        }
        if let Some(bytes) = self.proved(&servers) {
            self.last = Some(Some(bytes));
            last.keep(lane, bytes).await;
        }
        self.trouble = self.used_up(&servers);
    }

    /// What the server took as a candidate that has become the live one: the next one will not take much less.
    fn proved(&mut self, servers: &Servers<'_>) -> Option<u64> {
        for (run, _) in servers.all.iter().filter(|(run, _)| run.role == Role::Candidate) {
            let peak = self.peaks.entry(run.number).or_default();
            *peak = servers.taken.get(&run.number).copied().unwrap_or(0).max(*peak);
        }
        let live = servers.all.iter().find(|(run, _)| run.role == Role::Live)?;
        let peak = self.peaks.remove(&live.0.number).filter(|peak| *peak > 0)?;
        self.peaks.clear();
        Some(peak)
    }

    /// What an earlier release got into is over when its configuration has changed: see `plan`.
    fn remember_trouble(&mut self, servers: &Servers<'_>) {
        let candidates = servers.all.iter().filter(|(run, _)| run.role == Role::Candidate);
        let newer =
            candidates.filter(|(run, _)| self.lasting.as_ref().is_none_or(|(last, _)| run.number > *last));
        if let Some((run, _)) = newer.max_by_key(|(run, _)| run.number)
            && let Some(problem) = trouble::lasting(run, servers.addresses)
        {
            self.lasting = Some((run.number, problem));
        }
    }

    /// While a candidate boots.
    fn used_up(&mut self, servers: &Servers<'_>) -> Option<Problem> {
        let candidate = |(run, _): &&Server<'_>| run.role == Role::Candidate && run.ended.is_none();
        let (run, _) = servers.all.iter().find(candidate)?;
        let container = self.container?;
        let taken = container.taken.unwrap_or_else(|| servers.taken.values().sum());
        let problem = room::exceeds(container.limit, taken)?;
        let own = servers.taken.get(&run.number).copied().unwrap_or(0);
        self.too_large = Some((run.release.clone(), own));
        Some(problem)
    }

    /// The memory for one more server, of this release; `None` where there is no limit, or nothing was measured yet.
    fn room(&self, list: &List, taken: &HashMap<u64, u64>, release: Option<&ReleaseId>) -> Option<Room> {
        let container = self.container?;
        let of = |role: Role| {
            let runs = list.runs().filter(move |(_, run)| run.role == role);
            runs.filter_map(|(_, run)| taken.get(&run.number)).sum::<u64>()
        };
        let (live, lingering) = (of(Role::Live), of(Role::Lingering));
        let (name, least) = self.too_large.as_ref().map_or(("", 0), |(name, bytes)| (name.as_str(), *bytes));
        let least = if release.is_some_and(|release| release.as_str() == name) { least } else { 0 };
        let room = Room {
            limit: container.limit,
            taken: container.taken.unwrap_or(live.saturating_add(lingering)),
            lingering,
            next: self.last.flatten().unwrap_or(live).max(least),
        };
        Some(room).filter(|room| room.next > 0)
    }
}

#[cfg(test)]
impl Around {
    /// Of a Puma that was started by this command, with or without a limit of memory.
    pub(crate) fn given(command: &[&str], container: Option<Container>) -> Self {
        Self { start: Some(Start::given(command, None)), container, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(runs: &[(&str, Option<bool>)]) -> List {
        let slots = ["a", "b", "c"].iter().enumerate().map(|(at, slot)| {
            let run = runs.get(at).map(|(role, inherited)| {
                serde_json::json!({"number": at + 1, "pid": 9, "start_time": 1, "release": "v1", "role": role,
                    "started_ms": 1, "inherited": inherited})
            });
            serde_json::json!({"slot": slot, "weight": 0, "queue_empty_ms": 0, "run": run})
        });
        let slots: Vec<_> = slots.collect();
        let raw =
            serde_json::json!({"pid": 1, "version": "1", "addresses": ["tcp://[::]:3000"], "slots": slots});
        serde_json::from_value(raw).unwrap()
    }

    const LIVE: (&str, Option<bool>) = ("live", Some(true));
    const LINGERS: (&str, Option<bool>) = ("lingering", Some(true));

    #[test]
    fn what_the_parent_says_counts_first() {
        let able = |list: &List| parent_is_able(list, None).map_err(|misfit| (misfit.reason, misfit.why));
        assert_eq!(able(&list(&[LIVE])), Ok(()));
        let unfit = List { unfit: Some("the kernel refuses the program".into()), ..list(&[LIVE]) };
        assert_eq!(able(&unfit), Err((Reason::ConfigInvalid, "the kernel refuses the program".into())));
        assert_eq!(able(&List { stopping: true, ..list(&[LIVE]) }).unwrap_err().0, Reason::Draining);
        for inherited in [Some(false), None] {
            assert_eq!(able(&list(&[("live", inherited)])).unwrap_err().0, Reason::NotInherited);
        }
        assert!(able(&list(&[])).is_err());
    }

    #[test]
    fn a_first_boot_is_waited_for_and_not_for_ever() {
        let waits = |inherited, age_ms| {
            parent_is_able(&list(&[("live", inherited)]), Some(age_ms)).unwrap_err().wait().is_err()
        };
        assert!(waits(None, 59_999));
        assert!(!waits(None, 60_000), "it may hang in a bad release");
        assert!(!waits(Some(false), 2), "that is known");
        let none = parent_is_able(&list(&[]), None).unwrap_err();
        assert!(none.wait().is_err(), "its container has started again, and its server is about to");
    }

    #[test]
    fn every_address_has_to_be_one_that_two_servers_can_share() {
        let shared = |binds: &[&str]| {
            let binds: Vec<String> = binds.iter().map(|bind| (*bind).to_owned()).collect();
            let held = ["tcp://0.0.0.0:3000".to_owned(), "tcp://[::]:3000?backlog=9".to_owned()];
            binds_can_be_shared(&binds, &held).map_err(|misfit| misfit.why)
        };
        assert_eq!(shared(&["tcp://0.0.0.0:3000"]), Ok(()));
        assert_eq!(shared(&["tcp://[::]:3000?low_latency=false", "tcp://0.0.0.0:3000"]), Ok(()));
        let secret = "ssl://0.0.0.0:3000?key=/k&cert=/c";
        for (bind, shown) in
            [("unix:///run/puma.sock", "unix:///run/puma.sock"), (secret, "ssl://0.0.0.0:3000,")]
        {
            let why = shared(&["tcp://0.0.0.0:3000", bind]).unwrap_err();
            assert!(why.contains(shown), "{why}");
        }
        assert!(shared(&["tcp://0.0.0.0:3001"]).unwrap_err().contains("holds no sockets"));
    }

    #[test]
    fn a_server_that_lingers_gives_way_where_slots_or_memory_run_short() {
        let with = |runs: &[(&str, Option<bool>)], room| room_for_one(&list(runs), room);
        let room = |taken, lingering| Some(Room { limit: 1000, taken, lingering, next: 400 });
        let makes_room = |fit: Result<Fit, Misfit>| fit.unwrap().make_room;
        assert!(!makes_room(with(&[LIVE], None)) && !makes_room(with(&[LIVE, LINGERS], None)));
        assert!(makes_room(with(&[LIVE, LINGERS, LINGERS], None)));
        assert!(!makes_room(with(&[LIVE], room(500, 0))));
        assert!(makes_room(with(&[LIVE, LINGERS], room(800, 300))));
        let short = with(&[LIVE], room(800, 0)).unwrap_err();
        assert!(short.reason == Reason::NoMemory && short.fix.contains("memory limit"), "{short:?}");
        assert!(with(&[LIVE, ("candidate", None), ("candidate", None)], None).is_err());
    }

    #[test]
    fn a_release_that_used_up_the_memory_is_not_tried_again_in_as_little() {
        let container = Some(Container { limit: 1000, taken: Some(500) });
        let v2: ReleaseId = "v2".parse().unwrap();
        let mut around = Around::given(&["puma"], container);
        let (servers, taken) = (list(&[LIVE]), HashMap::from([(1, 300)]));
        let next = |around: &Around, release| around.room(&servers, &taken, release).unwrap().next;
        assert_eq!(next(&around, Some(&v2)), 300, "as much as the first");
        around.last = Some(Some(200));
        assert_eq!(next(&around, Some(&v2)), 200, "as much as the last one that was good");
        around.too_large = Some(("v2".into(), 450));
        assert_eq!((next(&around, Some(&v2)), next(&around, None)), (450, 200));
        around.container = None;
        assert_eq!(around.room(&servers, &taken, None), None, "there is no limit");
    }

    #[test]
    fn a_candidate_is_in_trouble_when_the_memory_is_nearly_used_up() {
        let mut list = list(&[LIVE, ("candidate", None)]);
        list.slots[1].run.as_mut().unwrap().release = "v2".into();
        let all: Vec<Server<'_>> = list.runs().map(|(_, run)| (run, vec![])).collect();
        let taken = HashMap::from([(1, 500), (2, 420)]);
        let servers = |all| Servers { parent: 1, live: 9, all, addresses: &[], taken: &taken };
        let container = |taken| Some(Container { limit: 1000, taken });
        let mut around = Around::given(&["puma"], container(Some(899)));
        assert_eq!(around.used_up(&servers(&all)), None);
        around.container = container(None);
        assert_eq!(around.used_up(&servers(&all)).unwrap().reason, Reason::NoMemory, "by what the two take");
        assert_eq!(around.too_large, Some(("v2".into(), 420)));
        around.container = container(Some(950));
        assert_eq!(around.used_up(&servers(&all[..1])), None, "the first one alone may take what it gets");
    }

    #[test]
    fn what_a_candidate_took_counts_once_it_is_live() {
        let mut around = Around::default();
        let mut seen = |roles: [&str; 2], bytes: u64| {
            let list = list(&roles.map(|role| (role, Some(true))));
            let all: Vec<Server<'_>> = list.runs().map(|(_, run)| (run, vec![])).collect();
            let taken = HashMap::from([(1, 900), (2, bytes)]);
            around.proved(&Servers { parent: 1, live: 9, all: &all, addresses: &[], taken: &taken })
        };
        assert_eq!(seen(["live", "candidate"], 400), None);
        assert_eq!(seen(["live", "candidate"], 300), None);
        assert_eq!(seen(["lingering", "live"], 500), Some(400));
        assert_eq!(seen(["lingering", "live"], 500), None, "once");
    }
}
