//! What of a value may be shown.

use std::borrow::Cow;

/// Their values are never shown.
const SECRETS: [&str; 2] = ["puma.control_token", "notify.url"];
/// Request headers whose values everybody may see.
const PLAIN_HEADERS: [&str; 2] = ["host", "x-forwarded-"];

/// A key's text, as it may be shown.
pub(crate) fn shown(key: &str, text: &str) -> String {
    match text.split_once(':') {
        _ if SECRETS.contains(&key) => "(secret)".into(),
        Some((name, _)) if key == "verify.headers" && !is_plain(name) => format!("{name}: (secret)"),
        _ => without_passwords(text).into_owned(),
    }
}

fn is_plain(header: &str) -> bool {
    let header = header.trim().to_ascii_lowercase();
    PLAIN_HEADERS.iter().any(|plain| header.starts_with(plain))
}

/// Users and passwords in URLs left out: `https://(secret)@host`.
pub(crate) fn without_passwords(text: &str) -> Cow<'_, str> {
    let Some((before, after)) = text.split_once("://") else { return Cow::Borrowed(text) };
    let end = after.find(|c: char| c == '/' || c == '"' || c.is_whitespace()).unwrap_or(after.len());
    let (authority, rest) = after.split_at(end);
    let rest = without_passwords(rest);
    match authority.rsplit_once('@') {
        Some((_, host)) => Cow::Owned(format!("{before}://(secret)@{host}{rest}")),
        None => Cow::Owned(format!("{before}://{authority}{rest}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_addresses_and_secret_headers_are_not_shown() {
        for (text, expected) in [
            ("https://me:hush@minio:9000/x", "https://(secret)@minio:9000/x"),
            (
                "\"http://a:hu@sh@b\" and s3://key:hush@bucket/p@q",
                "\"http://(secret)@b\" and s3://(secret)@bucket/p@q",
            ),
            ("https://minio/a@b, no secret", "https://minio/a@b, no secret"),
            ("plain", "plain"),
        ] {
            assert_eq!(without_passwords(text), expected);
        }
        assert_eq!(shown("puma.control_token", "hush"), "(secret)");
        assert_eq!(shown("verify.headers", "Authorization: Basic hush"), "Authorization: (secret)");
        assert_eq!(shown("verify.headers", "Host: shop.example.com"), "Host: shop.example.com");
        assert_eq!(shown("verify.headers", "X-Forwarded-Proto: https"), "X-Forwarded-Proto: https");
    }
}
