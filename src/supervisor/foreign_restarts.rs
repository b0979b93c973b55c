//! What others do to the app server: said in the log, and for a while on /status.

use std::time::SystemTime;

use crate::{
    core::{Mode, Moment, Notice},
    finding::{Code, Finding},
    telemetry::word,
};

/// For how long a restart by others stands on /status: whoever is called because of it still sees it.
const SHOWN_MS: u64 = 3_600_000;

/// The last restart by others.
#[derive(Default)]
pub(crate) struct ForeignRestarts {
    last: Option<(Moment, Finding)>,
    count: u64,
}

impl ForeignRestarts {
    pub(crate) fn take(&mut self, now: Moment, notice: Notice) {
        let finding = match notice {
            Notice::RestartedByOthers { mode, amid_ours } => {
                self.count += 1;
                tracing::warn!(
                    mode = word(mode),
                    amid_ours,
                    count = self.count,
                    "the app server was restarted, but not by pitstop; verifying again what it runs"
                );
                restarted(mode, amid_ours, self.count)
            }
            Notice::MasterEnded => {
                tracing::warn!(
                    "the app server's master ended after workers of the release had booted; the release is not rejected \
                     and will be verified again when the container has restarted"
                );
                ended()
            }
            Notice::StepTimedOut { requests, wanted } => {
                tracing::warn!(
                    requests,
                    wanted,
                    "the second server has not served enough requests by restart.shift_timeout: the next step comes all the same"
                );
                return;
            }
        };
        self.last = Some((now, finding));
    }

    pub(crate) fn finding(&self, now: Moment) -> Option<Finding> {
        self.last.as_ref().filter(|(at, _)| now.since(*at) < SHOWN_MS).map(|(_, finding)| finding.clone())
    }
}

fn just_now() -> impl std::fmt::Display {
    humantime::format_rfc3339_seconds(SystemTime::now())
}

fn restarted(mode: Mode, amid_ours: bool, count: u64) -> Finding {
    let (how, when) = (word(mode), just_now());
    let amid = if amid_ours { ", during a deploy" } else { "" };
    let message = format!(
        "the app server was restarted at {when}{amid}, but not by pitstop (a {how} restart; {count} since the agent \
         started). What it runs was verified again. The restart may have cut requests"
    );
    let remedy = "let pitstop do the restarts (`pitstop promote`); look for pumactl, the tmp_restart plugin, or a script that sends signals";
    Finding::note(Code::RestartedByOthers, message, remedy)
}

fn ended() -> Finding {
    let when = just_now();
    let message = format!(
        "the app server's master ended at {when}, during a deploy and after workers of the release had booted. A plugin, \
         a person or the OOM killer may have ended it. The release was not rejected"
    );
    let remedy = "read the log of the app's container at that time; a plugin that stops Puma logs it there";
    Finding::note(Code::MasterEnded, message, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_by_others_is_shown_for_an_hour() {
        let mut restarts = ForeignRestarts::default();
        assert_eq!(restarts.finding(Moment(0)), None);
        restarts.take(Moment(5), Notice::RestartedByOthers { mode: Mode::Phased, amid_ours: false });
        restarts.take(Moment(9), Notice::RestartedByOthers { mode: Mode::Hot, amid_ours: true });
        let found = restarts.finding(Moment(SHOWN_MS)).expect("it is shown");
        for part in ["restarted at 2", "during a deploy", "but not by pitstop", "a hot restart", "2 since"] {
            assert!(found.message.contains(part), "{part:?} is missing in {}", found.message);
        }
        assert_eq!(restarts.finding(Moment(SHOWN_MS + 9)), None);
        restarts.take(Moment(10), Notice::MasterEnded);
        assert_eq!(restarts.finding(Moment(11)).unwrap().code, Code::MasterEnded);
    }
}
