//! `pitstop rollout ID`: moves a pointer step by step. A command runs first, then some pods take the release, a smoke test
//! looks at them, and more follow; all of them go back when too many fail. What the store has of it is enough to go on
//! after this process has died.

use std::{sync::Arc, time::Duration};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Console, Exit, Failure,
    moving::{self, Moving},
    publish::failure,
    swap::Swap,
    who::{self, Said},
};
use crate::{
    config::Config,
    fleet::{Reports, moves::Moves},
    notify::{self, Announcer},
    pointer::document::PAUSED,
    revision::ReleaseId,
    store::{Store, StoreError, archive},
};

mod command;
mod drive;
mod journal;
mod lease;
mod machine;
mod seen;
mod show;

use command::Commands;
use drive::{Clock, Drive, Ending};
pub use journal::Share;
use journal::{Before, Journal, Options, Outcome, State};
use lease::{Lease, NotWritten, Read};
use machine::Machine;
use show::Show;

/// Notifications that are not delivered yet hold up the end no longer than this.
const FAREWELL: Duration = Duration::from_secs(20);

/// What to roll out, and how carefully.
#[derive(Debug, Clone, Args)]
pub struct Rollout {
    /// The release.
    #[arg(value_name = "ID", required_unless_present = "abort")]
    id: Option<ReleaseId>,
    /// A command that runs first, once: migrations. When it fails nothing is moved (exit code 1).
    #[arg(long, value_name = "COMMAND", conflicts_with = "abort")]
    before: Option<String>,
    /// A command that looks at the pods of the first step. When it fails they go back (exit code 2).
    #[arg(long, value_name = "COMMAND", conflicts_with = "abort")]
    smoke: Option<String>,
    /// Which pods take the release in each step, as counts or percentages; the last step is all pods [default: 1,25%,100%].
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "abort")]
    step: Option<Vec<Share>>,
    /// So long the pods of each step have to stay well before the next one [default: 0s].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, conflicts_with = "abort")]
    bake: Option<Duration>,
    /// So many pods may reject the release after the first step; with one more all pods go back [default: 1].
    #[arg(long, value_name = "N", conflicts_with = "abort")]
    max_failed: Option<usize>,
    /// So many pods may restart at once, as 2 or 25%, where a restart exposes or stalls; what their agents say when absent.
    #[arg(long, value_name = "N", conflicts_with = "abort")]
    max_unavailable: Option<Share>,
    /// All pods go back when a step makes no progress for so long [default: 30m].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// When it fails, leave the pods as they are: for releases after whose migration the code before cannot run.
    #[arg(long, conflicts_with = "abort")]
    no_revert: bool,
    /// Take an unfinished rollout back, whoever drives it.
    #[arg(long)]
    abort: bool,
    /// Where start, success and abort are posted; notify.url of the configuration when absent.
    #[arg(long, value_name = "URL")]
    notify: Option<String>,
    /// A rollout whose process has not written to the store for so long is taken over by the next one.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, hide = true)]
    lease: Option<Duration>,
    /// Who, and why?
    #[command(flatten)]
    said: Said,
}

impl Rollout {
    /// For a rollout that starts.
    fn options(&self) -> Options {
        let mut steps =
            self.step.clone().unwrap_or_else(|| vec![Share::Pods(1), Share::Percent(25), Share::ALL]);
        if steps.last() != Some(&Share::ALL) {
            steps.push(Share::ALL);
        }
        Options {
            steps,
            smoke: self.smoke.is_some(),
            bake: self.bake.unwrap_or_default(),
            max_failed: self.max_failed.unwrap_or(1),
            timeout: self.timeout.unwrap_or(Duration::from_secs(30 * 60)),
            revert: !self.no_revert,
            max_unavailable: self.max_unavailable,
            lease: self.lease.unwrap_or(Duration::from_secs(30)),
        }
    }

    /// For one that goes on: what the first call said holds, unless it is given anew. Its steps are behind it.
    fn options_over(&self, first: &Options) -> Options {
        Options {
            steps: first.steps.clone(),
            smoke: first.smoke || self.smoke.is_some(),
            bake: self.bake.unwrap_or(first.bake),
            max_failed: self.max_failed.unwrap_or(first.max_failed),
            timeout: self.timeout.unwrap_or(first.timeout),
            revert: first.revert && !self.no_revert,
            max_unavailable: self.max_unavailable.or(first.max_unavailable),
            lease: self.lease.unwrap_or(first.lease),
        }
    }
}

