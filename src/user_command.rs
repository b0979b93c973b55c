//! A command line of the user's: run by a shell in a process group of its own, with a limit, and the end of
//! what it says kept for people.

use std::{
    io::{self, PipeReader},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use humantime::format_duration as show;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process_group, prlimit, waitid,
};
use tokio::sync::oneshot;

mod output;

use crate::procs::memory::RETURN_FREED;
use output::{Output, shown};

/// What runs them.
pub(crate) const SHELL: &str = "/bin/sh";

/// What gives the agent its rights: no business of the app's.
const SECRETS: [&str; 9] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];

/// Why it has not done what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    /// There is no shell here, no such directory, or no process left.
    #[error("{key} cannot be run: {why}")]
    NotRun {
        /// The key that it was given in.
        key: &'static str,
        /// What the system said.
        why: String,
    },
    /// It ended otherwise than with 0.
    #[error("{key} ended with {}{}", how(*.status), shown(.said))]
    Failed {
        /// The key that it was given in.
        key: &'static str,
        /// Its exit code, or its signal.
        status: ExitStatus,
        /// The end of what it said.
        said: String,
    },
    /// It took longer than it may, and was ended with all that it had started.
    #[error("{key} took longer than {} and was ended{}", show(*.limit), shown(.said))]
    TooLong {
        /// The key that it was given in.
        key: &'static str,
        /// How long it may take.
        limit: Duration,
        /// The end of what it said.
        said: String,
    },
    /// Nobody wants to know any more: it was ended with all that it had started.
    #[error("{key} was called off")]
    CalledOff {
        /// The key that it was given in.
        key: &'static str,
    },
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}

/// What becomes of processes that a command leaves running when it ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leftovers {
    /// They go on: a server was started, for instance.
    GoOn,
    /// They end with it.
    End,
}

/// A command line, and how long it may take.
#[derive(Debug, Clone)]
pub(crate) struct UserCommand {
    /// The key that it was given in.
    pub(crate) key: &'static str,
    pub(crate) line: String,
    /// It is ended after that.
    pub(crate) limit: Duration,
}

impl UserCommand {
    /// Whether there is a shell to run it.
    pub(crate) fn can_run() -> bool {
        Path::new(SHELL).exists()
    }

    /// Runs it in this directory, with these variables besides the agent's own; the keys of the agent and its
    /// credentials are left out. What it leaves running goes on; it is ended itself if nobody waits any longer. The
    /// variables are found out on the command's own thread, so they may read the volume.
    ///
    /// # Errors
    /// [`CommandError`]: anything but the exit code 0, in time.
    pub(crate) async fn run(
        &self,
        dir: &Path,
        variables: impl FnOnce() -> Vec<(&'static str, String)> + Send + 'static,
    ) -> Result<(), CommandError> {
        let key = self.key;
        let not_run = |why: String| CommandError::NotRun { key, why };
        let stop = Stop::default();
        let _ended = EndedWith(stop.clone());
        let (this, dir) = (self.clone(), dir.to_owned());
        let (reply, answer) = oneshot::channel();
        // A thread of its own: the directory may lie on a volume that hangs.
        let job = move || {
            let variables = variables();
            let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, &**value)).collect();
            let _ = reply.send(this.run_here(&dir, &variables, &stop, Leftovers::GoOn));
        };
        thread::Builder::new()
            .name("command".into())
            .spawn(job)
            .map_err(|error| not_run(error.to_string()))?;
        answer.await.unwrap_or_else(|_| Err(not_run("its thread panicked".into()))).map(drop)
    }

    /// The same, on this thread, until it has ended, its time is over or somebody stops it; and what it said.
    ///
    /// # Errors
    /// [`CommandError`]: anything but the exit code 0, in time.
    pub(crate) fn run_here(
        &self,
        dir: &Path,
        variables: &[(&str, &str)],
        stop: &Stop,
        leftovers: Leftovers,
    ) -> Result<String, CommandError> {
        let key = self.key;
        let not_run = |why: String| CommandError::NotRun { key, why };
        let (mut child, output) = self
            .start(dir, variables)
            .map_err(|error| not_run(format!("{SHELL} in {}: {error}", dir.display())))?;
        let group = Pid::from_child(&child);
        stop.locked().group = Some(group);
        let mut output = Output::of(output, group);
        let ended = self.watch(group, &mut output, stop);
        let mut state = stop.locked();
        if leftovers == Leftovers::End || ended != Ended::ByItself {
            end(group);
        }
        state.group = None;
        drop(state);
        let status = child.wait();
        let said = output.text();
        match (ended, status) {
            (Ended::CalledOff, _) => Err(CommandError::CalledOff { key }),
            (Ended::TimedOut, _) => Err(CommandError::TooLong { key, limit: self.limit, said }),
            (Ended::ByItself, Ok(status)) if status.success() => Ok(said),
            (Ended::ByItself, Ok(status)) => Err(CommandError::Failed { key, status, said }),
            (Ended::ByItself, Err(error)) => Err(not_run(format!("lost track of it: {error}"))),
        }
    }

    fn start(&self, dir: &Path, variables: &[(&str, &str)]) -> io::Result<(Child, PipeReader)> {
        let (output, input) = io::pipe()?;
        rustix::io::ioctl_fionbio(&output, true)?;
        let mut command = Command::new(SHELL);
        command.arg("-c").arg(&self.line).current_dir(dir).env("PWD", dir).process_group(0);
        command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
        let ours = std::env::vars_os().map(|(name, _)| name);
        for name in ours.filter(|name| is_ours(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        let (name, value) = RETURN_FREED;
        if std::env::var_os(name).is_some_and(|set| set == value) {
            command.env_remove(name);
        }
        let child = command.envs(variables.iter().copied()).spawn()?;
        unlimited(Pid::from_child(&child));
        Ok((child, output))
    }

    /// Waits without reaping: as long as it is not reaped, its number is nobody else's.
    fn watch(&self, group: Pid, output: &mut Output, stop: &Stop) -> Ended {
        let begun = Instant::now();
        loop {
            output.wait();
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            let over = !matches!(waitid(WaitId::Pid(group), options), Ok(None));
            // First: who stops it kills at once.
            if stop.is_called() {
                return Ended::CalledOff;
            }
            if over {
                return Ended::ByItself;
            }
            if begun.elapsed() >= self.limit {
                return Ended::TimedOut;
            }
        }
    }
}

/// The limit of the agent's own memory is not for what the user runs.
fn unlimited(process: Pid) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Data);
    let _ = prlimit(Some(process), Resource::Data, Rlimit { current: maximum, maximum });
}

