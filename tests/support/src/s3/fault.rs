use std::{sync::Arc, time::Duration};

use tokio::sync::Barrier;

/// How an answer goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status, with this code of S3's; nothing is done.
    Answer(u16, &'static str),
    /// The same, with this message.
    Says(u16, &'static str, &'static str),
    /// A refusal whose body never ends.
    Endless,
    /// The answer has this header besides, or instead of its own.
    Header(&'static str, &'static str),
    /// The answer's ETag is a weak one, as a proxy that compresses makes it.
    WeakETag,
    /// As [`Fault::Answer`], with `x-amz-bucket-region`: the bucket is elsewhere.
    OtherRegion(&'static str),
    /// A missing object is 403, and a list as well: as without the permission to list.
    NoListing,
    /// It is done, and the connection closed without an answer.
    AnswerLost,
    /// Nothing is done, and no answer ever comes.
    Silence,
    /// It is done, and no answer ever comes.
    Unanswered,
    /// The connection breaks after so many bytes of the body.
    Cut(u64),
    /// The same, and meanwhile somebody puts these bytes in the object's place.
    CutAndReplace(u64, Vec<u8>),
    /// Nothing more comes after so many bytes of the body.
    Stall(u64),
    /// A pause before each piece of the body.
    Slow(Duration),
    /// Nothing is done before all whom [`Fault::together`] counts are here.
    Together(Arc<Barrier>),
}

impl Fault {
    /// So many requests wait for each other, and only then are done.
    pub fn together(requests: usize) -> Self {
        Self::Together(Arc::new(Barrier::new(requests)))
    }

    /// For requests with this method only.
    pub fn of(self, method: &str) -> Rule {
        Rule::from(self).of(method)
    }

    /// For this key only, or for all below it when it ends with a slash.
    pub fn at(self, key: &str) -> Rule {
        Rule::from(self).at(key)
    }

    /// So many times, then no more.
    pub fn times(self, times: u32) -> Rule {
        Rule::from(self).times(times)
    }

    /// Not before so many requests have been answered well.
    pub fn after(self, requests: u32) -> Rule {
        Rule::from(self).after(requests)
    }
}

/// A fault, and the requests that meet it.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(super) fault: Fault,
    method: Option<String>,
    key: String,
    after: u32,
    times: u32,
}

impl From<Fault> for Rule {
    fn from(fault: Fault) -> Self {
        Self { fault, method: None, key: String::new(), after: 0, times: u32::MAX }
    }
}

impl Rule {
    /// For requests with this method only.
    pub fn of(self, method: &str) -> Self {
        Self { method: Some(method.into()), ..self }
    }

    /// For this key only, or for all below it when it ends with a slash.
    pub fn at(self, key: &str) -> Self {
        Self { key: key.into(), ..self }
    }

    /// So many times, then no more.
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    /// Not before so many of its requests have been answered well.
    pub fn after(self, requests: u32) -> Self {
        Self { after: requests, ..self }
    }

    /// Whether the request meets it; counts that.
    pub(super) fn takes(&mut self, method: &str, key: &str) -> bool {
        let here =
            self.key.is_empty() || self.key == key || self.key.ends_with('/') && key.starts_with(&self.key);
        let fits = here && self.method.as_deref().is_none_or(|own| own == method) && self.times > 0;
        if fits && self.after > 0 {
            self.after -= 1;
            return false;
        }
        if fits && self.times != u32::MAX {
            self.times -= 1;
        }
        fits
    }
}
