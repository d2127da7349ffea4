//! What is counted: bytes written to sockets and read from them, and messages that came.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
#[expect(clippy::disallowed_types, reason = "it links no part of the bus, and loom never runs it")]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use futures_util::io::{AsyncRead, AsyncWrite};
use libp2p::gossipsub::{DataTransform, Message, RawMessage, TopicHash};

use crate::work::HEAD_BYTES;

/// Counters, not partners of anything: relaxed.
#[expect(clippy::disallowed_types, reason = "it links no part of the bus, and loom never runs it")]
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) sockets_out: AtomicU64,
    pub(crate) sockets_in: AtomicU64,
    /// Bytes of artifacts in all messages that came, those that came before too.
    pub(crate) bodies_in: AtomicU64,
}

/// A socket that counts. Noise, yamux and gossipsub stand above it.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    stream: S,
    counts: Arc<Counts>,
}

impl<S> Counted<S> {
    pub(crate) fn new(stream: S, counts: Arc<Counts>) -> Self {
        Self { stream, counts }
    }

    fn wrote(&self, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(size)) = &poll {
            self.counts.sockets_out.fetch_add(*size as u64, Relaxed);
        }
        poll
    }

    fn read(&self, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(size)) = &poll {
            self.counts.sockets_in.fetch_add(*size as u64, Relaxed);
        }
        poll
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, into);
        self.read(poll)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [io::IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_read_vectored(cx, into);
        self.read(poll)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, from);
        self.wrote(poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, from);
        self.wrote(poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// Changes nothing, and counts what comes: gossipsub asks it before it looks whether it has seen a message, and of those that it has seen it tells nobody.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) counts: Arc<Counts>,
    /// The topic of artifacts.
    pub(crate) topic: TopicHash,
}

impl DataTransform for Seen {
    fn inbound_transform(&self, raw: RawMessage) -> io::Result<Message> {
        if raw.topic == self.topic {
            let bytes = raw.data.len().saturating_sub(HEAD_BYTES) as u64;
            self.counts.bodies_in.fetch_add(bytes, Relaxed);
        }
        let RawMessage { source, data, sequence_number, topic, .. } = raw;
        Ok(Message { source, data, sequence_number, topic })
    }

    fn outbound_transform(&self, _: &TopicHash, data: Vec<u8>) -> io::Result<Vec<u8>> {
        Ok(data)
    }
}
