//! The two ways in which archives are compressed.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

use super::unpack_error::UnpackError;
use crate::store::ArchiveKind;

/// zstd windows up to 128 MiB; the format allows gigabytes.
const WINDOW_LOG_MAX: u32 = 27;

/// What is in the archive.
///
/// # Errors
/// [`UnpackError`] when it is of another kind than its name says.
pub fn decoder<'a>(archive: impl Read + 'a, kind: ArchiveKind) -> Result<Box<dyn Read + 'a>, UnpackError> {
    let mut archive = BufReader::with_capacity(128 << 10, archive);
    let begins = ArchiveKind::of(archive.fill_buf().map_err(UnpackError::Archive)?);
    if begins != Some(kind) {
        let found = begins.map_or("neither zstd nor gzip", ArchiveKind::extension);
        let why = format!("it is named {}, but by its first bytes it is {found}", kind.extension());
        return Err(UnpackError::Refused(why));
    }
    match kind {
        ArchiveKind::TarGz => Ok(Box::new(Members(Some(GzDecoder::new(archive))))),
        ArchiveKind::TarZst => {
            let zstd = zstd::Decoder::with_buffer(archive).and_then(|mut decoder| {
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Ok(decoder)
            });
            Ok(Box::new(Windowed(zstd.map_err(UnpackError::Archive)?)))
        }
    }
}

/// The members of a gzip file, one after the other. Zeros behind the last one are nothing: block devices
/// and uploaders that fill their last block leave them.
struct Members<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let n = member.read(buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            self.0 = match self.0.take().map(GzDecoder::into_inner) {
                Some(mut rest) => {
                    if is_over(&mut rest)? {
                        None
                    } else {
                        Some(GzDecoder::new(rest))
                    }
                }
                None => None,
            };
        }
        Ok(0)
    }
}

/// Whether nothing follows but zeros. What follows directly has to be a member.
fn is_over(rest: &mut impl BufRead) -> io::Result<bool> {
    let mut padded = false;
    loop {
        let next = rest.fill_buf()?;
        let zeros = next.iter().take_while(|byte| **byte == 0).count();
        if next.is_empty() {
            return Ok(true);
        }
        padded |= zeros > 0;
        if zeros < next.len() {
            let why = "there is something behind the zeros at its end";
            return if padded { Err(io::Error::new(io::ErrorKind::InvalidData, why)) } else { Ok(false) };
        }
        rest.consume(zeros);
    }
}

/// Says what to do about a window that is too large; zstd only names its memory.
struct Windowed<R>(R);

impl<R: Read> Read for Windowed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|e| {
            if !e.to_string().contains("too much memory") {
                return e;
            }
            let why = "it was compressed with a window of more than 128 MiB; use at most `zstd --long=27`";
            io::Error::new(e.kind(), why)
        })
    }
}
