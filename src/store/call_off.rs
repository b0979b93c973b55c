//! Calling off what takes long and is needed no more.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::watch;

/// Shared between who works and who may find that the work is needed no more. Never taken back. It counts how often
/// the work has looked, so that others see whether it gets on.
#[derive(Debug, Clone, Default)]
pub struct CallOff(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    called: watch::Sender<bool>,
    steps: AtomicU64,
}

impl CallOff {
    /// The work is needed no more.
    pub fn now(&self) {
        self.0.called.send_replace(true);
    }

    /// Whether it is needed no more.
    pub(crate) fn is_called(&self) -> bool {
        *self.0.called.borrow()
    }

    /// For work in steps.
    ///
    /// # Errors
    /// When it is needed no more.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.step();
        if self.is_called() { Err(io::Error::other("called off")) } else { Ok(()) }
    }

    /// The work has come a step further.
    pub(crate) fn step(&self) {
        self.0.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// How many steps it has come.
    pub(crate) fn steps(&self) -> u64 {
        self.0.steps.load(Ordering::Relaxed)
    }

    /// Ends when it is needed no more.
    pub(crate) async fn called(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.called.subscribe().wait_for(|called| *called).await;
    }

    /// A reader that fails as soon as nobody needs what it reads.
    pub(crate) fn reader<R: Read>(&self, reader: R) -> impl Read + use<R> {
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
