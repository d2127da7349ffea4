//! A message in a subscriber's hands.
//!
//! A sample owns what it shows: a small payload is a copy, a large one lies in the publisher's memory and is held until
//! the sample is dropped. It can be kept, cloned out of, and moved to other threads; it outlives the subscriber, the bus
//! and the publisher. It is as small as a pointer: what it shows lies on a tray of its subscriber (`busway_shm::tray`). In a
//! child made by `fork` a sample that is held there has no payload: the memory did not come along.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use busway_shm::row::{Body, Message};
use busway_shm::slot::InlineMessage;
use busway_shm::tray::{Item, Lay, Tray};
use busway_wire::Topic;
use busway_wire::limits::VALUE_DEPTH_MAX;
use busway_wire::{
    Codec, Context as MessageContext, Extensions, Flags, Kind, MessageId, PortId, TraceParent,
};
use serde::de::DeserializeOwned;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::error::{Code, Error};
use crate::publisher::{Missing, ORIGIN_BYTES, WORK_ORIGIN_BYTES, WorkOrigin};

/// Who published a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublisherInfo {
    /// Its process's name.
    pub name: String,
    /// Its process id, as that process sees it.
    pub pid: u32,
    /// Its port, which is the source of its messages.
    pub port: PortId,
}

/// What all samples of one publisher share.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) topic: Topic,
    pub(crate) publisher: PublisherInfo,
    /// Bytes before each payload that are not part of it: the sequence at its origin, where that is another host.
    pub(crate) skip: u8,
}

/// One of some publishers that are counted together: who takes from thousands of them in turn would else count each anew
/// for its message, where it lies.
#[derive(Clone, Debug)]
pub(crate) struct SourceRef {
    /// At most [`SAMPLE_SOURCES_MAX`](busway_wire::limits::SAMPLE_SOURCES_MAX).
    all: Arc<[Arc<Source>]>,
    at: u32,
    skip: u8,
}

impl SourceRef {
    /// Of a publisher alone.
    pub(crate) fn alone(source: Source) -> Self {
        Self { at: 0, skip: source.skip, all: Arc::new([Arc::new(source)]) }
    }

    /// From now on these are counted together.
    pub(crate) fn join<'a>(sources: impl Iterator<Item = &'a mut Self>) {
        let sources: Vec<&mut Self> = sources.collect();
        let all: Arc<[Arc<Source>]> =
            sources.iter().map(|source| source.all[source.at as usize].clone()).collect();
        for (at, source) in (0..).zip(sources) {
            (source.all, source.at) = (all.clone(), at);
        }
    }

    /// With how many others it is kept.
    #[cfg(test)]
    pub(crate) fn together(&self) -> usize {
        self.all.len()
    }
}

impl Deref for SourceRef {
    type Target = Source;

    fn deref(&self) -> &Source {
        &self.all[self.at as usize]
    }
}

/// What a sample shows. Where it lies is used again when the sample is dropped.
#[derive(Debug)]
pub(crate) struct Shown {
    sequence: u64,
    body: Body,
    source: SourceRef,
}

/// Where a subscriber lays its samples.
#[derive(Debug, Default)]
pub(crate) struct SampleTray {
    tray: Tray<Shown>,
    /// The next sample, into which a small message is copied as soon as it is seen.
    blank: Option<Blank>,
}

impl SampleTray {
    /// A sample of this publisher that shows nothing yet.
    #[inline]
    pub(crate) fn blank(&mut self, source: &SourceRef) -> Blank {
        let mut blank = self.blank.take().unwrap_or_else(|| Blank {
            shown: self.tray.take(|| {
                let body = Body::Inline(InlineMessage::EMPTY);
                Shown { sequence: 0, body, source: source.clone() }
            }),
        });
        let of = &mut blank.shown.source;
        if !Arc::ptr_eq(&of.all, &source.all) {
            of.all = source.all.clone();
        }
        (of.at, of.skip) = (source.at, source.skip);
        blank
    }

    /// Keeps one that was not needed.
    #[inline]
    pub(crate) fn keep(&mut self, blank: Blank) {
        self.blank = Some(blank);
    }
}

impl Lay for Shown {
    #[inline]
    fn clear(&mut self) {
        // A small message owns nothing, and its place is written over.
        if !matches!(self.body, Body::Inline(_)) {
            self.body = Body::Inline(InlineMessage::EMPTY);
        }
    }
}

