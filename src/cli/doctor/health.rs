//! The app's health path: does it answer now, and as the release that runs?

use crate::{
    config::Verify,
    finding::{Check, Code, Finding},
    probe::{Answer, Prober},
    revision::ReleaseId,
};

const ABOUT: &str = "health path";

/// Asks once. That none is set is the configuration's to say.
pub async fn checks(section: &Verify, running: Option<&ReleaseId>) -> Option<Check> {
    let url = section.url.as_deref()?;
    let prober = match Prober::new(url, section.release_header.clone(), section.timeout) {
        Ok(prober) => prober,
        Err(error) => return Some(Check::unknown(ABOUT, error.to_string())),
    };
    Some(match prober.answer().await {
        Err(why) => fails(url, &format!("does not answer: {why}")),
        Ok(answer) if !answer.status.is_success() => fails(url, &format!("answers {}", answer.status)),
        Ok(answer) => named(section, &answer, running),
    })
}

fn fails(url: &str, how: &str) -> Check {
    Check::found(
        ABOUT,
        Finding::risky(
            Code::HealthPathFails,
            format!(
                "{url} {how}: what fails before a deploy proves nothing after it, so that bad releases are \
                 taken for good as long as they boot"
            ),
            "make verify.url answer 2xx, as this pod reaches the app itself (http://127.0.0.1:3000/up)",
        ),
    )
}

fn named(section: &Verify, answer: &Answer, running: Option<&ReleaseId>) -> Check {
    let Some(header) = &section.release_header else {
        return Check::fine(ABOUT, format!("answers {}", answer.status));
    };
    let wrong = match (&answer.release, running) {
        (Some(named), Some(running)) if named != running.as_str() => {
            format!("says {named:?}, where {running} runs")
        }
        (Some(named), _) => {
            return Check::fine(ABOUT, format!("answers {}, and {header} says {named}", answer.status));
        }
        (None, _) => "is not in the answer".to_owned(),
    };
    let message = format!("{header} {wrong}: every deploy would be undone as release_mismatch");
    let remedy = "let the app name its release (the name of its directory) in that header, or unset verify.release_header";
    Check::found(ABOUT, Finding::broken(Code::ReleaseHeaderWrong, message, remedy))
}
