//! Calling off what takes long and is needed no more.

use std::{
    io::{self, Read},
    sync::Arc,
};

use tokio::sync::watch;

/// Shared between who works and who may find that the work is needed no more. Never taken back.
#[derive(Debug, Clone, Default)]
pub struct CallOff(Arc<watch::Sender<bool>>);

impl CallOff {
    /// The work is needed no more.
    pub fn now(&self) {
        self.0.send_replace(true);
    }

    /// Whether it is needed no more.
    pub fn is_called(&self) -> bool {
        *self.0.borrow()
    }

    /// For work in steps.
    ///
    /// # Errors
    /// When it is needed no more.
    pub fn check(&self) -> io::Result<()> {
        if self.is_called() { Err(io::Error::other("called off")) } else { Ok(()) }
    }

    /// Ends when it is needed no more.
    pub async fn called(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(|called| *called).await;
    }

    /// A reader that fails as soon as nobody needs what it reads.
    pub fn reader<R: Read>(&self, reader: R) -> impl Read + use<R> {
        Needed { reader, off: self.clone() }
    }
}

struct Needed<R> {
    reader: R,
    off: CallOff,
}

impl<R: Read> Read for Needed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.off.check()?;
        self.reader.read(buffer)
    }
}
