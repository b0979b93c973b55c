//! The commands, one file each: what is asked, the dispatch, and how a command ends.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{self, Config},
    releases::{Limits, Releases, layout::Layout},
    revision::ReleaseId,
    trust::{Noted, Role, Trust},
};

pub(crate) mod agent_socket;
pub mod app_server;
mod completions;
pub(crate) mod config_command;
pub mod console;
pub(crate) mod converge;
pub(crate) mod diff;
pub(crate) mod doctor;
mod drain;
pub mod exec;
pub(crate) mod fetch;
mod fleet;
mod freeze;
mod gently;
mod history;
pub(crate) mod install;
pub(crate) mod keygen;
mod middleware;
mod moving;
pub(crate) mod operator;
mod outcome;
mod pointers;
pub(crate) mod promote;
pub(crate) mod prune;
mod prune_store;
pub(crate) mod publish;
pub(crate) mod releases;
pub(crate) mod revoke;
pub(crate) mod rollback;
pub(crate) mod rollout;
pub mod run;
pub(crate) mod sign;
pub(crate) mod signing;
pub(crate) mod status;
mod swap;
mod table;
pub(crate) mod verify;
pub(crate) mod verify_tree;
mod who;

/// In `state_dir`: the newest signature of the pointer that was seen.
const TRUST_FILE: &str = "trust.json";

pub(crate) use console::Console;
pub use outcome::{Exit, Failure};
use who::Said;

