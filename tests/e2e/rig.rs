//! The rig itself: every set-up that the other tests rely on really is what it says.

use std::fs;

use pitstop_rig::{App, PumaRig, Setup, Signal, Wrapper, signal, until};

#[test]
fn a_hot_restart_of_a_cluster_moves_to_current() {
    let rig = PumaRig::start(Setup::default());
    rig.release("v2", App::Good);
    rig.flip("v2");
    signal(rig.master().unwrap(), Signal::USR2);
    rig.wait_for_release("v2");
}

#[test]
fn a_phased_restart_behind_a_shell_moves_to_current() {
    let rig = PumaRig::start(Setup { wrapper: Wrapper::Shell, ..Setup::default() });
    rig.release("v2", App::Good);
    rig.flip("v2");
    signal(rig.master().unwrap(), Signal::USR1);
    rig.wait_for_release("v2");
}

#[test]
fn a_container_whose_puma_dies_starts_it_again() {
    let rig = PumaRig::start(Setup { restarted: true, ..Setup::single() });
    signal(rig.master().unwrap(), Signal::KILL);
    until("the second start", || (rig.starts() == 2).then_some(()));
    rig.wait_for_release("v1");
}

#[test]
fn nothing_outlives_the_rig() {
    let rig = PumaRig::start(Setup::default());
    let master = rig.master().unwrap();
    let workers = pitstop_rig::puma::children(master);
    assert_eq!(workers.len(), 2);
    let dir = rig.scratch().to_owned();
    drop(rig);
    for pid in workers.iter().chain([&master]) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{pid} is still there: {stat}");
    }
    assert!(!dir.exists());
}

/// As root, by `.ci/alone`: else the Puma of one test would be found by the agent of another.
#[test]
fn a_test_sees_no_processes_but_its_own() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.unwrap().file_name().to_str()?.parse::<i32>().ok()?;
        Some((pid, fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")))
    });
    let others: Vec<(i32, String)> =
        pids.filter(|(pid, _)| *pid != 1 && *pid != std::process::id() as i32).collect();
    assert!(others.is_empty(), "{others:?}");
}
