//! How far a download has come, for those who wait for it.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// Shared between who downloads and who shows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Came(Arc<Mutex<Option<Object>>>);

#[derive(Debug)]
struct Object {
    key: String,
    bytes: u64,
    of_bytes: u64,
}

impl Came {
    /// The object is being read, from an offset on.
    pub(super) fn opened(&self, key: &str, offset: u64, of_bytes: u64) {
        let object = Object { key: key.into(), bytes: offset, of_bytes };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(object);
    }

    /// So many bytes more.
    pub(super) fn add(&self, bytes: usize) {
        let mut object = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        object.iter_mut().for_each(|object| object.bytes += bytes as u64);
    }
}

impl fmt::Display for Came {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            None => f.write_str("looking up the release …"),
            Some(Object { key, bytes, of_bytes }) if bytes < of_bytes => {
                let mb = |bytes: u64| bytes / 1_000_000;
                write!(f, "downloading {key}: {} of {} MB …", mb(*bytes), mb(*of_bytes))
            }
            Some(Object { key, .. }) => write!(f, "{key} is downloaded; writing files …"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_that_is_resumed_counts_on_from_there() {
        let came = Came::default();
        assert_eq!(came.to_string(), "looking up the release …");
        came.opened("releases/v1.tar.zst", 0, 3_000_000);
        came.add(1_500_000);
        assert_eq!(came.to_string(), "downloading releases/v1.tar.zst: 1 of 3 MB …");
        came.opened("releases/v1.tar.zst", 1_000_000, 3_000_000);
        came.add(2_000_000);
        assert_eq!(came.to_string(), "releases/v1.tar.zst is downloaded; writing files …");
    }
}
