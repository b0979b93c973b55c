//! Whether a second server can stand beside the one that runs, as far as that is the same for all kinds of servers: what
//! the parent says, the slots, the memory, and what comes of it.

use std::time::Duration;

use super::room::{Room, Verdict};
use crate::{
    config::RestartMode,
    core::{Problem, Reason},
    finding::{Check, Code, Finding, Severity},
    procs::{self, ProcessId},
    slots::{List, Role, Run},
};

/// What checks about it are about.
const RESTARTS: &str = "restarts";
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
    pub(crate) fn new(why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::because(Reason::ConfigInvalid, why, fix)
    }

    pub(crate) fn because(reason: Reason, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { reason, why: why.into(), fix: fix.into(), not_offered: false, passing: false }
    }

    /// Where nothing else is wanted.
    pub(crate) fn refusal(self) -> Problem {
        let Self { reason, why, fix, .. } = self;
        let message = format!(
            "restart.mode is beside, and no second server can be started beside the one that runs: {why}. Nothing was moved; to \
             fix it, {fix}; or set restart.mode to auto"
        );
        Problem::new(reason, message)
    }

    pub(crate) fn unanswered(what: &str) -> Self {
        let why = format!("{what} could not be read in time");
        let passing = Self::because(Reason::VolumeUnavailable, why, "run `pitstop doctor` again");
        Self { passing: true, ..passing }
    }

    /// What a deploy waits for where any kind of restart would do.
    pub(crate) fn wait(self) -> Result<Self, Problem> {
        if self.passing { Err(Problem::new(self.reason, self.why)) } else { Ok(self) }
    }

    pub(crate) fn not_offered() -> Self {
        let why = "the app server was not started by `pitstop exec`";
        let fix = "start it by `pitstop exec -- COMMAND`, with --sidecar where the agent has a container of its own";
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

fn live(list: &List) -> Option<&Run> {
    list.runs().map(|(_, run)| run).find(|run| run.role == Role::Live)
}

/// Whether the parent could start one. A first boot is waited for.
///
/// # Errors
/// Why it could not.
pub(super) fn parent_is_able(list: &List) -> Result<(), Misfit> {
    let age_ms = live(list).and_then(|run| procs::age_ms(ProcessId { pid: run.pid, start: run.start_time }));
    is_able(list, age_ms)
}

/// `age_ms`: for how long the live server has been there.
fn is_able(list: &List, age_ms: Option<u64>) -> Result<(), Misfit> {
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
            "the app server did not take the listening sockets that it was given",
            "set exec.listen to the addresses as the server's boot log names them, then restart the container once",
        )),
        Some(None) => Err(Misfit {
            passing: age_ms.is_some_and(|age| u128::from(age) < BOOT.as_millis()),
            ..Misfit::because(
                Reason::NotInherited,
                "the app server has not booted yet, so it is not known whether it takes the listening sockets that it was given",
                "wait until it has booted",
            )
        }),
        // It starts one in this moment, or has ended with it.
        None => Err(Misfit {
            passing: true,
            ..Misfit::because(
                Reason::AppServerMissing,
                "`pitstop exec` has no server that serves",
                "wait until it has booted",
            )
        }),
    }
}

