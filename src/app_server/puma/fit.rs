//! Whether a second Puma can stand beside the one that runs, each with its own release, until the first is needed no
//! more. Where it cannot, a restart is phased or hot, and a finding says why.

mod start;
mod window;

use super::{Puma, setup::Setup, snapshot::Snapshot, title};
use crate::{
    app_server::{
        driver::Driver,
        fit::{Fit, Misfit, parent_is_able, room_for_one},
        inspector::LIMIT,
        memory::{Measuring, Memory},
        trouble,
    },
    core::{Problem, Reason},
    revision::ReleaseId,
    slots::{List, Role},
};

use start::Start;

/// Whether there could be a second server now, of this release.
pub(super) fn of(snapshot: &Snapshot, release: Option<&ReleaseId>) -> Result<Fit, Misfit> {
    let list = snapshot.parent.as_ref().ok_or_else(Misfit::not_offered)?;
    let around = &snapshot.memory.around;
    parent_is_able(list)?;
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
    room_for_one(list, around.memory.room(list, release))
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

/// Sockets of other kinds cannot be held twice, and those that the parent does not hold are the first server's alone.
fn binds_can_be_shared(binds: &[String], held: &[String]) -> Result<(), Misfit> {
    let place = |bind: &str| match title::port(bind) {
        Some(port) => port.to_string(),
        None => bind.split('?').next().unwrap_or(bind).to_owned(),
    };
    let held: Vec<String> = held.iter().map(|address| place(address)).collect();
    for bind in binds {
        let plain = bind.split('?').next().unwrap_or(bind);
        if !plain.starts_with("tcp://") && !plain.starts_with("unix:///") {
            let why = format!(
                "Puma binds {plain}, and only tcp:// and unix:// addresses can be shared by two servers"
            );
            return Err(Misfit::new(why, "bind a tcp:// address (port 3000 in config/puma.rb)"));
        }
        if !held.contains(&place(bind)) {
            let why = format!("Puma binds {plain}, for which `pitstop exec` holds no sockets");
            let fix = "name all of Puma's addresses in exec.listen, then restart the container once";
            return Err(Misfit::because(Reason::NotInherited, why, fix));
        }
    }
    Ok(())
}

/// What is seen of the parent and of the container's memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Around {
    start: Option<Start>,
    pub(crate) memory: Memory,
    /// How the parent starts a server was asked for, and there is no answer yet.
    unanswered: bool,
    /// The candidate that was last kept from booting by what the live server holds, by the number of its run.
    lasting: Option<(u64, Problem)>,
}

impl Around {
    /// Looks again at what may have changed. `live`: the master of the server that serves.
    pub(crate) async fn look(
        &mut self,
        driver: &Driver<Puma>,
        measuring: &Measuring,
        live: i32,
        list: &List,
    ) {
        let (parent, lane) = (list.pid, &driver.inspector.processes);
        if !self.start.as_ref().is_some_and(|start| start.is_of(parent, live)) {
            let current = driver.current.clone();
            let look = move || Start::of(parent, live, &current);
            let answer = driver.inspector.files.look(LIMIT, look).await;
            (self.unanswered, self.start) = (answer.is_none(), answer.flatten());
        }
        self.remember_trouble(list);
        self.memory.look(measuring, lane, live, list).await;
    }

    /// What an earlier release got into is over when its configuration has changed: see `plan`.
    fn remember_trouble(&mut self, list: &List) {
        let runs = list.slots.iter().filter_map(|slot| slot.run.as_ref());
        let newer = runs.filter(|run| {
            run.role == Role::Candidate && self.lasting.as_ref().is_none_or(|(last, _)| run.number > *last)
        });
        if let Some(run) = newer.max_by_key(|run| run.number)
            && let Some(problem) = trouble::lasting(run, &list.addresses)
        {
            self.lasting = Some((run.number, problem));
        }
    }
}

#[cfg(test)]
impl Around {
    /// Of a Puma that was started by this command.
    pub(crate) fn given(command: &[&str], memory: Memory) -> Self {
        Self { start: Some(Start::given(command, None)), memory, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