/// One message. Derefs to its payload.
pub struct Sample {
    shown: Item<Shown>,
}

/// A sample that shows nothing yet.
#[derive(Debug)]
pub(crate) struct Blank {
    shown: Item<Shown>,
}

impl Blank {
    /// Where a small message is to be copied.
    #[inline]
    pub(crate) fn place(&mut self) -> Option<&mut InlineMessage> {
        match &mut self.shown.body {
            Body::Inline(place) => Some(place),
            Body::Chunk(_) | Body::Copied(..) => None,
        }
    }

    /// The sample of the message that was copied to `place`.
    #[inline]
    pub(crate) fn copied(mut self, sequence: u64) -> Sample {
        self.shown.sequence = sequence;
        Sample { shown: self.shown }
    }

    /// The sample of `message`.
    pub(crate) fn show(mut self, message: Message) -> Sample {
        self.shown.sequence = message.sequence;
        self.shown.body = message.body;
        Sample { shown: self.shown }
    }
}

impl Sample {
    /// Of a small message that a relay wrote: it, if its sequence at its origin is `next`, which is not 0.
    #[inline]
    pub(crate) fn relayed_as(mut self, next: u64) -> Result<Self, Self> {
        let Body::Inline(inline) = &self.shown.body else { return Err(self) };
        let origin = inline.payload().first_chunk::<ORIGIN_BYTES>().map(|origin| u64::from_le_bytes(*origin));
        if inline.meta.kind != Kind::Publish.number() || origin != Some(next) || next == 0 {
            return Err(self);
        }
        self.shown.sequence = next;
        Ok(self)
    }

    /// Of what a relay wrote: a message of another host, whose sequence is the one it has there; or what the relay says
    /// is missing, if that can be read.
    pub(crate) fn relayed(mut self) -> Result<Self, Option<Missing>> {
        if self.kind() == Kind::Gap {
            return Err(Missing::decode(self.bytes()));
        }
        let Some(origin) = self.bytes().first_chunk::<ORIGIN_BYTES>().copied() else { return Err(None) };
        self.shown.sequence = u64::from_le_bytes(origin);
        Ok(self)
    }

    /// So many bytes more before its payload are not part of it.
    pub(crate) fn skip(&mut self, bytes: u8) {
        self.shown.source.skip = self.shown.source.skip.saturating_add(bytes);
    }

