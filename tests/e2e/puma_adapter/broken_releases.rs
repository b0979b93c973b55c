use std::collections::HashSet;

use super::*;

struct Broken {
    rig: PumaRig,
    eye: Eye,
    before: Generation,
}

/// A Puma on `v1` that was told to restart onto the broken `v2`.
fn restarted_onto(app: App, mode: Mode, setup: Setup) -> Broken {
    let rig = PumaRig::start(Setup { restarted: true, worker_boot_timeout: 4, ..setup });
    let eye = Eye::on(&rig);
    let before = eye.settled("v1");
    rig.release("v2", app);
    rig.flip("v2");
    eye.perform(ServerCommand::Restart(mode), before.key).unwrap();
    Broken { rig, eye, before }
}

impl Broken {
    /// Flips back, aborts and waits until everything serves the old release.
    fn is_undone_by(&self, command: ServerCommand) -> Generation {
        self.rig.flip("v1");
        let signalable = until("a master that takes signals", || {
            generation(&self.eye.look()).filter(|seen| seen.signalable || command == ServerCommand::Recover)
        });
        self.eye.perform(command, signalable.key).unwrap();
        let after = self.eye.settled("v1");
        self.rig.wait_for_release("v1");
        after
    }

    /// Watches until so many different workers were seen that never booted.
    fn shows_vanishing_workers(&self, how_many: usize) -> Vec<Look> {
        let mut unbooted = HashSet::new();
        self.eye.watch("workers that vanish", |look| {
            let seen = generation(look).into_iter().flat_map(|seen| seen.processes);
            unbooted.extend(seen.filter(|process| !process.booted).map(|process| process.key));
            unbooted.len() >= how_many
        })
    }

    fn loses_its_master(&self) {
        self.eye.watch("the end of the master", |look| look.detection == Detection::Missing);
    }
}

fn booted_in(seen: &Generation, release: &str) -> usize {
    let home = Cwd::Release(id(release));
    seen.processes.iter().filter(|process| process.booted && process.cwd == home).count()
}

#[test]
fn phased_and_raises_vanishing_workers_beside_an_old_one_that_serves() {
    let broken = restarted_onto(App::RaisesOnBoot, Mode::Phased, Setup::default());
    let looks = broken.shows_vanishing_workers(4);
    assert_eq!(images(&looks), [broken.before.key]);
    assert!(looks.iter().filter_map(generation).all(|seen| booted_in(&seen, "v1") >= 1));
    assert_eq!(broken.rig.get("/").unwrap().release.as_deref(), Some("v1"));
    broken.is_undone_by(ServerCommand::Abort(Mode::Phased));
}

#[test]
fn phased_and_raises_flipping_back_alone_does_not_help() {
    let broken = restarted_onto(App::RaisesOnBoot, Mode::Phased, Setup::default());
    broken.shows_vanishing_workers(4);
    broken.rig.flip("v1");
    let looks = broken.shows_vanishing_workers(8);
    let last = generation(looks.last().unwrap()).unwrap();
    assert_eq!(last.cwd, Cwd::Release(id("v2")), "the master stays where the broken release is");
    broken.is_undone_by(ServerCommand::Abort(Mode::Phased));
}

#[test]
fn hot_and_raises_a_new_image_without_any_booted_worker() {
    let broken = restarted_onto(App::RaisesOnBoot, Mode::Hot, Setup::default());
    broken.eye.watch("the new image", |look| generation(look).is_some_and(|s| s.key != broken.before.key));
    let looks = broken.shows_vanishing_workers(4);
    assert!(looks.iter().filter_map(generation).all(|seen| seen.processes.iter().all(|p| !p.booted)));
    broken.is_undone_by(ServerCommand::Abort(Mode::Hot));
}

#[test]
fn hot_and_raises_in_preload_the_master_is_gone_until_current_is_good() {
    let broken = restarted_onto(App::RaisesOnBoot, Mode::Hot, Setup::preloading());
    broken.loses_its_master();
    broken.rig.flip("v1");
    assert_ne!(broken.eye.settled("v1").key, broken.before.key);
}

#[test]
fn hot_and_a_bad_configuration_the_master_is_gone_until_current_is_good() {
    let broken = restarted_onto(App::BadConfig, Mode::Hot, Setup::default());
    broken.loses_its_master();
    broken.rig.flip("v1");
    assert_ne!(broken.eye.settled("v1").key, broken.before.key);
}

#[test]
fn phased_and_hangs_one_worker_unbooted_beside_an_old_one_that_serves() {
    let broken = restarted_onto(App::HangsOnBoot, Mode::Phased, Setup::default());
    let looks = broken.eye.watch("a worker that hangs", |look| {
        generation(look)
            .is_some_and(|seen| seen.processes.iter().any(|p| !p.booted && p.cwd == Cwd::Release(id("v2"))))
    });
    assert!(looks.iter().filter_map(generation).all(|seen| booted_in(&seen, "v1") >= 1));
    broken.is_undone_by(ServerCommand::Abort(Mode::Phased));
}

#[test]
fn hot_and_hangs_workers_that_stay_unbooted_under_a_master_that_takes_signals() {
    let broken = restarted_onto(App::HangsOnBoot, Mode::Hot, Setup::default());
    broken.eye.watch("two workers that hang", |look| {
        generation(look).is_some_and(|seen| {
            let hung = seen.processes.iter().filter(|p| !p.booted && p.cwd == Cwd::Release(id("v2"))).count();
            seen.key != broken.before.key && seen.signalable && hung == 2
        })
    });
    broken.is_undone_by(ServerCommand::Abort(Mode::Hot));
}

#[test]
fn hot_and_hangs_in_preload_only_a_new_container_helps() {
    let broken = restarted_onto(App::HangsOnBoot, Mode::Hot, Setup::preloading());
    let master = broken.rig.master().unwrap();
    let looks = broken.eye.watch("a titled master in the new image", |look| {
        generation(look).is_some_and(|seen| seen.key != broken.before.key) && has_title(master)
    });
    let hung = generation(looks.last().unwrap()).unwrap();
    assert_eq!((hung.signalable, hung.processes.len()), (false, 0));
    broken.is_undone_by(ServerCommand::Recover);
    assert_eq!(broken.rig.starts(), 2);
}

#[test]
fn hot_and_hangs_in_the_workers_of_a_preloading_cluster() {
    let broken = restarted_onto(App::HangsInWorker, Mode::Hot, Setup::preloading());
    broken.eye.watch("workers that hang", |look| {
        let hung = |seen: &Generation| seen.processes.iter().all(|p| !p.booted) && seen.processes.len() == 2;
        generation(look).is_some_and(|seen| seen.key != broken.before.key && seen.signalable && hung(&seen))
    });
    broken.is_undone_by(ServerCommand::Abort(Mode::Hot));
}

#[test]
fn hot_of_a_single_process_and_raises_the_master_is_gone_until_current_is_good() {
    let broken = restarted_onto(App::RaisesOnBoot, Mode::Hot, Setup::single());
    broken.loses_its_master();
    broken.rig.flip("v1");
    assert_ne!(broken.eye.settled("v1").key, broken.before.key);
}
