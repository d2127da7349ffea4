//! The figures of the modules for Python: what a program handles in a second, and the times that its document names.
//!
//! What is measured is in `python/`; a bar here is that of the list of targets, or of the document.

use super::{Maker, claim, plain, read};
use crate::figure::{Against, Bar, Figure};
use crate::plan::Plan;

impl Maker<'_> {
    pub(super) fn p15a(&self) -> Figure {
        let rate = |side: &str| read(&format!("{side} dicts"), "messages_per_s");
        let cells = [("python-document", 60_000), ("python-message-bus", 300_000)];
        Figure {
            method: "Two interpreters, each on a processor of its own. The document's program: `await publish` of a dict through PUB, SUB and a handler that is awaited, in asyncio with pyzmq, a future a message. \
                     Ours: the same program with the module `message_bus`. Both have orjson, and high-water marks at which nothing is lost. The clock runs from the first message in a handler to the last",
            cells: cells.map(|(side, messages)| self.cell(side, "dicts", messages)).to_vec(),
            claims: vec![
                claim(
                    "message_bus / the document's program",
                    rate("python-message-bus"),
                    Against::Over(rate("python-document")),
                    Bar::AtLeast(12.0),
                ),
                claim(
                    "message_bus, lost",
                    read("python-message-bus dicts", "lost"),
                    Against::Nothing,
                    Bar::AtMost(0.0),
                ),
            ],
            ..plain("P15a", "Python, a dict a message through `publish` and an async handler")
        }
    }

    pub(super) fn p15b(&self) -> Figure {
        let rate = |side: &str, cell: &str| read(&format!("{side} {cell}"), "messages_per_s");
        let ours = || rate("python-busway", "bytes of 64");
        let bytes = |side| Plan { size: 64, ..self.cell(side, "bytes", 2_000_000) };
        Figure {
            method: "As P15a. Ours: 64 bytes a message with the module `busway`, `send_many` of 256 and `recv_many` of as many as there are, each read where it lies. libzmq: PUSH and PULL by pyzmq, blocking, without asyncio",
            cells: vec![
                self.cell("python-document", "dicts", 60_000),
                bytes("python-busway"),
                bytes("python-libzmq"),
            ],
            claims: vec![
                claim(
                    "busway / the document's program",
                    ours(),
                    Against::Over(rate("python-document", "dicts")),
                    Bar::AtLeast(50.0),
                ),
                claim(
                    "busway / libzmq in Python",
                    ours(),
                    Against::Over(rate("python-libzmq", "bytes of 64")),
                    Bar::None,
                ),
                claim(
                    "busway, lost",
                    read("python-busway bytes of 64", "lost"),
                    Against::Nothing,
                    Bar::AtMost(0.0),
                ),
            ],
            ..plain("P15b", "Python, batches of bytes")
        }
    }

    pub(super) fn p15c(&self) -> Figure {
        let time = |name| read("python-message-bus times", name);
        let of = |title: &str, name, bar| claim(title, time(name), Against::Nothing, bar);
        Figure {
            method: "One interpreter, with nothing beside it. How late a loop wakes of a sleep of 1 ms is the median while plain functions compute 25 ms each: in threads by `asyncio.to_thread` alone, as handlers of \
                     `message_bus`, and with `sync_executor=\"process\"`. A hundred handlers of 100 ms, of as many topics, run with `handler_max_concurrency` 20. A request to an endpoint that is left alone, and one that nobody answers, are \
                     medians of 15. The end of a bus is what it takes beyond its linger, with messages that nobody reads and a handler that does not return. The quick start is the document's, with the start of its interpreter",
            cells: vec![self.cell("python-message-bus", "times", 1)],
            claims: vec![
                claim(
                    "lateness: handlers in threads, over bare threads",
                    time("handler_late_ns"),
                    Against::Minus(time("bare_thread_late_ns")),
                    Bar::AtMost(1e6),
                ),
                of("lateness: handlers in processes", "process_late_ns", Bar::AtMost(5e6)),
                of("a hundred handlers of 100 ms, twenty at once", "twenty_at_once_ns", Bar::AtMost(600e6)),
                of("a request to who is left alone", "left_alone_ns", Bar::AtMost(1e6)),
                of("a request that nobody answers", "nobody_ns", Bar::AtMost(10e6)),
                of("the end of a bus, beyond its linger", "cleanup_ns", Bar::AtMost(1e9)),
                of("the quick start takes at least", "quick_start_ns", Bar::AtLeast(2e9)),
                of("the quick start takes at most", "quick_start_ns", Bar::AtMost(3e9)),
            ],
            rounds_max: 5,
            ..plain("P15c", "Times of `message_bus`, by its document")
        }
    }
}
