//! Each signal to each kind of Puma, from whichever hand: what pitstop takes it for, and what it refuses to
//! send.

use std::fs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pitstop_rig::side_by_side;

use super::*;

/// What came of a signal, as the adapter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Other workers under the same image.
    Phased,
    /// Another image.
    Hot,
    Gone,
}

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Somebody else signals the master.
fn seen_after(signal: Signal, rig: &PumaRig, eye: &Eye) -> Seen {
    let before = eye.settled("v1");
    rig.wait_for_release("v1");
    send(rig.master().unwrap(), signal);
    until("what comes of it", || {
        let look = eye.look();
        if look.detection == Detection::Missing {
            return Some(Seen::Gone);
        }
        let seen = generation(&look).filter(|seen| settled_in(seen, "v1"))?;
        match (seen.key == before.key, workers(&seen).iter().any(|key| workers(&before).contains(key))) {
            (false, _) => Some(Seen::Hot),
            (true, false) => Some(Seen::Phased),
            (true, true) => None,
        }
    })
}

/// A kind of Puma, and what comes of SIGUSR1.
fn kinds() -> [(&'static str, Setup, Seen); 3] {
    [
        ("single", Setup::single(), Seen::Hot),
        ("cluster", Setup::default(), Seen::Phased),
        ("preloading", Setup::preloading(), Seen::Hot),
    ]
}

/// SIGUSR1, SIGUSR2 and SIGTERM to the master of each kind. What a plan says of a phased restart
/// is what Puma makes of SIGUSR1.
fn is_taken_for_what_it_is(kinds: &[(&str, Setup, Seen)], image: Image) {
    let row = |(name, setup, usr1): &(&str, Setup, Seen)| {
        // Now and then a worker of 6.6 or 8.0 stops only when it is ended.
        let setup = Setup { worker_shutdown_timeout: 3, ..setup.clone() };
        ((*name).to_owned(), (setup.from(image), *usr1))
    };
    side_by_side(kinds.iter().map(row), |(setup, usr1)| {
        let rig = PumaRig::start(setup);
        let eye = Eye::with(&rig, told(&rig), RestartMode::Phased);
        eye.settled("v1");
        let mode = if usr1 == Seen::Phased { Mode::Phased } else { Mode::Hot };
        assert_eq!(eye.plan("v1", "v1").unwrap(), mode);
        assert_eq!(seen_after(Signal::SIGUSR1, &rig, &eye), usr1);
        assert_eq!(seen_after(Signal::SIGUSR2, &rig, &eye), Seen::Hot);
        assert_eq!(seen_after(Signal::SIGTERM, &rig, &eye), Seen::Gone);
    });
}

#[test]
fn each_signal_to_each_kind_is_taken_for_what_it_is() {
    is_taken_for_what_it_is(&kinds(), Image::of_this_run());
}

#[test]
fn each_signal_to_each_kind_is_taken_for_what_it_is_on_6_6() {
    if pitstop_rig::is_root() {
        is_taken_for_what_it_is(&kinds()[1..], Image::Trixie);
    }
}

#[test]
fn sighup_ends_a_puma_without_a_log_file_and_is_seen_as_its_end() {
    let rows = [("single", Setup::single()), ("cluster", Setup::default())];
    side_by_side(rows.map(|(name, setup)| (name.to_owned(), setup)), |setup| {
        let rig = PumaRig::start(setup);
        let eye = Eye::on(&rig);
        assert_eq!(seen_after(Signal::SIGHUP, &rig, &eye), Seen::Gone);
    });
}

/// Each start of Ruby takes longer: the moment between exec and title is one.
fn slowly_started(setup: Setup) -> PumaRig {
    let mut rig = PumaRig::prepare(setup);
    let lib = rig.run_dir().join("slow_ruby.rb");
    fs::write(&lib, "sleep 1\n").unwrap();
    rig.set_env("RUBYOPT", format!("-r{}", rig.inside(&lib).display()));
    rig.run();
    rig
}

/// Ruby's own handler ends a Puma that is told again before it has put its own in place.
fn a_second_one_is_refused(kinds: &[(&str, Setup, Seen)], image: Image) {
    let rows = kinds.iter().map(|(name, setup, _)| ((*name).to_owned(), setup.clone().from(image)));
    side_by_side(rows, |setup| {
        let rig = slowly_started(setup);
        let eye = Eye::on(&rig);
        let (before, master) = (eye.settled("v1"), rig.master().unwrap());
        eye.perform(ServerCommand::Restart(Mode::Hot), before.key).unwrap();
        let looks = eye.watch("the gap between exec and title", |look| {
            generation(look).is_some_and(|seen| seen.key != before.key && !has_title(master))
        });
        let new = generation(looks.last().unwrap()).unwrap().key;
        for command in [
            ServerCommand::Restart(Mode::Hot),
            ServerCommand::Restart(Mode::Phased),
            ServerCommand::Abort(Mode::Hot),
        ] {
            let refused = eye.perform(command, new).unwrap_err();
            assert!(refused.message.contains("Puma"), "{refused:?}");
        }
        assert_eq!(eye.settled("v1").key, new, "it lives on, and was not restarted once more");
    });
}

#[test]
fn a_second_hot_restart_is_refused_between_exec_and_title() {
    a_second_one_is_refused(&kinds(), Image::of_this_run());
}

#[test]
fn a_second_hot_restart_is_refused_between_exec_and_title_on_6_6() {
    if pitstop_rig::is_root() {
        a_second_one_is_refused(&kinds()[1..], Image::Trixie);
    }
}

/// A single Puma tells its numbers a moment before a signal can reach its server; here the moment is a long one.
#[test]
fn a_single_process_takes_signals_only_once_it_accepts() {
    let mut rig = PumaRig::prepare(Setup::single());
    let lib = rig.run_dir().join("slow_pool.rb");
    let slow = "module Slow\n  def auto_trim!(...)\n    sleep 0.6\n    super\n  end\nend\n\
                module Puma\n  class ThreadPool\n    prepend Slow\n  end\nend\n";
    fs::write(&lib, slow).unwrap();
    rig.set_env("RUBYOPT", format!("-r{}", rig.inside(&lib).display()));
    rig.launch();
    let eye = Eye::on(&rig);
    let before =
        until("a Puma that takes signals", || generation(&eye.look()).filter(|seen| seen.signalable));
    eye.perform(ServerCommand::Restart(Mode::Hot), before.key).unwrap();
    until("the new image", || generation(&eye.look()).filter(|s| s.key != before.key && settled_in(s, "v1")));
}

/// Workers that still load do not keep a cluster from a hot restart, and it ends on the right code.
#[test]
fn a_cluster_whose_app_still_loads_may_be_restarted_hot_and_ends_on_the_right_code() {
    let rig = {
        let mut rig = PumaRig::prepare(Setup { boot_seconds: 3.0, ..Setup::default() });
        rig.launch();
        rig
    };
    let eye = Eye::on(&rig);
    let loading = until("a cluster that loads and takes signals", || {
        generation(&eye.look())
            .filter(|seen| seen.signalable && !seen.processes.is_empty() && !seen.processes[0].booted)
    });
    rig.release("v2", App::Good);
    rig.flip("v2");
    eye.perform(ServerCommand::Restart(Mode::Hot), loading.key).unwrap();
    assert_ne!(eye.settled("v2").key, loading.key);
    rig.wait_for_release("v2");
}

/// A worker that somebody ends is replaced by the master; nothing else changes. SIGUSR1 makes a worker of 6.6 or
/// later call itself a master (an init that signals its whole group does that): it is taken for what it is.
fn a_signal_to_a_worker_restarts_nothing(image: Image) {
    let rig = PumaRig::start(Setup { worker_shutdown_timeout: 3, ..Setup::default() }.from(image));
    let eye = Eye::on(&rig);
    let before = eye.settled("v1");
    let worker = eye.look().description.workers[0].pid;
    // Its title would have another tag than the master's.
    rig.release("v2", App::Good);
    rig.flip("v2");
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2] {
        send(worker, signal);
    }
    until("an answer of this worker", || {
        rig.get("/").ok().filter(|answer| answer.body.contains(&format!(r#""pid":{worker},"#)))
    });
    for eye in [&eye, &Eye::on(&rig)] {
        let look = eye.look();
        assert_eq!(look.description.pid, rig.master(), "{look:?}");
        assert_eq!(generation(&look).as_ref().map(workers), Some(workers(&before)), "{look:?}");
    }
    rig.flip("v1");
    send(worker, Signal::SIGTERM);
    let after = until("another worker in its place", || {
        let seen = generation(&eye.look()).filter(|seen| settled_in(seen, "v1"))?;
        (workers(&seen) != workers(&before)).then_some(seen)
    });
    let kept = workers(&after).iter().filter(|key| workers(&before).contains(key)).count();
    assert_eq!((after.key, kept), (before.key, 1));
}

#[test]
fn signals_to_a_worker_restart_nothing() {
    a_signal_to_a_worker_restarts_nothing(Image::of_this_run());
}

#[test]
fn signals_to_a_worker_restart_nothing_on_6_6() {
    if pitstop_rig::is_root() {
        a_signal_to_a_worker_restarts_nothing(Image::Trixie);
    }
}
