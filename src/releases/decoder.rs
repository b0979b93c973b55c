//! The two ways in which archives are compressed.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

use super::unpack_error::UnpackError;
use crate::{procs::memory, store::ArchiveKind};

/// zstd windows up to 128 MiB; the format allows gigabytes.
const WINDOW_LOG_MAX: u32 = 27;
/// `zstd -19` takes such a window: there is always room for it.
const WINDOW_LOG_MIN: u32 = 23;
/// What a fetch may take besides the window.
const BESIDES_BYTES: u64 = 96 << 20;

/// What is in the archive.
///
/// # Errors
/// [`UnpackError`] when it is of another kind than its name says.
pub(crate) fn decoder<'a>(
    archive: impl Read + 'a,
    kind: ArchiveKind,
) -> Result<Box<dyn Read + 'a>, UnpackError> {
    within(archive, kind, Window::of(memory::of_process()))
}

/// The window of an archive, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    log: u32,
    /// Of the container, where that is the reason.
    memory_bytes: Option<u64>,
}

impl Window {
    fn of(memory_bytes: Option<u64>) -> Self {
        let free = memory_bytes.map_or(u64::MAX, |bytes| bytes.saturating_sub(BESIDES_BYTES));
        let log = free.checked_ilog2().unwrap_or(0).clamp(WINDOW_LOG_MIN, WINDOW_LOG_MAX);
        Self { log, memory_bytes: memory_bytes.filter(|_| log < WINDOW_LOG_MAX) }
    }
}

fn within<'a>(
    archive: impl Read + 'a,
    kind: ArchiveKind,
    window: Window,
) -> Result<Box<dyn Read + 'a>, UnpackError> {
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
                decoder.window_log_max(window.log)?;
                Ok(decoder)
            });
            Ok(Box::new(Windowed(zstd.map_err(UnpackError::Archive)?, window)))
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
struct Windowed<R>(R, Window);

impl<R: Read> Read for Windowed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self(reader, Window { log, memory_bytes }) = self;
        reader.read(buffer).map_err(|e| {
            if !e.to_string().contains("too much memory") {
                return e;
            }
            let mib = (1_u64 << *log) >> 20;
            let why = match memory_bytes {
                Some(bytes) => format!(
                    "it was compressed with a window of more than {mib} MiB, and the memory limit of {} MiB allows \
                     no more: compress it with `zstd -19` or less (without --long and --ultra), or raise the limit",
                    *bytes >> 20
                ),
                None => format!(
                    "it was compressed with a window of more than {mib} MiB; use at most `zstd --long={log}`"
                ),
            };
            io::Error::new(e.kind(), why)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(window_log: u32) -> Vec<u8> {
        let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
        zstd.window_log(window_log).unwrap();
        zstd.long_distance_matching(true).unwrap();
        io::copy(&mut io::repeat(7).take(40 << 20), &mut zstd).unwrap();
        zstd.finish().unwrap()
    }

    fn read(archive: &[u8], memory_mib: Option<u64>) -> Result<u64, String> {
        let window = Window::of(memory_mib.map(|mib| mib << 20));
        let mut plain = within(archive, ArchiveKind::TarZst, window).map_err(|e| e.to_string())?;
        io::copy(&mut plain, &mut io::sink()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_window_has_to_fit_into_the_memory() {
        let (usual, large, largest) = (packed(23), packed(26), packed(27));
        for archive in [&usual, &large, &largest] {
            assert_eq!(read(archive, None), Ok(40 << 20));
            assert_eq!(read(archive, Some(256)), Ok(40 << 20), "what the chart gives");
        }
        assert_eq!(read(&usual, Some(64)), Ok(40 << 20));
        assert_eq!(read(&large, Some(160)), Ok(40 << 20));
        let why = read(&largest, Some(160)).unwrap_err();
        assert!(why.contains("more than 64 MiB, and the memory limit of 160 MiB"), "{why}");
        assert!(why.contains("raise the limit"), "{why}");
        let why = read(&packed(28), None).unwrap_err();
        assert!(why.contains("more than 128 MiB; use at most `zstd --long=27`"), "{why}");
    }
}
