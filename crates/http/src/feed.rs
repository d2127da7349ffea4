//! What a stream gives its reader: messages, what was lost of them, and how far it is.
//!
//! A reader that comes back says how far it was, and is given what its publishers have kept since then. What they have not kept is told with its numbers before the
//! message that follows it; of a publisher that is there no more nobody knows, and that is told too. A reader never makes a publisher wait: who is slow loses the oldest.
//! SSE and WebSocket differ in how they write this down, and in nothing else.
//!
//! Invariant: what is allowed is asked for each message and each loss, by the topic's whole name, when it is taken; and no message is held while its reader is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busway::{Bus, Deed, Error, Loss, Pattern, PortId, RecvError, Sample, Subscriber, Topic};
use serde::Serialize;

use crate::account::add;
use crate::budget::Taken;
use crate::limits::{LOOKED_MAX, RESUME_MAX};
use crate::place::Place;
use crate::rights::Caller;
use crate::send::content_type;
use crate::{Shared, ports};

/// Something to write down.
#[derive(Debug)]
pub(crate) struct Event {
    /// `message`, `lost`, `ready` or `end`.
    pub(crate) name: &'static str,
    /// A JSON object, in one line.
    pub(crate) data: String,
    /// How far the reader is with it.
    pub(crate) place: String,
}

#[derive(Debug, Serialize)]
struct Message<'a> {
    topic: &'a str,
    sequence: u64,
    source: String,
    publisher: &'a str,
    time_ns: u64,
    size: usize,
    content_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

#[derive(Debug, Serialize)]
struct Lost<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    source: String,
    cause: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    from: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
}

/// What a reader wants.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) pattern: Pattern,
    /// Where it was, if it comes back.
    pub(crate) place: Option<Place>,
    /// Messages from before of each publisher, for one that does not.
    pub(crate) history: u64,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Feed {
    shared: Arc<Shared>,
    caller: Caller,
    subscriber: Subscriber,
    place: Place,
    /// Publishers of which it is to go on, and behind which message.
    behind: BTreeMap<PortId, u64>,
    /// What waits to be given, the next at the end.
    waiting: Vec<Event>,
    /// Messages that were looked at since others had their turn.
    looked: u32,
}

impl Feed {
    /// Subscribes; its place is its reader's until that has been done, also where its reader has gone.
    pub(crate) async fn open(
        shared: &Arc<Shared>,
        caller: Caller,
        wish: Wish,
        taken: Taken,
    ) -> Result<(Feed, Taken), Error> {
        let Wish { pattern, place, history } = wish;
        let (bus, rights, who) = (shared.bus.clone(), shared.clone(), caller.clone());
        let resumes = place.is_some();
        let history = if resumes { RESUME_MAX } else { history };
        let (subscriber, place, taken) = ports::waiting(shared, &caller.who(), move || {
            let now = match place {
                Some(place) => place,
                // Of those that it may not read it hears nothing, not even their number.
                None => heads(&bus, history, |topic| {
                    pattern.matches(topic) && rights.rights.allow(&who, Deed::Subscribe, topic)
                })?,
            };
            Ok((bus.subscriber_of(pattern).history(history).open()?, now, taken))
        })
        .await?;
        let behind = if resumes { place.iter().collect() } else { BTreeMap::new() };
        let ready = Event { name: "ready", data: "{}".to_owned(), place: place.to_string() };
        let waiting = vec![ready];
        let shared = shared.clone();
        Ok((Feed { shared, caller, subscriber, place, behind, waiting, looked: 0 }, taken))
    }

    /// Whether its reader may still come in.
    pub(crate) fn is_welcome(&self) -> bool {
        self.shared.rights.knows(&self.caller)
    }

    /// Waits for the next event. Messages may come without pause, and none of them be for this reader: others have their turn all the same.
    pub(crate) async fn next(&mut self) -> Result<Event, RecvError> {
        loop {
            if let Some(event) = self.waiting.pop() {
                return Ok(event);
            }
            if self.looked >= LOOKED_MAX {
                self.looked = 0;
                tokio::task::yield_now().await;
            }
            let sample = self.subscriber.recv_async().await?;
            self.take(sample);
        }
    }

    /// The next event, if it is there and no others are to have their turn.
    pub(crate) fn try_next(&mut self) -> Result<Option<Event>, RecvError> {
        loop {
            if let Some(event) = self.waiting.pop() {
                return Ok(Some(event));
            }
            if self.looked >= LOOKED_MAX {
                return Ok(None);
            }
            let Some(sample) = self.subscriber.try_recv()? else { return Ok(None) };
            self.take(sample);
        }
    }

    /// Takes a message: what was lost before it comes first. What it lies in is given back here, however long its reader takes.
    fn take(&mut self, sample: Sample) {
        self.looked += 1;
        let mut told: Vec<Event> = Vec::new();
        for loss in self.subscriber.losses() {
            self.lose(&loss, &mut told);
        }
        let (source, sequence) = (sample.source(), sample.sequence());
        let reached = self.behind.get(&source).copied();
        if reached.is_none_or(|reached| sequence > reached) {
            if let Some(reached) = self.behind.remove(&source) {
                self.gap(sample.topic(), source, reached + 1, sequence, &mut told);
            }
            told.extend(self.message(&sample));
        }
        told.reverse();
        self.waiting = told;
    }

