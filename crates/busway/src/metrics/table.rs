//! The one table of what is counted: everything that shows counters goes through it.
//!
//! Names are for ever: they are only added to. A counter's name ends in `_total` in the Prometheus format, and nowhere else.
//!
//! Invariant: each line says where it is counted, and reads nothing but [`Sums`]; a test feeds each of them.

use busway_shm::counters::Event;
use busway_wire::Cause;

use super::Sums;

/// Whether a value only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricKind {
    /// It only grows while its process lives.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metric {
    /// Its name, without prefix and suffix.
    pub name: &'static str,
    /// Whether it only grows.
    pub kind: MetricKind,
    /// What it counts: `messages`, `bytes`, `events`, ...
    pub unit: &'static str,
    /// What it is told apart by, where it has more values than one.
    pub label: Option<&'static str>,
    /// One sentence, without a full stop.
    pub help: &'static str,
    /// Where it is counted.
    pub counted: &'static str,
    pub(super) read: fn(&Sums, &mut Values<'_>),
}

/// Takes the values of one line: the label's, where it has one, and the number.
pub(super) type Values<'a> = dyn FnMut(&'static str, u64) + 'a;

fn events(sums: &Sums, values: &mut Values<'_>, shown: &[(&'static str, Event)]) {
    shown.iter().for_each(|(label, event)| values(label, sums.event(*event)));
}

fn sum(sums: &Sums, of: &[Event]) -> u64 {
    of.iter().map(|event| sums.event(*event)).sum()
}

const SENDS: [(&str, Event); 5] = [
    ("full", Event::SendFull),
    ("timeout", Event::SendTimeout),
    ("memory", Event::SendMemory),
    ("too_large", Event::SendTooLarge),
    ("encode", Event::SendEncode),
];

const REQUESTS: [(&str, Event); 9] = [
    ("answered", Event::RequestAnswered),
    ("timed_out", Event::RequestTimedOut),
    ("no_responders", Event::RequestNoResponders),
    ("responder_died", Event::RequestResponderDied),
    ("unanswered", Event::RequestUnanswered),
    ("failed", Event::RequestFailed),
    ("reply_lost", Event::RequestReplyLost),
    ("refused", Event::RequestRefused),
    ("cancelled", Event::RequestCancelled),
];

const FLOWS_HANDLED: [(&str, Event); 5] = [
    ("transport", Event::TransportHandled),
    ("advert", Event::AdvertHandled),
    ("request", Event::RequestFlowHandled),
    ("chunk", Event::ChunkHandled),
    ("retransmission", Event::RetransmissionHandled),
];

const FLOWS_WAITED: [(&str, Event); 5] = [
    ("transport", Event::TransportWaited),
    ("advert", Event::AdvertWaited),
    ("request", Event::RequestFlowWaited),
    ("chunk", Event::ChunkWaited),
    ("retransmission", Event::RetransmissionWaited),
];

const FLOWS_DROPPED: [(&str, Event); 5] = [
    ("transport", Event::TransportDropped),
    ("advert", Event::AdvertDropped),
    ("request", Event::RequestFlowDropped),
    ("chunk", Event::ChunkDropped),
    ("retransmission", Event::RetransmissionDropped),
];

const FLOWS_NANOSECONDS: [(&str, Event); 5] = [
    ("transport", Event::TransportNanoseconds),
    ("advert", Event::AdvertNanoseconds),
    ("request", Event::RequestFlowNanoseconds),
    ("chunk", Event::ChunkNanoseconds),
    ("retransmission", Event::RetransmissionNanoseconds),
];

