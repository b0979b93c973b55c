//! The app's health path: does it answer now, and as the release that runs?

use crate::{
    config::Verify,
    finding::{Check, Code, Finding},
    probe::{Answer, Prober},
    revision::ReleaseId,
};

const ABOUT: &str = "health path";

const REACH: &str =
    "make verify.url answer 2xx at the app's address inside the pod (http://127.0.0.1:3000/up)";

/// Rails' `config.hosts` answers 403, a server with several sites 404 or 421.
const OWN_HOST: &str = "if the app accepts only its own host name, set it in verify.headers (`Host: \
                        shop.example.com`); otherwise use a path in verify.url that answers 2xx";

/// Rails 7.2 generates `force_ssl` alone.
const NO_REDIRECT: &str = "in Rails, where TLS ends in front of the pod: config.assume_ssl = true beside \
                           config.force_ssl, or verify.headers: [\"X-Forwarded-Proto: https\"]; otherwise set \
                           verify.url to the target of the redirect";

/// Asks once. That none is set is the configuration's to say.
pub(crate) async fn checks(section: &Verify, running: Option<&ReleaseId>) -> Option<Check> {
    let url = section.url.as_deref()?;
    let prober = match Prober::new(url, section) {
        Ok(prober) => prober,
        Err(error) => return Some(Check::unknown(ABOUT, error.to_string())),
    };
    Some(match prober.answer().await {
        Err(why) => fails(url, &format!("does not answer: {why}"), REACH),
        Ok(answer) if answer.status.is_redirection() => fails(
            url,
            &format!("answers {}; a redirect does not count as healthy", answer.status),
            NO_REDIRECT,
        ),
        Ok(answer) if answer.status.is_client_error() => {
            fails(url, &format!("answers {}", answer.status), OWN_HOST)
        }
        Ok(answer) if !answer.status.is_success() => fails(url, &format!("answers {}", answer.status), REACH),
        Ok(answer) => named(section, &answer, running),
    })
}

fn fails(url: &str, how: &str, remedy: &str) -> Check {
    Check::found(
        ABOUT,
        Finding::risky(
            Code::HealthPathFails,
            format!(
                "{url} {how}: a check that fails before a deploy proves nothing after it, so every release \
                 that boots counts as good"
            ),
            remedy,
        ),
    )
}

fn named(section: &Verify, answer: &Answer, running: Option<&ReleaseId>) -> Check {
    let Some(place) = section.names_release_in() else {
        return Check::fine(ABOUT, format!("answers {}", answer.status));
    };
    let wrong = match (&answer.release, running) {
        (Some(named), Some(running)) if named != running.as_str() => {
            format!("names \"{named}\", but {running} runs")
        }
        (Some(named), _) => {
            return Check::fine(ABOUT, format!("answers {}, and {place} names {named}", answer.status));
        }
        (None, _) => "is not in the answer".to_owned(),
    };
    let message = format!("{place} {wrong}: every deploy would be rolled back as release_mismatch");
    let remedy = "make the app return its release (its directory name) there, or remove verify.release_header \
                  and verify.release_field";
    Check::found(ABOUT, Finding::broken(Code::ReleaseHeaderWrong, message, remedy))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{Router, http::StatusCode, routing::get};

    use super::*;

    /// What is found where `/up` answers with this status.
    async fn found(status: StatusCode) -> Finding {
        let app = Router::new().route("/up", get(async move || status));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/up", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let section = Verify { url: Some(url), timeout: Duration::from_secs(5), ..Verify::default() };
        checks(&section, None).await.unwrap().finding().unwrap().clone()
    }

    #[tokio::test]
    async fn a_rails_that_redirects_to_https_is_told_the_line_that_mends_it() {
        let found = found(StatusCode::MOVED_PERMANENTLY).await;
        assert_eq!(found.code, Code::HealthPathFails);
        assert!(found.fix.contains("assume_ssl"), "{found:?}");
        assert!(found.fix.contains("X-Forwarded-Proto: https"), "{found:?}");
    }

    #[tokio::test]
    async fn an_app_that_answers_its_own_host_only_is_told_the_key_for_it() {
        let found = found(StatusCode::FORBIDDEN).await;
        assert!(found.message.contains("403") && found.fix.contains("verify.headers"), "{found:?}");
    }

    #[tokio::test]
    async fn another_status_is_none_of_tls() {
        let found = found(StatusCode::SERVICE_UNAVAILABLE).await;
        assert!(found.message.contains("503") && !found.fix.contains("ssl"), "{found:?}");
    }
}
