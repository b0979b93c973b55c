//! Names in the store.

use super::check::ensure;

/// Of a pod or a pointer.
pub(super) fn name(text: &str) -> Result<(), String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let valid = plain && !text.is_empty() && !text.starts_with('.') && text.len() <= 253;
    ensure(valid, || "must consist of letters, digits, '.', '_' or '-', and must not start with '.'".into())
}

/// A name in the store, as a command takes it.
///
/// # Errors
/// What a name is.
pub(crate) fn pointer_name(text: &str) -> Result<String, String> {
    name(text).map(|()| text.to_owned()).map_err(|what| format!("the name of a pointer {what}"))
}
