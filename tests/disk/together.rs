//! Several pods of one volume that want the same release: one fetches it for all, whatever becomes of that one.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use pitstop::{
    core::Problem,
    releases::{FAIL_POINTS, Releases, fetch::Fetched, fetch_lock::Patience},
    store::{self, Blocking, CallOff},
};
use pitstop_rig::{Signal, SlowVolume, needs_root, signal, wait_until};
use tokio::runtime::Runtime;

use crate::rig::{Rig, Running, at_once, id};

impl Rig {
    /// `pitstop fetch` as another pod runs it.
    fn fetch_of(&self, pod: &str) -> Command {
        let mut command = self.command(&["fetch"]);
        command.env("PITSTOP_POD", pod).stdout(Stdio::null());
        command
    }

    /// The same, stopped at a fail point.
    fn stopped_at(&self, pod: &str, point: &str) -> Running {
        let hits = self.dir.path().join(format!("hits-{pod}"));
        fs::create_dir_all(&hits).unwrap();
        let mut command = self.fetch_of(pod);
        command.env("PITSTOP_FAILPOINTS", point).env("PITSTOP_FAILPOINT_DIR", &hits);
        let running = Running(command.spawn().unwrap());
        wait_until(point, || hits.join(point).exists());
        running
    }

    fn locks(&self) -> Vec<String> {
        let entries = fs::read_dir(self.deploy_to.join(".pitstop/fetching")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Fetches v2 in this process.
    fn fetch_until(&self, releases: &Releases, off: &CallOff) -> Result<Fetched, Problem> {
        let runtime = Runtime::new().unwrap();
        let store = store::open(self.store_dir().to_str(), &pitstop::config::S3::default()).unwrap();
        let store = Blocking::new(store, runtime.handle().clone(), Duration::from_secs(30));
        releases.fetch(&store.until(off.clone()), &id("v2"), None)
    }
}

fn impatient() -> Patience {
    Patience { stalled: Duration::from_millis(300), most: Duration::from_secs(600) }
}

/// Those of a fetch, and those after which the release is there for everybody.
fn points() -> impl Iterator<Item = (&'static str, bool)> {
    let points = FAIL_POINTS.iter().take_while(|point| point.starts_with("fetch."));
    points.scan(false, |there, point| {
        *there |= *point == "fetch.renamed";
        Some((*point, *there))
    })
}

fn waits_for(releases: &Releases, pod: &str) {
    wait_until("the other pod to wait", || releases.waits_for().is_some_and(|waits| waits.pod == pod));
    assert_eq!(releases.waits_for().unwrap().release, id("v2"));
}

#[test]
fn who_waits_takes_over_when_the_holder_is_killed_at_any_step() {
    for (point, there) in points() {
        let rig = Rig::new();
        rig.promote("v1");
        rig.ok(&["fetch"]);
        rig.promote("v2");
        let mut holder = rig.stopped_at("web-1", point);
        let releases = rig.of_pod("web-2");
        let fetched = thread::scope(|threads| {
            let waiting = threads.spawn(|| rig.fetch_until(&releases, &CallOff::default()));
            if !there {
                waits_for(&releases, "web-1");
                assert_eq!(rig.release_at_current().as_deref(), Some("v1"), "{point}");
                holder.kill();
            }
            waiting.join().unwrap().unwrap()
        });
        assert_eq!((fetched.was_there, releases.waits_for()), (there, None), "{point}");
        assert_eq!(releases.is_complete(&id("v2")), Ok(true), "{point}");
        releases.publish(&id("v2")).unwrap();
        assert_eq!(rig.release_at_current().as_deref(), Some("v2"), "{point}");
        holder.kill();
        // What the dead pod left, its next start clears away.
        rig.of_pod("web-1").clean_leftovers(&at_once).unwrap();
        assert_eq!((rig.leftovers(), rig.abandoned()), (Vec::new(), Vec::new()), "{point}");
    }
}

#[test]
fn waiting_is_called_off_like_a_fetch() {
    let rig = Rig::new();
    rig.promote("v2");
    let _holder = rig.stopped_at("web-1", "fetch.mid_unpack");
    let (releases, off) = (rig.of_pod("web-2"), CallOff::default());
    thread::scope(|threads| {
        let waiting = threads.spawn(|| rig.fetch_until(&releases, &off));
        waits_for(&releases, "web-1");
        off.now();
        let problem = waiting.join().unwrap().unwrap_err();
        assert!(problem.message.contains("cancelled"), "{}", problem.message);
    });
    assert_eq!(releases.waits_for(), None);
    assert_eq!(rig.leftovers().len(), 2, "the holder's only");
}

#[test]
fn of_those_who_wait_for_a_holder_that_is_stuck_one_takes_over() {
    let rig = Rig::new();
    rig.promote("v2");
    let _holder = rig.stopped_at("web-1", "fetch.mid_unpack");
    let pods = ["web-2", "web-3", "web-4"];
    let fetched: Vec<_> = thread::scope(|threads| {
        let rig = &rig;
        let fetch = |pod| {
            let releases = rig.of_pod(pod).with_patience(impatient());
            threads.spawn(move || rig.fetch_until(&releases, &CallOff::default()).unwrap())
        };
        pods.map(fetch).into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(fetched.iter().filter(|one| !one.was_there).count(), 1, "{fetched:?}");
    assert_eq!(rig.locks(), ["v2"], "the stuck holder's");
}

/// A pod that is frozen in the middle, and thawed when another one has done its work.
#[test]
fn a_holder_that_goes_on_later_uses_what_is_there() {
    let rig = Rig::new();
    let app = rig.app("v2");
    fs::create_dir(app.join("many")).unwrap();
    (0..3_000).for_each(|n| fs::write(app.join(format!("many/{n}")), "").unwrap());
    rig.ok(&["publish", app.to_str().unwrap(), "--release", "v2"]);
    rig.ok(&["promote", "v2"]);
    let mut holder = Running(rig.fetch_of("web-1").spawn().unwrap());
    wait_until("the lock", || rig.locks() == ["v2"]);
    signal(holder.0.id().cast_signed(), Signal::STOP);
    assert!(!rig.deploy_to.join("releases/v2").exists(), "stopped in the middle");
    let releases = rig.of_pod("web-2").with_patience(impatient());
    let fetched = rig.fetch_until(&releases, &CallOff::default()).unwrap();
    assert!(!fetched.was_there);
    signal(holder.0.id().cast_signed(), Signal::CONT);
    assert!(holder.0.wait().unwrap().success());
    assert_eq!(rig.release_at_current().as_deref(), Some("v2"));
    rig.of_pod("web-1").clean_leftovers(&at_once).unwrap();
    assert_eq!((rig.leftovers(), rig.abandoned(), rig.locks()), (Vec::new(), Vec::new(), Vec::new()));
}

/// What one look at another pod's lock and at the release asks a volume, at most.
const OPERATIONS_PER_LOOK: u64 = 12;

#[test]
fn four_pods_cost_about_as_many_operations_as_one() {
    needs_root!();
    let rig = Rig::new();
    crate::operations::large_app(&rig, "v1");
    let fetch = |pods: &[&str]| {
        let volume = SlowVolume::mount(&rig.deploy_to, Duration::from_micros(500), 64);
        let mut running: Vec<_> =
            pods.iter().map(|pod| Running(rig.fetch_of(pod).spawn().unwrap())).collect();
        running.iter_mut().for_each(|pod| assert!(pod.0.wait().unwrap().success()));
        assert_eq!(rig.release_at_current().as_deref(), Some("v1"));
        volume.counts()
    };
    let one = fetch(&["web-1"]);
    let began = Instant::now();
    let four = fetch(&["web-1", "web-2", "web-3", "web-4"]);
    // Each has its lease as well, and who waits looks once a second: on a busy machine the fetch takes longer.
    let looks = 3 * OPERATIONS_PER_LOOK * began.elapsed().as_secs();
    let bound = one.operations * 11 / 10 + 3 * crate::operations::PER_FETCH + looks;
    assert!(four.operations <= bound, "more than {bound}: {four}, and one: {one}");
    // Nothing is made twice, however long that takes.
    for made in ["create", "mkdir"] {
        let (one, four) = (one.by_name[made], four.by_name[made]);
        assert!(four <= one * 101 / 100 + 20, "{made}: {four}, and one: {one}");
    }
}

#[test]
fn where_a_volume_has_no_locks_each_pod_fetches_for_itself() {
    use rustix::io::Errno;
    for errno in [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS] {
        let rig = Rig::new();
        rig.promote("v2");
        let _holder = rig.stopped_at("web-1", "fetch.mid_unpack");
        let (code, said) = crate::exhaust::without("flock", &rig, errno);
        assert_eq!(code, 0, "{errno}: {said}");
        assert_eq!(rig.release_at_current().as_deref(), Some("v2"), "{errno}");
    }
}
