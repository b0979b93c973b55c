//! The token that guards /prestop and the read endpoints.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::http::{HeaderMap, header::AUTHORIZATION};
use base64::{Engine, prelude::BASE64_STANDARD};
use subtle::ConstantTimeEq;

use crate::plain_file;

/// A secret's mount is memory; one that takes longer hangs.
const READ_LIMIT: Duration = Duration::from_secs(1);
const LARGEST_BYTES: u64 = 64 * 1024;

/// Who may ask: everybody, or who sends `Authorization: Bearer` with the content of a file. The file
/// is read at each request, so that a rotated secret holds at once; the last content stands in when
/// it cannot be read.
#[derive(Clone)]
pub struct Token {
    file: Option<PathBuf>,
    last: Arc<Mutex<Option<String>>>,
    reading: Arc<tokio::sync::Mutex<()>>,
}

impl Token {
    /// Guards by the content of the file; without one everybody may ask.
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, last: Arc::default(), reading: Arc::default() }
    }

    /// There is one: who is admitted has shown it.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.file.is_some()
    }

    /// Whether a request with these headers may be answered.
    pub(crate) async fn admits(&self, headers: &HeaderMap) -> bool {
        self.is(sent(headers)).await
    }

    /// The same for what only shows something to a person: a browser can send the token as a password. It sends that
    /// by itself to each address of the agent, also because of somebody else's page: so nothing else takes it.
    pub(crate) async fn admits_browser(&self, headers: &HeaderMap) -> bool {
        let password = password(headers);
        self.is(password.as_deref().or(sent(headers))).await
    }

    async fn is(&self, sent: Option<&str>) -> bool {
        let Some(file) = &self.file else { return true };
        let read = tokio::time::timeout(READ_LIMIT, self.read(file.clone())).await;
        let token = match read {
            Ok(Ok(text)) => self.remember(text.trim()),
            Ok(Err(error)) => {
                tracing::error!(path = %file.display(), %error, "token_file cannot be read");
                self.last()
            }
            Err(_) => self.last(),
        };
        matches!((token, sent), (Some(token), Some(sent)) if same(&token, sent))
    }

    /// One at a time, so that a mount that hangs takes one thread and not all.
    async fn read(&self, file: PathBuf) -> io::Result<String> {
        let one = self.reading.clone().lock_owned().await;
        let read = move || {
            let _one = one;
            plain_file::read_to_string(&file, LARGEST_BYTES)
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }

    fn remember(&self, token: &str) -> Option<String> {
        // An empty file is a mistake, not a token that everybody has.
        let token = (!token.is_empty()).then(|| token.to_owned());
        self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone_from(&token);
        token
    }

    fn last(&self) -> Option<String> {
        self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

/// The name of the scheme is the same in any case (RFC 9110).
fn sent(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Of `Authorization: Basic`; the user may be any.
fn password(headers: &HeaderMap) -> Option<String> {
    let (scheme, both) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let both = scheme.eq_ignore_ascii_case("basic").then(|| BASE64_STANDARD.decode(both.trim()).ok())??;
    let both = String::from_utf8(both).ok()?;
    both.split_once(':').map(|(_, password)| password.to_owned())
}

/// The time it takes tells nothing about the token but its length.
fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

impl fmt::Debug for Token {
    /// Never shows the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("file", &self.file).finish_non_exhaustive()
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// What a request brings to be let in.
    pub(crate) fn credentials(bytes: &[u8]) {
        let Ok(value) = axum::http::HeaderValue::from_bytes(bytes) else { return };
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        let _ = (sent(&headers), password(&headers));
    }
}