/// A slot, and memory. A server that lingers gives way to a move.
///
/// # Errors
/// Which of them it lacks.
pub(super) fn room_for_one(list: &List, room: Option<Room>) -> Result<Fit, Misfit> {
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

/// What a plan makes of it. `wanted`: nothing speaks against it so far.
///
/// # Errors
/// Where nothing else is wanted, or it is worth waiting for.
pub(super) fn decide(
    mode: RestartMode,
    wanted: bool,
    fit: impl FnOnce() -> Result<Fit, Misfit>,
) -> Result<Option<Fit>, Problem> {
    match (mode, wanted) {
        (RestartMode::Auto, true) => match fit() {
            Ok(fit) => Ok(Some(fit)),
            Err(misfit) => {
                let misfit = misfit.wait()?;
                if !misfit.not_offered {
                    tracing::info!(why = misfit.why, "restarting without a second server beside the first");
                }
                Ok(None)
            }
        },
        (RestartMode::Beside, _) => fit().map(Some).map_err(Misfit::refusal),
        (RestartMode::Auto | RestartMode::Hot | RestartMode::Phased, _) => Ok(None),
    }
}

/// What doctor and /status say of it.
pub(super) fn check(fit: &Result<Fit, Misfit>, mode: RestartMode) -> Check {
    let wanted = matches!(mode, RestartMode::Auto | RestartMode::Beside);
    match fit {
        Ok(Fit { memory, .. }) => {
            let memory = memory.as_ref().map_or(String::new(), |memory| format!("; {memory}"));
            let unused = if wanted { "" } else { ", but restart.mode is another" };
            Check::fine(RESTARTS, format!("beside: possible{unused}{memory}"))
        }
        Err(Misfit { why, fix, not_offered: true, .. }) if mode != RestartMode::Beside => {
            let message = format!("beside: not possible, as {why} ({fix}): then no client waits for a boot");
            Check::fine(RESTARTS, message)
        }
        Err(Misfit { why, .. }) if !wanted => {
            Check::fine(RESTARTS, format!("beside: not possible, as {why}; restart.mode is another"))
        }
        Err(misfit) => unavailable(misfit, mode),
    }
}

/// A release is to get its traffic by shares, and this parent gives it all or nothing.
pub(super) fn no_shares(parent: &List) -> Option<Check> {
    if parent.shares {
        return None;
    }
    let (why, fix) = match parent.addresses.iter().find(|address| address.starts_with("unix://")) {
        Some(socket) => (
            format!("clients connect to {socket}, which leads to one server at a time"),
            "let the app server listen on TCP alone, or remove restart.shift",
        ),
        None => (
            format!(
                "`pitstop exec` in the app's container is of version {}, which knows no shares",
                parent.version
            ),
            "use the same version of pitstop in both containers",
        ),
    };
    let message = format!(
        "{why}. So a release that has passed its check gets all new connections at once, whatever restart.shift says"
    );
    Some(Finding::note(Code::SharesUnavailable, message, fix).about(RESTARTS))
}

/// It is not to be had, where it may have been wanted.
pub(super) fn unavailable(Misfit { reason, why, fix, .. }: &Misfit, mode: RestartMode) -> Check {
    let (severity, so) = match mode {
        RestartMode::Beside => {
            (Severity::Broken, format!("Nothing is deployed ({reason}), since restart.mode is beside"))
        }
        _ => (
            Severity::Note,
            "Deploys restart the running server instead, and clients may wait while the app boots".to_owned(),
        ),
    };
    let code = match reason {
        Reason::NoMemory => Code::BesideNoMemory,
        _ => Code::BesideUnavailable,
    };
    let message = format!("no second server can be started beside the one that runs: {why}. {so}");
    Finding::of(severity, code, message, fix).about(RESTARTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;

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
        let able = |list: &List| is_able(list, None).map_err(|misfit| (misfit.reason, misfit.why));
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
            is_able(&list(&[("live", inherited)]), Some(age_ms)).unwrap_err().wait().is_err()
        };
        assert!(waits(None, 59_999));
        assert!(!waits(None, 60_000), "it may hang in a bad release");
        assert!(!waits(Some(false), 2), "that is known");
        let none = is_able(&list(&[]), None).unwrap_err();
        assert!(none.wait().is_err(), "its container has started again, and its server is about to");
    }

    #[test]
    fn a_parent_that_knows_no_shares_is_found() {
        let said = |list: &List| match no_shares(list)?.outcome {
            Outcome::Found(finding) => Some((finding.code, finding.message)),
            _ => None,
        };
        let old = list(&[LIVE]);
        let (code, why) = said(&old).unwrap();
        assert!(code == Code::SharesUnavailable && why.contains("version 1"), "{why}");
        let unix = List { addresses: vec!["unix:///run/puma.sock".into()], ..old.clone() };
        assert!(said(&unix).unwrap().1.contains("unix:///run/puma.sock"));
        assert_eq!(said(&List { shares: true, ..old }), None);
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
}
