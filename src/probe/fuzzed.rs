//! Bytes at random for what is read of an app's answer.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::{Prober, beginning, field, named_process};
use crate::{config::HealthUrl, core::ProcessKey, http_get};

/// An answer to a probe, from its first byte on.
pub(crate) fn answer(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let answered = runtime.block_on(async {
        let get = http_get::get(ours, "app", "/up", Duration::from_secs(5));
        let serve = async move {
            // Not before the question is there: else it is no answer.
            let mut asked = [0; 4096];
            let _ = tokio::io::AsyncReadExt::read(&mut theirs, &mut asked).await;
            let _ = theirs.write_all(bytes).await;
        };
        tokio::join!(get, serve).0
    });
    let Ok(answer) = answered else { return };
    let prober = Prober {
        url: HealthUrl::parse("http://127.0.0.1:3000/up").expect("an address"),
        headers: hyper::HeaderMap::new(),
        release_header: Some("x-release".into()),
        release_field: Some("build.0.release".into()),
        pid_field: Some("pid".into()),
        limit: Duration::from_secs(5),
    };
    let json: Option<serde_json::Value> = serde_json::from_slice(answer.body()).ok();
    let _ = prober.named_release(&answer, json.as_ref());
    assert!(beginning(answer.body()).is_none_or(|text| text.chars().count() <= super::SHOWN));
    if let Some(json) = &json {
        let _ = field(json, "a.0.b");
        let workers = [(7, ProcessKey(1))];
        assert!(named_process(json, "pid", &workers).is_none_or(|key| key == ProcessKey(1)));
    }
}
