//! The servers in their slots: which is live, which may be started, steered to and stopped. A value without I/O.
//!
//! ```text
//!  empty ──start──▶ candidate ──steer──▶ live ──steer to another──▶ lingering ──stop──▶ ended = empty
//!                       └──────────────── stop ────────────────────────────────────────────▲
//! ```
//!
//! A candidate may have a share of the new connections; whatever becomes of it ends that.
//!
//! The agent asks; what is refused here is what would leave a connection in a queue that nobody accepts from, or
//! the container without a server.

use rustix::process::Signal;

use crate::{
    core::Moment,
    slots::{Ended, List, Request, Role, Run, Slot, SlotState, WHOLE},
};

/// A SYN that was answered before a switch may end in the old queue a moment after it.
const QUIET_MS: u64 = 300;
/// When the live server has ended beside another one, the agent may steer to that within this time.
const TAKE_OVER_MS: u64 = 1_000;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Whatever waits in the queues of this slot is accepted and closed.
    Empty(Slot),
    /// The program is written anew, by [`Slots::live`] and [`Slots::candidate`].
    Steer,
    /// The command, in this slot; [`Slots::started`] follows.
    Spawn(Slot),
    Signal(i32, Signal),
    /// The process and all below it, which cannot refuse.
    Kill(i32),
    /// All sockets of ours.
    Close,
    /// The server is over, and with it the container.
    Over(Ended),
}

impl Order {
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Empty(_) => "empty",
            Self::Steer => "steer",
            Self::Spawn(_) => "spawn",
            Self::Signal(..) => "signal",
            Self::Kill(_) => "kill",
            Self::Close => "close",
            Self::Over(_) => "over",
        }
    }
}

/// What an order comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum On {
    Begin,
    /// The agent's request, by its word.
    Asked(&'static str),
    Look,
    Inherited,
    End,
    Term,
}

