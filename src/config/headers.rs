//! `verify.headers`: what the health path is asked with.

use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING};

/// A header from `Name: value`.
///
/// # Errors
/// What is wrong with it. The value is not repeated: it may be a secret.
pub(crate) fn parse(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| "must be `Name: value`, like `Host: shop.example.com`".to_owned())?;
    let name = self::name(name.trim())?;
    if [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING].contains(&name) {
        return Err(format!("pitstop sets {name} itself"));
    }
    let value = HeaderValue::from_str(value.trim())
        .map_err(|_| format!("the value of {name} is not valid in a header"))?;
    Ok((name, value))
}

/// A header's name.
///
/// # Errors
/// When it cannot be one.
pub(super) fn name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("\"{text}\" is not a valid header name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_a_name_and_a_value() {
        let (name, value) = parse("X-Forwarded-Proto:  https ").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-forwarded-proto", "https"));
        assert_eq!(parse("Host: [::1]:3000").unwrap().1, "[::1]:3000");
        assert!(parse("Host").unwrap_err().contains("Name: value"));
        assert!(parse("a b: c").unwrap_err().contains("not a valid header name"));
        assert!(parse("Connection: close").unwrap_err().contains("pitstop sets"));
        let broken = parse("X-A: hu\u{1}sh").unwrap_err();
        assert!(broken.contains("x-a") && !broken.contains("sh"), "{broken}");
    }
}
