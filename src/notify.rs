//! Telling somebody when a pod needs them: a move that it rejected, a pod that cannot go back, a drain that ended at its
//! deadline. A notification is posted by a task of its own and tried again later; nothing waits for it.
//!
//! ```text
//! json    {"v":1,"event","pod","app","pointer","release","sequence","reason","message","at"}, signed where there is a secret
//! slack   {"text"}
//! ```

use std::{path::PathBuf, sync::Arc, time::Duration, time::SystemTime};

use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::{
    http::{HttpConnector, SharedHttpConnector},
    orchestrator::HttpRequest,
};
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    config::{self, NotifyFormat},
    core::drain::{Answer, DrainResult},
    plain_file,
    revision::{ReleaseId, Revision},
    status::{LastDeploy, Snapshot},
    store::{dir::hex, s3::http},
};

/// How long one post may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Pauses after a post that failed.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_secs(15), Duration::from_secs(60), Duration::from_secs(600)];
/// So many are under way at most; more than that tell nothing new.
const AT_ONCE: usize = 16;
/// Those under way hold up the agent's end no longer than this.
const FAREWELL: Duration = Duration::from_secs(1);
/// A key is some dozen bytes.
const SECRET_LIMIT_BYTES: u64 = 4096;
/// What Slack shows of a message.
const TEXT_CHARS: usize = 1000;
/// The signature: `sha256=` and the HMAC of the body in hexadecimal digits.
const SIGNATURE: &str = "x-pitstop-signature";

/// Whom it is about.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The pod, where it is about one.
    pub pod: Option<String>,
    /// What its app is called.
    pub app: Option<String>,
    /// What it follows.
    pub pointer: String,
}

/// Posts what happens to this pod.
pub struct Notifier {
    target: Arc<Target>,
    sender: Sender,
    snapshots: watch::Receiver<Arc<Snapshot>>,
}

/// One notification.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct News {
    v: u32,
    event: &'static str,
    pod: Option<String>,
    app: Option<String>,
    pointer: String,
    release: Option<ReleaseId>,
    sequence: Option<u64>,
    reason: Option<String>,
    message: String,
    at: String,
}

/// What was told already.
#[derive(Debug, Default, PartialEq)]
struct Told {
    deploy: Option<LastDeploy>,
    drain: Option<u64>,
}

impl Notifier {
    /// `None` where nobody is to be told.
    pub(crate) fn new(
        section: &config::Notify,
        sender: Sender,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> Option<Self> {
        Some(Self { target: Target::of(section)?.into(), sender, snapshots })
    }

    /// Until the agent ends.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let (mut told, mut posts) = (Told::default(), JoinSet::new());
        while !*stop.borrow_and_update() {
            while posts.try_join_next().is_some() {}
            let snapshot = self.snapshots.borrow_and_update().clone();
            for news in news(&mut told, &snapshot, &self.sender) {
                match posts.len() < AT_ONCE {
                    true => drop(posts.spawn(self.target.clone().tell(news))),
                    false => {
                        tracing::warn!("too many notifications wait to be delivered: this one is dropped")
                    }
                }
            }
            tokio::select! {
                changed = self.snapshots.changed() => if changed.is_err() { break },
                _ = stop.changed() => break,
            }
        }
        // What came last has not been looked at, perhaps.
        let snapshot = self.snapshots.borrow().clone();
        for news in news(&mut told, &snapshot, &self.sender) {
            posts.spawn(self.target.clone().tell(news));
        }
        let _ = tokio::time::timeout(FAREWELL, async { while posts.join_next().await.is_some() {} }).await;
    }
}

/// What is new in a snapshot and worth a notification.
fn news(told: &mut Told, snapshot: &Snapshot, sender: &Sender) -> Vec<News> {
    let drain = snapshot.answer.as_ref().filter(|answer| answer.result == DrainResult::Deadline);
    let now = Told {
        deploy: snapshot.last_deploy.clone(),
        drain: drain.map(|answer| answer.drain_id).or(told.drain),
    };
    let deploy = now.deploy.as_ref().filter(|_| now.deploy != told.deploy);
    let deploy = deploy.and_then(|deploy| of_deploy(deploy, snapshot, sender));
    let drain = drain.filter(|_| now.drain != told.drain).map(|answer| of_drain(answer, snapshot, sender));
    *told = now;
    deploy.into_iter().chain(drain).collect()
}

fn of_deploy(deploy: &LastDeploy, snapshot: &Snapshot, sender: &Sender) -> Option<News> {
    let (view, release) = (&snapshot.view, &deploy.revision);
    let rejected = view.rejected.iter().any(|(revision, _)| revision == release);
    let reason = deploy.reason.as_deref().unwrap_or("unknown");
    let runs = view.running.as_ref().map_or_else(String::new, |running| format!("; the pod runs {running}"));
    let (event, message) = match deploy.result.as_str() {
        "stranded" => (
            "stranded",
            format!("the deploy of {release} failed ({reason}) and there is no release to go back to"),
        ),
        "reverted" | "refused" if rejected => {
            ("rejected", format!("the deploy of {release} failed ({reason}) and is not tried again{runs}"))
        }
        _ => return None,
    };
    let news = News::of(event, message, sender);
    Some(News {
        release: Some(release.release.clone()),
        sequence: release.sequence,
        reason: deploy.reason.clone(),
        ..news
    })
}

fn of_drain(answer: &Answer, snapshot: &Snapshot, sender: &Sender) -> News {
    let message =
        format!("the drain ended at its deadline, with {} requests in flight", answer.requests_left);
    News { release: snapshot.view.running.clone(), ..News::of("drain_deadline", message, sender) }
}

