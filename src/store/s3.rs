//! A store in a bucket of S3, or of a server that speaks its protocol.
//!
//! Versions are ETags, with which S3 does all that a pointer needs: `If-None-Match` makes a look at what has
//! not changed cheap, `If-Match` and `If-None-Match: *` make writes compare-and-swap. Opening the store needs
//! neither network nor credentials: each call that fails says what to do, and the next one starts afresh.
//!
//! What fails is retried at five levels, each for what the one below cannot know:
//!
//! | where | what | how often |
//! |---|---|---|
//! | `connection`, the SDK | one request that the server or the network failed | [`Limits::attempts`], within [`Limits::answer`] |
//! | here, `SMALL_READS` | a small object whose bytes broke off after the answer had begun | once more |
//! | `releases/download.rs` | an archive that broke off: on from where it was | five breaks without progress |
//! | `pointer.rs` | a pointer that could not be read | at each poll, after growing pauses |
//! | `core/deploy`, `retry_at` | a fetch that failed | for as long as the pointer names the release |

use std::time::Duration;

use aws_sdk_s3::{
    config::{Builder, ResponseChecksumValidation},
    operation::get_object::GetObjectOutput,
};
use futures_util::future::BoxFuture;

use super::{Body, Condition, Found, Listed, Object, Store, StoreError, Version};
use crate::config::S3Location;

mod connection;
mod failure;
pub(crate) mod http;
mod reading;
mod writing;

use connection::Connection;
pub use connection::{Limits, Settings};
use failure::{Action, Failure};
use reading::StreamChunks;

/// A small object whose bytes broke off is asked for once more.
const SMALL_READS: u32 = 2;

/// A bucket, or a part of one, as a store.
pub struct S3Store {
    place: S3Location,
    limits: Limits,
    connection: Connection,
}

impl S3Store {
    /// The store at `place`. Asks nobody anything yet.
    pub fn new(place: S3Location, settings: Settings) -> Self {
        let limits = settings.limits;
        Self { place, limits, connection: Connection::new(settings) }
    }

    /// The object's whole key in the bucket.
    fn key(&self, key: &str) -> Result<String, StoreError> {
        let plain = |name: &str| !name.is_empty() && !name.starts_with('.');
        let valid = key.split('/').all(plain) && !key.contains(char::is_control);
        if !valid {
            return Err(StoreError::InvalidKey(key.into()));
        }
        let prefix = &self.place.prefix;
        Ok(if prefix.is_empty() { key.into() } else { format!("{prefix}/{key}") })
    }

    /// What users are told when a request failed; forgets credentials that were refused, so that
    /// new ones in the same place count at once.
    async fn explain<E: failure::Coded>(
        &self,
        action: Action,
        key: &str,
        error: failure::SdkError<E>,
    ) -> Failure {
        let failure = failure::judge(&self.place, self.connection.endpoint(), action, key, &error);
        if matches!(failure, Failure::Credentials(_)) {
            self.connection.forget().await;
        }
        failure
    }

    async fn get_now(
        &self,
        key: &str,
        known: Option<&Version>,
        limit_bytes: u64,
    ) -> Result<Found, StoreError> {
        let whole = self.key(key)?;
        let mut reads = 0;
        loop {
            let client = self.connection.client().await?;
            let request = client.get_object().bucket(&self.place.bucket).key(&whole);
            let answer = request.set_if_none_match(known.map(|version| version.0.clone())).send().await;
            let object = match answer {
                Ok(object) => plain(key, self.object(key, 0, object)?)?,
                Err(error) => match self.explain(Action::Get, &whole, error).await {
                    Failure::NotModified => return Ok(Found::NotModified),
                    Failure::Absent => return Ok(Found::Absent),
                    failure => return Err(failure.or_changed(key)),
                },
            };
            reads += 1;
            match collect(key, object, limit_bytes).await {
                Err(StoreError::Unreachable(_)) if reads < SMALL_READS => {}
                collected => return collected,
            }
        }
    }

    fn object(&self, key: &str, offset: u64, answer: GetObjectOutput) -> Result<Object, StoreError> {
        let odd =
            |what: &str| StoreError::Unreachable(format!("{key}: {what}; check that this is an S3 server"));
        let version = answer.e_tag.map(version).ok_or_else(|| odd("the answer has no ETag"))?;
        let length = answer.content_length.and_then(|n| u64::try_from(n).ok());
        let length = length.ok_or_else(|| {
            odd("the response has no length: the server or a proxy changes the content (upload it without \
                 Content-Encoding, and disable compression in proxies)")
        })?;
        let encoding = answer.content_encoding.filter(|encoding| changes_content(encoding));
        if offset > 0 && answer.content_range.is_none() {
            return Err(odd("the response is the whole object, but a range was requested"));
        }
        let chunks = StreamChunks::new(key, answer.body, length, self.limits.idle);
        Ok(Object { size_bytes: offset + length, version, encoding, chunks: Box::new(chunks) })
    }

