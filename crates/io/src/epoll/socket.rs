//! One connection on readiness: what is in flight on each of its halves.
//!
//! The reading half and the writing half have a lock each, so that a thread that writes never waits for one that
//! reads. A half knows whether the kernel may have something for it (`ready`): events set it, and a call that came
//! back short clears it, so that most reads cost one system call and not two.
//!
//! It does not know the poller, other connections, or when to close.
//!
//! Invariant: `ready` is cleared only while the half is locked, after the kernel has said that it has nothing. An
//! event that comes later waits for the lock and sets it again; so none is lost though events come once (`EPOLLET`).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::{Errno, ioctl_fionread, readv};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};

use crate::driver::{Fault, PIECES_COUNT_MAX, Pieces, Read, Space};
use crate::epoll::errno;
use crate::least;

/// Pieces of a write that needs no large table.
const PIECES_FEW: usize = 8;

/// How far a half is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Dialing,
    Open,
    ShutDown,
}

/// One direction of a connection, with the buffer of what is in flight.
#[derive(Debug)]
pub(crate) struct Half<B> {
    /// None: closed. Both halves hold the descriptor; it is free when both have let go.
    pub(crate) descriptor: Option<Arc<OwnedFd>>,
    pub(crate) stage: Stage,
    pub(crate) pending: Option<B>,
    /// Somebody asked for `Readable`. Means nothing to the writing half.
    pub(crate) watched: bool,
    /// From so many bytes on the kernel tells of them. Means nothing to the writing half.
    least: usize,
    ready: bool,
    /// The peer has ended or failed: the kernel will not tell again, so `ready` stays.
    over: bool,
}

/// What a half was told by the poller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Ready,
    Over,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Socket<R, W> {
    reading: Mutex<Half<R>>,
    writing: Mutex<Half<W>>,
}

impl<R: Space, W: Pieces> Socket<R, W> {
    pub(crate) fn new(descriptor: OwnedFd, stage: Stage) -> Self {
        let descriptor = Arc::new(descriptor);
        Self {
            reading: Mutex::new(Half::new(&descriptor, stage)),
            writing: Mutex::new(Half::new(&descriptor, stage)),
        }
    }

    /// Who needs both halves locks this one first.
    pub(crate) fn reading(&self) -> MutexGuard<'_, Half<R>> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn writing(&self) -> MutexGuard<'_, Half<W>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Half<B> {
    fn new(descriptor: &Arc<OwnedFd>, stage: Stage) -> Self {
        // Ready at first: the first call asks the kernel.
        let descriptor = Some(Arc::clone(descriptor));
        Self { descriptor, stage, pending: None, watched: false, least: 1, ready: true, over: false }
    }

    pub(crate) fn tell(&mut self, told: Told) {
        self.ready = true;
        self.over |= told == Told::Over;
    }

    /// The kernel is asked anew: it may have something that the poller has not told.
    pub(crate) fn doubt(&mut self) {
        self.ready = true;
    }

    fn nothing_left(&mut self) {
        self.ready = self.over;
    }

    /// The descriptor, where an operation may begin.
    fn usable(&self) -> Result<&OwnedFd, Fault> {
        let descriptor = self.descriptor.as_ref().ok_or(Fault::Closed)?;
        match self.stage {
            Stage::Dialing => Err(Fault::Dialing),
            Stage::ShutDown => Err(Fault::ShutDown),
            Stage::Open if self.pending.is_some() => Err(Fault::Busy),
            Stage::Open => Ok(descriptor),
        }
    }
}

impl<R: Space> Half<R> {
    /// Fewer bytes than this are not told of from now on.
    pub(crate) fn expect(&mut self, least: usize) {
        let least = least.max(1);
        if let Some(descriptor) = self.descriptor.as_ref().filter(|_| least != self.least) {
            least::ask(&**descriptor, least);
            // What lies there already may be enough now.
            self.ready |= least < self.least;
            self.least = least;
        }
    }