/// Of our environment, what the app must not see or might mistake for its own.
fn is_ours(name: &str) -> bool {
    name.starts_with("PITSTOP_") || SECRETS.contains(&name)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    ByItself,
    CalledOff,
    TimedOut,
}

/// By which one run can be stopped from elsewhere.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<Mutex<Run>>);

#[derive(Debug, Default)]
struct Run {
    called: bool,
    /// The group that runs; its first process is not waited for yet, so that the number is still its own.
    group: Option<Pid>,
}

impl Stop {
    /// Ends the run with all that it has started, or before it begins. Does not wait.
    pub(crate) fn now(&self) {
        let mut run = self.locked();
        run.called = true;
        run.group.into_iter().for_each(end);
    }

    /// Whether somebody has stopped it.
    pub(crate) fn is_called(&self) -> bool {
        self.locked().called
    }

    fn locked(&self) -> MutexGuard<'_, Run> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run that ends when nobody waits for it any longer.
struct EndedWith(Stop);

impl Drop for EndedWith {
    fn drop(&mut self) {
        self.0.now();
    }
}

/// It can only be gone already.
fn end(group: Pid) {
    let _ = kill_process_group(group, Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str, limit: Duration) -> UserCommand {
        UserCommand { key: "command.restart", line: line.into(), limit }
    }

    async fn run(line: &str) -> Result<(), CommandError> {
        command(line, Duration::from_secs(60)).run(Path::new("/"), || vec![("RELEASE", "v2".into())]).await
    }

    async fn until_gone(pid: i32) {
        for _ in 0..500 {
            if !crate::procs::ProcessId::of(pid).is_ok_and(crate::procs::ProcessId::lives) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{pid} is still there");
    }

    fn pid_in(file: &Path) -> Option<i32> {
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    }

    #[tokio::test]
    async fn only_the_exit_code_0_is_success_and_the_message_says_what_it_said() {
        assert_eq!(run("test \"$RELEASE\" = v2 && test \"$PWD\" = /").await, Ok(()));
        let error = run("echo looked; echo 'no such app' >&2; exit 3").await.unwrap_err().to_string();
        assert_eq!(error, "command.restart ended with exit code 3: looked | no such app");
    }

    #[tokio::test]
    async fn what_it_leaves_running_goes_on_and_is_not_waited_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        let line = format!("sh -c 'sleep 0.3; echo served > {path}' & exit 0");
        run(&line).await.unwrap();
        for _ in 0..500 {
            if std::fs::read_to_string(file.path()).unwrap() == "served\n" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it was ended with the command");
    }

    #[tokio::test]
    async fn what_takes_too_long_is_ended_with_all_that_it_started() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = format!("sleep 600 & echo $! > {}; wait", file.path().display());
        let error =
            command(&line, Duration::from_millis(300)).run(Path::new("/"), Vec::new).await.unwrap_err();
        assert_eq!(error.to_string(), "command.restart took longer than 300ms and was ended");
        until_gone(pid_in(file.path()).unwrap()).await;
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_longer_is_ended() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = format!("sleep 600 & echo $! > {}; wait", file.path().display());
        let pid = {
            let running = run(&line);
            tokio::pin!(running);
            loop {
                let _ = tokio::time::timeout(Duration::from_millis(20), &mut running).await;
                if let Some(pid) = pid_in(file.path()) {
                    break pid;
                }
            }
        };
        until_gone(pid).await;
    }

    #[test]
    fn what_the_agent_may_is_not_for_the_app() {
        for name in ["PITSTOP_PUMA_CONTROL_TOKEN", "PITSTOP_TOKEN_FILE", "AWS_SECRET_ACCESS_KEY"] {
            assert!(is_ours(name), "{name}");
        }
        for name in ["RAILS_ENV", "DATABASE_URL", "AWS_REGION", "PATH"] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
