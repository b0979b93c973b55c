//! The parents of the agent. `pitstop run` is one that starts the agent again (`parent`); the rest is about
//! `pitstop exec`, the container's first process where the platform has neither sidecars nor hooks.
//!
//! ```text
//!   init (this) ─┬─ CMD: the app server, perhaps behind a shell
//!                └─ the agent: `pitstop run`
//! ```
//!
//! It is small and synchronous, because nothing may go wrong here: when it ends, the container ends.
//! What it decides is in `course`, a value without I/O; what it does is here: it starts both, reaps
//! whatever dies, passes signals on (`reach`), and asks the agent over its admin socket (`ask`).
//!
//! No volume is touched here, and nothing is waited for without an end.

mod agent;
mod aside;
pub(crate) mod ask;
mod children;
mod course;
mod handing;
pub(crate) mod learnt;
mod limits;
mod output;
mod parent;
mod pauses;
pub(crate) mod questions;
mod reach;
mod seen;
mod servers;
mod signals;
mod slots;
mod trampoline;

use std::{
    ffi::OsString,
    io,
    path::PathBuf,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    config::{AppServerKind, ListenAddress},
    core::Moment,
};

use aside::Places;
use ask::{Answer, Question};
use children::{Children, Dead};
use course::{Act, Course, Input, Limits, Why};
use questions::Asked;
use servers::Servers;

pub(crate) use agent::{Agent, become_agent};
pub(crate) use parent::keep_agent;
pub(crate) use trampoline::become_command;

/// Where [`crate::failpoint::hit`] is called on the way of a server, besides each order of `slots`.
pub const FAIL_POINTS: &[&str] = &[
    "parent.moves_aside",
    "parent.spawned",
    "parent.exec",
    "parent.links",
    "parent.listens",
    "parent.brings_back",
];
/// The same, just before an order: `parent.`, what it comes from, and the order. A test of `slots` finds them.
pub const ORDER_POINTS: &[&str] = &[
    "parent.begin.empty",
    "parent.begin.steer",
    "parent.begin.spawn",
    "parent.start.empty",
    "parent.start.steer",
    "parent.start.spawn",
    "parent.share.steer",
    "parent.steer.steer",
    "parent.steer.empty",
    "parent.stop.steer",
    "parent.stop.signal",
    "parent.stop.kill",
    "parent.look.signal",
    "parent.look.close",
    "parent.look.over",
    "parent.inherited.close",
    "parent.end.steer",
    "parent.end.empty",
    "parent.end.signal",
    "parent.end.close",
    "parent.end.spawn",
    "parent.end.over",
    "parent.term.signal",
    "parent.term.close",
];

/// The loop looks up at least so often, whatever the clocks and the signals do.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// What the init works with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The command whose end is the container's end; never empty.
    pub(crate) command: Vec<OsString>,
    /// `None`: it is a sidecar.
    pub(crate) agent: Option<Agent>,
    /// What the command listens on, as far as that is configured.
    pub(crate) listen: Vec<ListenAddress>,
    /// What kind of server it is: each takes sockets over in its own way.
    pub(crate) server: AppServerKind,
    pub(crate) json_log: bool,
    /// The link that the app server serves.
    pub(crate) current: PathBuf,
    /// Where the agent's admin socket is.
    pub(crate) state_dir: PathBuf,
    /// The configuration allows no deploys, so that the command need not wait for a first release.
    pub(crate) no_deploys: bool,
    /// A command that was ended by the signal that asked for it counts as one that ended with 0.
    pub(crate) stop_is_success: bool,
    /// How long SIGTERM is held back at most, in milliseconds.
    pub(crate) hold_ms: u64,
    /// From the first SIGTERM to the SIGKILL that ends what still runs, in milliseconds.
    pub(crate) grace_ms: u64,
    /// What the command leaves behind gets so long to end, in milliseconds.
    pub(crate) reserve_ms: u64,
    pub(crate) clock: fn() -> Moment,
}

/// Anything that can happen.
enum Event {
    Signal(i32),
    Answered(Question, Answer),
    Asked(Asked),
    /// The files of a start are aside.
    Prepared(Asked),
    Aside(Vec<(u64, Places)>),
}

/// Runs until the command has ended and nothing is left of it. Returns the exit code: the command's,
/// or 128 and the number of the signal that ended it.
///
/// # Errors
/// When signals cannot be caught: nothing was started then.
pub(crate) fn run(settings: Settings) -> io::Result<u8> {
    let (send, events) = mpsc::channel();
    let servers = Servers::new(&settings, send.clone());
    signals::catch(send.clone(), &signals::all())?;
    children::adopt_orphans();
    if let Err(error) = questions::listen(&settings.state_dir, send.clone()) {
        tracing::error!(%error, path = %settings.state_dir.display(), "no server can be started beside the first: the socket in state_dir cannot be made");
    }
    let course = Course::new((settings.clock)(), Limits::of(&settings), settings.no_deploys);
    let children = Children::new(settings.agent.clone());
    Ok(Init { settings, course, children, servers, send, events }.run())
}