    /// Whether a read would be done at once, and bring as much as is expected. It asks the kernel: a guess would make an
    /// idle connection take a buffer.
    pub(crate) fn has_bytes(&mut self) -> bool {
        let Ok(descriptor) = self.usable() else { return false };
        if self.least > 1 && self.ready && !self.over {
            // The end of the peer is an event, and `over` from then on.
            let there = ioctl_fionread(descriptor).unwrap_or(u64::MAX);
            self.ready = there >= self.least as u64;
            return self.ready;
        }
        if !self.ready || self.over {
            return self.ready;
        }
        match again(|| recv(descriptor, &mut [0u8; 1], RecvFlags::PEEK)) {
            Err(Errno::AGAIN) => self.nothing_left(),
            Ok(_) | Err(_) => return true,
        }
        self.ready
    }

    /// Reads once into `space`. None: nothing is there yet.
    pub(crate) fn try_read(&mut self, space: &mut R) -> Option<Result<Read, Fault>> {
        let descriptor = match self.usable() {
            Ok(descriptor) => descriptor,
            Err(fault) => return Some(Err(fault)),
        };
        let [first, second] = space.spans();
        let room = first.len() + second.len();
        if room == 0 {
            return Some(Err(Fault::Empty));
        }
        if !self.ready {
            return None;
        }
        // One span, as mostly, needs no table of them: the kernel reads it sooner.
        let read = if second.is_empty() {
            again(|| recv(descriptor, &mut *first, RecvFlags::empty()).map(|(count, _)| count))
        } else {
            let mut spans = [IoSliceMut::new(first), IoSliceMut::new(second)];
            again(|| readv(descriptor, &mut spans))
        };
        match read {
            Ok(0) => Some(Ok(Read::End)),
            Ok(count) => {
                if count < room {
                    self.nothing_left();
                }
                Some(Ok(Read::Bytes(count)))
            }
            Err(Errno::AGAIN) => {
                self.nothing_left();
                None
            }
            Err(number) => Some(Err(errno::fault(number))),
        }
    }
}

/// A call, again where a signal has ended it.
fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

impl<W: Pieces> Half<W> {
    /// Writes once from `pieces`. None: there is no room yet.
    pub(crate) fn try_write(&mut self, pieces: &W) -> Option<Result<usize, Fault>> {
        let descriptor = match self.usable() {
            Ok(descriptor) => descriptor,
            Err(fault) => return Some(Err(fault)),
        };
        // A table of all that a write may look at takes longer to lay out than most of them need.
        let (size, sent) = if pieces.pieces().nth(PIECES_FEW).is_none() {
            put::<PIECES_FEW>(descriptor, self.ready, pieces)
        } else {
            put::<PIECES_COUNT_MAX>(descriptor, self.ready, pieces)
        };
        if size == 0 {
            return Some(Err(Fault::Empty));
        }
        match sent? {
            Ok(sent) => {
                if sent < size {
                    self.nothing_left();
                }
                Some(Ok(sent))
            }
            Err(Errno::AGAIN) => {
                self.nothing_left();
                None
            }
            Err(number) => Some(Err(errno::fault(number))),
        }
    }
}

/// The bytes of the first pieces that are not empty, at most `N`, and what came of writing them once, if it is tried.
fn put<const N: usize>(
    descriptor: &OwnedFd,
    tried: bool,
    pieces: &impl Pieces,
) -> (usize, Option<Result<usize, Errno>>) {
    let mut slices = [IoSlice::new(&[]); N];
    let mut count = 0;
    let mut size = 0usize;
    for piece in pieces.pieces().filter(|piece| !piece.is_empty()).take(N) {
        slices[count] = IoSlice::new(piece);
        count += 1;
        size = size.saturating_add(piece.len());
    }
    // Not `write` or `writev`: a peer that has gone must be an error and not a signal that ends the process.
    let sent = (tried && size > 0).then(|| match &slices[..count] {
        [piece] => again(|| send(descriptor, piece, SendFlags::NOSIGNAL)),
        slices => {
            again(|| sendmsg(descriptor, slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL))
        }
    });
    (size, sent)
}
