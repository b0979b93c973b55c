//! Asking the app itself: is it healthy, and which release is it?

use std::time::Duration;

use hyper::{StatusCode, Uri};
use tokio::{net::TcpStream, time::Instant};

use crate::{core::Probe, http_get, revision::ReleaseId};

/// Why a URL cannot be probed.
#[derive(Debug, thiserror::Error)]
#[error("verify.url {url:?}: {why}")]
pub struct InvalidUrl {
    url: String,
    why: String,
}

/// The app's health path.
#[derive(Debug, Clone)]
pub struct Prober {
    host: String,
    address: String,
    path: String,
    release_header: Option<String>,
    limit: Duration,
}

/// What the app said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How.
    pub status: StatusCode,
    /// What the header for the release says, where one is asked for and there.
    pub release: Option<String>,
}

impl Prober {
    /// Will ask `url`, by plain HTTP, with `limit` for connection and answer together. Where
    /// `release_header` is given, the answer's header of this name must be the release meant.
    ///
    /// # Errors
    /// When the URL is no `http://` one.
    pub fn new(url: &str, release_header: Option<String>, limit: Duration) -> Result<Self, InvalidUrl> {
        let invalid = |why: &str| InvalidUrl { url: url.to_owned(), why: why.to_owned() };
        let uri: Uri = url.parse().map_err(|e: hyper::http::uri::InvalidUri| invalid(&e.to_string()))?;
        if uri.scheme_str() != Some("http") {
            return Err(invalid("must begin with http://, as this pod reaches the app itself"));
        }
        let host = uri.authority().ok_or_else(|| invalid("names no host"))?.to_string();
        let name = uri.host().unwrap_or_default();
        let address = format!("{name}:{}", uri.port_u16().unwrap_or(80));
        let path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        Ok(Self { host, address, path, release_header, limit })
    }

    /// Asks once. With a release and a header to compare, the app must name it.
    ///
    /// Healthy is any 2xx, as Rails' own `/up` answers; a redirect may lead anywhere and proves nothing.
    pub async fn probe(&self, release: Option<&ReleaseId>) -> Probe {
        match self.answer().await {
            Ok(answer) if answer.status.is_success() => self.compare(&answer, release),
            _ => Probe::Unhealthy,
        }
    }

    /// Asks once, for who wants to know more than whether it is healthy.
    ///
    /// # Errors
    /// Why there was no answer, in words.
    pub async fn answer(&self) -> Result<Answer, String> {
        let begun = Instant::now();
        let connected = tokio::time::timeout(self.limit, TcpStream::connect(&self.address)).await;
        let late = |_| format!("no connection within {:?}", self.limit);
        let stream = connected.map_err(late)?.map_err(|error| error.to_string())?;
        let left = self.limit.saturating_sub(begun.elapsed());
        let answer = http_get::get(stream, &self.host, &self.path, left).await.map_err(|e| e.to_string())?;
        let header = self.release_header.as_ref().and_then(|header| answer.headers().get(header));
        let release = header.and_then(|value| value.to_str().ok()).map(|text| text.trim().to_owned());
        Ok(Answer { status: answer.status(), release })
    }

    fn compare(&self, answer: &Answer, release: Option<&ReleaseId>) -> Probe {
        let (Some(_), Some(release)) = (&self.release_header, release) else { return Probe::Healthy };
        if answer.release.as_deref() == Some(release.as_str()) { Probe::Healthy } else { Probe::OtherRelease }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::StatusCode, routing::get};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    async fn app() -> String {
        let app = Router::new()
            .route("/up", get(async || [("x-release", "v2")]))
            .route("/anonymous", get(async || StatusCode::NO_CONTENT))
            .route("/broken", get(async || StatusCode::INTERNAL_SERVER_ERROR))
            .route("/moved", get(async || (StatusCode::FOUND, [("location", "/up")])))
            .route("/hangs", get(async || std::future::pending::<()>().await));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}")
    }

    async fn ask(path: &str, header: Option<&str>, release: &str, limit: Duration) -> Probe {
        let url = format!("{}{path}", app().await);
        let prober = Prober::new(&url, header.map(Into::into), limit).unwrap();
        prober.probe(Some(&release.parse().unwrap())).await
    }

    #[tokio::test]
    async fn only_a_2xx_is_healthy() {
        for (path, expected) in [
            ("/up", Probe::Healthy),
            ("/anonymous", Probe::Healthy),
            ("/broken", Probe::Unhealthy),
            ("/moved", Probe::Unhealthy),
            ("/absent", Probe::Unhealthy),
        ] {
            assert_eq!(ask(path, None, "v2", LIMIT).await, expected, "{path}");
        }
    }

    #[tokio::test]
    async fn the_header_must_name_the_release() {
        for (path, release, expected) in [
            ("/up", "v2", Probe::Healthy),
            ("/up", "v1", Probe::OtherRelease),
            ("/anonymous", "v2", Probe::OtherRelease),
            ("/broken", "v2", Probe::Unhealthy),
        ] {
            assert_eq!(ask(path, Some("X-Release"), release, LIMIT).await, expected, "{path} as {release}");
        }
    }

    #[tokio::test]
    async fn no_answer_is_unhealthy() {
        assert_eq!(ask("/hangs", None, "v2", Duration::from_millis(50)).await, Probe::Unhealthy);
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let nobody = Prober::new(&format!("http://{free}/up"), None, LIMIT).unwrap();
        assert_eq!(nobody.probe(None).await, Probe::Unhealthy);
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_the_reason() {
        for (url, why) in [("https://localhost/up", "http://"), ("/up", "http://"), ("http://", "verify.url")]
        {
            let error = Prober::new(url, None, LIMIT).unwrap_err().to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }
}
