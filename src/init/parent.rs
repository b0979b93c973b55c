//! `pitstop run`: a small process that starts the agent again in the same container when it has died. A
//! container that ends takes its pod out of service; an agent that is started again does not.
//!
//! ```text
//!   the container's process (this) ── the agent: the same program, as a child
//! ```

use std::{
    io,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::Duration,
};

use rustix::process::Signal;

use super::{
    Event, LONGEST_SLEEP,
    agent::{Agent, Starter},
    children,
    pauses::Pauses,
    signals,
};
use crate::{core::Moment, procs};

/// The agent's exit codes that are its last word: the end that was asked for, and a configuration that cannot
/// work with no app server beside it.
const LAST_WORDS: [u8; 2] = [0, 64];
/// So many agents may die after the end was asked for.
const DEATHS_AT_THE_END: u8 = 3;
/// An agent that has just begun would die of a signal; looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Starts agents until one of them ends by itself, as it does after SIGTERM; returns its exit code.
///
/// # Errors
/// When signals cannot be caught: nothing was started then.
pub(crate) fn keep_agent(agent: Agent, clock: fn() -> Moment) -> io::Result<u8> {
    let (send, events) = mpsc::channel();
    signals::catch(send, &[Signal::CHILD, Signal::TERM, Signal::INT])?;
    let keeping = Keeping::new(clock());
    Ok(Parent { keeping, starter: Starter::new(agent), pid: None, untold: Vec::new(), events, clock }.run())
}

struct Parent {
    keeping: Keeping,
    starter: Starter,
    pid: Option<i32>,
    /// Signals that the agent has not got yet.
    untold: Vec<Signal>,
    events: Receiver<Event>,
    clock: fn() -> Moment,
}

impl Parent {
    fn run(mut self) -> u8 {
        loop {
            if self.keeping.start_now((self.clock)()) {
                self.start();
            }
            self.tell();
            match self.events.recv_timeout(self.pause()) {
                Ok(Event::Signal(number)) => self.signal(number),
                Ok(_) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            self.reap();
            if let Some(code) = self.keeping.over() {
                return code;
            }
        }
    }

    fn pause(&self) -> Duration {
        if self.pid.is_some() && !self.untold.is_empty() {
            return LOOK_AGAIN;
        }
        let left = self.keeping.due().map(|at| Duration::from_millis(at.since((self.clock)())));
        left.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)
    }

    fn start(&mut self) {
        match self.starter.start() {
            Ok(pid) => self.pid = Some(pid),
            Err(code) => self.ended(code),
        }
    }

    fn signal(&mut self, number: i32) {
        let Some(signal) = signals::named(number).filter(|signal| *signal != Signal::CHILD) else { return };
        self.keeping.asked((self.clock)());
        self.untold.push(signal);
    }

    /// Passes signals on, once the agent is there to hear them.
    fn tell(&mut self) {
        let Some(pid) = self.pid else { return };
        let hears = |signal: Signal| {
            procs::caught_signals(pid).is_ok_and(|caught| caught >> (signal.as_raw() - 1) & 1 == 1)
        };
        while let Some(signal) = self.untold.first().copied().filter(|signal| hears(*signal)) {
            self.untold.remove(0);
            children::send(pid, signal);
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, how))) = children::reaped() {
            if self.pid == Some(pid) {
                self.pid = None;
                self.ended(children::exit_code(how));
            }
        }
    }

    fn ended(&mut self, code: u8) {
        let now = (self.clock)();
        self.keeping.ended(now, code);
        if let Some(at) = self.keeping.due() {
            let pause_ms = at.since(now);
            tracing::error!(code, pause_ms, "the agent exited unexpectedly; restarting it after a pause");
            if self.keeping.end_asked && self.untold.is_empty() {
                self.untold.push(Signal::TERM);
            }
        }
    }
}

/// Whether and when there is an agent: a value without I/O.
#[derive(Debug)]
struct Keeping {
    state: State,
    pauses: Pauses,
    end_asked: bool,
    deaths_since: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be started then.
    Down(Moment),
    Up(Moment),
    Over(u8),
}

impl Keeping {
    fn new(now: Moment) -> Self {
        Self { state: State::Down(now), pauses: Pauses::new(), end_asked: false, deaths_since: 0 }
    }

    fn over(&self) -> Option<u8> {
        if let State::Over(code) = self.state { Some(code) } else { None }
    }

    /// When one is to be started.
    fn due(&self) -> Option<Moment> {
        if let State::Down(at) = self.state { Some(at) } else { None }
    }

    fn start_now(&mut self, now: Moment) -> bool {
        let start = self.due().is_some_and(|at| now >= at);
        if start {
            self.state = State::Up(now);
        }
        start
    }

    /// The end was asked for. It is the agent who ends, when the app server has: where there is none, one is
    /// started at once.
    fn asked(&mut self, now: Moment) {
        self.end_asked = true;
        if let State::Down(at) = &mut self.state {
            *at = now;
        }
    }

    fn ended(&mut self, now: Moment, code: u8) {
        let State::Up(since) = self.state else { return };
        self.deaths_since += u8::from(self.end_asked);
        if LAST_WORDS.contains(&code) || self.deaths_since > DEATHS_AT_THE_END {
            self.state = State::Over(code);
            return;
        }
        let hurry = self.pauses.in_a_hurry();
        let pause = self.pauses.after(now.since(since));
        self.state = State::Down(now.plus(if self.end_asked { pause.min(hurry) } else { pause }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: u8 = 137;

    fn up(now: Moment) -> Keeping {
        let mut keeping = Keeping::new(now);
        assert!(keeping.start_now(now));
        keeping
    }

    #[test]
    fn an_agent_that_died_is_started_again_after_pauses_that_grow() {
        let mut now = Moment(0);
        let mut keeping = up(now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            keeping.ended(now, KILLED);
            let at = keeping.due().unwrap();
            assert!(!keeping.start_now(now));
            pauses.push(at.since(now));
            now = at;
            assert!(keeping.start_now(now));
        }
        assert!(pauses.is_sorted() && pauses[0] < pauses[7], "{pauses:?}");
    }

    #[test]
    fn its_own_end_and_a_configuration_that_cannot_work_are_the_containers_end() {
        for code in LAST_WORDS {
            let mut keeping = up(Moment(0));
            keeping.ended(Moment(5), code);
            assert_eq!(keeping.over(), Some(code));
        }
    }

    #[test]
    fn an_end_that_was_asked_for_between_two_agents_is_the_next_ones_to_give() {
        let mut keeping = up(Moment(0));
        keeping.ended(Moment(0), KILLED);
        keeping.asked(Moment(1));
        assert!(keeping.start_now(Moment(1)));
        keeping.ended(Moment(2), 0);
        assert_eq!(keeping.over(), Some(0));
    }

    #[test]
    fn agents_that_keep_dying_do_not_hold_up_the_end() {
        let mut keeping = up(Moment(0));
        keeping.asked(Moment(0));
        let mut now = Moment(0);
        for _ in 0..DEATHS_AT_THE_END {
            keeping.ended(now, 1);
            now = keeping.due().unwrap();
            assert!(keeping.start_now(now));
        }
        keeping.ended(now, 1);
        assert_eq!(keeping.over(), Some(1));
    }
}
