//! A release on its way from S3 onto the volume, whatever the network and others do meanwhile.

use std::{io::Write, path::PathBuf, process::Command, time::Duration};

use pitstop::{
    core::Problem,
    releases::{Limits, Releases, fetch::Fetched},
    store::{Blocking, CallOff},
};
use pitstop_rig::{
    Fault, S3Rig,
    s3::{Rule, Seen},
    until,
};

use crate::rig::store;

/// So large that it comes in many pieces.
const FILE_BYTES: usize = 4_000_000;
const KEY: &str = "releases/v1.tar.zst";

/// A volume, and a bucket that holds `v1`.
struct Volume {
    rig: S3Rig,
    dir: tempfile::TempDir,
}

impl Volume {
    fn new() -> Self {
        let volume = Self { rig: S3Rig::start(), dir: tempfile::tempdir().unwrap() };
        volume.publish("v1", 1);
        volume
    }

    /// Bytes that cannot be compressed: the archive is as large as they are.
    fn publish(&self, release: &str, seed: u64) {
        let app = self.dir.path().join(release);
        std::fs::create_dir(&app).unwrap();
        let mut bytes = vec![0; FILE_BYTES];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        std::fs::write(app.join("big"), &bytes).unwrap();
        let mut pitstop = Command::new(env!("CARGO_BIN_EXE_pitstop"));
        pitstop.arg("publish").arg(&app).args(["--release", release]);
        assert!(pitstop.env_clear().envs(self.rig.env()).status().unwrap().success());
    }

    fn deploy_to(&self) -> PathBuf {
        self.dir.path().join("srv")
    }

    fn fetch(&self) -> Result<Fetched, Problem> {
        self.fetch_until(CallOff::default())
    }

    fn fetch_until(&self, off: CallOff) -> Result<Fetched, Problem> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = Blocking::new(store(&self.rig), runtime.handle().clone(), Duration::from_secs(30));
        let current = self.deploy_to().join("current");
        let releases = Releases::new(self.deploy_to(), current, "web-0", Limits::default());
        releases.fetch(&store.until(off), &"v1".parse().unwrap(), None)
    }

    fn fault(&self, fault: impl Into<Rule>) {
        self.rig.fault(fault.into().of("GET").at(KEY));
    }

    /// How the archive was asked for.
    fn asked(&self) -> Vec<Seen> {
        let seen = self.rig.seen().into_iter();
        seen.filter(|seen| seen.method == "GET" && seen.key == KEY).collect()
    }

    fn fetched_file(&self) -> Option<Vec<u8>> {
        std::fs::read(self.deploy_to().join("releases/v1/big")).ok()
    }

    #[track_caller]
    fn assert_fetched(&self) {
        assert!(self.fetched_file().unwrap() == std::fs::read(self.dir.path().join("v1/big")).unwrap());
    }

    #[track_caller]
    fn assert_nothing_on_the_volume(&self) {
        let names = |dir: &str| std::fs::read_dir(self.deploy_to().join(dir)).into_iter().flatten().count();
        assert_eq!((names("releases"), names(".pitstop/staging")), (0, 0));
    }
}

#[test]
fn a_broken_connection_costs_what_it_did_not_bring() {
    let volume = Volume::new();
    volume.fault(Fault::Cut(1_000_000));
    volume.fetch().unwrap();
    volume.assert_fetched();
    let asked = volume.asked();
    assert!(asked.len() >= 4, "four million bytes, a million at a time: {asked:?}");
    assert_eq!((&asked[0].range, &asked[0].condition), (&None, &None));
    for (n, request) in asked.iter().enumerate().skip(1) {
        // What arrives before the break may be a little less than what was sent.
        let from: usize =
            request.range.as_ref().unwrap()["bytes=".len()..].trim_end_matches('-').parse().unwrap();
        assert!(from > 0 && from <= n * 1_000_000, "{asked:?}");
        assert_eq!(request.status, 206);
        assert!(request.condition.is_some(), "only of the same version: {asked:?}");
    }
}

#[test]
fn a_connection_that_stalls_is_left_and_the_download_goes_on() {
    let volume = Volume::new();
    volume.fault(Fault::Stall(3_000_000).times(1));
    volume.fetch().unwrap();
    volume.assert_fetched();
    assert_eq!(volume.asked().len(), 2);
}

#[test]
fn a_fetch_that_is_called_off_ends_in_the_middle_of_its_bytes() {
    let volume = Volume::new();
    volume.fault(Fault::Slow(Duration::from_millis(200)));
    let off = CallOff::default();
    let problem = std::thread::scope(|scope| {
        let fetch = scope.spawn(|| volume.fetch_until(off.clone()));
        until("the download", || (!volume.asked().is_empty()).then_some(()));
        off.now();
        fetch.join().unwrap().unwrap_err()
    });
    assert!(problem.message.contains("cancelled"), "{}", problem.message);
    volume.assert_nothing_on_the_volume();
}