/// Rolls out, goes on with an unfinished rollout of the same release, or takes one back.
///
/// # Errors
/// [`Failure`] with the message for the user: nothing was moved by this call.
pub(crate) async fn run(config: &Config, args: Rollout, console: Console) -> Result<Exit, Failure> {
    let swap = Swap::open(config, None, args.id.as_ref()).await?;
    if swap.is_new() {
        return Err(swap.missing().await);
    }
    let key = lease::key(&swap.name);
    let there = lease::read(&swap.store, &key).await.map_err(|error| refused(&key, error))?;
    let start = Start { config, args: &args, swap: &swap, key: &key, console };
    let begun = match &there.journal {
        _ if args.abort => start.abort(there).await?,
        Some(journal) if !journal.state.is_final() => start.go_on(journal).await?,
        _ => start.begin(there).await?,
    };
    start.drive(begun).await
}

/// A rollout that this process has just taken into its hands.
struct Begun {
    lease: Lease,
    /// It did not exist before.
    is_new: bool,
    note: Option<String>,
}

struct Start<'a> {
    config: &'a Config,
    args: &'a Rollout,
    swap: &'a Swap,
    key: &'a str,
    console: Console,
}

impl Start<'_> {
    fn store(&self) -> &Arc<dyn Store> {
        &self.swap.store
    }

    /// A new one.
    async fn begin(&self, over: Read) -> Result<Begun, Failure> {
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
            replaces: moving.swap.document.get("canary"),
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
    async fn go_on(&self, found: &Journal) -> Result<Begun, Failure> {
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
        if found.holder.is_some() {
            let lease = humantime::format_duration(found.options.lease);
            self.say(&format!(
                "a rollout of {release} is unfinished; waiting {lease} to see whether {holder} lives"
            ));
            let now = lease::watch(self.store(), self.key, found).await.map_err(failure)?;
            if now.as_ref() != Some(found) && now.as_ref().is_none_or(|now| now.holder.is_some()) {
                return Err(Failure::lost(format!(
                    "a rollout of {release} to {name} is under way: {holder} drives it; nothing was moved by this call"
                )));
            }
        }
        let again = found.before == Some(Before::Running);
        let again = if again { "; --before was interrupted, so it runs again" } else { "" };
        let note = format!("going on with the rollout of {release}: {}{again}", found.place());
        let lease = self
            .take_over(|journal| Journal { options: self.args.options_over(&journal.options), ..journal });
        Ok(Begun { lease: lease.await?, is_new: false, note: Some(note) })
    }

    /// One that is unfinished, or that has left pods on its release.
    async fn abort(&self, there: Read) -> Result<Begun, Failure> {
        let name = &self.swap.name;
        let left = |journal: &Journal| {
            let standing = seen::standing(&self.swap.document, journal);
            !journal.state.is_final() || matches!(standing, seen::Standing::Canary { .. })
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
        let lease = self.take_over(|journal| Journal {
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

    /// What is in the store now, changed, in this process' hands.
    async fn take_over(&self, change: impl Fn(Journal) -> Journal) -> Result<Lease, Failure> {
        // The one who had it may still write: a heartbeat, or its last word.
        for _ in 0..10 {
            let there = lease::read(self.store(), self.key).await.map_err(failure)?;
            let Some(journal) = there.journal.clone() else { break };
            if journal.state.is_final() && !self.args.abort {
                break;
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

    fn say(&self, message: &str) {
        if !self.console.json {
            self.console.tell(&message);
        }
    }

    async fn drive(&self, begun: Begun) -> Result<Exit, Failure> {
        let Begun { lease, is_new, note } = begun;
        let journal = lease.journal().await;
        let name = self.swap.name.clone();
        let show = Show::new(self.console, &name, &journal);
        note.iter().for_each(|note| show.note(note));
        let sender = notify::Sender { pod: None, app: self.config.app.clone(), pointer: name.clone() };
        let mut announcer = Announcer::new(&self.config.notify, self.args.notify.clone(), sender);
        let mut announce = |event, message: String, reason| {
            announcer.announce(event, &journal.revision(), reason, message);
        };
        if is_new {
            let steps: Vec<_> = journal.options.steps.iter().map(ToString::to_string).collect();
            let by = journal.started.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
            let text = format!("rollout of {} started{by}: {}", journal.revision(), steps.join(", "));
            announce("rollout_started", text, None);
        }
        let mut drive = Drive {
            commands: Commands { before: self.args.before.clone(), smoke: self.args.smoke.clone() },
            reports: Reports::of(self.store(), &name),
            store: self.store().clone(),
            machine: Machine::default(),
            clock: Clock::default(),
            name: name.clone(),
            lease,
            show,
        };
        let ending = until_told(&mut drive).await?;
        let Drive { lease, show, .. } = drive;
        let stands = lease.journal().await;
        let result = match ending {
            Told::Ended(Ending::Ended(outcome, why)) => {
                let (exit, message) = summary(outcome, &stands, &name, &why);
                // Taken back is what was asked for.
                let exit = if self.args.abort && outcome == Outcome::TakenBack { Exit::Done } else { exit };
                let event = if outcome == Outcome::Done { "rollout_done" } else { "rollout_aborted" };
                announce(event, message.clone(), Some(outcome.word()));
                show.end(outcome, exit.code(), &message);
                Ok(exit)
            }
            Told::Ended(Ending::Stopped(why)) => {
                drop(show);
                let _ = lease.release().await;
                Err(Failure::lost(format!(
                    "{why}, so the rollout of {} stops: {}; {}",
                    stands.release,
                    stands.place(),
                    ways_out(&stands)
                )))
            }
            Told::Ended(Ending::TakenOver(by)) => {
                drop(show);
                let by =
                    by.and_then(|journal| Some(format!("{} ({})", journal.holder.clone()?, journal.place())));
                Err(Failure::lost(format!(
                    "the rollout of {} was taken over by {}, and goes on there",
                    stands.release,
                    by.unwrap_or_else(|| "somebody else".into())
                )))
            }
            Told::Signal(signal) => {
                drop(show);
                let _ = lease.release().await;
                self.say(&format!(
                    "interrupted; the rollout of {} stands: {}; {}",
                    stands.release,
                    stands.place(),
                    ways_out(&stands)
                ));
                Ok(Exit::Code(128 + signal))
            }
        };
        announcer.finish(FAREWELL).await;
        result
    }
}

enum Told {
    Ended(Ending),
    Signal(u8),
}

/// Until it has ended, somebody else has it, or this process is told to end.
async fn until_told(drive: &mut Drive) -> Result<Told, Failure> {
    let [mut terminate, mut interrupt] = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let lost = drive.lease.lost();
    tokio::select! {
        ending = drive.run() => Ok(Told::Ended(ending)),
        () = lost => Ok(Told::Ended(Ending::TakenOver(None))),
        _ = terminate.recv() => Ok(Told::Signal(15)),
        _ = interrupt.recv() => Ok(Told::Signal(2)),
    }
}

fn ways_out(journal: &Journal) -> String {
    format!("`pitstop rollout {}` goes on with it, `pitstop rollout --abort` takes it back", journal.release)
}

fn summary(outcome: Outcome, journal: &Journal, pointer: &str, why: &str) -> (Exit, String) {
    let (release, base) = (&journal.release, &journal.base.release);
    match outcome {
        Outcome::Done => {
            (Exit::Done, format!("{pointer} now points to {release} (move {}): {why}", journal.sequence))
        }
        Outcome::Failed => {
            (Exit::Failed, format!("failed: {why}; nothing was moved, all pods stay on {base}"))
        }
        Outcome::TakenBack => (Exit::TakenBack, format!("taken back: {why}; all pods are on {base} again")),
        Outcome::Stays => (Exit::TakenBack, stays(journal, pointer, why)),
        Outcome::TimedOut if !journal.options.revert => (Exit::TimedOut, stays(journal, pointer, why)),
        Outcome::TimedOut => {
            (Exit::TimedOut, format!("taken back, and not all pods are on {base} again: {why}"))
        }
        Outcome::Lost => (Exit::Lost, format!("lost: somebody else has changed {pointer}: {why}")),
    }
}

fn stays(journal: &Journal, pointer: &str, why: &str) -> String {
    let (release, base) = (&journal.release, &journal.base.release);
    format!(
        "failed: {why}; by --no-revert {} stay on {release}, the others on {base}. `pitstop promote ID` moves all pods \
         of {pointer} to a release, `pitstop rollout --abort` takes it back",
        journal.share()
    )
}

fn refused(key: &str, error: StoreError) -> Failure {
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