    /// The payload. In a child made by `fork` one that [is held](Sample::is_held) is empty.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> &[u8] {
        // The bytes before it, if any, were there when the sample was made.
        self.bytes().get(usize::from(self.shown.source.skip)..).unwrap_or_default()
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.shown.body.payload()
    }

    /// What it says beside its payload: its id, and the trace to which it belongs. It is read where it lies, each time that this is
    /// asked; of most messages it says nothing, and costs nothing.
    #[must_use]
    pub fn context(&self) -> MessageContext<'_> {
        MessageContext::read(Extensions::new(self.extensions()))
    }

    /// Its id, if who sent it gave it one.
    #[must_use]
    pub fn id(&self) -> Option<MessageId> {
        self.context().id()
    }

    /// The trace to which it belongs, if who sent it said so.
    #[must_use]
    pub fn trace(&self) -> Option<TraceParent> {
        self.context().trace()
    }

    /// A span of `tracing` for what is done with this message: of level info, with its topic, sequence, and where it has them `trace_id`,
    /// `parent_id` and `id`. Where it has no trace it is a span that nobody sees.
    #[must_use]
    pub fn span(&self) -> tracing::Span {
        let context = self.context();
        let Some(trace) = context.trace() else { return tracing::Span::none() };
        let span = tracing::info_span!(
            target: "busway::message",
            "message",
            topic = self.topic(),
            sequence = self.sequence(),
            trace_id = %trace.trace_id(),
            parent_id = %trace.parent_id(),
            id = tracing::field::Empty,
        );
        if let Some(id) = context.id() {
            span.record("id", tracing::field::display(id));
        }
        span
    }

    /// What stands between header and payload.
    pub(crate) fn extensions(&self) -> &[u8] {
        self.shown.body.extensions()
    }

    /// The name of its topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.shown.source.topic.as_str()
    }

    /// Its sequence: from 1, without gaps for each publisher, also where it came from another host.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.shown.sequence
    }

    /// Of a task that another host gave: what it is there. Sets its sequence.
    pub(crate) fn of_work(mut self) -> Self {
        if let Some(origin) = self.work_origin() {
            self.shown.sequence = origin.sequence;
        }
        self
    }

    fn work_origin(&self) -> Option<WorkOrigin> {
        // What its ring says, and not what more is left out of this one.
        let source: &Source = &self.shown.source;
        let is_work = usize::from(source.skip) == WORK_ORIGIN_BYTES;
        is_work.then(|| WorkOrigin::of(self.bytes())).flatten()
    }

    /// Who published it.
    #[must_use]
    pub fn publisher(&self) -> &PublisherInfo {
        &self.shown.source.publisher
    }

    /// The port that published it.
    #[must_use]
    pub fn source(&self) -> PortId {
        if let Some(origin) = self.work_origin() {
            return origin.source;
        }
        self.shown.source.publisher.port
    }

    /// The publisher's clock, nanoseconds since 1970.
    #[must_use]
    pub fn time_ns(&self) -> u64 {
        match &self.shown.body {
            Body::Inline(inline) => inline.meta.time_ns,
            Body::Chunk(chunk) => chunk.header().time_ns.get(),
            Body::Copied(header, _) => header.time_ns.get(),
        }
    }

    /// Which request it belongs to, or 0.
    #[must_use]
    pub fn correlation(&self) -> u64 {
        match &self.shown.body {
            Body::Inline(inline) => inline.meta.correlation,
            Body::Chunk(chunk) => chunk.header().correlation.get(),
            Body::Copied(header, _) => header.correlation.get(),
        }
    }

    /// What kind of message it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        let number = match &self.shown.body {
            Body::Inline(inline) => inline.meta.kind,
            Body::Chunk(chunk) => chunk.header().kind,
            Body::Copied(header, _) => header.kind,
        };
        Kind::from_number(number).unwrap_or(Kind::Publish)
    }

    /// How the publisher says that the payload is encoded.
    #[must_use]
    pub fn codec(&self) -> Codec {
        let bits = match &self.shown.body {
            Body::Inline(inline) => inline.meta.flags,
            Body::Chunk(chunk) => chunk.header().flags,
            Body::Copied(header, _) => header.flags,
        };
        Flags::from_bits(bits).map_or(Codec::Bytes, Flags::codec)
    }

    /// Nothing of its publisher is held any more: its payload, and what stands beside it, are empty from now on.
    pub(crate) fn let_go(&mut self) {
        self.shown.body = Body::Inline(InlineMessage::EMPTY);
    }

    /// Whether the payload lies in the publisher's memory and is held there.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self.shown.body, Body::Chunk(_))
    }

    /// The payload as a value of a plain type, without copying it.
    ///
    /// # Errors
    /// [`Code::CastRefused`] where size, alignment or bytes do not fit `T`.
    pub fn cast<T: FromBytes + KnownLayout + Immutable>(&self) -> Result<&T, Error> {
        T::ref_from_bytes(self.payload()).map_err(|_| {
            let found = self.payload().len();
            Error::new(
                Code::CastRefused,
                format!("{found} bytes are not a value of {} bytes", size_of::<T>()),
            )
            .at(format!("message {} on {}", self.sequence(), self.topic()))
            .remedy("publish and subscribe with the same type")
        })
    }

    /// The value that the payload holds as JSON.
    ///
    /// # Errors
    /// [`Code::DecodeFailed`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(self.payload()).map_err(|error| self.undecodable(&error))
    }

    /// The value that the payload holds as MessagePack.
    ///
    /// # Errors
    /// [`Code::DecodeFailed`].
    pub fn msgpack<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let mut decoder = rmp_serde::Deserializer::from_read_ref(self.payload());
        decoder.set_max_depth(VALUE_DEPTH_MAX);
        T::deserialize(&mut decoder).map_err(|error| self.undecodable(&error))
    }

    fn undecodable(&self, error: &dyn fmt::Display) -> Error {
        Error::new(Code::DecodeFailed, format!("the payload does not hold the value: {error}"))
            .at(format!("message {} on {}", self.sequence(), self.topic()))
            .remedy("publish and subscribe with the same type and codec")
    }
}

impl Deref for Sample {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.payload()
    }
}

impl AsRef<[u8]> for Sample {
    fn as_ref(&self) -> &[u8] {
        self.payload()
    }
}

impl fmt::Debug for Sample {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Sample")
            .field("topic", &self.topic())
            .field("sequence", &self.sequence())
            .field("bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}
