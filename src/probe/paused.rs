//! A connection on which the first bytes go ahead and all others wait.
//!
//! Some servers accept a connection only once something has come by it (`TCP_DEFER_ACCEPT`, as Unicorn
//! does), and close it with their answer. In between, and only then, the kernel tells who has it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

/// So many bytes go ahead: a part of the method's name.
const AHEAD: usize = 2;

/// Holds back what is written after the first bytes, until it is told to go on, or nobody is there any more to
/// tell it.
pub(super) struct Paused<S> {
    stream: S,
    gate: Option<oneshot::Receiver<()>>,
    begun: bool,
}

impl<S> Paused<S> {
    /// Until the sender of `gate` says so, or is gone.
    pub(crate) fn until(gate: oneshot::Receiver<()>, stream: S) -> Self {
        Self { stream, gate: Some(gate), begun: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paused<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paused<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.begun {
            let ahead = bytes.get(..AHEAD).unwrap_or(bytes);
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, ahead))?;
            self.begun = true;
            return Poll::Ready(Ok(written));
        }
        if let Some(gate) = &mut self.gate {
            let _ = ready!(Pin::new(gate).poll(context));
            self.gate = None;
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
