//! pax extended headers: `<length> <key>=<value>\n`, one after the other. A value may hold anything,
//! line breaks too (extended attributes do), so the length alone says where a record ends.

use std::io;

/// The records of an extended header; a damaged one ends it with an error.
pub struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    /// Reads the content of an extended header.
    pub fn of(header: &'a [u8]) -> Self {
        Self(header)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = io::Result<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        // Some writers fill the rest of the block.
        if self.0.iter().all(|byte| *byte == 0) {
            return None;
        }
        let Some((record, rest)) = first(self.0) else {
            self.0 = &[];
            return Some(Err(io::Error::new(io::ErrorKind::InvalidData, "a damaged extended header")));
        };
        self.0 = rest;
        Some(Ok(record))
    }
}

type Record<'a> = (&'a [u8], &'a [u8]);

fn first(header: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let digits = header.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&header[..digits]).ok()?.parse().ok()?;
    let record = header.get(digits + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some(((&record[..equals], &record[equals + 1..]), &header[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &[u8]) -> Result<Vec<Record<'_>>, String> {
        Records::of(header).map(|record| record.map_err(|e| e.to_string())).collect()
    }

    #[test]
    fn a_value_may_hold_line_breaks_and_equals_signs() {
        let header = b"12 path=a\nb\n15 user.x=1=2\n\n";
        assert_eq!(read(header), Ok(vec![(&b"path"[..], &b"a\nb"[..]), (b"user.x", b"1=2\n")]));
    }

    #[test]
    fn nothing_and_zeros_are_the_end() {
        assert_eq!(read(b""), Ok(vec![]));
        assert_eq!(read(b"7 a=bc\n\0\0\0"), Ok(vec![(&b"a"[..], &b"bc"[..])]));
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
            "0 a=b\n",
            "18446744073709551615 a=b\n",
        ] {
            assert!(read(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
