//! All checks, as they are printed.

use std::fmt;

use serde::Serialize;

use crate::finding::{Check, Finding, Outcome, Severity};

/// What was found, what is fine, what could not be told.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The worst first.
    findings: Vec<Finding>,
    fine: Vec<Line>,
    unknown: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    about: &'static str,
    message: String,
}

impl Report {
    /// Sorts the checks; within a kind they keep their order.
    pub(crate) fn of(checks: Vec<Check>) -> Self {
        let mut report = Self { findings: Vec::new(), fine: Vec::new(), unknown: Vec::new() };
        for Check { about, outcome } in checks {
            match outcome {
                Outcome::Found(finding) => report.findings.push(finding),
                Outcome::Fine(message) => report.fine.push(Line { about, message }),
                Outcome::Unknown(message) => report.unknown.push(Line { about, message }),
            }
        }
        report.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        report
    }

    /// Whether a promise does not hold.
    pub(crate) fn is_broken(&self) -> bool {
        self.count(Severity::Broken) > 0
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { code, severity, message, fix } in &self.findings {
            let severity = severity.word();
            writeln!(f, "{severity:<7} {code}: {message}\n        fix: {fix}")?;
        }
        for (kind, lines) in [("fine", &self.fine), ("unknown", &self.unknown)] {
            for Line { about, message } in lines {
                writeln!(f, "{kind:<7} {about}: {message}")?;
            }
        }
        let count = |severity| self.count(severity);
        write!(
            f,
            "{} broken, {} risky, {} note{}, {} fine, {} unknown",
            count(Severity::Broken),
            count(Severity::Risky),
            count(Severity::Note),
            if count(Severity::Note) == 1 { "" } else { "s" },
            self.fine.len(),
            self.unknown.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Code;

    fn report() -> Report {
        Report::of(vec![
            Check::fine("Puma", "5.6.5 found: pid 17"),
            Check::found("restarts", Finding::note(Code::PhasedRestartUnavailable, "one worker", "run two")),
            Check::unknown("store", "left out"),
            Check::found("Puma", Finding::broken(Code::NotFromCurrent, "runs elsewhere", "start it there")),
        ])
    }

    #[test]
    fn for_people_the_worst_comes_first_and_the_fine_is_said_too() {
        assert!(report().is_broken());
        insta::assert_snapshot!(report(), @r"
        broken  NOT_FROM_CURRENT: runs elsewhere
                fix: start it there
        note    PHASED_RESTART_UNAVAILABLE: one worker
                fix: run two
        fine    Puma: 5.6.5 found: pid 17
        unknown store: left out
        1 broken, 0 risky, 1 note, 1 fine, 1 unknown
        ");
    }

    #[test]
    fn for_programs_a_finding_is_what_status_shows() {
        insta::assert_json_snapshot!(report(), @r#"
        {
          "findings": [
            {
              "code": "NOT_FROM_CURRENT",
              "severity": "broken",
              "message": "runs elsewhere",
              "fix": "start it there",
              "remedy": "start it there"
            },
            {
              "code": "PHASED_RESTART_UNAVAILABLE",
              "severity": "note",
              "message": "one worker",
              "fix": "run two",
              "remedy": "run two"
            }
          ],
          "fine": [
            {
              "about": "Puma",
              "message": "5.6.5 found: pid 17"
            }
          ],
          "unknown": [
            {
              "about": "store",
              "message": "left out"
            }
          ]
        }
        "#);
    }
}
