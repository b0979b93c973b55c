//! How a process gets a rollout into its hands: a new one, one whose process has died, or one that is to be taken back.

use std::sync::Arc;

use super::{
    Rollout,
    journal::{Before, Journal, Options, State},
    lease::{self, Lease, NotWritten, Read},
    seen::{Standing, standing},
};
use crate::{
    cli::{
        Console, Failure,
        moving::{self, Moving},
        publish::failure,
        swap::Swap,
        who,
    },
    config::Config,
    fleet::moves::Moves,
    pointer::document::PAUSED,
    store::{Store, StoreError, archive},
};

/// A rollout that this process has just taken into its hands.
pub(super) struct Begun {
    pub(super) lease: Lease,
    /// It did not exist before.
    pub(super) is_new: bool,
    /// For people.
    pub(super) note: Option<String>,
}

/// What was asked for, and the pointer as it was read then.
pub(super) struct Start<'a> {
    pub(super) config: &'a Config,
    pub(super) args: &'a Rollout,
    pub(super) swap: &'a Swap,
    /// Of the rollout.
    pub(super) key: &'a str,
    pub(super) console: Console,
}

impl Start<'_> {
    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.swap.store
    }

    /// A new one.
    pub(super) async fn begin(&self, over: Read) -> Result<Begun, Failure> {
        let name = &self.swap.name;
        let id = self.args.id.clone().ok_or_else(|| Failure::usage("which release is to be rolled out?"))?;
        let moving = Moving::begin(self.config, Some(&id), "rollout", &self.args.said).await?;
        let Some(now) = moving.now() else {
            return Err(Failure::failed(format!(
                "{name} is not a valid pointer, so nothing was moved; `pitstop promote ID` writes it anew"
            )));
        };
        let sha256 = archive::require(self.store().as_ref(), &id).await?.sha256;
        let before = self.args.before.as_ref().map(|_| Before::Pending);
        let journal = Journal {
            v: 1,
            id: format!("{:016x}", fastrand::u64(..)),
            release: id,
            sequence: moving.sequence(),
            sha256,
            base: now.revision.clone(),
            replaces: moving.now().and_then(|now| now.canary.as_deref().cloned()),
            state: if before.is_some() { State::Before } else { State::Canary },
            step: usize::from(before.is_none()),
            since: who::now(),
            fence: 1,
            holder: Some(holder()),
            heartbeat: 1,
            options: self.args.options(),
            before,
            started: self.args.said.note(),
            result: None,
            why: None,
        };
        let lease = self.take(&over, journal.clone()).await?;
        let moves = Moves::of(self.store(), name);
        let made = moving.made(&journal.release, journal.sha256);
        moving::told(name, moving.write_down(&moves, moving.before().await, &made).await);
        let paused = moving.swap.document.note(PAUSED);
        let note = paused.map(|note| {
            format!("the pods of {name} are paused ({note}): `pitstop resume --fleet` lets them deploy")
        });
        Ok(Begun { lease, is_new: true, note })
    }

    /// One that is unfinished, and whose holder is dead.
    pub(super) async fn go_on(&self, found: &Journal) -> Result<Begun, Failure> {
        let (name, release) = (&self.swap.name, &found.release);
        let holder = found.holder.clone().unwrap_or_else(|| "nobody".into());
        if self.args.id.as_ref() != Some(release) {
            return Err(Failure::lost(format!(
                "a rollout of {release} to {name} is unfinished ({}; driven by {holder}), so nothing was moved. \
                 `pitstop rollout {release}` goes on with it if that process has died, and `pitstop rollout \
                 --abort` takes it back",
                found.place()
            )));
        }
        let asked =
            found.options.smoke && matches!(found.state, State::Before | State::Canary | State::Smoke);
        let pending = matches!(found.before, Some(Before::Pending | Before::Running));
        for (missing, flag) in [
            (pending && self.args.before.is_none(), "--before"),
            (asked && self.args.smoke.is_none(), "--smoke"),
        ] {
            if missing {
                return Err(Failure::usage(format!(
                    "the unfinished rollout of {release} has a command {flag} that did not end yet: give it again \
                     (the store keeps no commands)"
                )));
            }
        }
        let mut at_rest = found.clone();
        if found.holder.is_some() {
            let lease = humantime::format_duration(found.options.lease);
            self.say(&format!(
                "a rollout of {release} is unfinished; waiting {lease} to see whether {holder} lives"
            ));
            match lease::watch(self.store(), self.key, found).await.map_err(failure)? {
                Some(now) if now == *found || now.holder.is_none() => at_rest = now,
                _ => {
                    return Err(Failure::lost(format!(
                        "a rollout of {release} to {name} is under way: {holder} drives it; nothing was moved by this call"
                    )));
                }
            }
        }
        let again = found.before == Some(Before::Running);
        let again = if again { "; --before was interrupted, so it runs again" } else { "" };
        let note = format!("going on with the rollout of {release}: {}{again}", found.place());
        let lease = self.take_over(Some(&at_rest), |journal| Journal {
            options: self.args.options_over(&journal.options),
            ..journal
        });
        Ok(Begun { lease: lease.await?, is_new: false, note: Some(note) })
    }

    /// One that is unfinished, or that has left pods on its release.
    pub(super) async fn abort(&self, there: Read) -> Result<Begun, Failure> {
        let name = &self.swap.name;
        let left = |journal: &Journal| {
            let standing = standing(&self.swap.document, journal);
            !journal.state.is_final() || matches!(standing, Standing::Canary { .. })
        };
        let Some(journal) = there.journal.filter(left) else {
            return Err(Failure::failed(format!("there is no unfinished rollout of {name}")));
        };
        if self.args.id.as_ref().is_some_and(|id| *id != journal.release) {
            let release = &journal.release;
            return Err(Failure::lost(format!(
                "the unfinished rollout of {name} is of {release}: nothing was changed"
            )));
        }
        let note = self.args.said.note();
        let by = note.by.unwrap_or_default();
        let why =
            note.why.map_or_else(|| format!("aborted by {by}"), |why| format!("aborted by {by}: {why}"));
        let lease = self.take_over(None, |journal| Journal {
            why: Some(why.clone()),
            result: None,
            options: Options {
                timeout: self.args.timeout.unwrap_or(journal.options.timeout),
                lease: self.args.lease.unwrap_or(journal.options.lease),
                ..journal.options.clone()
            },
            ..journal.entering(State::Aborting, journal.step)
        });
        Ok(Begun { lease: lease.await?, is_new: false, note: None })
    }

    /// What is in the store now, changed, in this process' hands. `at_rest`: nobody may have written since.
    async fn take_over(
        &self,
        at_rest: Option<&Journal>,
        change: impl Fn(Journal) -> Journal,
    ) -> Result<Lease, Failure> {
        // The one who had it may still write: a heartbeat, or its last word.
        for _ in 0..10 {
            let there = lease::read(self.store(), self.key).await.map_err(failure)?;
            let Some(journal) = there.journal.clone() else { break };
            if journal.state.is_final() && !self.args.abort {
                break;
            }
            // Of two that waited for the same dead one, the other was faster.
            if at_rest.is_some_and(|at_rest| !journal.is_as_written_in(at_rest)) {
                return Err(self.not_taken(NotWritten::Lost(Some(Box::new(journal)))));
            }
            let next = Journal {
                fence: journal.fence + 1,
                holder: Some(holder()),
                since: who::now(),
                heartbeat: journal.heartbeat + 1,
                ..change(journal)
            };
            match Lease::take(self.store(), self.key, &there, next).await {
                Err(NotWritten::Lost(_)) if self.args.abort => {}
                taken => return taken.map_err(|error| self.not_taken(error)),
            }
        }
        Err(self.not_taken(NotWritten::Lost(None)))
    }

    async fn take(&self, over: &Read, journal: Journal) -> Result<Lease, Failure> {
        Lease::take(self.store(), self.key, over, journal).await.map_err(|error| self.not_taken(error))
    }

    fn not_taken(&self, error: NotWritten) -> Failure {
        let name = &self.swap.name;
        match error {
            NotWritten::Store(error) => refused(self.key, error),
            NotWritten::Lost(by) => {
                let by =
                    by.and_then(|journal| journal.holder).map(|by| format!(" ({by})")).unwrap_or_default();
                Failure::lost(format!(
                    "another rollout of {name} started at the same time{by}; nothing was moved by this call"
                ))
            }
        }
    }

    pub(super) fn say(&self, message: &str) {
        if !self.console.json {
            self.console.tell(&message);
        }
    }
}

pub(super) fn refused(key: &str, error: StoreError) -> Failure {
    match error {
        StoreError::Denied(why) => Failure::failed(format!(
            "the store refuses access to {key}, where rollouts are kept: give this role the right to read and write \
             it (docs/s3.md): {why}"
        )),
        error => failure(error),
    }
}

/// Who drives it: processes in containers have the same numbers.
fn holder() -> String {
    format!("{}:{}-{:04x}", who::user_at_host(), std::process::id(), fastrand::u16(..))
}
