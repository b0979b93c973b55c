//! Drives a rollout: looks, asks the machine what is next, and does it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    command::Commands,
    journal::{Journal, Outcome},
    lease::{self, Lease, NotWritten},
    machine::{Action, Machine, Point, Which},
    seen::{Place, Seen, changed},
    show::Show,
};
use crate::{
    cli::{
        moving,
        signing::{self, Signer},
        who,
    },
    failpoint,
    fleet::{
        Reports,
        moves::{End, Ended, Moves},
    },
    pointer::{self, document::Document},
    store::{self, Body, Condition, Found, Store, StoreError, Version},
};

/// After failures the pauses between two looks grow to so many.
const PAUSES_MAX: u32 = 8;

/// A rollout in one's own hands.
pub(super) struct Drive {
    pub(super) store: Arc<dyn Store>,
    /// The pointer's.
    pub(super) name: String,
    /// Who signs it, where somebody does.
    pub(super) signer: Option<Arc<Signer>>,
    pub(super) lease: Lease,
    pub(super) commands: Commands,
    pub(super) show: Show,
    pub(super) reports: Reports,
    pub(super) machine: Machine,
    pub(super) clock: Clock,
}

/// How it ended here.
#[derive(Debug)]
pub(super) enum Ending {
    /// As the store has it.
    Ended(Outcome, String),
    /// It can go on later.
    Stopped(String),
    /// Somebody else drives it now.
    TakenOver(Option<Box<Journal>>),
}

/// Time that passes while the store answers.
#[derive(Debug, Default)]
pub(super) struct Clock {
    passed: Duration,
    last: Option<Instant>,
}

impl Clock {
    fn answered(&mut self) {
        let now = Instant::now();
        self.passed += self.last.map(|last| now - last).unwrap_or_default();
        self.last = Some(now);
    }

    fn failed(&mut self) {
        self.last = None;
    }

