//! Faults anywhere: a kill, an error, a hang or a loss of power at each single thing that a volume or a store is
//! asked for. Nobody lists these steps: they are counted until the work comes to its end without meeting the fault.

mod agent;
mod agent_faults;
mod drain;
mod errors;
mod kills;
mod network;
mod power;
mod registry;
mod store;

use std::{fs, path::PathBuf, thread, time::Duration};

use pitstop_rig::{
    SlowVolume, poll,
    slow_volume::{Among, Gone, Snapshot, Trouble},
    tried,
};

use crate::rig::{Rig, Running};

/// Whether each fault is tried at each step (`make test-edge`), and not one fault at each.
fn every() -> bool {
    std::env::var_os("RIG_EVERY").is_some()
}

/// What is asked of the program, and where the faults are.
struct Work {
    rig: Rig,
    args: &'static [&'static str],
    /// The volume or the store.
    place: PathBuf,
    before: Snapshot,
}

impl Work {
    /// `pitstop fetch` in a pod that ran these releases, the last one of all is to come.
    fn fetch(ran: &[&str]) -> Self {
        let rig = Rig::new();
        let place = rig.deploy_to.clone();
        let volume = SlowVolume::mount(&place, Duration::ZERO, 16);
        for release in ran {
            rig.promote(release);
            rig.ok(&["fetch"]);
        }
        rig.promote("new");
        Self { rig, args: &["fetch"], place, before: volume.snapshot() }
    }

    /// A command that writes into the store, in which these releases were promoted one after another.
    fn store(args: &'static [&'static str], promoted: &[&str]) -> Self {
        let rig = Rig::new();
        let place = rig.store_dir();
        let volume = SlowVolume::mount(&place, Duration::ZERO, 16);
        promoted.iter().for_each(|release| rig.promote(release));
        rig.app("new");
        if args[0] != "publish" {
            rig.publish("new");
        }
        Self { rig, args, place, before: volume.snapshot() }
    }

    fn mount(&self) -> SlowVolume {
        SlowVolume::mount_again(&self.place, &self.before)
    }

    fn start(&self) -> Running {
        let app = self.rig.dir.path().join("apps/new").display().to_string();
        let args: Vec<_> = self.args.iter().map(|arg| if *arg == "APP" { &*app } else { arg }).collect();
        let mut command = self.rig.command(&args);
        command.env("PITSTOP_FAILPOINT_PASSED", &self.place);
        let quiet = std::process::Stdio::null;
        Running(command.stdout(quiet()).stderr(quiet()).spawn().unwrap())
    }

    /// Starts it, and kills it at its `at`-th change. `None` when it ended before. What is left is on a volume
    /// as another node sees it.
    fn killed_at(&self, at: u64, gone: Gone) -> Option<SlowVolume> {
        let volume = self.mount();
        volume.steps().arm(Among::Changes, at, Trouble::Stops);
        let mut running = self.start();
        let met = until_met(&volume, &mut running);
        if met {
            let _ = running.0.kill();
            volume.steps().client_is_gone(gone);
            running.0.wait().unwrap();
        }
        let left = volume.snapshot();
        drop(volume);
        met.then(|| SlowVolume::mount_again(&self.place, &left))
    }
}

/// Whether the trouble is met; false when the process ends without.
pub fn until_met(volume: &SlowVolume, running: &mut Running) -> bool {
    let patience = std::time::Instant::now() + pitstop_rig::PATIENCE;
    while std::time::Instant::now() < patience {
        if volume.steps().is_met() {
            return true;
        }
        if running.0.try_wait().unwrap().is_some() {
            return volume.steps().is_met();
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("neither met nor at its end");
}

impl Rig {
    /// Whatever is complete on the volume is whole.
    fn assert_whole(&self) {
        for entry in fs::read_dir(self.deploy_to.join("releases")).into_iter().flatten() {
            let tree = entry.unwrap().path();
            if tree.join(".pitstop-release").exists() && self.is_marked(&tree) {
                assert_eq!(Self::whole(&tree).as_deref(), Ok(tree.file_name().unwrap().to_str().unwrap()));
            }
        }
    }

    fn is_marked(&self, tree: &std::path::Path) -> bool {
        let release = tree.file_name().unwrap().to_str().unwrap();
        self.releases().is_complete(&crate::rig::id(release)).unwrap()
    }

    /// As [`Rig::assert_arrives`], but the first start may fail: the kernel tells it of a write that failed before.
    fn assert_arrives_at_last(&self, context: &str) {
        let is_there =
            self.run(&["fetch"]).status.success() && self.release_at_current().as_deref() == Some("new");
        if is_there { self.assert_tidy(context) } else { self.assert_arrives(context) }
    }

    /// The next start of a pod arrives, and leaves nothing behind.
    fn assert_arrives(&self, context: &str) {
        let output = self.run(&["fetch"]);
        let said =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success(), "{context}: {said}");
        assert_eq!(self.release_at_current().as_deref(), Some("new"), "{context}: {said}");
        self.assert_whole();
        self.assert_tidy(context);
    }

    fn assert_tidy(&self, context: &str) {
        assert_eq!((self.leftovers(), self.abandoned()), (Vec::new(), Vec::new()), "{context}");
    }
}

/// Polls until it holds.
fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    assert!(poll(pitstop_rig::PATIENCE, || holds().then_some(())).is_some(), "{what}");
}