    async fn read_now(&self, key: &str, offset: u64, same: Option<&Version>) -> Result<Object, StoreError> {
        let whole = self.key(key)?;
        let client = self.connection.client().await?;
        let request = client
            .get_object()
            .bucket(&self.place.bucket)
            .key(&whole)
            .set_range((offset > 0).then(|| format!("bytes={offset}-")))
            .set_if_match(same.map(|version| version.0.clone()));
        // Its reader compares the digest that was published; a second one would cost as much again.
        let unchecked = Builder::new().response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        match request.customize().config_override(unchecked).send().await {
            Ok(answer) => self.object(key, offset, answer),
            Err(error) => match self.explain(Action::Get, &whole, error).await {
                Failure::Absent => Err(StoreError::Missing(key.into())),
                failure => Err(failure.or_changed(key)),
            },
        }
    }

    /// What lies directly below the prefix. Whatever is deeper is nobody's business here.
    async fn list_now(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let folder = prefix.trim_end_matches('/');
        let whole = self.key(folder)? + "/";
        let client = self.connection.client().await?;
        let request = client.list_objects_v2().bucket(&self.place.bucket).prefix(&whole).delimiter("/");
        let mut pages = request.into_paginator().send();
        let mut all = Vec::new();
        while let Some(page) = pages.next().await {
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    return Err(match self.explain(Action::List, &whole, error).await {
                        Failure::Absent => self.no_lists(&whole),
                        failure => failure.or_changed(prefix),
                    });
                }
            };
            all.extend(page.contents().iter().filter_map(|object| {
                let name = object.key()?.strip_prefix(&whole).filter(|name| !name.is_empty())?;
                let written = object.last_modified().and_then(|at| u64::try_from(at.secs()).ok());
                let bytes = object.size().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
                Some(Listed { key: format!("{folder}/{name}"), written_s: written.unwrap_or(0), bytes })
            }));
        }
        all.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(all)
    }

    async fn delete_now(&self, key: &str) -> Result<(), StoreError> {
        let whole = self.key(key)?;
        let client = self.connection.client().await?;
        match client.delete_object().bucket(&self.place.bucket).key(&whole).send().await {
            Ok(_) => Ok(()),
            Err(error) => match self.explain(Action::Delete, &whole, error).await {
                Failure::Absent => Ok(()),
                failure => Err(failure.or_changed(key)),
            },
        }
    }

    fn no_lists(&self, whole: &str) -> StoreError {
        let (bucket, at) = (&self.place.bucket, self.connection.endpoint().unwrap_or("AWS"));
        StoreError::Unreachable(format!(
            "s3://{bucket}/{whole}: {at} answers a list request with 404: the bucket does not exist there, or \
             the server lacks ListObjectsV2; check s3.endpoint (without the bucket's name) and s3.path_style"
        ))
    }

    async fn within<T>(
        &self,
        limit: Duration,
        key: &str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let late = |_| StoreError::Unreachable(format!("{key}: no answer within {limit:?}"));
        tokio::time::timeout(limit, call).await.map_err(late)?
    }
}

/// An ETag that a proxy has made weak (`W/"…"`) would never match again in `If-Match`; the one that it was made from does.
fn version(e_tag: String) -> Version {
    Version(e_tag.strip_prefix("W/").map(ToOwned::to_owned).unwrap_or(e_tag))
}

/// Others, such as `aws-chunked` or what some uploaders write there by mistake, say nothing about the bytes.
fn changes_content(encoding: &str) -> bool {
    let known = ["gzip", "x-gzip", "deflate", "br", "zstd", "compress"];
    encoding.split(',').any(|name| known.iter().any(|known| name.trim().eq_ignore_ascii_case(known)))
}

/// A small object is text; with an encoding it is not the one that was written.
fn plain(key: &str, object: Object) -> Result<Object, StoreError> {
    match &object.encoding {
        None => Ok(object),
        Some(encoding) => Err(StoreError::Unreachable(format!(
            "{key} came with Content-Encoding {encoding}: upload it without, and disable compression in \
             proxies"
        ))),
    }
}

async fn collect(key: &str, mut object: Object, limit_bytes: u64) -> Result<Found, StoreError> {
    let too_large = || StoreError::TooLarge { key: key.into(), limit_bytes };
    let mut bytes = Vec::new();
    loop {
        let chunk = object.chunks.next().await?;
        if chunk.is_empty() {
            return Ok(Found::Object { version: object.version, bytes });
        }
        bytes.extend(chunk);
        if bytes.len() as u64 > limit_bytes {
            return Err(too_large());
        }
    }
}

impl Store for S3Store {
    fn get<'a>(
        &'a self,
        key: &'a str,
        known: Option<&'a Version>,
        limit_bytes: u64,
    ) -> BoxFuture<'a, Result<Found, StoreError>> {
        Box::pin(self.within(self.limits.answer, key, self.get_now(key, known, limit_bytes)))
    }

    fn read<'a>(
        &'a self,
        key: &'a str,
        offset: u64,
        same: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<Object, StoreError>> {
        Box::pin(self.within(self.limits.answer, key, self.read_now(key, offset, same)))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        body: Body,
        condition: Condition,
    ) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(async move {
            match body {
                Body::Bytes(bytes) => {
                    self.within(self.limits.answer, key, self.put_bytes(key, bytes, &condition)).await
                }
                Body::File(path) => self.put_file(key, &path, &condition).await,
            }
        })
    }

    fn list_dated<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Listed>, StoreError>> {
        Box::pin(self.list_now(prefix))
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.within(self.limits.answer, key, self.delete_now(key)))
    }
}
