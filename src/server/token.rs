//! The token that guards /prestop and the read endpoints.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::http::{HeaderMap, header::AUTHORIZATION};
use sha2::{Digest, Sha256};

/// A secret's mount is memory; one that takes longer hangs.
const READ_LIMIT: Duration = Duration::from_secs(1);

/// Who may ask: everybody, or who sends `Authorization: Bearer` with the content of a file. The file
/// is read at each request, so that a rotated secret holds at once; the last content stands in when
/// it cannot be read.
#[derive(Clone)]
pub struct Token {
    file: Option<PathBuf>,
    last: Arc<Mutex<Option<String>>>,
}

impl Token {
    /// Guards by the content of the file; without one everybody may ask.
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, last: Arc::default() }
    }

    /// There is one: who is admitted has shown it.
    pub fn is_asked_for(&self) -> bool {
        self.file.is_some()
    }

    /// Whether a request with these headers may be answered.
    pub async fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(file) = &self.file else { return true };
        let read = tokio::time::timeout(READ_LIMIT, tokio::fs::read_to_string(file)).await;
        let token = match read {
            Ok(Ok(text)) => self.remember(text.trim()),
            Ok(Err(error)) => {
                tracing::error!(path = %file.display(), %error, "token_file cannot be read");
                self.last()
            }
            Err(_) => self.last(),
        };
        let sent = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let sent = sent.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        matches!((token, sent), (Some(token), Some(sent)) if same(&token, sent))
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

/// Compared by digest, so that the time it takes tells nothing about the token.
fn same(a: &str, b: &str) -> bool {
    Sha256::digest(a) == Sha256::digest(b)
}

impl fmt::Debug for Token {
    /// Never shows the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("file", &self.file).finish_non_exhaustive()
    }
}