#[test]
fn an_outage_in_the_middle_is_survived_when_it_is_short() {
    let volume = Volume::new();
    volume.fault(Fault::Answer(503, "SlowDown").times(5));
    volume.fault(Fault::Cut(2_000_000).times(1));
    volume.fetch().unwrap();
    volume.assert_fetched();
}

#[test]
fn a_download_that_never_gets_on_ends_and_leaves_nothing() {
    let volume = Volume::new();
    volume.fault(Fault::Cut(1000));
    let problem = volume.fetch().unwrap_err();
    assert_eq!(problem.reason.code(), "store_unreachable");
    assert!(problem.message.contains("bytes before its end"), "{}", problem.message);
    assert!(volume.asked().len() < 20);
    volume.assert_nothing_on_the_volume();
}

#[test]
fn an_object_that_changes_between_two_ranges_is_never_mixed() {
    let volume = Volume::new();
    volume.publish("v2", 2);
    let other = volume.rig.object("releases/v2.tar.zst").unwrap();
    volume.fault(Fault::CutAndReplace(2_000_000, other).times(1));
    let problem = volume.fetch().unwrap_err();
    // The other bytes as a whole: their digest is not the published one.
    assert_eq!(problem.reason.code(), "release_corrupt", "{}", problem.message);
    let statuses: Vec<_> = volume.asked().iter().map(|seen| seen.status).collect();
    assert_eq!(statuses, [200, 412, 200]);
    volume.assert_nothing_on_the_volume();
}

#[test]
fn the_right_bytes_that_come_late_are_taken_as_a_whole() {
    let volume = Volume::new();
    let right = volume.rig.object(KEY).unwrap();
    let mut wrong = right.clone();
    wrong[10] ^= 1;
    volume.rig.put(KEY, wrong);
    volume.fault(Fault::CutAndReplace(2_000_000, right).times(1));
    volume.fetch().unwrap();
    volume.assert_fetched();
}

#[test]
fn an_object_that_is_always_another_one_is_given_up() {
    let volume = Volume::new();
    for n in 0..10 {
        let mut other = volume.rig.object(KEY).unwrap();
        other[10] ^= n + 1;
        volume.fault(Fault::CutAndReplace(2_000_000, other).times(1));
    }
    let problem = volume.fetch().unwrap_err();
    assert!(problem.message.contains("somebody else has changed"), "{}", problem.message);
    volume.assert_nothing_on_the_volume();
}

#[test]
fn without_the_permission_to_list_the_other_kind_of_archive_is_found_all_the_same() {
    let rig = S3Rig::start();
    let volume = Volume { rig, dir: tempfile::tempdir().unwrap() };
    let id = "v1".parse().unwrap();
    volume.rig.put("releases/v1.tar.gz.sha256", "0".repeat(64).into_bytes());
    volume.rig.fault(Fault::NoListing);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let find = |id| runtime.block_on(pitstop::store::archive::find(store(&volume.rig).as_ref(), id));
    assert!(find(&id).unwrap().unwrap().is_ok());
    let missing = find(&"v2".parse().unwrap()).unwrap_err();
    assert_eq!(missing.reason().code(), "store_denied");
    assert!(missing.to_string().contains("or it does not exist"), "{missing}");
}

#[test]
fn memory_does_not_grow_with_the_archive() {
    use nix::sys::resource::{UsageWho, getrusage};
    let rig = S3Rig::start();
    let dir = tempfile::tempdir().unwrap();
    let pitstop = |args: &[&str]| {
        let mut pitstop = Command::new(env!("CARGO_BIN_EXE_pitstop"));
        pitstop.args(args).env_clear().envs(rig.env()).env("PITSTOP_DEPLOY_TO", dir.path().join("srv"));
        assert!(pitstop.status().unwrap().success(), "{args:?}");
        getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss() >> 10
    };
    let go_out = |release: &str, mebibytes: usize| {
        let app = dir.path().join(release);
        std::fs::create_dir(&app).unwrap();
        // A piece at a time: a child's figure contains what its parent held before.
        let mut file = std::fs::File::create(app.join("big")).unwrap();
        let mut bytes = vec![0; 1 << 20];
        for _ in 0..mebibytes {
            fastrand::fill(&mut bytes);
            file.write_all(&bytes).unwrap();
        }
        pitstop(&["publish", app.to_str().unwrap(), "--release", release]);
        pitstop(&["promote", release]);
        pitstop(&["fetch"])
    };
    // Packing on all cores has its buffers full from the first of them on.
    let (small, big) = (go_out("small", 48), go_out("big", 112));
    assert!(big < small + 20, "{small} MiB for an archive of 48 MiB, {big} MiB for one of 112 MiB");
}
