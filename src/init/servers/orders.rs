//! The orders of [`Slots`], carried out.

use std::{io, os::unix::process::CommandExt, process::Command};

use super::{
    super::reach::{self, Tree},
    *,
};
use crate::{
    config::{COUNTS_VARIABLE, DRAIN_FILE, DRAIN_FILE_VARIABLE},
    procs::ProcessId,
    slots::counts,
};

impl Servers {
    /// What nobody asked for. Where steering fails it is tried again; what cannot be started has ended.
    pub(super) fn perform(&mut self, now: Moment, on: On, orders: Vec<Order>) -> Option<u8> {
        let mut over = None;
        for order in orders {
            over = over.or(match (order.clone(), self.carry_out(on, order)) {
                (Order::Over(how), _) => Some(children::exit_code(how)),
                (_, Ok(())) => None,
                (Order::Spawn(slot), Err(why)) => {
                    tracing::error!("{why}");
                    self.slots.started(slot, 0, 0);
                    let orders = self.slots.ended(now, 0, Ended::Code(children::NOT_RUN.into()), false);
                    orders.and_then(|orders| self.perform(now, On::End, orders))
                }
                (_, Err(why)) => {
                    if self.steered {
                        tracing::error!("{why}; retrying");
                    }
                    self.steered = false;
                    None
                }
            });
        }
        self.aside.alive(self.slots.alive().map(|(slot, run)| (run.number, slot)).collect());
        over
    }

    /// What the agent asks for is done as a whole, or it is as `before`.
    pub(super) fn perform_asked(
        &mut self,
        now: Moment,
        request: &Request,
        before: Slots,
    ) -> Result<(), String> {
        for order in self.slots.ask(now, request)? {
            if let Err(why) = self.carry_out(On::asked(request), order) {
                self.slots = before;
                self.perform(now, On::End, vec![Order::Steer]);
                return Err(why);
            }
        }
        self.perform(now, On::asked(request), Vec::new());
        Ok(())
    }

    fn carry_out(&mut self, on: On, order: Order) -> Result<(), String> {
        failpoint::hit(&format!("parent.{}.{}", on.word(), order.word()));
        match order {
            Order::Empty(slot) => self.empty(slot),
            Order::Steer => self.steer()?,
            Order::Spawn(slot) => self.spawn(slot)?,
            Order::Signal(pid, signal) => {
                let signal = self.graceful(pid, signal);
                tracing::info!(pid, signal = signals::name(signal), "signal sent to a server");
                send(pid, signal);
            }
            Order::Kill(pid) => kill(pid),
            Order::Close => {
                let live = self.slots.live();
                self.groups.drain(..).for_each(|group| group.close(live));
            }
            Order::Over(_) => {}
        }
        Ok(())
    }

    /// Nobody is left who would take connections there: a server that went into the background has no run any more.
    fn empty(&self, slot: Slot) {
        let sockets: Vec<u64> = self.groups.iter().filter_map(|group| group.inode(slot)).collect();
        let running: Vec<i32> = self.pids().into_iter().filter(|pid| *pid > 0).collect();
        if slot != self.slots.live() {
            seen::left_behind(&sockets, &running).into_iter().for_each(kill);
        }
        let found: usize = self.groups.iter().map(|group| group.empty(slot)).sum();
        if found > 0 {
            tracing::info!(slot = slot.name(), found, "closed connections that nobody would have accepted");
        }
    }

    fn steer(&mut self) -> Result<(), String> {
        let (live, candidate) = (self.slots.live(), self.slots.candidate());
        for group in &self.groups {
            group.steer(live, candidate).map_err(|error| {
                let address = group.address().text();
                format!("new connections to {address} cannot be steered to another server: {error}")
            })?;
        }
        self.steered = true;
        Ok(())
    }

    fn spawn(&mut self, slot: Slot) -> Result<(), String> {
        let Some(number) = self.slots.run(slot).map(|run| run.number) else { return Ok(()) };
        let spawned = self.launch(slot, number);
        self.sockets.take_back();
        let pid = spawned.map_err(|error| {
            format!(
                "the command cannot be started: {error}. Check the limits of processes, open files and memory"
            )
        })?;
        failpoint::hit("parent.spawned");
        let start_time = ProcessId::of(pid).map_or(0, |process| process.start);
        tracing::info!(pid, run = number, slot = slot.name(), "command started");
        self.slots.started(slot, pid, start_time);
        Ok(())
    }

    fn launch(&mut self, slot: Slot, number: u64) -> io::Result<i32> {
        let mut command = self.trampoline();
        // Open until the child has them.
        let _given = self.sockets.give(&self.groups, &mut command, slot)?;
        if self.slots.holds() {
            match counts::prepare(&self.state_dir, number, |number| self.slots.knows(number)) {
                Ok(dir) => {
                    command.env(COUNTS_VARIABLE, dir);
                }
                Err(error) => tracing::warn!(%error, "the requests of this server are not counted"),
            }
            let tail = self.outputs.take(&mut command)?;
            self.tails.retain(|number, _| self.slots.knows(*number));
            self.tails.insert(number, tail);
        }
        children::spawn(command)
    }

    /// `pitstop exec --child-of US -- LINE`: see `trampoline`. Its group is its own, so that signals to the
    /// whole group of ours (`dumb-init`) reach nobody but us.
    fn trampoline(&self) -> Command {
        let mut command = Command::new(children::OURSELVES);
        command.arg0("pitstop").args(self.json_log.then_some("--json")).arg("exec");
        command.arg("--child-of").arg(children::own_pid().to_string()).arg("--").args(&self.command_line);
        command.env(DRAIN_FILE_VARIABLE, self.state_dir.join(DRAIN_FILE)).process_group(0);
        command
    }

    /// What asks Unicorn to drop its requests asks it to finish them instead, unless no client has any: SIGTERM is other
    /// servers' signal for a graceful end.
    fn graceful(&self, pid: i32, signal: Signal) -> Signal {
        let candidate = self.slots.alive().any(|(_, run)| run.pid == pid && run.role == Role::Candidate);
        let drops = self.server == AppServerKind::Unicorn && signal == Signal::TERM;
        if drops && !candidate { Signal::QUIT } else { signal }
    }
}

/// To the processes that handle it, past shells that it would kill.
pub(super) fn send(pid: i32, signal: Signal) {
    let reached = Tree::now().map_or(0, |tree| tree.send(pid, signal));
    match reached {
        0 if reach::ends_by_default(signal) => children::send(pid, signal),
        0 => tracing::warn!(
            signal = signals::name(signal),
            "signal not forwarded: no process of the command handles it"
        ),
        _ => {}
    }
}

fn kill(pid: i32) {
    tracing::warn!(pid, "sending SIGKILL to a server");
    let below = Tree::now().map(|tree| tree.below(pid)).unwrap_or_default();
    for pid in std::iter::once(pid).chain(below) {
        children::send(pid, Signal::KILL);
    }
}
