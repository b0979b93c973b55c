//! Writes, each one conditional.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aws_sdk_s3::{
    config::{
        Builder, ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextRef,
    },
    error::BoxError,
    operation::put_object::builders::PutObjectFluentBuilder,
    primitives::ByteStream,
};
use aws_smithy_types::{base64, timeout::TimeoutConfig};
use sha2::{Digest, Sha256};

use super::{Action, Failure, S3Store};
use crate::store::{Condition, Found, StoreError, Version};

/// What S3 takes in one piece.
const FILE_LIMIT_BYTES: u64 = 5 << 30;
/// An upload that is slower than this in all does not end in the life of a CI job.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;

impl S3Store {
    pub(super) async fn put_bytes(
        &self,
        key: &str,
        bytes: Vec<u8>,
        condition: &Condition,
    ) -> Result<Version, StoreError> {
        let tries = Tries::default();
        let request = self.put_request(key, condition).await?.body(ByteStream::from(bytes.clone()));
        let answer = request.customize().interceptor(tries.clone()).send().await;
        match answer {
            Ok(answer) => written(key, answer.e_tag),
            Err(error) => {
                let failure = self.explain(Action::Put, &self.key(key)?, error).await;
                match self.refused(key, failure) {
                    // The first try may have been done though its answer was lost.
                    StoreError::Changed(_) if tries.several() => self.is_ours(key, &bytes).await,
                    error => Err(error),
                }
            }
        }
    }

    /// Streams it; the store compares the digest before the object is there.
    pub(super) async fn put_file(
        &self,
        key: &str,
        path: &Path,
        condition: &Condition,
    ) -> Result<Version, StoreError> {
        let unreadable = |e: io::Error| StoreError::Source(format!("{}: {e}", path.display()));
        let file = path.to_owned();
        let digest = tokio::task::spawn_blocking(move || digest(&file)).await;
        let (sha256, bytes) = digest.map_err(|e| unreadable(e.into()))?.map_err(unreadable)?;
        if bytes > FILE_LIMIT_BYTES {
            let message =
                format!("{} has {bytes} bytes, S3 takes {FILE_LIMIT_BYTES} at most", path.display());
            return Err(StoreError::Source(message));
        }
        let body = ByteStream::from_path(path).await.map_err(|e| unreadable(io::Error::other(e)))?;
        let request = self.put_request(key, condition).await?.checksum_sha256(sha256).body(body);
        match request.customize().config_override(self.upload_limits(bytes)).send().await {
            Ok(answer) => written(key, answer.e_tag),
            Err(error) => {
                let failure = self.explain(Action::Put, &self.key(key)?, error).await;
                Err(self.refused(key, failure))
            }
        }
    }

    async fn put_request(
        &self,
        key: &str,
        condition: &Condition,
    ) -> Result<PutObjectFluentBuilder, StoreError> {
        let request = self.connection.client().await?.put_object().bucket(&self.place.bucket);
        let request = request.key(self.key(key)?);
        Ok(match condition {
            Condition::Absent => request.if_none_match("*"),
            Condition::Matches(version) => request.if_match(&version.0),
            Condition::Any => request,
        })
    }

    /// The limits of other requests count from the first byte sent; a big file takes longer. It must
    /// not stall, and not take for ever.
    fn upload_limits(&self, bytes: u64) -> Builder {
        let longest = self.limits.answer + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(self.limits.connect)
            .disable_read_timeout()
            .disable_operation_timeout()
            .operation_attempt_timeout(longest);
        Builder::new().timeout_config(timeouts.build())
    }

    fn refused(&self, key: &str, failure: Failure) -> StoreError {
        match failure {
            // Nothing is there that could match.
            Failure::Absent => StoreError::Changed(key.into()),
            failure => failure.or_changed(key),
        }
    }

    async fn is_ours(&self, key: &str, bytes: &[u8]) -> Result<Version, StoreError> {
        match self.get_now(key, None, bytes.len() as u64).await {
            Ok(Found::Object { version, bytes: there }) if there == bytes => Ok(version),
            Ok(_) | Err(StoreError::TooLarge { .. }) => Err(StoreError::Changed(key.into())),
            Err(error) => Err(error),
        }
    }
}

fn written(key: &str, e_tag: Option<String>) -> Result<Version, StoreError> {
    let odd = || StoreError::Unreachable(format!("{key}: written, but the answer has no ETag"));
    e_tag.map(super::version).ok_or_else(odd)
}

/// The SHA-256 in base64, and the size.
fn digest(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 256 << 10]);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((base64::encode(hash.finalize()), bytes));
        }
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
}

/// Counts how often a request was sent.
#[derive(Debug, Clone, Default)]
struct Tries(Arc<AtomicU32>);

impl Tries {
    fn several(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 1
    }
}

impl Intercept for Tries {
    fn name(&self) -> &'static str {
        "Tries"
    }

    fn read_before_attempt(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
