//! What the door counts: one table of names, and the text that Prometheus reads.
//!
//! What the bus counts stands in the table of `busway::metrics`, and is told beside it: `/metrics` is both.
//!
//! Invariant: `requests = answered + refused + broken_off + under way`.

use std::fmt::Write;
use std::sync::Arc;

use crate::Shared;
use crate::count::Count;
use crate::refusal::Cause;

/// A name of `/metrics` that this door feeds.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    /// The name, whole.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// Its label, where it has one.
    pub label: Option<&'static str>,
}

const fn counter(name: &'static str, help: &'static str) -> Counter {
    Counter { name, kind: "counter", help, label: None }
}

const fn gauge(name: &'static str, help: &'static str) -> Counter {
    Counter { name, kind: "gauge", help, label: None }
}

/// All of them, in the order in which they are shown.
pub const COUNTERS: &[Counter] = &[
    counter("busway_http_requests_total", "Requests whose head was read"),
    counter("busway_http_answered_total", "Requests that were answered; a stream when it began"),
    Counter {
        label: Some("cause"),
        ..counter("busway_http_refused_total", "Requests that were refused, by cause")
    },
    counter("busway_http_broken_off_total", "Requests whose caller had gone before there was an answer"),
    gauge("busway_http_under_way", "Requests that have no answer yet"),
    gauge("busway_http_ingress_requests", "Requests of the flow ingress that are under way"),
    gauge("busway_http_ingress_requests_limit", "How many of them may be"),
    gauge("busway_http_ingress_bytes", "Bytes of bodies that are under way"),
    gauge("busway_http_ingress_bytes_limit", "How many of them may be"),
    gauge("busway_http_threads", "Threads on which the bus is waited for"),
    gauge("busway_http_threads_limit", "How many of them may be"),
    counter("busway_http_body_bytes_total", "Bytes of bodies that came"),
    gauge("busway_http_streams", "Streams of messages that are open"),
    counter("busway_http_streams_total", "Streams of messages that were opened"),
    counter("busway_http_events_total", "Messages that streams were given"),
    counter("busway_http_events_lost_total", "Messages that streams were told they had lost"),
    gauge("busway_http_transfers", "Artifacts that are put or given at the moment"),
    gauge("busway_http_transfers_limit", "How many of them may be"),
    counter("busway_http_artifact_bytes_in_total", "Bytes of artifacts that came"),
    counter("busway_http_artifact_bytes_out_total", "Bytes of artifacts that were given"),
    gauge("busway_http_artifacts", "Artifacts that were put and stand"),
    gauge("busway_http_artifacts_bytes", "Bytes of them"),
    gauge("busway_http_artifacts_bytes_limit", "How many of these may be"),
    gauge("busway_http_connections", "Connections that are open"),
    counter("busway_http_connections_total", "Connections that were taken"),
    counter("busway_http_connections_refused_total", "Connections for which there was no room"),
];

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    requests: Count,
    answered: Count,
    refused: [Count; Cause::ALL.len()],
    broken_off: Count,
    pub(crate) body_bytes: Count,
    pub(crate) streams: Count,
    pub(crate) events: Count,
    pub(crate) events_lost: Count,
    pub(crate) artifact_bytes_in: Count,
    pub(crate) artifact_bytes_out: Count,
    pub(crate) connections: Count,
    pub(crate) connections_open: Count,
    pub(crate) connections_refused: Count,
}

/// Adds to a count that nothing depends on.
pub(crate) fn add(count: &Count, more: u64) {
    count.add(more);
}

fn load(count: &Count) -> u64 {
    count.get()
}

/// A request until it has its answer.
#[derive(Debug)]
pub(crate) struct UnderWay {
    shared: Arc<Shared>,
    over: bool,
}

impl UnderWay {
    pub(crate) fn begin(shared: &Arc<Shared>) -> UnderWay {
        add(&shared.accounts.requests, 1);
        UnderWay { shared: shared.clone(), over: false }
    }

    /// It has its answer; `None`: it was not refused.
    pub(crate) fn end(mut self, refused: Option<Cause>) {
        self.over = true;
        match refused {
            Some(cause) => add(&self.shared.accounts.refused[cause as usize], 1),
            None => add(&self.shared.accounts.answered, 1),
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.over {
            add(&self.shared.accounts.broken_off, 1);
        }
    }
}

/// The text of the door's own names.
pub(crate) fn text(shared: &Shared) -> String {
    let (of, budget) = (&shared.accounts, &shared.budget);
    // Ends before beginnings: what ends meanwhile is not counted as ended and under way.
    let (answered, broken_off) = (load(&of.answered), load(&of.broken_off));
    let refused: Vec<u64> = of.refused.iter().map(load).collect();
    let requests = load(&of.requests);
    let ended = refused.iter().fold(answered + broken_off, |sum, count| sum + count);
    let mut text = String::new();
    for counter in COUNTERS {
        let Counter { name, kind, help, .. } = counter;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
        let value = match *name {
            "busway_http_requests_total" => requests,
            "busway_http_answered_total" => answered,
            "busway_http_broken_off_total" => broken_off,
            "busway_http_under_way" => requests.saturating_sub(ended),
            "busway_http_ingress_requests" => budget.requests.taken(),
            "busway_http_ingress_requests_limit" => budget.requests.limit(),
            "busway_http_ingress_bytes" => budget.bytes.taken(),
            "busway_http_ingress_bytes_limit" => budget.bytes.limit(),
            "busway_http_threads" => budget.threads.taken(),
            "busway_http_threads_limit" => budget.threads.limit(),
            "busway_http_body_bytes_total" => load(&of.body_bytes),
            "busway_http_streams" => budget.streams.taken(),
            "busway_http_streams_total" => load(&of.streams),
            "busway_http_events_total" => load(&of.events),
            "busway_http_events_lost_total" => load(&of.events_lost),
            "busway_http_transfers" => budget.transfers.taken(),
            "busway_http_transfers_limit" => budget.transfers.limit(),
            "busway_http_artifact_bytes_in_total" => load(&of.artifact_bytes_in),
            "busway_http_artifact_bytes_out_total" => load(&of.artifact_bytes_out),
            "busway_http_artifacts" => shared.shelf.count.taken(),
            "busway_http_artifacts_bytes" => shared.shelf.bytes.taken(),
            "busway_http_artifacts_bytes_limit" => shared.shelf.bytes.limit(),
            "busway_http_connections" => load(&of.connections_open),
            "busway_http_connections_total" => load(&of.connections),
            "busway_http_connections_refused_total" => load(&of.connections_refused),
            _ => {
                for ((_, cause), count) in Cause::ALL.iter().zip(&refused) {
                    let _ = writeln!(text, "{name}{{cause=\"{cause}\"}} {count}");
                }
                continue;
            }
        };
        let _ = writeln!(text, "{name} {value}");
    }
    text
}
