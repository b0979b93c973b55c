//! What the answers of S3 mean, and what to do about them.

use std::error::Error;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::{config::S3Location, store::StoreError};

/// How a request of any kind fails.
pub(super) type SdkError<E> = aws_sdk_s3::error::SdkError<E, HttpResponse>;

/// An error of one operation.
pub(super) trait Coded: Error + ProvideErrorMetadata + Send + Sync + 'static {}
impl<E: Error + ProvideErrorMetadata + Send + Sync + 'static> Coded for E {}

/// What was asked, as policies name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Get,
    Put,
    List,
    Delete,
}

impl Action {
    fn permission(self) -> &'static str {
        match self {
            Self::Get => "s3:GetObject",
            Self::Put => "s3:PutObject",
            Self::List => "s3:ListBucket",
            Self::Delete => "s3:DeleteObject",
        }
    }
}

/// Why a request was not done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The object has the known version.
    NotModified,
    /// There is no such object.
    Absent,
    /// The condition does not hold.
    Changed,
    /// Whoever asks is unknown, or no more known: other credentials may be there by now.
    Credentials(StoreError),
    Other(StoreError),
}

impl Failure {
    /// The error, where absence and equality have no meaning of their own.
    pub(super) fn or_changed(self, key: &str) -> StoreError {
        match self {
            Self::Credentials(error) | Self::Other(error) => error,
            Self::Absent | Self::NotModified | Self::Changed => StoreError::Changed(key.into()),
        }
    }
}

/// What a failed request means. `key` is the whole one.
pub(super) fn judge<E: Coded>(
    place: &S3Location,
    endpoint: Option<&str>,
    action: Action,
    key: &str,
    error: &SdkError<E>,
) -> Failure {
    let url = format!("s3://{}/{key}", place.bucket);
    let Some(answer) = error.raw_response() else { return no_answer(&url, endpoint, error) };
    let answer = Answer {
        status: answer.status().as_u16(),
        code: error.code().unwrap_or_default(),
        message: error.message().unwrap_or_default(),
        region: answer.headers().get("x-amz-bucket-region"),
    };
    answer.judge(place, endpoint, action, &url)
}

/// The part of an answer that matters.
struct Answer<'a> {
    status: u16,
    code: &'a str,
    message: &'a str,
    region: Option<&'a str>,
}

impl Answer<'_> {
    fn judge(&self, place: &S3Location, endpoint: Option<&str>, action: Action, url: &str) -> Failure {
        let denied = |why: &str| StoreError::Denied(format!("{url}: {why}"));
        let unreachable = |why: String| Failure::Other(StoreError::Unreachable(format!("{url}: {why}")));
        let at = endpoint.unwrap_or("AWS");
        match (self.status, self.code) {
            (304, _) => Failure::NotModified,
            (412 | 416, _) | (409, "ConditionalRequestConflict") => Failure::Changed,
            (_, "NoSuchBucket") => unreachable(format!(
                "{at} has no bucket {}: check `source`, s3.endpoint and s3.region",
                place.bucket
            )),
            (404, _) => Failure::Absent,
            (301 | 307 | 308, _)
            | (
                400,
                "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException"
                | "PermanentRedirect"
                | "InvalidRegion",
            ) => unreachable(self.other_region()),
            (_, "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired") => {
                Failure::Credentials(denied(
                    "the credentials have expired: renew them; credentials from a file are read again \
                     automatically",
                ))
            }
            (_, "RequestTimeTooSkewed" | "RequestExpired") => Failure::Other(denied(
                "the clocks of this machine and the store differ by more than S3 allows: correct the clock",
            )),
            (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "NotSignedUp") => {
                Failure::Credentials(denied(&format!(
                    "{at} does not accept these credentials ({}): check that access key, secret and session \
                     token belong together and to this store",
                    self.code
                )))
            }
            (_, "InvalidObjectState") => Failure::Other(StoreError::Unfit(format!(
                "{url}: the object is archived ({}): restore it (`aws s3api restore-object`), and exclude \
                 releases/ and pointers/ from lifecycle rules",
                self.shown()
            ))),
            (400, "InvalidRequest") if action == Action::Get => Failure::Other(StoreError::Unfit(format!(
                "{url}: the object cannot be read ({}): encrypt objects with keys of S3 or KMS, not with \
                 customer-provided keys",
                self.shown()
            ))),
            (501, _) if action == Action::Put => Failure::Other(StoreError::Unfit(format!(
                "{url}: {at} does not support conditional writes ({}), which pitstop requires. Upload the \
                 archive and its digest with another tool, and move the pointer by hand or use `pointer: \
                 file:` (docs/s3.md)",
                self.shown()
            ))),
            (401 | 403, _) => Failure::Other(denied(&self.no_permission(action))),
            (507, _) | (_, "QuotaExceeded" | "XMinioStorageFull") => {
                Failure::Other(StoreError::Full(format!("{url}: {}", self.shown())))
            }
            _ => unreachable(format!("{at} answers {}", self.shown())),
        }
    }

    fn other_region(&self) -> String {
        let told = format!("the bucket is in another region ({})", self.shown());
        match self.region.or_else(|| self.expected_region()) {
            Some(region) => format!("{told}: set s3.region to {region}"),
            None => format!("{told}: set s3.region to the bucket's"),
        }
    }

    /// "the region 'us-east-1' is wrong; expecting 'eu-central-1'"
    fn expected_region(&self) -> Option<&str> {
        let (_, rest) = self.message.split_once("expecting '")?;
        rest.split('\'').next().filter(|region| !region.is_empty())
    }

    fn no_permission(&self, action: Action) -> String {
        let permission = action.permission();
        match action {
            Action::Get => format!(
                "either the object exists and the credentials lack {permission}, or it does not exist and they \
                 lack s3:ListBucket ({})",
                self.shown()
            ),
            _ => format!("the credentials lack {permission} ({})", self.shown()),
        }
    }

    fn shown(&self) -> String {
        let parts = [&self.status.to_string(), self.code, self.message];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join(" ")
    }
}

fn no_answer<E: Coded>(url: &str, endpoint: Option<&str>, error: &SdkError<E>) -> Failure {
    let why = chain(error);
    if about_credentials(error) {
        return Failure::Credentials(StoreError::Denied(format!(
            "{url}: no credentials ({why}). In a pod: a service account with a role (IRSA or Pod Identity); elsewhere: \
             AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (after `aws sso login`, where the profile is one of SSO)"
        )));
    }
    let hint = if why.contains("certificate") {
        "; SSL_CERT_FILE names the certificates that are trusted instead of the system's"
    } else {
        ""
    };
    let at = endpoint.map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
    Failure::Other(StoreError::Unreachable(format!("{url}{at}: {why}{hint}")))
}

fn about_credentials(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.is::<aws_credential_types::provider::error::CredentialsError>())
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), source)
}

fn source<'a>(cause: &&'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    (**cause).source()
}

/// An error with its causes, each told once.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut told: Vec<String> = Vec::new();
    for cause in causes(error).map(ToString::to_string) {
        if !cause.is_empty() && !told.iter().any(|earlier| earlier.contains(&cause)) {
            told.push(cause);
        }
    }
    told.join(": ")
}