/// Deploys Rails releases into running Puma pods and drains them without losing a request.
#[derive(Debug, Parser)]
#[command(name = "pitstop", version, propagate_version = true)]
pub struct Cli {
    /// The configuration file (YAML); every key may come as PITSTOP_… instead.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What pitstop can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The sidecar: follow the pointer, deploy, answer /prestop; ends with SIGTERM.
    Run(run::Run),
    /// The container's first process, where there are no sidecars or hooks: the app server and the agent.
    Exec(exec::Exec),
    /// Once: fetch and publish what the pointer names, then exit (for init containers).
    Fetch(fetch::Fetch),
    /// Pack a directory and put it into the store under a release id.
    Publish(publish::Publish),
    /// Move the pointer to a release, for every pod that follows it.
    Promote {
        /// The release.
        id: ReleaseId,
        /// Make the pointer if it is not there yet.
        #[arg(long)]
        create: bool,
        /// Who, and why?
        #[command(flatten)]
        said: Said,
        /// And the fleet?
        #[command(flatten)]
        wait: Waiting,
    },
    /// Move the pointer back: to the last release that the fleet ran and nobody rolled back from, or to any release.
    Rollback {
        /// Like --to.
        #[arg(conflicts_with = "to")]
        id: Option<ReleaseId>,
        /// The release, also one that was rolled back from or rejected; the last good one when absent.
        #[arg(long, value_name = "ID")]
        to: Option<ReleaseId>,
        /// Move the pointer only if it still names this release; exit code 4 when it does not.
        #[arg(long, value_name = "ID")]
        if_current: Option<ReleaseId>,
        /// Who, and why?
        #[command(flatten)]
        said: Said,
        /// And the fleet?
        #[command(flatten)]
        wait: Waiting,
    },
    /// Move the pointer to a release step by step: migrations, a canary, a smoke test, then all pods; and back when it fails.
    Rollout(rollout::Rollout),
    /// What each pointer names, and which pods run what: who is behind or rejected it, and why.
    Fleet {
        /// This pointer only; all of the store when absent.
        #[arg(value_name = "NAME", value_parser = config::pointer_name)]
        name: Option<String>,
    },
    /// The last moves of a pointer: who, when, why, and how each ended.
    History {
        /// The pointer; `pointer` of the configuration when absent.
        #[arg(value_name = "NAME", value_parser = config::pointer_name)]
        name: Option<String>,
        /// Look at so many moves at most.
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
    /// The pointers of the store, what each names, since when and by whom.
    Pointers,
    /// Let nobody move a pointer until `unfreeze`; pods go on with what it names.
    Freeze {
        /// The pointer.
        #[arg(value_name = "NAME", value_parser = config::pointer_name)]
        name: String,
        /// The reason, for those who want to move it.
        #[arg(long, value_name = "TEXT")]
        why: String,
        /// Who does this; by default what the CI system says, or user@host.
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
    },
    /// Let a pointer move again after `freeze`.
    Unfreeze {
        /// The pointer.
        #[arg(value_name = "NAME", value_parser = config::pointer_name)]
        name: String,
    },
    /// A pair of keys to sign with, in minisign's format.
    Keygen {
        /// What the key is for.
        role: Role,
        /// The file of the secret key; the public one is beside it, with the extension .pub.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Sign a release that is in the store, or the pointer.
    Sign(sign::Sign),
    /// Check whether an agent with this configuration would accept the signature of a release, or of the pointer.
    Verify(verify::Verify),
    /// Make the pods of a pointer stop trusting a key or a release.
    Revoke(revoke::Revoke),
    /// What this pod runs and why; exit code 1 when it is not in sync.
    Status,
    /// Look at the pointer now.
    Sync {
        /// Try the desired move again though it was rejected.
        #[arg(long)]
        retry: bool,
    },
    /// Start no deploy until `resume`: in this pod, or with --fleet in all pods that follow the pointer.
    Pause {
        /// All pods that follow the pointer, from anywhere: a note in the pointer.
        #[arg(long)]
        fleet: bool,
        /// The reason, which `status` shows.
        #[arg(long, value_name = "TEXT")]
        why: Option<String>,
        /// Who does this; by default what the CI system says, or user@host.
        #[arg(long, value_name = "NAME", requires = "fleet")]
        by: Option<String>,
    },
    /// Deploy again after `pause` or `revert`.
    Resume {
        /// After `pause --fleet`.
        #[arg(long)]
        fleet: bool,
    },
    /// Begin the drain, or join it, and wait for its end: a command for `lifecycle.preStop.exec`.
    Drain,
    /// End a drain that was begun by mistake.
    Undrain,
    /// This pod back to its previous release, held until the pointer moves or `resume`.
    Revert {
        /// The reason, which `status` shows.
        #[arg(long, value_name = "TEXT")]
        why: Option<String>,
    },
    /// What the store and the volume hold.
    Releases,
    /// What would change from one published release to another, and which restart that means.
    Diff {
        /// What runs, say.
        #[arg(value_name = "A")]
        from: ReleaseId,
        /// What is to run.
        #[arg(value_name = "B")]
        to: ReleaseId,
        /// Print so many names of each kind at most.
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },
    /// Delete old releases from the volume, or with --store from the store: those that nobody needs any more.
    Prune {
        /// Delete nothing, say what would go and why the others stay.
        #[arg(long)]
        dry_run: bool,
        /// How many of the newest good ones stay; keep_releases when absent.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        keep: Option<u32>,
        /// Or the store?
        #[command(flatten)]
        of_store: prune_store::OfStore,
    },
    /// Compare a release on the volume with what was published; exit code 1 when it differs. Waits while the agent
    /// restarts the app server or drains.
    VerifyTree {
        /// The release; what `current` leads to when absent.
        id: Option<ReleaseId>,
    },
    /// Copy this program, to run it inside of another image.
    Install {
        /// A directory, or the file that it becomes.
        #[arg(value_name = "DEST")]
        dest: PathBuf,
    },
    /// Print pitstop_counts.rb, the Rack middleware that counts an app's requests and errors.
    Middleware,
    /// Check whether this pod is set up so that the promises hold: each finding with its fix; changes nothing.
    Doctor {
        /// In a pod before its Puma starts (an init container): neither Puma nor the agent is expected.
        #[arg(long)]
        init: bool,
        /// The configuration alone, on any machine (CI).
        #[arg(long, conflicts_with = "init")]
        config_only: bool,
        /// The app's own files, with --config-only.
        #[command(flatten)]
        files: doctor::app::Files,
    },
    /// The effective configuration, and where each value came from.
    Config,
    /// Print the completion script of a shell.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    fn needs_source(&self, config: &Config) -> bool {
        match self {
            Self::Run(_) | Self::Doctor { .. } | Self::Fetch(_) | Self::Releases | Self::Publish(_) => true,
            Self::VerifyTree { .. } | Self::Diff { .. } => true,
            // A pointer in a file is not ours to move, with or without a store.
            Self::Promote { .. } | Self::Rollback { .. } | Self::Rollout(_) => {
                !config.pointer.starts_with("file:")
            }
            Self::Fleet { .. } | Self::History { .. } | Self::Pointers => true,
            Self::Freeze { .. } | Self::Unfreeze { .. } => true,
            Self::Pause { fleet, .. } | Self::Resume { fleet } => {
                *fleet && !config.pointer.starts_with("file:")
            }
            Self::Sign(_) | Self::Verify(_) | Self::Revoke(_) => true,
            Self::Status | Self::Sync { .. } | Self::Keygen { .. } => false,
            Self::Drain | Self::Undrain | Self::Revert { .. } | Self::Config | Self::Exec(_) => false,
            Self::Prune { of_store, .. } => of_store.store,
            Self::Install { .. } | Self::Middleware | Self::Completions { .. } => false,
        }
    }
}

/// Whether the fleet is waited for.
#[derive(Debug, Clone, Copy, Args)]
pub struct Waiting {
    /// Wait until every pod that reports runs it; exit code 2 when a pod rejects it, 3 when time is up.
    #[arg(long)]
    wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "DURATION", default_value = "15m", requires = "wait", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl Waiting {
    fn asked(self) -> Option<converge::Wait> {
        self.wait.then_some(converge::Wait { timeout: self.timeout })
    }
}

/// The releases on this pod's volume.
fn on_volume(config: &Config) -> Releases {
    let releases =
        Releases::new(config.deploy_to.clone(), config.current(), &config.pod(), Limits::default());
    let releases = releases.with_in_flight(config.fetch.in_flight.into()).with_spares(config.fetch.spare);
    releases.laid_out(layout(config)).with_fallback(config.fallback_dir.clone())
}

/// Whose signatures count, for a command that only looks.
fn trust(config: &Config) -> Arc<Trust> {
    Arc::new(Trust::new(&config.trust, &config.pointer))
}

/// Whose signatures count, for who deploys: with the memory that the pod's containers share.
fn trust_with_memory(config: &Config, noted: Noted) -> Arc<Trust> {
    let trust = Trust::new(&config.trust, &config.pointer).noting(noted);
    Arc::new(trust.remembering(config.state_dir.join(TRUST_FILE)))
}

/// What they are given besides their content.
fn layout(config: &Config) -> Layout {
    Layout {
        strip_prefix: config.strip_prefix,
        linked_dirs: config.linked_dirs.clone(),
        linked_files: config.linked_files.clone(),
        pod_dirs: config.pod_dirs.clone(),
        pod_dir: config.pod_dir.clone(),
        asset_dirs: config.asset_dirs.clone(),
    }
}

/// Does what was asked.
///
/// # Errors
/// [`Failure`] with the message for the user and the exit code.
pub async fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    let console = Console { json: cli.json };
    let file = cli.config.as_deref();
    if let Command::Run(run) = cli.command {
        let (loaded, invalid) = config::load_degraded(file, config::environment());
        let invalid = invalid.or_else(|| loaded.require_source().err());
        return run::run(loaded.config, invalid, run).await;
    }
    if let Command::Install { dest } = &cli.command {
        return install::run(dest, console);
    }
    if let Command::Middleware = cli.command {
        return Ok(middleware::run(console));
    }
    if let Command::Completions { shell } = cli.command {
        return Ok(completions::run(shell, console));
    }
    let loaded = config::load(file, config::environment())?;
    if cli.command.needs_source(&loaded.config) {
        loaded.require_source()?;
    }
    match cli.command {
        Command::Config => Ok(config_command::run(&loaded, console)),
        command => with_config(command, &loaded.config, console).await,
    }
}

async fn with_config(command: Command, config: &Config, console: Console) -> Result<Exit, Failure> {
    use operator::Ask;
    let ask = |ask| operator::run(&config.state_dir, ask, None, console);
    let hold =
        async |ask, why: Option<String>| operator::run(&config.state_dir, ask, why.as_deref(), console).await;
    match command {
        Command::Run(_)
        | Command::Config
        | Command::Exec(_)
        | Command::Install { .. }
        | Command::Completions { .. }
        | Command::Middleware => unreachable!("dispatched before"),
        Command::Fetch(asked) => fetch::run(config, asked, console).await,
        Command::Publish(args) => publish::run(config, args, console).await,
        Command::Promote { id, create, said, wait } => {
            promote::run(config, id, create, &said, wait.asked(), console).await
        }
        Command::Rollback { id, to, if_current, said, wait } => {
            let back = rollback::Back { to: to.or(id), if_current };
            rollback::run(config, back, &said, wait.asked(), console).await
        }
        Command::Rollout(args) => rollout::run(config, args, console).await,
        Command::Fleet { name } => fleet::run(config, name, console).await,
        Command::History { name, limit } => history::run(config, name.as_deref(), limit, console).await,
        Command::Pointers => pointers::run(config, console).await,
        Command::Freeze { name, why, by } => {
            let note = Said { by, why: Some(why), ..Said::default() }.note();
            freeze::run(config, Some(&name), freeze::What::Moves, Some(note), console).await
        }
        Command::Unfreeze { name } => {
            freeze::run(config, Some(&name), freeze::What::Moves, None, console).await
        }
        Command::Doctor { init, config_only, files } => {
            let scope = match (init, config_only) {
                (true, _) => doctor::Scope::Init,
                (_, true) => doctor::Scope::ConfigOnly(files),
                (false, false) => doctor::Scope::Pod,
            };
            doctor::run(config, scope, console).await
        }
        Command::Releases => releases::run(config, console).await,
        Command::Diff { from, to, limit } => diff::run(config, (from, to), limit, console).await,
        Command::Prune { of_store, .. } if of_store.store => {
            prune_store::run(config, of_store, console).await
        }
        Command::Prune { dry_run, keep, .. } => {
            let keep = keep.map(|keep| usize::try_from(keep).unwrap_or(usize::MAX));
            prune::run(config, keep, dry_run, console).await
        }
        Command::VerifyTree { id } => verify_tree::run(config, id, console).await,
        Command::Keygen { role, out } => keygen::run(role, out, console),
        Command::Sign(args) => sign::run(config, args, console).await,
        Command::Verify(args) => verify::run(config, args, console).await,
        Command::Revoke(args) => revoke::run(config, args, console).await,
        Command::Status => status::run(&config.state_dir, console).await,
        Command::Sync { retry } => ask(Ask::Sync { retry }).await,
        Command::Pause { fleet: true, why, by } => {
            let note = Said { by, why, ..Said::default() }.note();
            freeze::run(config, None, freeze::What::Deploys, Some(note), console).await
        }
        Command::Resume { fleet: true } => {
            freeze::run(config, None, freeze::What::Deploys, None, console).await
        }
        Command::Pause { why, .. } => hold(Ask::Pause, why).await,
        Command::Resume { .. } => ask(Ask::Resume).await,
        Command::Drain => drain::run(&config.state_dir, config.drain.min, console).await,
        Command::Undrain => ask(Ask::Undrain).await,
        Command::Revert { why } => hold(Ask::Revert, why).await,
    }
}
