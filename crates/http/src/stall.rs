//! A socket whose peer has to take what is written within a time.
//!
//! Reading has its own times, which the kinds of requests set; writing has this one.
//!
//! What is taken so slowly that the socket never has room for more is taken not at all.
//!
//! Who is refused while it sends its body still has bytes on the way. A socket that is closed before them resets the connection, and the peer may never read why; so they are read and
//! thrown away for a moment, behind the end of what is written.
//!
//! Invariant: a write that makes no progress for [`STALL`] fails, and a connection that has ended is closed within [`LINGER`].

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::count::Count;
use crate::limits::{LINGER, LINGER_BYTES, STALL};

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Patient {
    stream: TcpStream,
    /// Until when the write that waits may wait.
    until: Pin<Box<Sleep>>,
    waits: bool,
    /// Above zero: its peer was refused while it sent.
    refused: Arc<Count>,
    /// How many bytes are still thrown away, once what is written has ended.
    lingers: Option<usize>,
}

impl Patient {
    pub(crate) fn new(stream: TcpStream, refused: Arc<Count>) -> Patient {
        Patient { stream, until: Box::pin(sleep(STALL)), waits: false, refused, lingers: None }
    }

    /// Throws away what comes, until its end, or so much, or so long.
    fn linger(&mut self, context: &mut Context<'_>, mut left: usize) -> Poll<()> {
        let mut bytes = [0; 4 << 10];
        while left > 0 {
            let mut part = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(context, &mut part) {
                Poll::Ready(Ok(())) if !part.filled().is_empty() => {
                    left = left.saturating_sub(part.filled().len())
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    self.lingers = Some(left);
                    return self.until.as_mut().poll(context);
                }
            }
        }
        Poll::Ready(())
    }

    fn judge<T>(&mut self, context: &mut Context<'_>, moved: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            self.waits = false;
            return moved;
        }
        if !self.waits {
            self.waits = true;
            self.until.as_mut().reset(Instant::now() + STALL);
        }
        ready!(self.until.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, moved)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, moved)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let left = match self.lingers {
            Some(left) => left,
            None => {
                ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
                if self.refused.get() == 0 {
                    return Poll::Ready(Ok(()));
                }
                self.until.as_mut().reset(Instant::now() + LINGER);
                LINGER_BYTES
            }
        };
        self.linger(context, left).map(Ok)
    }
}