/// What is counted, in the order in which it is shown; the nine that every bus of this kind has come first.
pub static METRICS: &[Metric] = &[
    Metric {
        name: "messages_sent",
        kind: MetricKind::Counter,
        unit: "messages",
        label: None,
        help: "Messages that were accepted: published, pushed, asked and replied",
        counted: "the head of each ring but for relays",
        read: |sums, values| values("", sums.sent),
    },
    Metric {
        name: "messages_received",
        kind: MetricKind::Counter,
        unit: "messages",
        label: None,
        help: "Messages that were taken by subscribers, pullers, responders, requesters and links",
        counted: "`delivered` of each row, when it takes a message",
        read: |sums, values| values("", sums.received),
    },
    Metric {
        name: "errors",
        kind: MetricKind::Counter,
        unit: "events",
        label: Some("operation"),
        help: "Calls that failed, by what was to be done",
        counted: "where a send, a request or a handler ends, and where a node listens",
        read: |sums, values| {
            values("send", SENDS.iter().map(|(_, event)| sums.event(*event)).sum());
            // What its caller cancelled is no error.
            let ended = REQUESTS
                .iter()
                .filter(|(_, event)| !matches!(event, Event::RequestAnswered | Event::RequestCancelled));
            values("request", ended.map(|(_, event)| sums.event(*event)).sum());
            values("handler", sum(sums, &[Event::HandlerFailed, Event::HandlerRetried]));
            values("bind", sums.event(Event::BindFailed));
        },
    },
    Metric {
        name: "outbound_dropped",
        kind: MetricKind::Counter,
        unit: "messages",
        label: Some("cause"),
        help: "Messages that were not sent, and those that nobody was there for",
        counted: "where a send is refused; `no_subscriber` in the account",
        read: |sums, values| {
            events(sums, values, &SENDS);
            values("rejected", sums.event(Event::OutletRejected));
            values("cooldown", sums.event(Event::OutletRefused));
            values("no_subscriber", sums.dropped[Cause::NoSubscriber.index()]);
        },
    },
    Metric {
        name: "inbound_dropped",
        kind: MetricKind::Counter,
        unit: "messages",
        label: Some("cause"),
        help: "Messages that subscribers of this process lost, by cause",
        counted: "`dropped` of each row, when it finds that it has lost a message",
        read: |sums, values| {
            Cause::ALL.iter().for_each(|cause| values(cause.name(), sums.missed[cause.index()]));
        },
    },
    Metric {
        name: "backpressure_events",
        kind: MetricKind::Counter,
        unit: "events",
        label: None,
        help: "Sends that met a full ring: they waited, or were refused",
        counted: "`waits` of each ring",
        read: |sums, values| values("", sums.waits),
    },
    Metric {
        name: "request_timeouts",
        kind: MetricKind::Counter,
        unit: "requests",
        label: None,
        help: "Requests without a reply in time",
        counted: "where a request ends",
        read: |sums, values| values("", sums.event(Event::RequestTimedOut)),
    },
    Metric {
        name: "failed_bind_count",
        kind: MetricKind::Counter,
        unit: "events",
        label: None,
        help: "Addresses at which the node could not listen",
        counted: "where a node listens",
        read: |sums, values| values("", sums.event(Event::BindFailed)),
    },
    Metric {
        name: "active_connections",
        kind: MetricKind::Gauge,
        unit: "links",
        label: None,
        help: "Links to other hosts that stand now",
        counted: "where the node says how its links are",
        read: |sums, values| values("", sums.event(Event::Links)),
    },
    Metric {
        name: "bytes_sent",
        kind: MetricKind::Counter,
        unit: "bytes",
        label: None,
        help: "Bytes of the payloads of messages that were sent",
        counted: "`sent_bytes` of each ring but for relays",
        read: |sums, values| values("", sums.bytes),
    },
    Metric {
        name: "messages_relayed",
        kind: MetricKind::Counter,
        unit: "messages",
        label: None,
        help: "Messages that the node brought here from other hosts",
        counted: "the head of each relay",
        read: |sums, values| values("", sums.relayed),
    },
    Metric {
        name: "delivered",
        kind: MetricKind::Counter,
        unit: "messages",
        label: None,
        help: "What was taken of what was sent, summed over subscribers and groups",
        counted: "`delivered` of the rows at our rings",
        read: |sums, values| values("", sums.delivered),
    },
    Metric {
        name: "dropped",
        kind: MetricKind::Counter,
        unit: "messages",
        label: Some("cause"),
        help: "What was lost of what was sent, summed over subscribers and groups, by cause",
        counted: "`dropped` of the rows at our rings",
        read: |sums, values| {
            Cause::ALL.iter().for_each(|cause| values(cause.name(), sums.dropped[cause.index()]));
        },
    },
    Metric {
        name: "in_flight",
        kind: MetricKind::Gauge,
        unit: "messages",
        label: None,
        help: "What was sent and is neither taken nor lost yet, summed over subscribers and groups",
        counted: "the head of each ring, less the cursor of each row at it",
        read: |sums, values| values("", sums.in_flight),
    },
    Metric {
        name: "accounts_open",
        kind: MetricKind::Gauge,
        unit: "pairs",
        label: None,
        help: "Pairs of publisher and subscriber for which sent = delivered + dropped + in flight does not hold: always 0",
        counted: "the account of each row at our rings",
        read: |sums, values| values("", sums.open),
    },
    Metric {
        name: "requests",
        kind: MetricKind::Counter,
        unit: "requests",
        label: Some("outcome"),
        help: "Requests that have ended, by what became of them",
        counted: "where a request is let go by who asked",
        read: |sums, values| events(sums, values, &REQUESTS),
    },
    Metric {
        name: "handled",
        kind: MetricKind::Counter,
        unit: "messages",
        label: Some("outcome"),
        help: "Messages that handlers of services were done with, by what became of them",
        counted: "where the work on a message ends",
        read: |sums, values| {
            let shown = [
                ("handled", Event::Handled),
                ("failed", Event::HandlerFailed),
                ("unhandled", Event::HandlerUnhandled),
                ("rejected", Event::HandlerRejected),
            ];
            events(sums, values, &shown);
        },
    },
    Metric {
        name: "handler_events",
        kind: MetricKind::Counter,
        unit: "events",
        label: Some("event"),
        help: "What happened to handlers of services on the way",
        counted: "where an attempt ends",
        read: |sums, values| {
            let shown = [
                ("retried", Event::HandlerRetried),
                ("panicked", Event::HandlerPanicked),
                ("refused", Event::HandlerRefused),
                ("buried", Event::HandlerBuried),
                ("unburied", Event::HandlerUnburied),
                ("late", Event::HandlerLate),
                ("returned", Event::HandlerReturned),
                ("slow", Event::HandlerSlow),
                ("expired", Event::HandlerExpired),
            ];
            events(sums, values, &shown);
        },
    },
    Metric {
        name: "handlers_running",
        kind: MetricKind::Gauge,
        unit: "messages",
        label: None,
        help: "Messages that handlers of services are being called with now",
        counted: "where a handler is called, and where it returns",
        read: |sums, values| values("", sums.event(Event::HandlersRunning)),
    },
    Metric {
        name: "sends_retried",
        kind: MetricKind::Counter,
        unit: "events",
        label: None,
        help: "Attempts of outlets that failed and were followed by another",
        counted: "where an outlet tries again",
        read: |sums, values| values("", sums.event(Event::OutletRetried)),
    },
    Metric {
        name: "flow_handled",
        kind: MetricKind::Counter,
        unit: "events",
        label: Some("flow"),
        help: "What peers did about artifacts and who decides about them was told, where that has workers",
        counted: "where the handler of a flow returns",
        read: |sums, values| events(sums, values, &FLOWS_HANDLED),
    },
    Metric {
        name: "flow_waited",
        kind: MetricKind::Counter,
        unit: "events",
        label: Some("flow"),
        help: "Events that found their flow full and waited for room",
        counted: "where an event finds its flow full",
        read: |sums, values| events(sums, values, &FLOWS_WAITED),
    },
    Metric {
        name: "flow_coalesced",
        kind: MetricKind::Counter,
        unit: "events",
        label: Some("flow"),
        help: "Events that a newer one made worthless while their flow was full",
        counted: "where an event takes the place of others",
        read: |sums, values| {
            let shown =
                [("advert", Event::AdvertCoalesced), ("retransmission", Event::RetransmissionCoalesced)];
            events(sums, values, &shown);
        },
    },
    Metric {
        name: "flow_dropped",
        kind: MetricKind::Counter,
        unit: "events",
        label: Some("flow"),
        help: "Events that were dropped, because their flow was full and drops, or because the node ended",
        counted: "where an event is dropped",
        read: |sums, values| events(sums, values, &FLOWS_DROPPED),
    },
    Metric {
        name: "flow_handler_nanoseconds",
        kind: MetricKind::Counter,
        unit: "nanoseconds",
        label: Some("flow"),
        help: "Time in who decides about artifacts",
        counted: "where the handler of a flow returns",
        read: |sums, values| events(sums, values, &FLOWS_NANOSECONDS),
    },
    Metric {
        name: "publishers",
        kind: MetricKind::Gauge,
        unit: "ports",
        label: None,
        help: "Publishers, pushers, requesters and lanes that are open",
        counted: "rings that are active",
        read: |sums, values| values("", sums.publishers),
    },
    Metric {
        name: "rows",
        kind: MetricKind::Gauge,
        unit: "rows",
        label: None,
        help: "Pairs of a subscriber of this process and a publisher that it reads",
        counted: "rows that read",
        read: |sums, values| values("", sums.rows),
    },
    Metric {
        name: "samples_held",
        kind: MetricKind::Gauge,
        unit: "messages",
        label: None,
        help: "Samples that this process holds",
        counted: "`held` of each row",
        read: |sums, values| values("", sums.held),
    },
    Metric {
        name: "memory",
        kind: MetricKind::Gauge,
        unit: "bytes",
        label: None,
        help: "Bytes that the arena of this process has taken",
        counted: "where pages are taken and given back",
        read: |sums, values| values("", sums.memory),
    },
];
