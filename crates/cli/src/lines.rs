//! Standard input as messages: its lines, or all of it.
//!
//! Lines are found in one buffer that is reused: no allocation a line, and memory is bounded by the longest line. Input
//! is waited for together with signals, so an interrupt is heard while nothing arrives.
//!
//! Invariant: the bytes of the returned slices, each followed by a line feed, are the bytes that were read; the last
//! line may lack its line feed.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use crate::signals::Signals;

/// 256 KiB: a few thousand records a system call; more does not make it faster.
const READ_SIZE: usize = 256 * 1024;

/// The longest body that is taken from stdin. A header's size field would allow more, but a pipe's length is unknown
/// until it ends, and reading without bound would let `cat /dev/zero` take the whole memory.
pub(crate) const BODY_SIZE_MAX: usize = 1 << 30;

/// Splits what it reads into lines.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to where the buffer has been searched for a line feed.
    searched: usize,
    /// Up to where the buffer holds what was read.
    filled: usize,
    ended: bool,
}

impl<R: Read> Lines<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, buffer: vec![0; READ_SIZE], start: 0, searched: 0, filled: 0, ended: false }
    }

    /// The next line without its line feed; `None` at the end.
    ///
    /// An error of kind `Interrupted` loses nothing: the next call goes on.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            let unseen = &self.buffer[self.searched..self.filled];
            if let Some(position) = unseen.iter().position(|byte| *byte == b'\n') {
                let line = self.start..self.searched + position;
                self.start = line.end + 1;
                self.searched = self.start;
                return Ok(Some(&self.buffer[line]));
            }
            self.searched = self.filled;
            if self.ended {
                let line = self.start..self.filled;
                self.start = self.filled;
                return Ok(if line.is_empty() { None } else { Some(&self.buffer[line]) });
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.filled, 0);
            self.searched -= self.start;
            self.filled -= self.start;
            self.start = 0;
        }
        if self.filled == self.buffer.len() {
            if self.filled >= BODY_SIZE_MAX {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a line is longer than 1 GiB"));
            }
            self.buffer.resize((self.buffer.len() * 2).min(BODY_SIZE_MAX), 0);
        }
        let count = self.input.read(&mut self.buffer[self.filled..])?;
        self.ended = count == 0;
        self.filled += count;
        Ok(())
    }
}

/// All of `input`, at most [`BODY_SIZE_MAX`] bytes.
pub(crate) fn read_all(input: impl Read) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    // One byte more than allowed tells "exactly as long" from "longer".
    let limit = BODY_SIZE_MAX as u64 + 1;
    input.take(limit).read_to_end(&mut body)?;
    if body.len() > BODY_SIZE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "stdin is longer than 1 GiB"));
    }
    Ok(body)
}

/// Standard input that a signal interrupts.
#[derive(Debug)]
pub(crate) struct Stdin<'a> {
    stdin: io::Stdin,
    signals: &'a Signals,
}

impl<'a> Stdin<'a> {
    pub(crate) fn new(signals: &'a Signals) -> Self {
        Self { stdin: io::stdin(), signals }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.stdin.as_fd()
    }
}

impl Read for Stdin<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let readable = self.signals.wait_readable(self.fd(), None);
            // Asked after the wait: an interrupt of a whole pipeline brings the signal and the end of the input at once.
            if self.signals.raised().is_some() {
                // Not `Interrupted`: `read_to_end` would try again for ever.
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "a signal came"));
            }
            if readable {
                // Past std's buffer, which would only copy once more.
                return Ok(rustix::io::read(self.fd(), buffer)?);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};

    use super::{Lines, READ_SIZE};

    /// Gives what it holds in pieces of the given sizes, over and over.
    struct Pieces<'a> {
        bytes: &'a [u8],
        sizes: Vec<usize>,
        turn: usize,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.sizes[self.turn % self.sizes.len()].min(buffer.len()).min(self.bytes.len());
            self.turn += 1;
            buffer[..size].copy_from_slice(&self.bytes[..size]);
            self.bytes = &self.bytes[size..];
            Ok(size)
        }
    }

    fn check(bytes: &[u8], sizes: &[usize], expected: &[&[u8]]) {
        let mut lines = Lines::new(Pieces { bytes, sizes: sizes.to_vec(), turn: 0 });
        let mut found: Vec<Vec<u8>> = Vec::new();
        while let Some(line) = lines.next_line().expect("memory does not fail") {
            found.push(line.to_vec());
        }
        assert_eq!(found, expected, "{:?} in pieces of {sizes:?}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn an_empty_line_is_a_message_and_a_last_line_needs_no_line_feed() {
        for sizes in [&[1_usize][..], &[2, 3], &[1000]] {
            check(b"", sizes, &[]);
            check(b"\n", sizes, &[b""]);
            check(b"a\n\nb", sizes, &[b"a", b"", b"b"]);
            check(b"a\n\nb\n", sizes, &[b"a", b"", b"b"]);
            check(b"\r\n\0\n", sizes, &[b"\r", b"\0"]);
        }
    }

    #[test]
    fn a_line_longer_than_the_buffer_is_whole() {
        let long = vec![b'x'; READ_SIZE * 3 + 1];
        let mut bytes = b"short\n".to_vec();
        bytes.extend_from_slice(&long);
        bytes.extend_from_slice(b"\nend");
        check(&bytes, &[100_000], &[b"short", &long, b"end"]);
    }
}
