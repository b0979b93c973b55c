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
pub struct Others {
    last: Option<(Moment, Finding)>,
    count: u64,
}

impl Others {
    pub fn take(&mut self, now: Moment, notice: Notice) {
        let Notice::RestartedByOthers { mode, amid_ours } = notice;
        self.count += 1;
        tracing::warn!(
            mode = word(mode),
            amid_ours,
            count = self.count,
            "the app server was restarted, and not by pitstop; what it runs is proved anew"
        );
        self.last = Some((now, finding(mode, amid_ours, self.count)));
    }

    pub fn finding(&self, now: Moment) -> Option<Finding> {
        self.last.as_ref().filter(|(at, _)| now.since(*at) < SHOWN_MS).map(|(_, finding)| finding.clone())
    }
}

fn finding(mode: Mode, amid_ours: bool, count: u64) -> Finding {
    let how = match mode {
        Mode::Hot => "a hot restart",
        Mode::Phased => "a phased restart",
    };
    let when = humantime::format_rfc3339_seconds(SystemTime::now());
    let amid = if amid_ours { " in the middle of one of pitstop's" } else { "" };
    let message = format!(
        "somebody else restarted the app server ({how}, at {when}{amid}; {count} since the agent started): what it \
         runs was proved anew, and requests may have been cut that pitstop would have waited for"
    );
    let remedy = "leave restarts to pitstop (`pitstop promote`); look for pumactl, the tmp_restart plugin, or a signal";
    Finding::note(Code::RestartedByOthers, message, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_by_others_is_shown_for_an_hour() {
        let mut others = Others::default();
        assert_eq!(others.finding(Moment(0)), None);
        others.take(Moment(5), Notice::RestartedByOthers { mode: Mode::Phased, amid_ours: false });
        others.take(Moment(9), Notice::RestartedByOthers { mode: Mode::Hot, amid_ours: true });
        let found = others.finding(Moment(SHOWN_MS)).expect("it is shown");
        for part in ["a hot restart", "in the middle of one of pitstop's", "2 since"] {
            assert!(found.message.contains(part), "{part:?} is missing in {}", found.message);
        }
        assert_eq!(others.finding(Moment(SHOWN_MS + 9)), None);
    }
}
