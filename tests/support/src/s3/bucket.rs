use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use s3s::{
    S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    auth::{S3Auth, SecretKey},
    dto::{
        DeleteObjectInput, DeleteObjectOutput, ETag, ETagCondition, GetObjectInput, GetObjectOutput,
        HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, PutObjectInput,
        PutObjectOutput, StreamingBlob,
    },
};
use s3s_fs::FileSystem;
use tokio::sync::RwLock;

use super::{BUCKET, server::Shared};

/// The objects, in files. Adds what the library's server lacks: the preconditions of a GET, a
/// missing bucket, and writes that compare and swap in one.
#[derive(Clone)]
pub(super) struct Bucket {
    files: Arc<FileSystem>,
    root: PathBuf,
    gate: Arc<RwLock<()>>,
    pub(super) ignores_conditions: Arc<AtomicBool>,
}

impl Bucket {
    pub(super) fn new(root: &Path) -> Self {
        let files = FileSystem::new(root).expect("the bucket's directory");
        Self {
            files: Arc::new(files),
            root: root.to_owned(),
            gate: Arc::default(),
            ignores_conditions: Arc::default(),
        }
    }

    /// Writes an object, whatever is there.
    pub(super) async fn replace(&self, key: &str, bytes: Vec<u8>) -> S3Result<()> {
        let input = PutObjectInput {
            bucket: BUCKET.into(),
            key: key.into(),
            body: Some(StreamingBlob::from(s3s::Body::from(bytes))),
            ..PutObjectInput::default()
        };
        self.put_object(request(hyper::Method::PUT, input)).await.map(drop)
    }

    fn check(&self, bucket: &str) -> S3Result<()> {
        match self.root.join(bucket).is_dir() {
            true => Ok(()),
            false => Err(S3Error::new(S3ErrorCode::NoSuchBucket)),
        }
    }
}

fn request<T>(method: hyper::Method, input: T) -> S3Request<T> {
    S3Request {
        input,
        method,
        uri: hyper::Uri::default(),
        headers: hyper::HeaderMap::default(),
        extensions: hyper::http::Extensions::default(),
        credentials: None,
        region: None,
        service: None,
        trailing_headers: None,
    }
}

fn meets(condition: &ETagCondition, tag: Option<&ETag>) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(wanted) => tag == Some(wanted),
    }
}

/// Done as a whole, also when who asked for it has gone: an object and what is known of it are two files.
async fn whole<T: Send + 'static>(work: impl Future<Output = S3Result<T>> + Send + 'static) -> S3Result<T> {
    tokio::spawn(work).await.unwrap_or_else(|_| Err(S3Error::new(S3ErrorCode::InternalError)))
}

#[async_trait::async_trait]
impl S3 for Bucket {
    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.check(&req.input.bucket)?;
        let _gate = self.gate.read().await;
        let (same, other) = (req.input.if_match.clone(), req.input.if_none_match.clone());
        let path = self.root.join(BUCKET).join(&req.input.key);
        let written = || fs::metadata(&path).and_then(|meta| Ok((meta.ino(), meta.modified()?))).ok();
        let answer = loop {
            let before = written();
            let answer = self.files.get_object(request(hyper::Method::GET, req.input.clone())).await?;
            // What a test writes into the directory may come between the bytes and their tag: for ever unmodified, then.
            if written() == before {
                break answer;
            }
        };
        let tag = answer.output.e_tag.as_ref();
        if same.is_some_and(|condition| !meets(&condition, tag)) {
            return Err(S3Error::new(S3ErrorCode::PreconditionFailed));
        }
        if other.is_some_and(|condition| meets(&condition, tag)) {
            return Err(S3Error::new(S3ErrorCode::NotModified));
        }
        Ok(answer)
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.check(&req.input.bucket)?;
        let _gate = self.gate.read().await;
        self.files.head_object(req).await
    }

    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.check(&req.input.bucket)?;
        if self.ignores_conditions.load(Ordering::SeqCst) {
            (req.input.if_match, req.input.if_none_match) = (None, None);
        }
        let this = self.clone();
        whole(async move {
            let _gate = this.gate.write().await;
            this.files.put_object(req).await
        })
        .await
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.check(&req.input.bucket)?;
        let this = self.clone();
        whole(async move {
            let _gate = this.gate.write().await;
            this.files.delete_object(req).await
        })
        .await
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let _gate = self.gate.read().await;
        self.files.list_objects_v2(req).await
    }
}

/// The one pair of keys that is known at the moment.
pub(super) struct Guard(pub(super) Arc<Shared>);

#[async_trait::async_trait]
impl S3Auth for Guard {
    async fn get_secret_key(&self, access: &str) -> S3Result<SecretKey> {
        let keys = self.0.keys.lock().map_err(|_| S3Error::new(S3ErrorCode::InternalError))?;
        match keys.access == access {
            true => Ok(SecretKey::from(keys.secret.clone())),
            false => Err(S3Error::new(S3ErrorCode::InvalidAccessKeyId)),
        }
    }
}
