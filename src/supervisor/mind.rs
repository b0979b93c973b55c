//! The core as the loop uses it: whole, or the drain alone while the volume has not told yet where
//! the pod stands.

use crate::core::{
    Agent, Effect, Event, Moment, Policy, Problem, Reason, Recovered, View, Watchfulness,
    drain::{Drain, Journal},
};
use crate::{revision::ReleaseId, status::Snapshot};

pub enum Mind {
    /// No deploy may begin, and why. The drain works all the same.
    Bare {
        drain: Box<Drain>,
        problem: Problem,
    },
    Whole(Box<Agent>),
}

impl Mind {
    pub fn bare(policy: &Policy, journal: Option<Journal>, problem: Problem) -> Self {
        Self::Bare { drain: Box::new(Drain::new(policy.drain.clone(), journal)), problem }
    }

    /// The volume has told: deploys may begin. The drain goes on as it is.
    pub fn wake(&mut self, policy: Policy, recovered: Recovered, now: Moment) -> Vec<Effect> {
        let (mut agent, effects) = Agent::recover(policy, recovered, now);
        if let Self::Bare { drain, .. } = self {
            agent.drain = (**drain).clone();
        }
        *self = Self::Whole(Box::new(agent));
        effects
    }

    pub fn is_bare(&self) -> bool {
        matches!(self, Self::Bare { .. })
    }

    /// Why no deploy may begin, if the mind is bare.
    pub fn hold(&mut self, why: Problem) {
        if let Self::Bare { problem, .. } = self {
            *problem = why;
        }
    }

    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let drained = match (self, event) {
            (Self::Whole(agent), event) => return agent.step(now, event),
            (Self::Bare { drain, .. }, Event::Drain(command)) => drain.command(now, command),
            (Self::Bare { drain, .. }, Event::Observed(observation)) => drain.observe(now, &observation),
            (Self::Bare { drain, .. }, _) => drain.tick(now),
        };
        drained.into_iter().map(Effect::Drain).collect()
    }

    pub fn drain(&self) -> &Drain {
        match self {
            Self::Bare { drain, .. } => drain,
            Self::Whole(agent) => &agent.drain,
        }
    }

    /// As [`Agent::deadline`]: what is overdue waits for the next event.
    pub fn deadline(&self, now: Moment) -> Option<Moment> {
        match self {
            Self::Bare { drain, .. } => drain.deadline().filter(|at| *at > now),
            Self::Whole(agent) => agent.deadline(now),
        }
    }

    pub fn watchfulness(&self) -> Watchfulness {
        match self {
            Self::Bare { drain, .. } if drain.watches() => Watchfulness::Close,
            Self::Bare { .. } => Watchfulness::Calm,
            Self::Whole(agent) => agent.watchfulness(),
        }
    }

    pub fn probe_for(&self) -> Option<ReleaseId> {
        match self {
            Self::Bare { .. } => None,
            Self::Whole(agent) => agent.probe_for(),
        }
    }

    pub fn reads_fleet_each(&self) -> Option<u64> {
        match self {
            Self::Bare { .. } => None,
            Self::Whole(agent) => agent.reads_fleet_each(),
        }
    }

    pub fn wants_files(&self) -> bool {
        match self {
            Self::Bare { .. } => false,
            Self::Whole(agent) => agent.wants_files(),
        }
    }

    /// As [`Agent::current_complete`]; `None` where that is not known yet.
    pub fn current_complete(&self) -> Option<bool> {
        match self {
            Self::Bare { .. } => None,
            Self::Whole(agent) => Some(agent.current_complete()),
        }
    }

    /// A restart of ours is under way.
    pub fn restart_in_flight(&self) -> bool {
        match self {
            Self::Bare { .. } => false,
            Self::Whole(agent) => agent.restart_in_flight(),
        }
    }

    /// As [`Agent::settled`]; unknown is no.
    pub fn settled(&self) -> bool {
        match self {
            Self::Bare { .. } => false,
            Self::Whole(agent) => agent.settled(),
        }
    }

    pub fn view(&self, now: Moment) -> View {
        match self {
            Self::Bare { problem, .. } => Snapshot::unknown(now, problem.clone()).view,
            Self::Whole(agent) => agent.view(),
        }
    }
}

/// What holds before the volume has told anything.
pub fn not_read_yet() -> Problem {
    Problem::new(
        Reason::VolumeUnavailable,
        "the volume has not answered yet; deploys begin when it has told where this pod stands",
    )
}
