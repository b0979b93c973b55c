//! What every server gets from the driver, shown by one that is made up.

use std::sync::{
    Mutex as StdMutex,
    atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::{
    app_server::{
        WorkerDescription,
        inspector::Surroundings,
        not_found::ServerKind,
        server::{self, Search},
    },
    core::{Generation, Mode, Reason},
    revision::ReleaseId,
};

/// Works in this directory, or is not there.
struct Fake {
    cwd: StdMutex<Option<Cwd>>,
    orders: AtomicUsize,
}

struct Seen {
    cwd: Cwd,
    surroundings: Surroundings,
}

impl Server for Fake {
    type Section = ();
    type Processes = Cwd;
    type Memory = ();
    type Snapshot = Seen;

    const KIND: ServerKind = ServerKind {
        name: "Fake",
        section: "fake",
        programs: &[],
        start: "start Fake in `current`",
        masters: |_| Vec::new(),
    };

    fn discover(&self, _: &Search) -> Discovery<Cwd> {
        self.cwd.lock().unwrap().clone().map_or(Discovery::Nothing, Discovery::One)
    }

    async fn snapshot(&self, _: &Driver<Self>, _: &mut (), cwd: Cwd) -> Result<Seen, NotFound> {
        Ok(Seen { cwd, surroundings: Surroundings::default() })
    }

    fn checks(&self, _: &Seen) -> Vec<Check> {
        Vec::new()
    }

    async fn plan(&self, _: &Driver<Self>, _: &Seen, _: Wanted<'_>) -> Result<Plan, Problem> {
        Ok(Plan::new(Mode::Hot))
    }

    async fn order(&self, _: &Driver<Self>, _: ServerCommand, _: GenerationKey) -> Result<(), Problem> {
        self.orders.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

impl server::Snapshot for Seen {
    fn app_server(&self) -> crate::core::AppServer {
        let generation = Generation {
            key: self.image().generation_key(),
            master: self.image().process.key(),
            signalable: true,
            cwd: self.cwd.clone(),
            expected: 1,
            processes: Vec::new(),
        };
        crate::core::AppServer { generations: vec![generation], old_workers: false, ..Default::default() }
    }

    fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    fn image(&self) -> Image {
        Image { process: ProcessId { pid: i32::MAX, start: 1 }, at_random: 1 }
    }

    fn name(&self) -> String {
        "Fake 1".into()
    }

    fn workers(&self) -> Vec<WorkerDescription> {
        Vec::new()
    }
}

fn driver(matching: Option<&str>, cwd: Option<Cwd>) -> Driver<Fake> {
    let location = Location {
        deploy_to: "/srv/app".into(),
        fallback: None,
        ports: Vec::new(),
        current: "/srv/app/current".into(),
        state_dir: "/nowhere".into(),
    };
    let fake = Fake { cwd: StdMutex::new(cwd), orders: AtomicUsize::new(0) };
    Driver::open(fake, matching, location).unwrap()
}

fn release() -> ReleaseId {
    "v1".parse().unwrap()
}

async fn told(driver: &Driver<Fake>) -> (Vec<&'static str>, Option<Reason>) {
    let codes = finding::findings(&driver.examine().await).into_iter().map(|finding| finding.code.code());
    (
        codes.collect(),
        driver
            .plan(Wanted { running: None, release: &release(), beside: true })
            .await
            .err()
            .map(|problem| problem.reason),
    )
}

#[tokio::test]
async fn a_stranger_is_refused_until_it_was_seen_in_a_release_or_is_named() {
    let stranger = driver(None, Some(Cwd::Elsewhere));
    assert_eq!(told(&stranger).await, (vec!["NOT_FROM_CURRENT"], Some(Reason::WrongCwd)));
    *stranger.server.cwd.lock().unwrap() = Some(Cwd::Release(release()));
    assert_eq!(told(&stranger).await, (vec![], None));
    *stranger.server.cwd.lock().unwrap() = Some(Cwd::Elsewhere);
    assert_eq!(told(&stranger).await, (vec![], None), "its release was deleted since");
    let named = driver(Some("fake"), Some(Cwd::Elsewhere));
    assert_eq!(told(&named).await, (vec!["NOT_FROM_CURRENT"], None));
    let unknown = driver(None, Some(Cwd::Unknown));
    assert_eq!(told(&unknown).await, (vec![], None), "nothing is known against it");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_to_be_missing_and_lacks_nothing() {
    let missing = driver(None, None);
    assert_eq!(told(&missing).await, (vec!["APP_SERVER_MISSING"], Some(Reason::AppServerMissing)));
    assert_eq!(missing.lacks(vec![Requirement::Ruby("3.3.6".into())]).await, Ok(Vec::new()));
}

#[tokio::test]
async fn nothing_is_committed_where_one_generation_runs_at_a_time() {
    let driver = driver(None, Some(Cwd::Release(release())));
    let orders = async |command| {
        driver.perform(command, GenerationKey(1)).await.unwrap();
        driver.server.orders.load(Ordering::SeqCst)
    };
    assert_eq!(orders(ServerCommand::Commit).await, 0);
    assert_eq!(orders(ServerCommand::Restart(Mode::Hot)).await, 1);
}
