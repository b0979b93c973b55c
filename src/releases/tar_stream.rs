//! A tar, block by block: headers of every format, and what follows them. Numbers and names are read as GNU
//! tar reads them. Whether content follows a header is for the caller to say: some writers give sizes to
//! entries that have none (directories, links), and who believes them loses the files behind.

use std::io::{self, Read};

use super::unpack_error::UnpackError;

/// Archives are made of blocks of so many bytes.
pub(crate) const BLOCK_BYTES: u64 = 512;

const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const SIZE: std::ops::Range<usize> = 124..136;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const KIND: usize = 156;
const LINK_NAME: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..263;
const PREFIX: std::ops::Range<usize> = 345..500;

/// A header, its checksum verified.
pub(crate) struct Header([u8; BLOCK_BYTES as usize]);

impl Header {
    /// Its type: a digit or a letter.
    pub(crate) fn kind(&self) -> u8 {
        self.0[KIND]
    }

    /// The path, where no other header says another.
    pub(crate) fn name(&self) -> Vec<u8> {
        let mut name = Vec::new();
        if self.0[MAGIC] == *b"ustar\0" && self.0[PREFIX.start] != 0 {
            name.extend(text(&self.0[PREFIX]));
            name.push(b'/');
        }
        name.extend(text(&self.0[NAME]));
        name
    }

    /// The target of a link, where no other header says another.
    pub(crate) fn link_name(&self) -> Vec<u8> {
        text(&self.0[LINK_NAME]).into()
    }

    /// Bytes of content, as it says; `None` where that is no number.
    pub(crate) fn size(&self) -> Option<u64> {
        number(&self.0[SIZE])
    }

    /// Permissions; `None` where that is no number.
    pub(crate) fn mode(&self) -> Option<u64> {
        number(&self.0[MODE])
    }

    /// Some summed up bytes as signed.
    fn is_whole(&self) -> bool {
        let summed = |of: fn(u8) -> i64| -> i64 {
            let bytes = self.0.iter().enumerate();
            bytes.map(|(at, byte)| of(if CHECKSUM.contains(&at) { b' ' } else { *byte })).sum()
        };
        let sum = number(&self.0[CHECKSUM]).and_then(|sum| i64::try_from(sum).ok());
        sum.is_some()
            && (sum == Some(summed(i64::from)) || sum == Some(summed(|b| i64::from(b.cast_signed()))))
    }
}

/// Up to the first NUL.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits between blanks and NULs, or binary behind 0x80. Nothing but NULs is 0, nothing but
/// blanks is no number.
fn number(field: &[u8]) -> Option<u64> {
    let fold = |bytes: &[u8], bits: u32, value: fn(u8) -> u8| {
        bytes.iter().try_fold(0_u64, |sum, byte| {
            (sum.leading_zeros() >= bits).then(|| (sum << bits) | u64::from(value(*byte)))
        })
    };
    if let [0x80, binary @ ..] = field {
        return fold(binary, 8, |byte| byte);
    }
    // A field that once overflowed begins with a NUL.
    let field = field.strip_prefix(b"\0").unwrap_or(field);
    let begins = field.iter().position(|byte| !is_blank(*byte))?;
    let field = &field[begins..];
    let digits = field.iter().take_while(|byte| (b'0'..=b'7').contains(*byte)).count();
    let ends = field.get(digits).is_none_or(|byte| *byte == 0 || is_blank(*byte));
    if ends { fold(&field[..digits], 3, |digit| digit - b'0') } else { None }
}

fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

/// A tar that is read once, from its begin to its end mark.
pub(crate) struct TarStream<R> {
    reader: R,
    begun: bool,
    /// Of the content that was announced, with what fills its last block.
    left: u64,
}

impl<R: Read> TarStream<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, begun: false, left: 0 }
    }

    /// The next header; `None` at the end mark, and for no byte at all. Whatever is left of the content
    /// before it is passed over.
    ///
    /// # Errors
    /// [`UnpackError`] when there is neither.
    pub(crate) fn next(&mut self) -> Result<Option<Header>, UnpackError> {
        let refuse = |why: &str| Err(UnpackError::Refused(why.into()));
        let content = std::mem::take(&mut self.left);
        let passed = io::copy(&mut (&mut self.reader).take(content), &mut io::sink());
        if passed.map_err(UnpackError::Archive)? < content {
            return refuse("it ends in the middle of an entry");
        }
        let mut block = [0; BLOCK_BYTES as usize];
        let read = fill(&mut self.reader, &mut block).map_err(UnpackError::Archive)?;
        if read == 0 && !self.begun {
            return Ok(None);
        }
        if read == 0 {
            return refuse("it ends without tar's end mark: whatever packed it was interrupted");
        }
        if read < block.len() {
            return refuse("it ends in the middle of a header");
        }
        self.begun = true;
        let header = Header(block);
        if header.0.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if header.is_whole() {
            return Ok(Some(header));
        }
        refuse(
            "something is no header (checksum mismatch): it is damaged, or the entry before has more content than it says",
        )
    }

    /// The content behind the header that came last.
    ///
    /// # Errors
    /// [`UnpackError::Refused`] when it is longer than anything.
    pub(crate) fn content(&mut self, size: u64) -> Result<impl Read + use<'_, R>, UnpackError> {
        let endless = || UnpackError::Refused("it has an entry of endless size".into());
        self.left = size.checked_next_multiple_of(BLOCK_BYTES).ok_or_else(endless)?;
        Ok(Content { end: self.left - size, stream: self })
    }

    /// What follows the end mark.
    pub(crate) fn into_rest(self) -> R {
        self.reader
    }
}

struct Content<'a, R> {
    stream: &'a mut TarStream<R>,
    /// So much of the stream is left when this is read.
    end: u64,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.stream.left - self.end).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let n = self.stream.reader.read(&mut buffer[..wanted])?;
        self.stream.left -= n as u64;
        Ok(n)
    }
}

/// Reads until the buffer is full or there is no more: decoders give as little as they like.
pub(crate) fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_gnu_tar_reads_them() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"  644 \0\0", Some(0o644)),
            (b"00000644", Some(0o644)),
            (b"644\0rest", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"       \0", Some(0)),
            (b"\x000000644", Some(0o644)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", Some(u64::MAX)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"        ", None),
            (b"0000648\0", None),
            (b"-000644\0", None),
            (b"7777777777777777777777777", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
