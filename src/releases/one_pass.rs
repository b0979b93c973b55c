//! Bytes of an archive that are written, hashed and read by somebody else, all at once.

use std::{
    io::{self, Read, Write},
    sync::mpsc::{Receiver, SyncSender},
};

use sha2::{Digest, Sha256};

use crate::store::dir::hex;

/// Hashes and counts what is read or written.
pub(crate) struct Hashed<T> {
    inner: T,
    hash: Sha256,
    bytes: u64,
}

impl<T> Hashed<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// The SHA-256, in lower-case hexadecimal, and the number of bytes.
    pub(crate) fn finish(self) -> (String, u64) {
        (hex(&self.hash.finalize()), self.bytes)
    }

    fn take_in(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.take_in(&buffer[..n]);
        Ok(n)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buffer)?;
        self.take_in(&buffer[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes, and hands on what was written.
pub(crate) struct Tee<W> {
    /// Where it is written.
    pub(crate) to: W,
    /// Where it goes besides, for as long as somebody reads there.
    pub(crate) pieces: SyncSender<Vec<u8>>,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.to.write(buffer)?;
        // Who reads no more has found what is wrong, and says so.
        let _ = self.pieces.send(buffer[..n].to_vec());
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// What a [`Tee`] hands on; ends when that is dropped.
pub(crate) struct Pieces {
    receiver: Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

impl Pieces {
    /// What comes from there.
    pub(crate) fn new(receiver: Receiver<Vec<u8>>) -> Self {
        Self { receiver, piece: io::Cursor::default() }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.position() == self.piece.get_ref().len() as u64 {
            let Ok(piece) = self.receiver.recv() else { return Ok(0) };
            self.piece = io::Cursor::new(piece);
        }
        self.piece.read(buffer)
    }
}