impl News {
    fn of(event: &'static str, message: String, sender: &Sender) -> Self {
        let Sender { pod, app, pointer } = sender.clone();
        let at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self { v: 1, event, pod, app, pointer, release: None, sequence: None, reason: None, message, at }
    }

    fn text(&self) -> String {
        let app = self.app.as_ref().map(|app| format!("{app}: ")).unwrap_or_default();
        let pod = self.pod.as_ref().map(|pod| format!("pod {pod} of ")).unwrap_or_default();
        let text = format!("{app}{pod}{}: {}", self.pointer, self.message);
        // Slack reads these as links and commands.
        let plain = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        plain.chars().take(TEXT_CHARS).collect()
    }
}

/// Posts what a command does to a fleet.
pub(crate) struct Announcer {
    target: Option<Arc<Target>>,
    sender: Sender,
    posts: JoinSet<()>,
}

impl Announcer {
    /// To `url`, or to where the configuration says; to nobody where neither does.
    pub(crate) fn new(section: &config::Notify, url: Option<String>, sender: Sender) -> Self {
        let section = config::Notify { url: url.or_else(|| section.url.clone()), ..section.clone() };
        Self { target: Target::of(&section).map(Arc::new), sender, posts: JoinSet::new() }
    }

    /// Nothing waits for it.
    pub(crate) fn announce(
        &mut self,
        event: &'static str,
        revision: &Revision,
        reason: Option<&str>,
        message: String,
    ) {
        let Some(target) = self.target.clone() else { return };
        let news = News {
            release: Some(revision.release.clone()),
            sequence: revision.sequence,
            reason: reason.map(Into::into),
            ..News::of(event, message, &self.sender)
        };
        self.posts.spawn(target.tell(news));
    }

    /// Waits for those under way, and says what was not delivered.
    pub(crate) async fn finish(mut self, limit: Duration) {
        let all = async { while self.posts.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, all).await.is_err() {
            eprintln!("pitstop: a notification was not delivered; check notify.url");
        }
    }
}

/// Where to.
struct Target {
    url: String,
    format: NotifyFormat,
    secret_file: Option<PathBuf>,
    pauses: &'static [Duration],
    connector: SharedHttpConnector,
}

/// Why a post did not arrive.
#[derive(Debug, thiserror::Error)]
enum PostError {
    /// Another try may help.
    #[error("{0}")]
    Passing(String),
    /// It would not.
    #[error("{0}")]
    Lasting(String),
}

impl Target {
    fn of(section: &config::Notify) -> Option<Self> {
        let (url, format, secret_file) = (section.url.clone()?, section.format, section.secret_file.clone());
        Some(Self { url, format, secret_file, pauses: &PAUSES, connector: http::connector() })
    }

    /// The address is a secret: no message has it.
    async fn tell(self: Arc<Self>, news: News) {
        let event = news.event;
        for pause in self.pauses.iter().map(Some).chain([None]) {
            match (self.post(&news).await, pause) {
                (Ok(()), _) => return tracing::info!(event, "notification delivered"),
                (Err(PostError::Passing(_)), Some(pause)) => tokio::time::sleep(*pause).await,
                (Err(error), _) => {
                    return tracing::warn!(event, "notification not delivered: {error}; check notify.url");
                }
            }
        }
    }

    async fn post(&self, news: &News) -> Result<(), PostError> {
        let body = match self.format {
            NotifyFormat::Json => serde_json::to_vec(news),
            NotifyFormat::Slack => serde_json::to_vec(&serde_json::json!({ "text": news.text() })),
        };
        let body = body.map_err(|e| PostError::Lasting(e.to_string()))?;
        let signature = self.signature(&body)?;
        let mut request = HttpRequest::new(SdkBody::from(body));
        let invalid = || PostError::Lasting("the address is not valid".into());
        request.set_method("POST").map_err(|_| invalid())?;
        request.set_uri(self.url.as_str()).map_err(|_| invalid())?;
        request.headers_mut().insert("content-type", "application/json");
        request.headers_mut().insert("user-agent", concat!("pitstop/", env!("CARGO_PKG_VERSION")));
        if let Some(signature) = signature {
            request.headers_mut().insert(SIGNATURE, signature);
        }
        let answer = tokio::time::timeout(LIMIT, self.connector.call(request)).await;
        let answer = answer.map_err(|_| PostError::Passing(format!("no answer within {LIMIT:?}")))?;
        // Its own words may have the address in them.
        let answer = answer.map_err(|_| PostError::Passing("the connection failed".into()))?;
        match answer.status().as_u16() {
            200..300 => Ok(()),
            status @ (408 | 429 | 500..) => Err(PostError::Passing(format!("the answer was {status}"))),
            status => Err(PostError::Lasting(format!("the answer was {status}"))),
        }
    }

    fn signature(&self, body: &[u8]) -> Result<Option<String>, PostError> {
        let Some(file) = &self.secret_file else { return Ok(None) };
        let unreadable = |e| PostError::Passing(format!("notify.secret_file {}: {e}", file.display()));
        let secret = plain_file::read(file, SECRET_LIMIT_BYTES).map_err(unreadable)?;
        Ok(Some(format!("sha256={}", signed(secret.trim_ascii(), body))))
    }
}

/// HMAC-SHA256, in hexadecimal digits.
fn signed(secret: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key of any length");
    mac.update(body);
    hex(&mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests;
