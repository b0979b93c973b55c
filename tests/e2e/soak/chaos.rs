//! The faults of a soak, done to a pod.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use pitstop_rig::{Fault as StoreFault, Signal, poll, puma::children, until_within};

use super::{
    PATIENCE, Soak,
    plan::{Fault, Step},
    summary::Loss,
};

/// What is left of a control group's memory under pressure: less than a second server takes.
const HEADROOM: u64 = 48 << 20;
const POINTER: &str = "pointers/production";
/// A preStop hook is called before the balancers know that the pod ends.
const BALANCERS: Duration = Duration::from_millis(1500);

impl Soak {
    /// Does what the step has planned; false where there was nobody to do it to.
    pub fn strike(&mut self, step: &Step, pointer_before: &[u8]) -> bool {
        let Some(fault) = step.fault else { return false };
        if fault == Fault::Candidate {
            poll(Duration::from_secs(10), || self.server("candidate"));
        }
        sleep(step.after);
        let (s3, lasts) = (&self.s3, step.lasts);
        let store = |lie: StoreFault| {
            s3.fault(lie);
            sleep(lasts);
            s3.heal();
            true
        };
        match fault {
            Fault::Agent => {
                self.watch.disturbed();
                self.pod.kill_agent();
                true
            }
            Fault::Candidate => {
                let Some(pid) = self.server("candidate") else { return false };
                self.candidate_killed = Some((Instant::now(), self.pod.starts()));
                self.kill(pid)
            }
            Fault::Worker => self.kill_worker(step.which),
            Fault::Master => self.server("live").is_some_and(|pid| self.end(fault, pid)),
            Fault::Parent => self.end(fault, self.pod.first()),
            Fault::StoreErrors => store(StoreFault::Answer(503, "SlowDown")),
            Fault::StoreSilent => store(StoreFault::Silence),
            Fault::StoreCut => store(StoreFault::Cut(1)),
            Fault::StoreAway => {
                s3.outage();
                sleep(lasts);
                s3.recover();
                true
            }
            Fault::StoreStale => {
                let new = s3.object(POINTER).expect("the pointer");
                s3.put(POINTER, pointer_before.to_vec());
                sleep(lasts);
                s3.put(POINTER, new);
                true
            }
            Fault::DiskFull => {
                self.pod.puma.small_volume().fill();
                sleep(lasts);
                self.pod.puma.small_volume().free();
                true
            }
            Fault::Memory => self.squeeze(lasts),
            Fault::Drain => self.drain(step.which.is_multiple_of(3)),
        }
    }

    /// A candidate that was killed in the very moment of the switch had become the live server.
    pub fn settle_candidate(&mut self) {
        if let Some((from, starts)) = self.candidate_killed.take()
            && self.pod.starts() > starts
        {
            self.losses.push(Loss { fault: Fault::Master, from, until: Instant::now() });
        }
    }

    pub fn pointer(&self) -> Vec<u8> {
        self.s3.object(POINTER).expect("the pointer")
    }

    /// The first process of the server with this role, as this side sees it.
    fn server(&self, role: &str) -> Option<i32> {
        let server = self.pod.servers().into_iter().find(|server| server.role == role)?;
        self.pod.outside(server.pid)
    }

    fn kill(&self, pid: i32) -> bool {
        self.watch.disturbed();
        // It may end at this very moment.
        rustix::process::Pid::from_raw(pid)
            .is_some_and(|pid| rustix::process::kill_process(pid, Signal::KILL).is_ok())
    }

    /// What it works on is lost.
    fn kill_worker(&mut self, which: usize) -> bool {
        let workers = self.server("live").map(children).unwrap_or_default();
        let Some(pid) = workers.get(which % workers.len().max(1)) else { return false };
        let at = Instant::now();
        let killed = self.kill(*pid);
        if killed {
            self.losses.push(Loss { fault: Fault::Worker, from: at, until: Instant::now() });
        }
        killed
    }

    /// Ends a process without which nobody serves, until somebody does again.
    fn end(&mut self, fault: Fault, pid: i32) -> bool {
        let (at, starts, live) = (Instant::now(), self.pod.starts(), self.server("live"));
        if !self.kill(pid) {
            return false;
        }
        until_within(PATIENCE, "another server, after one was killed", || {
            let another =
                self.pod.starts() > starts || self.server("live").is_some_and(|pid| Some(pid) != live);
            (another && self.pod.puma.get("/").is_ok()).then_some(())
        });
        self.watch.disturbed();
        self.losses.push(Loss { fault, from: at, until: Instant::now() });
        true
    }

    /// Hardly any memory is left for a while.
    fn squeeze(&mut self, lasts: Duration) -> bool {
        let Some(group) = &self.group else { return false };
        let (at, kills) = (Instant::now(), group.kills());
        if !group.limit(Some(group.taken() + HEADROOM)) {
            return false;
        }
        sleep(lasts);
        group.limit(None);
        let killed = group.kills() - kills;
        if killed > 0 {
            println!("the kernel killed {killed} processes for their memory");
            self.watch.disturbed();
            self.losses.push(Loss { fault: Fault::Memory, from: at, until: Instant::now() });
        }
        true
    }

    /// The end of a pod, by the preStop hook or by SIGTERM alone, and the next one with the same volume. No request is
    /// lost by it: the clients are gone once the balancers know.
    fn drain(&mut self, by_hook: bool) -> bool {
        let starts = self.pod.starts();
        self.watch.disturbed();
        let hook = by_hook.then(|| self.pod.agent.prestop());
        if !by_hook {
            self.pod.term();
        }
        sleep(BALANCERS);
        self.watch.quiet(true);
        self.pause_load();
        if let Some(hook) = hook {
            if let Err(error) = hook.join().expect("the hook's thread") {
                self.watch.violate(format!("the preStop hook was not answered: {error}"));
            }
            self.pod.term();
        }
        until_within(PATIENCE, "the container's next start", || {
            (self.pod.starts() > starts && self.pod.puma.get("/").is_ok()).then_some(())
        });
        self.watch.disturbed();
        self.watch.quiet(false);
        self.start_load();
        true
    }
}
