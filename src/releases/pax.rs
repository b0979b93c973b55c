//! pax extended headers: `<length> <key>=<value>\n`, one after the other. A value may hold anything,
//! line breaks too (extended attributes do), so the length alone says where a record ends.
//!
//! They are read as they come: macOS writes attributes of many megabytes, of which nothing is kept.

use std::io::{self, BufRead, BufReader, Read};

use super::unpack_error::UnpackError;

/// A path or a link may be so long, before other limits.
pub(crate) const VALUE_BYTES_MAX: u64 = 64 << 10;
/// A key may be so long.
const KEY_BYTES_MAX: u64 = 4 << 10;
/// A length has at most so many digits.
const DIGITS_MAX: u64 = 19;

/// What an extended header says about the entry that follows, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Extended {
    pub(crate) path: Option<Vec<u8>>,
    /// What it links to.
    pub(crate) link: Option<Vec<u8>>,
    /// Bytes of its content.
    pub(crate) size: Option<u64>,
    /// It is a sparse file: its content is not what the header says.
    pub(crate) sparse: bool,
    /// It is a part of a file, in an archive of several volumes.
    pub(crate) part: bool,
}

impl Extended {
    /// Reads the content of an extended header.
    ///
    /// # Errors
    /// [`UnpackError`] when it is damaged.
    pub(crate) fn read(header: impl Read) -> Result<Self, UnpackError> {
        let mut header = BufReader::new(header);
        let mut found = Self::default();
        while let Some(length) = length(&mut header)? {
            let mut record = (&mut header).take(length);
            let key = until(&mut record, b'=', KEY_BYTES_MAX)?;
            let wanted = found.is_wanted(&key);
            let value = if wanted { read_value(&mut record)? } else { skip_value(&mut record)? };
            match &key[..] {
                b"path" | b"GNU.sparse.name" => found.path = Some(value),
                b"linkpath" => found.link = Some(value),
                b"size" => found.size = Some(decimal(&value).ok_or_else(damaged)?),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Notes what a key alone says, and whether its value is needed.
    fn is_wanted(&mut self, key: &[u8]) -> bool {
        self.sparse |= key.starts_with(b"GNU.sparse") || key == b"SCHILY.realsize";
        self.part |= key.starts_with(b"GNU.volume.") && key != b"GNU.volume.label";
        matches!(key, b"path" | b"linkpath" | b"size" | b"GNU.sparse.name")
    }

    /// Whether it says anything about an entry that matters here.
    pub(crate) fn says_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// How much of a record follows its length and the blank; `None` at the end.
fn length(header: &mut impl BufRead) -> Result<Option<u64>, UnpackError> {
    let mut first = [0];
    if header.read(&mut first).map_err(UnpackError::Archive)? == 0 {
        return Ok(None);
    }
    // Some writers fill the rest of the block.
    if first == [0] {
        let mut rest = [0; 4096];
        loop {
            match header.read(&mut rest).map_err(UnpackError::Archive)? {
                0 => return Ok(None),
                n if rest[..n].iter().all(|byte| *byte == 0) => {}
                _ => return Err(damaged()),
            }
        }
    }
    let mut digits = first.to_vec();
    digits.extend(until(&mut header.take(DIGITS_MAX), b' ', DIGITS_MAX)?);
    let length = decimal(&digits).ok_or_else(damaged)?;
    length.checked_sub(digits.len() as u64 + 1).ok_or_else(damaged).map(Some)
}

/// Reads up to a byte, and the byte.
fn until(from: &mut impl BufRead, end: u8, limit: u64) -> Result<Vec<u8>, UnpackError> {
    let mut text = Vec::new();
    for byte in from.bytes().take(limit as usize) {
        match byte.map_err(UnpackError::Archive)? {
            byte if byte == end => return Ok(text),
            // Others read keys as C does: up to a NUL, and without blanks before.
            0 => break,
            b' ' | b'\t' if text.is_empty() => break,
            byte => text.push(byte),
        }
    }
    Err(damaged())
}

fn read_value(record: &mut io::Take<impl Read>) -> Result<Vec<u8>, UnpackError> {
    if record.limit() > VALUE_BYTES_MAX {
        return Err(UnpackError::Refused(format!("it has a header of more than {VALUE_BYTES_MAX} bytes")));
    }
    let expected = record.limit();
    let mut value = Vec::new();
    record.read_to_end(&mut value).map_err(UnpackError::Archive)?;
    if value.len() as u64 != expected || value.pop() != Some(b'\n') { Err(damaged()) } else { Ok(value) }
}

fn skip_value(record: &mut io::Take<impl Read>) -> Result<Vec<u8>, UnpackError> {
    let value = record.limit().checked_sub(1).ok_or_else(damaged)?;
    let passed = io::copy(&mut record.take(value), &mut io::sink()).map_err(UnpackError::Archive)?;
    let mut last = [0];
    let end = record.read(&mut last).map_err(UnpackError::Archive)?;
    if passed == value && end == 1 && last == *b"\n" { Ok(Vec::new()) } else { Err(damaged()) }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    text.parse().ok()
}

fn damaged() -> UnpackError {
    UnpackError::Refused("it has a damaged extended header".into())
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// A pax header says no more than it holds.
    pub(crate) fn header(bytes: &[u8]) {
        if let Ok(read) = Extended::read(bytes) {
            let values = [read.path, read.link].into_iter().flatten().map(|value| value.len());
            assert!(values.sum::<usize>() <= bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &[u8]) -> Result<Extended, String> {
        Extended::read(header).map_err(|e| e.to_string())
    }

    #[test]
    fn a_value_may_hold_line_breaks_and_equals_signs() {
        let header = b"12 path=a\nb\n15 user.x=1=2\n\n16 linkpath=1=2\n";
        let found = Extended { path: Some(b"a\nb".into()), link: Some(b"1=2".into()), ..Default::default() };
        assert_eq!(read(header), Ok(found));
    }

    #[test]
    fn nothing_and_zeros_are_the_end() {
        assert!(read(b"").unwrap().says_nothing());
        assert_eq!(read(b"9 size=3\n\0\0\0").unwrap().size, Some(3));
        assert!(read(b"7 a=bc\n\0\0x").is_err());
    }

    #[test]
    fn of_several_records_of_a_key_the_last_one_counts() {
        assert_eq!(read(b"9 size=3\n9 size=4\n").unwrap().size, Some(4));
    }

    #[test]
    fn what_does_not_add_up_is_an_error() {
        for bad in [
            "x",
            "5 a=b",
            "99 a=b\n",
            "3 a=b\n",
            "6 abcd\n",
            "-1 a=b\n",
            "+6 a=b\n",
            "0 a=b\n",
            "7  a=b\n",
            "9 pa\0h=b\n",
            "9 size=x\n",
            "9 size=\n\n",
            "18446744073709551615 a=b\n",
            "99999999999999999999999 a=b\n",
        ] {
            assert!(read(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
