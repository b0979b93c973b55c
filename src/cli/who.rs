//! Who asks for something that everybody sees later, and why: by flags, else by what CI systems say of themselves.

use std::time::{Duration, SystemTime};

use clap::Args;

use super::signing::Key;
use crate::revision::Note;

/// What somebody says of themselves is cut off after so many characters.
const CHARS_AT_MOST: usize = 500;

/// Who, and why.
#[derive(Debug, Clone, Default, Args)]
pub struct Said {
    /// Who does this, for the history; by default what the CI system says, or user@host.
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
    /// The reason, for the history; by default the CI job's address.
    #[arg(long, value_name = "TEXT")]
    pub(crate) why: Option<String>,
    /// By which key?
    #[command(flatten)]
    pub(super) key: Key,
    /// How long the signature holds; 30 days when absent.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) expires: Option<Duration>,
}

impl Said {
    /// With what this process' environment adds, as of now.
    pub(super) fn note(&self) -> Note {
        let variable = |name: &str| std::env::var(name).ok();
        Note { at: Some(now()), ..self.with(variable, user_at_host) }
    }

    fn with(&self, variable: impl Fn(&str) -> Option<String>, user: impl Fn() -> String) -> Note {
        let variable = |name: &str| variable(name).and_then(|text| short(&text));
        let ci = SYSTEMS.iter().find(|ci| variable(ci.mark).is_some());
        let person = ci.and_then(|ci| ci.person.iter().find_map(|name| variable(name)));
        let by = match (ci, person) {
            (Some(ci), Some(person)) => format!("{person} ({})", ci.name),
            (Some(ci), None) => ci.name.to_owned(),
            (None, _) => user(),
        };
        Note {
            by: Some(self.by.as_deref().and_then(short).unwrap_or(by)),
            why: self.why.as_deref().and_then(short).or_else(|| ci.and_then(|ci| (ci.job)(&variable))),
            at: None,
        }
    }
}

/// By this machine's clock (RFC 3339).
pub(super) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// The first line, and not too much of it.
fn short(text: &str) -> Option<String> {
    let line = text.trim().lines().next()?.trim();
    (!line.is_empty()).then(|| line.chars().take(CHARS_AT_MOST).collect())
}

/// A CI system, by the variables that its jobs have.
struct Ci {
    name: &'static str,
    /// Set in each of its jobs.
    mark: &'static str,
    /// Who began the job.
    person: &'static [&'static str],
    /// Where to read more.
    job: fn(&Variables<'_>) -> Option<String>,
}

type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

const SYSTEMS: [Ci; 5] = [
    Ci {
        name: "GitHub Actions",
        mark: "GITHUB_ACTIONS",
        person: &["GITHUB_TRIGGERING_ACTOR", "GITHUB_ACTOR"],
        job: |variable| {
            let [server, repository, run] =
                ["GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID"].map(variable);
            Some(format!("{}/{}/actions/runs/{}", server?, repository?, run?))
        },
    },
    Ci {
        name: "GitLab",
        mark: "GITLAB_CI",
        person: &["GITLAB_USER_LOGIN"],
        job: |variable| variable("CI_JOB_URL"),
    },
    Ci {
        name: "Buildkite",
        mark: "BUILDKITE",
        person: &["BUILDKITE_BUILD_CREATOR", "BUILDKITE_BUILD_CREATOR_EMAIL"],
        job: |variable| variable("BUILDKITE_BUILD_URL"),
    },
    Ci {
        name: "Jenkins",
        mark: "JENKINS_URL",
        person: &["BUILD_USER_ID", "BUILD_USER"],
        job: |variable| variable("BUILD_URL"),
    },
    Ci {
        name: "CircleCI",
        mark: "CIRCLECI",
        person: &["CIRCLE_USERNAME"],
        job: |variable| variable("CIRCLE_BUILD_URL"),
    },
];

/// Who runs this program, and where.
pub(super) fn user_at_host() -> String {
    let name = |variable| std::env::var(variable).ok().filter(|name| !name.is_empty());
    let user = name("SUDO_USER").or_else(|| name("USER"));
    let user = user.unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw()));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{user}@{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(said: &Said, variables: &[(&str, &str)]) -> String {
        let of =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
        said.with(of, || "ann@laptop".into()).to_string()
    }

    #[test]
    fn who_moves_is_told_by_the_usual_variables_of_ci_systems() {
        let said = Said::default();
        let github = [
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_ACTOR", "octocat"),
            ("GITHUB_SERVER_URL", "https://github.com"),
            ("GITHUB_REPOSITORY", "acme/shop"),
            ("GITHUB_RUN_ID", "7"),
        ];
        let told = "by octocat (GitHub Actions): https://github.com/acme/shop/actions/runs/7";
        assert_eq!(note(&said, &github), told);
        assert_eq!(note(&said, &github[..1]), "by GitHub Actions");
        for (mark, person, job, name) in [
            ("GITLAB_CI", "GITLAB_USER_LOGIN", "CI_JOB_URL", "GitLab"),
            ("BUILDKITE", "BUILDKITE_BUILD_CREATOR_EMAIL", "BUILDKITE_BUILD_URL", "Buildkite"),
            ("JENKINS_URL", "BUILD_USER_ID", "BUILD_URL", "Jenkins"),
            ("CIRCLECI", "CIRCLE_USERNAME", "CIRCLE_BUILD_URL", "CircleCI"),
        ] {
            let variables = [(mark, "true"), (person, "bob"), (job, "https://ci.example/7")];
            assert_eq!(note(&said, &variables), format!("by bob ({name}): https://ci.example/7"));
        }
    }

    #[test]
    fn flags_come_before_variables_and_a_person_without_either_is_user_at_host() {
        let said = Said { by: Some("bot".into()), why: Some(" fix 12\nmore".into()), ..Said::default() };
        assert_eq!(note(&said, &[("GITHUB_ACTIONS", "true"), ("GITHUB_ACTOR", "octocat")]), "by bot: fix 12");
        assert_eq!(note(&Said::default(), &[("GITHUB_ACTIONS", "")]), "by ann@laptop");
        let long = Said { why: Some("x".repeat(9_000)), ..Said::default() };
        assert_eq!(note(&long, &[]).len(), "by ann@laptop: ".len() + CHARS_AT_MOST);
    }
}
