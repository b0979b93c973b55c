//! The client: built at the first call, and anew after credentials were refused.

use std::time::Duration;

use aws_config::{
    BehaviorVersion, Region, environment::EnvironmentVariableRegionProvider,
    meta::region::RegionProviderChain, profile::ProfileFileRegionProvider,
};
use aws_sdk_s3::{
    Client,
    config::{SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig},
};
use aws_smithy_types::{retry::RetryConfig, timeout::TimeoutConfig};
use tokio::sync::Mutex;

use crate::{config, store::StoreError};

/// Other servers than Amazon's mostly ignore the region, but it is part of each signature.
const REGION_OF_OTHER_SERVERS: &str = "us-east-1";

/// How S3 is reached.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The keys `s3.*`.
    pub keys: config::S3,
    /// Whose requests they are; by default whoever the environment, the profile, the web identity
    /// (IRSA), the container (EKS Pod Identity) or the instance says, in this order.
    pub credentials: Option<SharedCredentialsProvider>,
    /// How long things may take.
    pub limits: Limits,
}

/// How long things may take, and how often they are tried.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until a connection is there.
    pub connect: Duration,
    /// Until the answer begins, and between any two pieces of it.
    pub idle: Duration,
    /// For a call with all its tries: a small object as a whole, a big one up to its first byte.
    pub answer: Duration,
    /// How often a request is sent at most; what is not the store's fault is not tried again.
    pub attempts: u32,
    /// The first pause between two tries; it doubles, and a random part of it is waited.
    pub back_off: Duration,
    /// The longest one.
    pub back_off_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            idle: Duration::from_secs(10),
            answer: Duration::from_secs(18),
            attempts: 4,
            back_off: Duration::from_secs(1),
            back_off_max: Duration::from_secs(5),
        }
    }
}

/// What leads to the bucket.
pub(super) struct Connection {
    settings: Settings,
    /// Outlives the client: connections stay open, and certificates are read once.
    http: SharedHttpClient,
    client: Mutex<Option<Client>>,
}

impl Connection {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, http: super::http::client(), client: Mutex::default() }
    }

    pub(super) fn endpoint(&self) -> Option<&str> {
        self.settings.keys.endpoint.as_deref()
    }

    /// The next call looks for credentials anew: a mounted secret may have changed.
    pub(super) async fn forget(&self) {
        *self.client.lock().await = None;
    }

    pub(super) async fn client(&self) -> Result<Client, StoreError> {
        let mut slot = self.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let client = self.build().await?;
        Ok(slot.insert(client).clone())
    }

    async fn build(&self) -> Result<Client, StoreError> {
        let Settings { keys, credentials, limits } = &self.settings;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(limits.connect)
            .read_timeout(limits.idle)
            .operation_timeout(limits.answer);
        let retries = RetryConfig::standard()
            .with_max_attempts(limits.attempts)
            .with_initial_backoff(limits.back_off)
            .with_max_backoff(limits.back_off_max);
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(self.http.clone())
            .timeout_config(timeouts.build())
            .retry_config(retries)
            .stalled_stream_protection(stalled_uploads(limits.idle));
        if let Some(region) = &keys.region {
            loader = loader.region(Region::new(region.clone()));
        } else if keys.endpoint.is_some() {
            loader = loader.region(region_elsewhere());
        }
        if let Some(credentials) = credentials {
            loader = loader.credentials_provider(credentials.clone());
        }
        let shared = loader.load().await;
        if shared.region().is_none() {
            return Err(StoreError::Unreachable(
                "the region is not set: set s3.region (or AWS_REGION) to the bucket's region".into(),
            ));
        }
        let config = aws_sdk_s3::config::Builder::from(&shared).force_path_style(keys.path_style);
        // Only for S3: the token service and the others stay where they are.
        let config = match &keys.endpoint {
            Some(endpoint) => config.endpoint_url(endpoint),
            None => config,
        };
        Ok(Client::from_conf(config.build()))
    }
}

/// Without the question to the instance, which is none of Amazon's, perhaps.
fn region_elsewhere() -> RegionProviderChain {
    RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(REGION_OF_OTHER_SERVERS)
}

/// Downloads have a limit between two pieces already.
fn stalled_uploads(idle: Duration) -> StalledStreamProtectionConfig {
    StalledStreamProtectionConfig::enabled().download_enabled(false).grace_period(idle).build()
}