impl On {
    pub(crate) fn asked(request: &Request) -> Self {
        Self::Asked(match request {
            Request::List => "list",
            Request::Start { .. } => "start",
            Request::Steer { .. } => "steer",
            Request::Share { .. } => "share",
            Request::Stop { .. } => "stop",
        })
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Asked(word) => word,
            Self::Look => "look",
            Self::Inherited => "inherited",
            Self::End => "end",
            Self::Term => "term",
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Place {
    run: Option<Run>,
    empty_since: Option<Moment>,
    /// To be told to stop, once its queue has stayed empty.
    stop: bool,
    /// Of 1000 new connections: how many the candidate in it gets.
    share: u32,
    /// It has had a share: clients may wait in its queue.
    shared: bool,
}

impl Place {
    fn alive(&self) -> Option<&Run> {
        self.run.as_ref().filter(|run| run.ended.is_none())
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Slots {
    places: [Place; 3],
    live: Slot,
    started: u64,
    /// What sockets are held for; none when nothing can be started beside.
    addresses: Vec<String>,
    unfit: Option<String>,
    /// Nothing is started any more.
    stopping: bool,
    /// All were told to stop.
    told: bool,
    /// The live server has ended like this, and another may take its place until then.
    orphaned: Option<(Ended, Moment)>,
    over: bool,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self {
            places: Default::default(),
            live: Slot::A,
            started: 0,
            addresses: Vec::new(),
            unfit: None,
            stopping: false,
            told: false,
            orphaned: None,
            over: false,
        }
    }

    pub(crate) fn live(&self) -> Slot {
        self.live
    }

    /// Who gets the probes, and so many of 1000 new connections.
    pub(crate) fn candidate(&self) -> Option<(Slot, u32)> {
        let is = |slot, run: &Run| run.role == Role::Candidate && !run.told_to_stop && !self.place(slot).stop;
        self.alive().find(|(slot, run)| is(*slot, run)).map(|(slot, _)| (slot, self.place(slot).share))
    }

    /// Those that have not ended.
    pub(crate) fn alive(&self) -> impl Iterator<Item = (Slot, &Run)> {
        Slot::ALL.into_iter().filter_map(|slot| Some((slot, self.place(slot).alive()?)))
    }

    pub(crate) fn live_pid(&self) -> Option<i32> {
        self.place(self.live).alive().map(|run| run.pid)
    }

    pub(crate) fn run(&self, slot: Slot) -> Option<&Run> {
        self.place(slot).run.as_ref()
    }

    /// Whether a run of this number is still told of.
    pub(crate) fn knows(&self, number: u64) -> bool {
        self.places.iter().filter_map(|place| place.run.as_ref()).any(|run| run.number == number)
    }

    pub(crate) fn run_mut(&mut self, number: u64) -> Option<&mut Run> {
        self.places.iter_mut().filter_map(|place| place.run.as_mut()).find(|run| run.number == number)
    }

    /// Whether queues are to be looked at every few milliseconds.
    pub(crate) fn watched(&self) -> bool {
        !self.over && (self.orphaned.is_some() || self.alive().count() > 1)
    }

    /// The container's first server. Sockets are held for these addresses; for none where it is unfit.
    pub(crate) fn begin(&mut self, now: Moment, addresses: Vec<String>) -> Vec<Order> {
        self.addresses = addresses;
        self.prepare(self.live, Role::Live, String::new(), now)
    }

    pub(crate) fn ask(&mut self, now: Moment, request: &Request) -> Result<Vec<Order>, String> {
        match request {
            Request::List => Ok(Vec::new()),
            Request::Start { slot, release, .. } => {
                self.may_start(*slot)?;
                Ok(self.prepare(*slot, Role::Candidate, release.clone(), now))
            }
            Request::Steer { run } => self.steer(*run),
            Request::Share { run, permille } => self.share(*run, *permille),
            Request::Stop { run, kill } => self.stop(*run, *kill),
        }
    }

    /// # Errors
    /// Why no server can be started there.
    pub(crate) fn may_start(&self, slot: Slot) -> Result<(), String> {
        if let Some(unfit) = &self.unfit {
            return Err(unfit.clone());
        }
        if self.stopping || self.over || self.orphaned.is_some() {
            return Err("the container is stopping: no server is started any more".into());
        }
        if let Some(run) = self.place(slot).alive() {
            return Err(format!("slot {} is in use by run {}", slot.name(), run.number));
        }
        match self.alive().find(|(_, run)| run.role == Role::Candidate) {
            Some((_, run)) => Err(format!("run {} is a candidate: stop it or steer to it first", run.number)),
            None if self.live_pid().is_none() => Err("no server is live yet".into()),
            None => Ok(()),
        }
    }

    fn prepare(&mut self, slot: Slot, role: Role, release: String, now: Moment) -> Vec<Order> {
        self.started += 1;
        let run = Run {
            number: self.started,
            pid: 0,
            start_time: 0,
            release,
            role,
            started_ms: now.0,
            inherited: None,
            aside: Vec::new(),
            ended: None,
            told_to_stop: false,
            tail: Vec::new(),
        };
        *self.place_mut(slot) = Place { run: Some(run), ..Place::default() };
        vec![Order::Empty(slot), Order::Steer, Order::Spawn(slot)]
    }

    /// It is this process, or there was none to be had.
    pub(crate) fn started(&mut self, slot: Slot, pid: i32, start_time: u64) {
        if let Some(run) = &mut self.place_mut(slot).run {
            (run.pid, run.start_time) = (pid, start_time);
        }
    }

    fn steer(&mut self, number: u64) -> Result<Vec<Order>, String> {
        let (slot, run) = self.alive().find(|(_, run)| run.number == number).ok_or_else(|| gone(number))?;
        if slot == self.live {
            return Ok(Vec::new());
        }
        if run.told_to_stop || self.over || self.addresses.is_empty() {
            return Err(format!("run {number} is stopping: it can get no connections"));
        }
        if run.inherited != Some(true) {
            return Err(format!("run {number} does not listen on the sockets that it was given"));
        }
        self.places.iter_mut().for_each(|place| place.share = 0);
        let before = std::mem::replace(&mut self.live, slot);
        self.orphaned = None;
        if let Some(run) = &mut self.place_mut(before).run {
            run.role = Role::Lingering;
        }
        let place = self.place_mut(slot);
        place.stop = false;
        if let Some(run) = &mut place.run {
            run.role = Role::Live;
        }
        self.place_mut(before).empty_since = None;
        let ended = self.place(before).alive().is_none();
        let mut orders = vec![Order::Steer];
        orders.extend(ended.then_some(Order::Empty(before)));
        Ok(orders)
    }

    fn share(&mut self, number: u64, permille: u32) -> Result<Vec<Order>, String> {
        let (slot, run) = self.alive().find(|(_, run)| run.number == number).ok_or_else(|| gone(number))?;
        if run.role != Role::Candidate {
            return Err(format!("run {number} is no candidate: it gets all connections or none"));
        }
        if permille > WHOLE {
            return Err(format!("{permille} of {WHOLE} connections are more than there are"));
        }
        if permille > 0 && (self.stopping || self.orphaned.is_some() || self.candidate().is_none()) {
            return Err(format!("run {number} is stopping: it can get no connections"));
        }
        if permille > 0 && (run.inherited != Some(true) || self.addresses.is_empty()) {
            return Err(format!("run {number} does not listen on the sockets that it was given"));
        }
        if permille > 0 && !self.steers() {
            return Err("a unix socket leads to one server at a time: no share of it can be given".into());
        }
        let place = self.place_mut(slot);
        (place.share, place.empty_since) = (permille, None);
        place.shared |= permille > 0;
        Ok(vec![Order::Steer])
    }

    fn stop(&mut self, number: u64, kill: bool) -> Result<Vec<Order>, String> {
        let (slot, run) = self.alive().find(|(_, run)| run.number == number).ok_or_else(|| gone(number))?;
        let (pid, role) = (run.pid, run.role);
        if role == Role::Live {
            return Err(format!("run {number} is live: steer to another one first"));
        }
        if kill {
            self.tell(slot);
            return Ok(vec![Order::Steer, Order::Kill(pid)]);
        }
        let place = self.place_mut(slot);
        if role == Role::Lingering {
            place.stop = true;
            return Ok(Vec::new());
        }
        if place.shared {
            if place.share > 0 {
                place.empty_since = None;
            }
            (place.stop, place.share) = (true, 0);
            return Ok(vec![Order::Steer]);
        }
        self.tell(slot);
        Ok(vec![Order::Steer, Order::Signal(pid, Signal::TERM)])
    }

    fn tell(&mut self, slot: Slot) {
        let place = self.place_mut(slot);
        (place.stop, place.share) = (false, 0);
        if let Some(run) = &mut place.run {
            run.told_to_stop = true;
        }
    }

    /// The queues were looked at: in which slots somebody waits.
    pub(crate) fn look(&mut self, now: Moment, waits: [bool; 3]) -> Vec<Order> {
        let mut orders = Vec::new();
        for (slot, waits) in Slot::ALL.into_iter().zip(waits) {
            let place = self.place_mut(slot);
            place.empty_since = if waits { None } else { place.empty_since.or(Some(now)) };
            let quiet = place.empty_since.is_some_and(|since| now.since(since) >= QUIET_MS);
            let pid = place.alive().map(|run| run.pid).filter(|_| place.stop && quiet);
            if let Some(pid) = pid {
                self.tell(slot);
                orders.push(Order::Signal(pid, Signal::TERM));
            }
        }
        if let Some((ended, until)) = self.orphaned
            && now >= until
        {
            self.end(ended, &mut orders);
        }
        orders
    }

    /// A process has ended; `None` when it was no server. `collided`: it could not have its address, since we hold it.
    pub(crate) fn ended(&mut self, now: Moment, pid: i32, how: Ended, collided: bool) -> Option<Vec<Order>> {
        let (slot, _) = self.alive().find(|(_, run)| run.pid == pid)?;
        let place = self.place_mut(slot);
        (place.stop, place.share) = (false, 0);
        let run = place.run.as_mut()?;
        run.ended = Some(how);
        let mut orders = Vec::new();
        if slot == self.live && collided && !self.told {
            self.give_up("the app server does not take the sockets that it is given");
            orders.push(Order::Close);
            orders.extend(self.prepare(slot, Role::Live, String::new(), now));
            return Some(orders);
        }
        orders.extend([Order::Steer, Order::Empty(slot)]);
        let left = self.alive().count();
        let may_take_over = |run: &Run| !run.told_to_stop && run.inherited == Some(true);
        if self.over {
            return Some(orders);
        }
        if let Some((how, _)) = self.orphaned.filter(|_| left == 0) {
            self.end(how, &mut orders);
        } else if self.told {
            let how = self.run(self.live).and_then(|run| run.ended).unwrap_or(how);
            if left == 0 {
                self.end(how, &mut orders);
            }
        } else if slot == self.live {
            if self.alive().any(|(_, run)| may_take_over(run)) {
                self.orphaned = Some((how, now.plus(TAKE_OVER_MS)));
            } else {
                self.end(how, &mut orders);
            }
        }
        Some(orders)
    }

    fn end(&mut self, how: Ended, orders: &mut Vec<Order>) {
        (self.over, self.orphaned) = (true, None);
        self.close(orders);
        self.signal_all(Signal::TERM, orders);
        orders.push(Order::Over(how));
    }

    /// SIGTERM was received, and is held until the drain is over.
    pub(crate) fn stop_soon(&mut self) {
        self.stopping = true;
    }

    /// The end of all: no connection comes in any more.
    pub(crate) fn stop_all(&mut self, signal: Signal) -> Vec<Order> {
        (self.stopping, self.told) = (true, true);
        let mut orders = Vec::new();
        self.signal_all(signal, &mut orders);
        self.close(&mut orders);
        orders
    }

    fn signal_all(&mut self, signal: Signal, orders: &mut Vec<Order>) {
        let alive: Vec<(Slot, i32)> = self.alive().map(|(slot, run)| (slot, run.pid)).collect();
        for (slot, pid) in alive {
            self.tell(slot);
            orders.push(Order::Signal(pid, signal));
        }
    }

    fn close(&mut self, orders: &mut Vec<Order>) {
        if !self.addresses.is_empty() {
            self.addresses.clear();
            orders.push(Order::Close);
        }
    }

    /// Whether a server listens on the sockets that it was given.
    pub(crate) fn inherited(&mut self, number: u64, inherited: bool) -> Vec<Order> {
        let Some(run) = self.run_mut(number) else { return Vec::new() };
        run.inherited = Some(inherited);
        let live = run.role == Role::Live;
        let mut orders = Vec::new();
        if live && !inherited {
            self.give_up("the app server does not listen on the sockets that it was given");
            orders.push(Order::Close);
        }
        orders
    }

    /// From now on it is as without slots.
    fn give_up(&mut self, why: &str) {
        self.addresses.clear();
        self.unfit = Some(why.to_owned());
    }

    pub(crate) fn unfit(&mut self, why: String) {
        self.unfit = Some(why);
    }

    /// Whether sockets are held.
    pub(crate) fn holds(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Whether connections to all of its addresses can be shared out.
    fn steers(&self) -> bool {
        self.addresses.iter().all(|address| !address.starts_with("unix://"))
    }

    pub(crate) fn list(&self, now: Moment) -> List {
        let share = self.candidate().map_or(0, |(_, share)| share);
        let state = |slot: Slot| {
            let place = self.place(slot);
            SlotState {
                slot,
                weight: if slot == self.live { WHOLE - share } else { place.share },
                queue_empty_ms: place.empty_since.map_or(0, |since| now.since(since)),
                run: place.run.clone(),
            }
        };
        List {
            pid: std::process::id().cast_signed(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: self.addresses.clone(),
            unfit: self.unfit.clone(),
            stopping: self.stopping || self.over,
            shares: self.steers(),
            slots: Slot::ALL.map(state).to_vec(),
        }
    }

    fn place(&self, slot: Slot) -> &Place {
        &self.places[slot as usize]
    }

    fn place_mut(&mut self, slot: Slot) -> &mut Place {
        &mut self.places[slot as usize]
    }
}

fn gone(number: u64) -> String {
    format!("run {number} has ended or was never started")
}

#[cfg(test)]
mod any_order;
#[cfg(test)]
mod tests;
