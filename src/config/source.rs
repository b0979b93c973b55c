//! What `source` says: a directory, or a place in a bucket.

/// A place in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Location {
    /// The bucket.
    pub(crate) bucket: String,
    /// What the keys begin with, without slashes around it; empty for the whole bucket.
    pub(crate) prefix: String,
}

impl S3Location {
    /// The place that `s3://bucket/prefix` names; `None` when the source is none of S3's.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(source: &str) -> Option<Result<Self, String>> {
        let place = source.strip_prefix("s3://")?;
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let prefix = prefix.trim_end_matches('/');
        if !is_bucket(bucket) {
            return Some(Err(format!(
                "\"{bucket}\" is not a bucket name (3 to 63 lower-case letters, digits, '.' and '-'): expected \
                 s3://bucket/prefix"
            )));
        }
        if !prefix.is_empty() && !prefix.split('/').all(is_name) {
            return Some(Err(format!(
                "\"{prefix}\" is not a valid prefix: use letters, digits, '.', '_', '-' and '=', separated by \
                 single slashes"
            )));
        }
        Some(Ok(Self { bucket: bucket.into(), prefix: prefix.into() }))
    }
}

fn is_bucket(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = name.bytes().next().is_some_and(plain) && name.bytes().last().is_some_and(plain);
    ends && (3..=63).contains(&name.len()) && name.bytes().all(|b| plain(b) || b == b'.' || b == b'-')
}

fn is_name(name: &str) -> bool {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-=".contains(&b));
    plain && !matches!(name, "" | "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(source: &str) -> Option<Result<(String, String), String>> {
        S3Location::parse(source).map(|parsed| parsed.map(|at| (at.bucket, at.prefix)))
    }

    #[test]
    fn a_place_is_a_bucket_and_a_prefix_if_any() {
        let at = |bucket: &str, prefix: &str| Some(Ok((bucket.to_owned(), prefix.to_owned())));
        assert_eq!(place("s3://bucket"), at("bucket", ""));
        assert_eq!(place("s3://bucket/"), at("bucket", ""));
        assert_eq!(place("s3://my.bucket-1/apps/shop/"), at("my.bucket-1", "apps/shop"));
        assert_eq!(place("/srv/store"), None);
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in ["s3://", "s3:///x", "s3://ab", "s3://Bucket/x", "s3://bucket-/x", "s3://a_b_c"] {
            assert!(place(bad).unwrap().unwrap_err().contains("not a bucket name"), "{bad}");
        }
        for bad in ["s3://bucket/a//b", "s3://bucket//a", "s3://bucket/../b", "s3://bucket/a b"] {
            assert!(place(bad).unwrap().unwrap_err().contains("is not a valid prefix"), "{bad}");
        }
    }
}
