//! The sections of what holds releases: the bucket, and the volume.

use serde::{Deserialize, Serialize};

/// How S3 is reached. Credentials are no keys: they come as for every tool of AWS.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3 {
    /// The bucket's region; as for every tool of AWS (AWS_REGION and so on) when absent.
    pub region: Option<String>,
    /// `https://host:port` of another store that speaks S3's protocol.
    pub endpoint: Option<String>,
    /// The bucket in the path of the URL instead of in its host name.
    pub path_style: bool,
}

/// How releases are written to the volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Fetch {
    /// How many operations at once; 0: as many as suit the volume's file system.
    pub(crate) in_flight: u8,
    /// Keep a spare tree on the volume, so that the next fetch writes only what differs.
    pub(crate) spare: bool,
}

impl Default for Fetch {
    fn default() -> Self {
        Self { in_flight: 0, spare: true }
    }
}