struct Init {
    settings: Settings,
    course: Course,
    children: Children,
    servers: Servers,
    send: Sender<Event>,
    events: Receiver<Event>,
}

impl Init {
    fn run(mut self) -> u8 {
        self.feed(Input::Tick);
        loop {
            if let Some(code) = self.course.over() {
                self.servers.finish();
                return code;
            }
            match self.events.recv_timeout(self.pause()) {
                Ok(Event::Signal(number)) => self.signal(number),
                Ok(Event::Answered(question, answer)) => self.feed(Input::Answered(question, answer)),
                Ok(Event::Asked(asked)) => {
                    if let Some(asked) = self.servers.prepare(asked) {
                        self.answer(asked);
                    }
                }
                Ok(Event::Prepared(asked)) => {
                    self.answer(asked);
                    self.servers.prepared();
                }
                Ok(Event::Aside(places)) => self.servers.put_aside(places),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            self.feed(Input::Tick);
            self.reap();
            let over = self.servers.tick(self.now());
            self.over(over);
        }
    }

    fn now(&self) -> Moment {
        (self.settings.clock)()
    }

    fn pause(&self) -> Duration {
        let now = self.now();
        let due = self.course.due().into_iter().chain(self.servers.due(now)).min();
        let left = due.map(|at| Duration::from_millis(at.since(now)));
        left.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)
    }

    fn feed(&mut self, input: Input) {
        for act in self.course.take(self.now(), input) {
            self.perform(act);
        }
    }

    fn signal(&mut self, number: i32) {
        let Some(signal) = signals::named(number) else { return };
        match signal {
            Signal::CHILD => {}
            Signal::TERM | Signal::INT => self.feed(Input::Stop(signal)),
            other => self.servers.pass_on(other),
        }
    }

    fn answer(&mut self, asked: Asked) {
        let (reply, over) = self.servers.ask(self.now(), &asked.request);
        let _ = asked.answer.send(reply);
        self.over(over);
    }

    /// The last server has ended, with this exit code.
    fn over(&mut self, code: Option<u8>) {
        if let Some(code) = code {
            self.feed(Input::CommandEnded(code));
        }
    }

    /// Whatever has died leaves no zombie, an orphan of the command's included.
    fn reap(&mut self) {
        while let Some(dead) = self.children.reap() {
            match dead {
                Dead::Agent(code) => self.feed(Input::AgentEnded(code)),
                Dead::Other(pid, how) => {
                    let over = self.servers.ended(self.now(), pid, how);
                    self.over(over);
                }
            }
        }
        if self.children.none_left() {
            self.feed(Input::Alone);
        }
    }

    fn perform(&mut self, act: Act) {
        match act {
            Act::StartAgent => {
                if let Err(code) = self.children.start_agent() {
                    self.feed(Input::AgentEnded(code));
                }
            }
            Act::StartCommand(why) => {
                explain_start(why);
                let over = self.servers.begin(self.now());
                self.over(over);
            }
            Act::Ask(question) => {
                ask::ask(&self.settings.state_dir, question, self.settings.hold_ms, self.send.clone());
            }
            Act::Hold(signal) => {
                tracing::info!(signal = signals::name(signal), "signal held until the drain is over");
                self.servers.stop_soon();
            }
            Act::PassOn(signal, why) => {
                explain_stop(signal, &why);
                let over = self.servers.stop_all(self.now(), signal);
                self.over(over);
            }
            Act::EndAgent => self.children.end_agent(),
            Act::EndLeftovers => self.children.end_leftovers(&self.servers.pids()),
            Act::Kill => self.children.kill_all(),
            Act::Ended(code) => {
                tracing::info!(code, "the app server has ended, and the container ends with it")
            }
        }
    }
}

fn explain_start(why: Why) {
    match why {
        Why::Ready => tracing::info!("the release is ready: starting the command"),
        Why::NoDeploys => tracing::error!(
            "the configuration is invalid and no deploy can start: starting the command with what is on the volume; \
             run `pitstop config` to see the errors"
        ),
        _ => tracing::error!(
            "no release is ready yet: starting the command anyway; see `pitstop status` and the \
             agent's log for the reason"
        ),
    }
}

fn explain_stop(signal: Signal, why: &Why) {
    let signal = signals::name(signal);
    match why {
        Why::Again => tracing::warn!(signal, "signal received again: forwarded to the command immediately"),
        Why::Time => tracing::error!(
            signal,
            "signal forwarded to the command without a drain: the agent did not answer in time; requests may be lost"
        ),
        Why::Answered(result) => tracing::info!(signal, drain = result, "signal forwarded to the command"),
        Why::Ready | Why::NoDeploys => tracing::info!(signal, "signal forwarded to the command"),
    }
}
