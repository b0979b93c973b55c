//! Probes, each with its own clock, which one that is late does not move. They are asked one after another, where a kubelet
//! asks them at the same time.

use std::time::{Duration, Instant};

use super::{
    manifest::{Container, Probe},
    network::Network,
};

/// What the probes of one container say.
pub(super) struct Probing {
    startup: Option<Course>,
    readiness: Option<Course>,
    liveness: Option<Course>,
    started: bool,
    pub(super) ready: bool,
}

struct Course {
    probe: Probe,
    next: Instant,
    failures: u64,
}

/// What is to be done after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Well,
    /// The container has to be started again.
    Unwell,
}

impl Course {
    fn new(probe: &Option<Probe>) -> Option<Self> {
        let probe = probe.clone()?;
        Some(Self { next: Instant::now(), failures: 0, probe })
    }

    /// Whether the answer was well; `None` while it is not time to ask.
    fn look(&mut self, container: &Container, network: &Network) -> Option<bool> {
        let now = Instant::now();
        if now < self.next {
            return None;
        }
        let period = Duration::from_secs(self.probe.period_seconds);
        while self.next <= now {
            self.next += period;
        }
        let patience = Duration::from_secs(self.probe.timeout_seconds);
        let answer = network.ask(container, &self.probe.http_get, "kube-probe", patience);
        let well = answer.is_ok_and(|answer| (200..400).contains(&answer.status));
        self.failures = if well { 0 } else { self.failures + 1 };
        Some(well)
    }

    fn has_failed(&self) -> bool {
        self.failures >= self.probe.failure_threshold
    }
}

impl Probing {
    /// For a container that starts now.
    pub(super) fn of(container: &Container) -> Self {
        Self {
            startup: Course::new(&container.startup_probe),
            readiness: Course::new(&container.readiness_probe),
            liveness: Course::new(&container.liveness_probe),
            started: container.startup_probe.is_none(),
            ready: container.startup_probe.is_none() && container.readiness_probe.is_none(),
        }
    }

    pub(super) fn started(&self) -> bool {
        self.started
    }

    /// Asks what it is time to ask.
    pub(super) fn look(&mut self, container: &Container, network: &Network) -> Verdict {
        if let Some(startup) = self.startup.as_mut().filter(|_| !self.started) {
            self.started = startup.look(container, network) == Some(true);
            self.ready = self.started && self.readiness.is_none();
            return if startup.has_failed() { Verdict::Unwell } else { Verdict::Well };
        }
        if let Some(readiness) = &mut self.readiness {
            match readiness.look(container, network) {
                Some(true) => self.ready = true,
                Some(false) if readiness.has_failed() => self.ready = false,
                _ => {}
            }
        }
        let Some(liveness) = &mut self.liveness else { return Verdict::Well };
        liveness.look(container, network);
        if liveness.has_failed() { Verdict::Unwell } else { Verdict::Well }
    }
}
