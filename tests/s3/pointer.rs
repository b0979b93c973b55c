//! The agent's watch of a pointer in S3, through outages and other people's changes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_credential_types::provider::SharedCredentialsProvider;
use pitstop::{
    pointer::{self, Check, Latest, Settings, Source},
    store::Store,
};
use pitstop_rig::{Fault, PATIENCE, S3Rig};
use tokio::sync::watch::Receiver;

use crate::rig::store;

/// The pause between two looks; after failures up to four times as long.
const POLL: Duration = Duration::from_millis(50);

struct Watch {
    latest: Receiver<Latest>,
    checks: Arc<Mutex<Vec<Check>>>,
    _kick: pointer::Kick,
}

impl Watch {
    fn of(store: Arc<dyn Store>) -> Self {
        let checks = Arc::<Mutex<Vec<Check>>>::default();
        let heard = checks.clone();
        let on_check = Arc::new(move |check| heard.lock().unwrap().push(check));
        let source = Source::Store(store, "production".into());
        let (latest, kick) =
            pointer::watch(Settings { source, trust: Default::default(), poll_interval: POLL, on_check })
                .unwrap();
        Self { latest, checks, _kick: kick }
    }

    /// Waits for the release, or the reason why there is none, and gives the message.
    async fn sees(&mut self, expected: &str) -> String {
        let says = |latest: &Latest| match latest {
            Some(Ok(pointer)) => pointer.revision.release.as_str() == expected,
            Some(Err(problem)) => problem.reason.code() == expected,
            None => false,
        };
        let seen = tokio::time::timeout(PATIENCE, self.latest.wait_for(says)).await;
        let latest = seen.unwrap_or_else(|_| panic!("no {expected}")).unwrap();
        latest.as_ref().unwrap().as_ref().err().map(|problem| problem.message.clone()).unwrap_or_default()
    }

    /// Waits for so many more looks.
    async fn looks(&self, more: usize) {
        let count = || self.checks.lock().unwrap().len();
        let enough = count() + more;
        let wait = async {
            while count() < enough {
                tokio::time::sleep(POLL / 2).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
    }
}

fn move_to(rig: &S3Rig, release: &str) {
    rig.put("pointers/production", release.into());
}

#[tokio::test]
async fn what_has_not_changed_is_asked_for_but_not_sent() {
    let rig = S3Rig::start();
    move_to(&rig, "v1");
    let mut watch = Watch::of(store(&rig));
    watch.sees("v1").await;
    watch.looks(5).await;
    let statuses: Vec<_> = rig.seen().iter().map(|seen| seen.status).collect();
    assert!(statuses[0] == 200 && statuses[1..5].iter().all(|status| *status == 304), "{statuses:?}");
    move_to(&rig, "v2");
    watch.sees("v2").await;
}

#[tokio::test]
async fn an_outage_is_told_and_its_end_noticed() {
    let rig = S3Rig::start();
    move_to(&rig, "v1");
    let mut watch = Watch::of(store(&rig));
    watch.sees("v1").await;
    rig.outage();
    let told = watch.sees("store_unreachable").await;
    assert!(told.contains(&rig.endpoint()), "{told}");
    // Long enough for the pauses to have grown as far as they do.
    watch.looks(6).await;
    move_to(&rig, "v2");
    rig.recover();
    watch.sees("v2").await;
}

#[tokio::test]
async fn a_store_that_is_away_at_the_start_and_answers_late_is_found() {
    let rig = S3Rig::start();
    rig.outage();
    let mut watch = Watch::of(store(&rig));
    watch.sees("store_unreachable").await;
    rig.recover();
    let told = watch.sees("pointer_unreadable").await;
    assert!(told.contains("`pitstop promote ID --create` creates it"), "{told}");
    rig.fault(Fault::Answer(503, "SlowDown"));
    watch.sees("store_unreachable").await;
    rig.heal();
    move_to(&rig, "v1");
    watch.sees("v1").await;
}

/// Credentials that somebody else changes, as in a mounted secret.
#[derive(Debug, Clone)]
struct Secret(Arc<Mutex<(String, String)>>);

impl aws_credential_types::provider::ProvideCredentials for Secret {
    fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let (access, secret) = self.0.lock().unwrap().clone();
        let credentials = aws_credential_types::Credentials::new(access, secret, None, None, "the test");
        aws_credential_types::provider::future::ProvideCredentials::ready(Ok(credentials))
    }
}

#[tokio::test]
async fn credentials_that_were_refused_are_looked_for_anew() {
    let rig = S3Rig::start();
    move_to(&rig, "v1");
    let keys = rig.keys();
    let secret = Secret(Arc::new(Mutex::new((keys.access, keys.secret))));
    let credentials = Some(SharedCredentialsProvider::new(secret.clone()));
    let settings = pitstop::store::s3::Settings { credentials, ..crate::rig::settings(&rig) };
    let mut watch = Watch::of(crate::rig::store_with(&rig, settings));
    watch.sees("v1").await;
    rig.set_keys("NEWACCESSKEY", "new-secret");
    watch.sees("store_denied").await;
    *secret.0.lock().unwrap() = ("NEWACCESSKEY".into(), "new-secret".into());
    watch.sees("v1").await;
}
