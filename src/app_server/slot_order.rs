//! Orders that the parent carries out: start a server in an empty slot, give one the new connections, end one.

use std::path::PathBuf;

use super::{driver::Driver, inspector::LIMIT, server::Server, signaller::gone, trees::key_of};
use crate::{
    core::{GenerationKey, Mode, Problem, Reason, ServerCommand},
    procs::Image,
    slots::{List, NoList, Request, Role, Run, Slot},
};

/// What a command asks of the parent; `None` when that is none of its business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Start,
    Steer,
    Share(u32),
    Stop,
    Kill,
}

impl Order {
    pub(crate) fn of(command: ServerCommand) -> Option<Self> {
        match command {
            ServerCommand::Restart(Mode::Beside) => Some(Self::Start),
            ServerCommand::Switch => Some(Self::Steer),
            ServerCommand::Share { permille } => Some(Self::Share(permille)),
            ServerCommand::Abort(Mode::Beside) | ServerCommand::End => Some(Self::Stop),
            ServerCommand::Kill => Some(Self::Kill),
            _ => None,
        }
    }
}

/// Has the parent do it. `files`: those that a second server would take from the first.
pub(super) async fn give<S: Server>(
    driver: &Driver<S>,
    order: Order,
    on: GenerationKey,
    files: impl Future<Output = Vec<PathBuf>> + Send,
) -> Result<(), Problem> {
    let list = driver.parent.list().await.map_err(|error| problem(&error))?;
    let request = match order {
        Order::Start => start(driver, &list, on, files).await?,
        Order::Steer => Request::Steer { run: alive(&list, on)?.number },
        Order::Share(_) if !list.shares => return Err(no_shares()),
        Order::Share(permille) => Request::Share { run: alive(&list, on)?.number, permille },
        Order::Stop | Order::Kill => match alive(&list, on) {
            Ok(run) => Request::Stop { run: run.number, kill: order == Order::Kill },
            // It has ended already.
            Err(_) => return Ok(()),
        },
    };
    driver.parent.order(&request).await.map(|_| ()).map_err(|error| problem(&error))
}

fn no_shares() -> Problem {
    let message =
        "the parent of the app server gives a server all connections or none: SHARES_UNAVAILABLE says why";
    Problem::new(Reason::ConfigInvalid, message)
}

/// The server that this key means.
fn alive(list: &List, on: GenerationKey) -> Result<&Run, Problem> {
    let found = list.runs().map(|(_, run)| run).find(|run| key_of(list.pid, run) == on);
    found.ok_or_else(|| gone("the server that was started beside the live one has ended"))
}

async fn start<S: Server>(
    driver: &Driver<S>,
    list: &List,
    on: GenerationKey,
    files: impl Future<Output = Vec<PathBuf>> + Send,
) -> Result<Request, Problem> {
    let (memory, name) = (driver.memory().await, S::KIND.name);
    let live = *memory.known.last().ok_or_else(|| gone(&format!("no {name} was seen yet")))?;
    let image = driver.inspector.processes.look(LIMIT, move || Image::of(live.pid)).await;
    if image.and_then(Result::ok).is_none_or(|image| image.generation_key() != on) {
        return Err(gone(&format!("{name}'s master {} has ended or was restarted meanwhile", live.pid)));
    }
    if let Some(why) = &list.unfit {
        return Err(Problem::new(
            Reason::ConfigInvalid,
            format!("no server was started beside {name}: {why}"),
        ));
    }
    let slot = empty(list)?;
    let current = driver.current.clone();
    let target = driver.inspector.files.look(LIMIT, move || std::fs::read_link(current).ok()).await.flatten();
    let release = target.and_then(|target| Some(target.file_name()?.to_string_lossy().into_owned()));
    let mut files = files.await;
    files.sort();
    files.dedup();
    Ok(Request::Start { slot, release: release.unwrap_or_default(), aside: files })
}

/// One whose candidate has ended comes first, so that nobody takes that one for the next.
fn empty(list: &List) -> Result<Slot, Problem> {
    let role = |run: &Run| run.ended.map(|_| run.role);
    let empty = list.slots.iter().filter(|slot| slot.run.as_ref().is_none_or(|run| run.ended.is_some()));
    let best = empty.min_by_key(|slot| slot.run.as_ref().and_then(role) != Some(Role::Candidate));
    best.map(|slot| slot.slot).ok_or_else(|| {
        let message = "no slot is free for another server: end the one that finishes its requests first";
        Problem::new(Reason::LongRequests, message)
    })
}

fn problem(error: &NoList) -> Problem {
    let reason = match error {
        NoList::Absent(_) => Reason::AppServerMissing,
        NoList::Unfit(_) => Reason::ConfigInvalid,
        NoList::Silent(_) | NoList::Refused(_) => Reason::Internal,
    };
    Problem::new(reason, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(runs: [Option<(u64, &str, bool)>; 3]) -> List {
        let slots: Vec<_> = Slot::ALL
            .iter()
            .zip(runs)
            .map(|(slot, run)| {
                let run = run.map(|(number, role, ended)| {
                    serde_json::json!({
                        "number": number, "pid": 9, "start_time": 5, "release": "v1", "role": role,
                        "started_ms": 1, "ended": ended.then(|| serde_json::json!({"code": 1})),
                    })
                });
                serde_json::json!({"slot": slot, "weight": 0, "queue_empty_ms": 0, "run": run})
            })
            .collect();
        serde_json::from_value(serde_json::json!({"pid": 1, "version": "1", "addresses": [], "slots": slots}))
            .unwrap()
    }

    #[test]
    fn a_server_starts_in_a_slot_that_is_empty_first_in_that_of_a_candidate_that_ended() {
        let live = Some((1, "live", false));
        for (others, wanted) in [
            ((None, None), Some(Slot::B)),
            ((Some((2, "lingering", false)), None), Some(Slot::C)),
            ((Some((2, "lingering", true)), Some((3, "candidate", true))), Some(Slot::C)),
            ((Some((2, "lingering", true)), Some((3, "lingering", false))), Some(Slot::B)),
            ((Some((2, "lingering", false)), Some((3, "candidate", false))), None),
        ] {
            assert_eq!(empty(&list([live, others.0, others.1])).ok(), wanted, "{others:?}");
        }
    }

    #[test]
    fn a_run_is_meant_by_its_key_as_long_as_it_lives() {
        let list =
            list([Some((1, "live", false)), Some((2, "candidate", false)), Some((3, "candidate", true))]);
        let key = |number| crate::procs::run_key(1, number, 5);
        assert_eq!(alive(&list, key(2)).unwrap().number, 2);
        assert!(alive(&list, key(3)).is_err());
        assert!(alive(&list, key(4)).is_err());
    }

    #[test]
    fn the_parent_is_asked_for_what_concerns_two_servers_and_nothing_else() {
        let commands = [
            (ServerCommand::Restart(Mode::Beside), Some(Order::Start)),
            (ServerCommand::Switch, Some(Order::Steer)),
            (ServerCommand::Share { permille: 100 }, Some(Order::Share(100))),
            (ServerCommand::End, Some(Order::Stop)),
            (ServerCommand::Kill, Some(Order::Kill)),
            (ServerCommand::Abort(Mode::Beside), Some(Order::Stop)),
            (ServerCommand::Restart(Mode::Hot), None),
            (ServerCommand::Abort(Mode::Phased), None),
            (ServerCommand::Commit, None),
            (ServerCommand::Recover, None),
        ];
        assert!(commands.into_iter().all(|(command, order)| Order::of(command) == order));
    }
}