    fn ms(&self) -> u64 {
        u64::try_from(self.passed.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drive {
    /// Until it has ended, or somebody else has it.
    pub(super) async fn run(&mut self) -> Ending {
        let mut failures = 0;
        loop {
            let done = match self.look().await {
                Ok((document, version, seen)) => self.next((&document, &version), &seen).await,
                Err(error) => Err(NotWritten::Store(error)),
            };
            match done {
                Ok(None) => failures = 0,
                Ok(Some(ending)) => return ending,
                Err(NotWritten::Lost(by)) => return Ending::TakenOver(by),
                Err(NotWritten::Store(error)) => {
                    failures = PAUSES_MAX.min(failures + 1);
                    self.clock.failed();
                    self.show.gap(&error.to_string());
                    let pause = lease::pause(self.lease.journal().await.options.lease);
                    tokio::time::sleep(pause * failures).await;
                }
            }
        }
    }

    async fn look(&mut self) -> Result<(Document, Version, Seen), StoreError> {
        let key = store::pointer_key(&self.name);
        let (version, bytes) = match self.store.get(&key, None, pointer::LIMIT_BYTES).await? {
            Found::Object { version, bytes } => (version, bytes),
            Found::Absent | Found::NotModified => return Err(StoreError::Missing(key)),
        };
        self.reports.look().await?;
        self.clock.answered();
        let (document, journal) = (Document::of(&bytes), self.lease.journal().await);
        let seen = Seen::of(&document, &self.reports, &journal);
        self.show.look(&journal, &seen);
        Ok((document, version, seen))
    }

    /// One action.
    async fn next(
        &mut self,
        pointer: (&Document, &Version),
        seen: &Seen,
    ) -> Result<Option<Ending>, NotWritten> {
        let journal = self.lease.journal().await;
        match self.machine.step(&journal, seen, self.clock.ms()) {
            Action::Wait => tokio::time::sleep(lease::pause(journal.options.lease)).await,
            Action::Stop(why) => return Ok(Some(Ending::Stopped(why))),
            Action::Enter(next) => return self.enter(*next).await,
            Action::Point(point) => self.point(point, pointer, &journal).await.map_err(NotWritten::Store)?,
            Action::Run(which) => self.command(which, &journal, seen).await,
        }
        Ok(None)
    }

    async fn enter(&mut self, next: Journal) -> Result<Option<Ending>, NotWritten> {
        let next = Journal { since: who::now(), ..next };
        let outcome = next.result.filter(|_| next.state.is_final());
        if let Some(outcome) = outcome {
            // How a move ended is written once and for ever: only by who still has it in hand.
            self.lease.save(self.lease.journal().await).await?;
            self.write_end(outcome, &next).await;
        }
        self.lease.save(next.clone()).await?;
        failpoint::hit(&format!("rollout.{}.{}", next.state.word(), next.step));
        Ok(outcome.map(|outcome| Ending::Ended(outcome, next.why.unwrap_or_default())))
    }

    /// On condition that nobody has changed it since it was looked at: else it is looked at again.
    async fn point(
        &mut self,
        point: Point,
        (document, version): (&Document, &Version),
        journal: &Journal,
    ) -> Result<(), StoreError> {
        let key = store::pointer_key(&self.name);
        let changed = changed(document, journal, point, &who::now());
        // A key that cannot be had now may be had later: as with the store, nothing is given up.
        let signed = signing::renewed(&changed, document, &self.name, self.signer.as_deref());
        let text = signed.map_err(|failure| StoreError::Source(failure.message))?.text();
        let put = self.store.put(&key, Body::Bytes(text.into_bytes()), Condition::Matches(version.clone()));
        match put.await {
            Ok(_) | Err(StoreError::Changed(_)) => {}
            Err(error) => return Err(error),
        }
        let word = match point {
            Point::Canary(_) => format!("canary.{}", journal.step),
            Point::Finish => "finish".into(),
            Point::Back => "back".into(),
        };
        failpoint::hit(&format!("rollout.pointed.{word}"));
        Ok(())
    }

    async fn command(&mut self, which: Which, journal: &Journal, seen: &Seen) {
        self.show.hide();
        let pods: Vec<_> = seen.pods.iter().filter(|pod| pod.place == Place::Arrived).cloned().collect();
        let ended = self.commands.run(which, &self.name, journal, &pods).await;
        let word = if which == Which::Before { "before" } else { "smoke" };
        failpoint::hit(&format!("rollout.ran.{word}"));
        self.clock.failed();
        self.machine.ran(ended);
    }

    async fn write_end(&self, outcome: Outcome, journal: &Journal) {
        let result = match outcome {
            Outcome::Done => Ended::Verified,
            Outcome::Lost => Ended::Superseded,
            Outcome::Failed | Outcome::TakenBack | Outcome::Stays | Outcome::TimedOut => Ended::Rejected,
        };
        let end = End {
            v: 1,
            result,
            message: journal.why.clone().unwrap_or_default(),
            by: journal.started.by.clone(),
            at: Some(who::now()),
        };
        let written = Moves::of(&self.store, &self.name).write_end(journal.sequence, &end).await;
        moving::told(&self.name, written);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            journal::State,
            machine::tests::{journal, options},
        },
        *,
    };
    use crate::{cli::Console, store::dir::DirStore};

    /// It was thought dead and comes back with an end that another process has not come to.
    #[tokio::test]
    async fn who_has_lost_a_rollout_does_not_write_how_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        ["pointers", "rollouts"].iter().for_each(|name| std::fs::create_dir(dir.path().join(name)).unwrap());
        let store: Arc<dyn Store> = Arc::new(DirStore::new(dir.path().to_owned()).unwrap());
        let key = lease::key("production");
        let journal = journal(options());
        let take = async |journal: &Journal| {
            let over = lease::read(&store, &key).await.unwrap();
            Lease::take(&store, &key, &over, journal.clone()).await.unwrap()
        };
        let mut first = Drive {
            lease: take(&journal).await,
            commands: Commands::default(),
            reports: Reports::of(&store, "production"),
            show: Show::new(Console { json: true }, "production", &journal),
            store: store.clone(),
            signer: None,
            machine: Machine::default(),
            clock: Clock::default(),
            name: "production".into(),
        };
        let _second = take(&Journal { fence: 2, holder: Some("another".into()), ..journal.clone() }).await;
        let failed = Journal { result: Some(Outcome::Failed), ..journal.entering(State::Aborted, 0) };
        assert!(matches!(first.enter(failed).await, Err(NotWritten::Lost(Some(by))) if by.fence == 2));
        assert_eq!(Moves::of(&store, "production").end(journal.sequence).await.unwrap(), None);
    }
}
