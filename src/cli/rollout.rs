//! `pitstop rollout ID`: moves a pointer step by step. A command runs first, then some pods take the release, a smoke test
//! looks at them, and more follow; all of them go back when too many fail. What the store has of it is enough to go on
//! after this process has died.

use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Console, Exit, Failure, swap::Swap, who::Said};
use crate::{
    config::Config,
    fleet::Reports,
    notify::{self, Announcer},
    revision::{PodCount, ReleaseId},
};

mod command;
mod drive;
mod journal;
pub(crate) mod lease;
mod machine;
mod seen;
mod show;
mod start;

use command::Commands;
use drive::{Clock, Drive, Ending};
use journal::{ALL, Journal, Options, Outcome, named, some_pods};
use lease::Lease;
pub(super) use lease::{PREFIX, needs};
use machine::Machine;
use show::Show;
use start::{Begun, Start, refused};

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
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = some_pods, conflicts_with = "abort")]
    step: Option<Vec<PodCount>>,
    /// How long the pods of each step must stay healthy before the next step [default: 0s].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, conflicts_with = "abort")]
    bake: Option<Duration>,
    /// How many pods may reject the release after the first step; one more, and all pods go back [default: 1].
    #[arg(long, value_name = "N", conflicts_with = "abort")]
    max_failed: Option<usize>,
    /// How many pods may restart at once, as 2 or 25%, unless they restart beside; by default what their agents say.
    #[arg(long, value_name = "N", value_parser = some_pods, conflicts_with = "abort")]
    max_unavailable: Option<PodCount>,
    /// How long a step may make no progress before all pods go back [default: 30m].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Leave the pods as they are when it fails: for releases whose migration the earlier code cannot run with.
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
            self.step.clone().unwrap_or_else(|| vec![PodCount::Pods(1), PodCount::Percent(25), ALL]);
        if steps.last() != Some(&ALL) {
            steps.push(ALL);
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
    let mut swap = Swap::open(config, None, args.id.as_ref()).await?;
    if swap.is_new() {
        return Err(swap.missing().await);
    }
    swap.sign_by(&args.said, config)?;
    swap.can_be_signed()?;
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

impl Start<'_> {
    async fn drive(&self, begun: Begun) -> Result<Exit, Failure> {
        let Begun { lease, is_new, note } = begun;
        let journal = lease.journal().await;
        let name = self.swap.name.clone();
        let show = Show::new(self.console, &name, &journal);
        note.iter().for_each(|note| show.note(note));
        let sender = notify::Sender { pod: None, app: self.config.app.clone(), pointer: name.clone() };
        let mut announcer = Announcer::new(&self.config.notify, self.args.notify.clone(), sender);
        if is_new {
            let steps: Vec<_> = journal.options.steps.iter().copied().map(named).collect();
            let by = journal.started.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
            let text = format!("rollout of {} started{by}: {}", journal.revision(), steps.join(", "));
            announcer.announce("rollout_started", &journal.revision(), None, text);
        }
        let mut drive = Drive {
            commands: Commands { before: self.args.before.clone(), smoke: self.args.smoke.clone() },
            reports: Reports::of(&self.swap.store, &name),
            store: self.swap.store.clone(),
            signer: self.swap.signer.clone(),
            machine: Machine::default(),
            clock: Clock::default(),
            name: name.clone(),
            lease,
            show,
        };
        let ending = until_told(&mut drive).await?;
        let Drive { lease, show, .. } = drive;
        let stands = lease.journal().await;
        let outcome = match &ending {
            Told::Ended(Ending::Ended(outcome, why)) => {
                Some((*outcome, summary(*outcome, &stands, &name, why)))
            }
            _ => None,
        };
        if let Some((outcome, (_, message))) = &outcome {
            let event = if *outcome == Outcome::Done { "rollout_done" } else { "rollout_aborted" };
            announcer.announce(event, &stands.revision(), Some(outcome.word()), message.clone());
        }
        let result = match (outcome, ending) {
            (Some((outcome, (exit, message))), _) => {
                // Taken back is what was asked for.
                let exit = if self.args.abort && outcome == Outcome::TakenBack { Exit::Done } else { exit };
                show.end(outcome, exit.code(), &message);
                Ok(exit)
            }
            (None, ending) => {
                drop(show);
                self.left(lease, &stands, ending).await
            }
        };
        announcer.finish(FAREWELL).await;
        result
    }

    /// It has not ended, and is not driven here any more.
    async fn left(&self, lease: Lease, stands: &Journal, ending: Told) -> Result<Exit, Failure> {
        let (release, place) = (&stands.release, stands.place());
        let ways =
            format!("`pitstop rollout {release}` goes on with it, `pitstop rollout --abort` takes it back");
        match ending {
            Told::Ended(Ending::TakenOver(by)) => {
                let by = match by {
                    Some(by) => Some(*by),
                    None => {
                        lease::read(&self.swap.store, self.key).await.ok().and_then(|there| there.journal)
                    }
                };
                let by = by.and_then(|by| Some(format!("{} ({})", by.holder.clone()?, by.place())));
                let by = by.unwrap_or_else(|| "somebody else".into());
                Err(Failure::lost(format!(
                    "the rollout of {release} was taken over by {by}, and goes on there"
                )))
            }
            Told::Ended(Ending::Stopped(why)) => {
                let _ = lease.release().await;
                Err(Failure::lost(format!("{why}, so the rollout of {release} stops: {place}; {ways}")))
            }
            Told::Ended(Ending::Ended(..)) => unreachable!("told before"),
            Told::Signal(signal) => {
                let _ = lease.release().await;
                self.say(&format!("interrupted; the rollout of {release} stands: {place}; {ways}"));
                Ok(Exit::Code(128 + signal))
            }
        }
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
        named(journal.share())
    )
}
