//! Many messages in one go, as `message_bus` hands them to its handlers: decoded, and those of one topic together.
//!
//! They are copied while they are taken, since who sent them may write there still, and decoded after that, since Python may run whatever
//! it likes while objects are made. What cannot be read here for sure is handed over as bytes, for a serializer of Python. It knows no handlers.
//!
//! Invariant: what was taken is handed over, in order, or stays for the next call; what there is no memory for costs one message, which
//! is told.

use std::collections::VecDeque;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::json::{Reader, Texts};

/// Larger messages are not copied one beside the other, but held until they are read.
const COPIED_BYTES_MAX: usize = 4 << 10;
/// Larger messages are left to Python's readers, which take milliseconds for them as well.
const READ_BYTES_MAX: usize = 1 << 20;

/// Messages of one topic that came together; or without a topic, bytes of messages that are not decoded.
pub(crate) type Run<'py> = (Option<Bound<'py, PyAny>>, Bound<'py, PyList>);

/// Messages that were taken and not shown yet.
#[derive(Default)]
pub(crate) struct Batch {
    /// Those that were copied, one beside the other.
    bytes: Vec<u8>,
    /// Where those of them begin that were not shown yet.
    start: usize,
    taken: VecDeque<Taken>,
}

enum Taken {
    /// It ends so far in the bytes, and begins where the one before it ends.
    Copied(usize),
    Held(busway::Sample),
}

impl Batch {
    pub(crate) fn add(&mut self, sample: busway::Sample) {
        if sample.len() > COPIED_BYTES_MAX {
            self.taken.push_back(Taken::Held(sample));
        } else {
            self.bytes.extend_from_slice(&sample);
            self.taken.push_back(Taken::Copied(self.bytes.len()));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// The next for Python, at most `most`. One for which there is no memory is the first of the next call; there it is lost, and raises.
    pub(crate) fn runs<'py>(
        &mut self,
        py: Python<'py>,
        most: usize,
        reads: Reads,
    ) -> PyResult<Vec<Run<'py>>> {
        let mut runs = Runs { runs: Vec::new(), topic: Vec::new(), texts: Texts::take(), reads };
        let mut ended = Ok(());
        let mut copy = Vec::new();
        for count in 0..most {
            let Some(taken) = self.taken.pop_front() else { break };
            let added = match &taken {
                Taken::Copied(end) => runs.add(py, &self.bytes[self.start..*end]),
                Taken::Held(sample) if sample.len() > READ_BYTES_MAX => runs.add_unread(py, sample),
                Taken::Held(sample) => {
                    copy.clear();
                    copy.extend_from_slice(sample);
                    runs.add(py, &copy)
                }
            };
            if added.is_err() && count > 0 {
                self.taken.push_front(taken);
                break;
            }
            if let Taken::Copied(end) = taken {
                self.start = end;
            }
            if added.is_err() {
                ended = added;
                break;
            }
        }
        runs.texts.put_back();
        ended.map(|()| runs.runs)
    }
}

/// What is made of messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reads {
    /// What is plain JSON is decoded.
    Json,
    /// All are handed over as bytes.
    Nothing,
}

struct Runs<'py> {
    runs: Vec<Run<'py>>,
    /// The topic of the last one, as it is written.
    topic: Vec<u8>,
    texts: Texts,
    reads: Reads,
}

impl<'py> Runs<'py> {
    fn add(&mut self, py: Python<'py>, bytes: &[u8]) -> PyResult<()> {
        if self.reads == Reads::Nothing {
            return self.add_unread(py, bytes);
        }
        let Some(envelope) = Reader::new(py, bytes, &mut self.texts).envelope() else {
            return self.add_unread(py, bytes);
        };
        match self.runs.last() {
            Some((Some(_), messages)) if self.topic == envelope.written => messages.append(envelope.message),
            _ => {
                self.topic.clear();
                self.topic.extend_from_slice(envelope.written);
                self.runs.push((Some(envelope.topic), PyList::new(py, [envelope.message])?));
                Ok(())
            }
        }
    }

    fn add_unread(&mut self, py: Python<'py>, bytes: &[u8]) -> PyResult<()> {
        let copied = PyBytes::new_with(py, bytes.len(), |copy| {
            copy.copy_from_slice(bytes);
            Ok(())
        })?;
        match self.runs.last() {
            Some((None, messages)) => messages.append(copied),
            _ => {
                self.runs.push((None, PyList::new(py, [copied])?));
                Ok(())
            }
        }
    }
}
