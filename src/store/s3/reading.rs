//! The bytes of an object as they arrive.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use futures_util::future::BoxFuture;

use super::failure::chain;
use crate::store::{Chunks, StoreError};

/// A body that must not stall, nor end before its end.
pub(super) struct StreamChunks {
    key: String,
    stream: ByteStream,
    left_bytes: u64,
    idle: Duration,
}

impl StreamChunks {
    /// `length_bytes` is what was promised, `idle` how long the next bytes may take.
    pub(super) fn new(key: &str, stream: ByteStream, length_bytes: u64, idle: Duration) -> Self {
        Self { key: key.into(), stream, left_bytes: length_bytes, idle }
    }

    async fn read(&mut self) -> Result<Vec<u8>, StoreError> {
        let Self { key, left_bytes, idle, .. } = self;
        let broken =
            |why: String| StoreError::Unreachable(format!("{key}: {why}, {left_bytes} bytes before its end"));
        let next = tokio::time::timeout(*idle, self.stream.next()).await;
        match next.map_err(|_| broken(format!("no data arrived for {idle:?}")))? {
            Some(Ok(bytes)) => {
                *left_bytes = left_bytes.saturating_sub(bytes.len() as u64);
                Ok(bytes.to_vec())
            }
            Some(Err(error)) => Err(broken(format!("the connection broke ({})", chain(&error)))),
            None if *left_bytes > 0 => Err(broken("the connection was closed".into())),
            None => Ok(Vec::new()),
        }
    }
}

impl Chunks for StreamChunks {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<u8>, StoreError>> {
        Box::pin(self.read())
    }
}