    /// Tells what lies between what the reader had and what is there.
    fn gap(&mut self, topic: &str, source: PortId, from: u64, next: u64, told: &mut Vec<Event>) {
        if from >= next {
            return;
        }
        let lost = Lost {
            topic: Some(topic),
            source: source.to_string(),
            cause: "not_kept",
            count: Some(next - from),
            from,
            to: Some(next - 1),
        };
        self.tell(topic, &lost, next - from, told);
    }

    fn lose(&mut self, loss: &Loss, told: &mut Vec<Event>) {
        let mut from = loss.from;
        if let Some(reached) = self.behind.get(&loss.source).copied() {
            if loss.to <= reached {
                return;
            }
            self.behind.remove(&loss.source);
            self.gap(loss.topic.as_str(), loss.source, reached + 1, from, told);
            from = from.max(reached + 1);
        }
        // Who may not hear of it does not hear of its publisher either.
        if self.may(loss.topic.as_str()) {
            self.place.reach(loss.source, loss.to);
        }
        let count = loss.count.min((loss.to - from).saturating_add(1));
        let lost = Lost {
            topic: Some(loss.topic.as_str()),
            source: loss.source.to_string(),
            cause: loss.cause.name(),
            count: Some(count),
            from,
            to: Some(loss.to),
        };
        self.tell(loss.topic.as_str(), &lost, count, told);
    }

    /// Tells a loss to who may hear of the topic.
    fn tell(&mut self, topic: &str, lost: &Lost<'_>, count: u64, told: &mut Vec<Event>) {
        if self.may(topic) {
            add(&self.shared.accounts.events_lost, count);
            told.push(self.event("lost", lost));
        }
    }

    fn event<T: Serialize>(&self, name: &'static str, data: &T) -> Event {
        Event { name, data: serde_json::to_string(data).unwrap_or_default(), place: self.place.to_string() }
    }

    fn may(&self, topic: &str) -> bool {
        let topic = Topic::new(topic);
        topic.is_ok_and(|topic| self.shared.rights.allow(&self.caller, Deed::Subscribe, &topic))
    }

    /// The event of a message; `None` where its reader may not have it.
    fn message(&mut self, sample: &Sample) -> Option<Event> {
        let source = sample.source();
        if !self.may(sample.topic()) {
            return None;
        }
        self.place.reach(source, sample.sequence());
        if sample.len() as u64 > self.shared.body_bytes_max {
            let (source, from) = (source.to_string(), sample.sequence());
            let (topic, to, count) = (Some(sample.topic()), Some(from), Some(1));
            add(&self.shared.accounts.events_lost, 1);
            return Some(self.event("lost", &Lost { topic, source, cause: "too_large", count, from, to }));
        }
        add(&self.shared.accounts.events, 1);
        let context = sample.context();
        let state = context.state();
        let body = as_text(sample);
        let message = Message {
            topic: sample.topic(),
            sequence: sample.sequence(),
            source: source.to_string(),
            publisher: &sample.publisher().name,
            time_ns: sample.time_ns(),
            size: sample.len(),
            content_type: content_type(sample.codec()),
            id: context.id().map(|id| id.to_string()),
            traceparent: context.trace().map(|trace| trace.to_string()),
            tracestate: (!state.is_empty()).then_some(state),
            body,
            body_base64: body.is_none().then(|| STANDARD.encode(&**sample)),
        };
        Some(self.event("message", &message))
    }

    /// Tells of publishers behind which it was to go on and that are there no more. Asked a while after the begin, when all who live have been met.
    pub(crate) async fn tell_gone(&mut self) -> Result<(), Error> {
        if self.behind.is_empty() {
            return Ok(());
        }
        let bus = self.shared.bus.clone();
        let there = ports::waiting(&self.shared, &self.caller.who(), move || {
            let topics = bus.inspect()?.topics;
            let all = topics.into_iter().flat_map(|topic| topic.publishers);
            Ok(all.map(|publisher| publisher.port).collect::<BTreeSet<String>>())
        })
        .await?;
        let gone: Vec<(PortId, u64)> =
            self.behind.iter().map(|(source, reached)| (*source, *reached)).collect();
        for (source, reached) in gone.into_iter().filter(|(source, _)| !there.contains(&source.to_string())) {
            self.behind.remove(&source);
            // The place comes from outside, and may say the last number there is.
            let (source, from) = (source.to_string(), reached.saturating_add(1));
            let lost = Lost { topic: None, source, cause: "publisher_gone", count: None, from, to: None };
            let event = self.event("lost", &lost);
            self.waiting.insert(0, event);
        }
        Ok(())
    }
}

/// A payload as text, where it is some and its escapes do not make more than twice as much of it: of a byte that shows nothing they make six.
pub(crate) fn as_text(payload: &[u8]) -> Option<&str> {
    let more = |byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 1,
        0..0x20 => 5,
        _ => 0,
    };
    let text = std::str::from_utf8(payload).ok()?;
    (payload.iter().map(more).sum::<usize>() <= payload.len()).then_some(text)
}

/// How far the publishers are that are known now: what they send from here on is new to who begins.
fn heads(bus: &Bus, history: u64, wanted: impl Fn(&Topic) -> bool) -> Result<Place, Error> {
    let mut place = Place::default();
    if history > 0 {
        return Ok(place);
    }
    for topic in bus.inspect()?.topics {
        let is_of = Topic::new(&topic.topic).is_ok_and(|topic| wanted(&topic));
        for publisher in topic.publishers.iter().filter(|_| is_of) {
            if let Ok(port) = u64::from_str_radix(&publisher.port, 16) {
                place.reach(PortId(port), publisher.sent);
            }
        }
    }
    Ok(place)
}
