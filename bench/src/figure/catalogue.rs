//! The catalogue: every figure, its cells and its bars.
//!
//! The bars are the first bars of the list of targets. A number here that differs from that list is a mistake here.

mod python;

use crate::figure::rounds::Settings;
use crate::figure::{Against, Bar, Claim, Figure, Reading};
use crate::plan::Plan;

/// All figures, in the order of the page.
pub fn figures(settings: &Settings) -> Vec<Figure> {
    let maker = Maker { settings };
    vec![
        maker.p1(),
        maker.p2(),
        maker.fixed_rate(),
        maker.p3(),
        maker.p3b(),
        maker.p4(),
        maker.p5(),
        maker.p6(),
        maker.p7(),
        maker.p8(),
        maker.p9(),
        maker.p10(),
        maker.p11(),
        maker.p12(),
        maker.p13(),
        maker.p14(),
        maker.p14b(),
        maker.p15a(),
        maker.p15b(),
        maker.p15c(),
        maker.p18(),
        maker.p19(),
        maker.p20(),
        maker.p21(),
        maker.p22(),
        maker.a6(),
        maker.a10(),
        maker.a22(),
    ]
}

/// Receivers of the figures that vary them.
pub const FANOUT: [usize; 4] = [1, 8, 64, 256];

/// At about so many messages a second ten thousand topics come over a link, and a hundred subscribers take them.
const TRICKLE: u64 = 40_000;
/// Fixed rates, in messages a second: one at which both sides idle, one near what a slow side can do.
const RATES: [u64; 2] = [10_000, 500_000];

/// Who sends over TCP: ours and the rivals.
const RIVALS: [&str; 4] = ["link", "libzmq", "zenoh", "nats"];

const FLOOD: &str = "One process sends as fast as it may, another receives and sleeps when there is nothing; the clock stops when the last payload was read. Nothing may be lost. \
                     libzmq, zenoh and ours are two processes; NATS has its server between them, a third, which may use both processors";

/// Our messages a second over those of each rival: the best of them is the one that counts.
fn rates(size: u64, least: f64) -> Vec<Claim> {
    let rate = |side: &str| read(&format!("{side} flood of {size}"), "messages_per_s");
    let over = |rival: &&str| {
        claim(&format!("busway / {rival}"), rate("link"), Against::Over(rate(rival)), Bar::AtLeast(least))
    };
    let lost = read(&format!("link flood of {size}"), "lost");
    let lost = claim("busway, lost", lost, Against::Nothing, Bar::AtMost(0.0));
    RIVALS[1..].iter().map(over).chain([lost]).collect()
}

struct Maker<'run> {
    settings: &'run Settings,
}

impl Maker<'_> {
    fn cell(&self, side: &str, cell: &str, messages: u64) -> Plan {
        // A quick run keeps at least a few messages: it must still go through every step.
        let messages = if self.settings.quick { (messages / 20).max(10) } else { messages };
        Plan {
            side: side.to_owned(),
            cell: cell.to_owned(),
            cpus: self.settings.cpus,
            messages,
            receivers: 1,
            rate: 0,
            size: 0,
            command: String::new(),
        }
    }

    fn each(&self, sides: &[&str], cell: &str, messages: u64, receivers: &[usize]) -> Vec<Plan> {
        let cells = receivers.iter().flat_map(|count| {
            sides.iter().map(|side| Plan { receivers: *count, ..self.cell(side, cell, messages) })
        });
        cells.collect()
    }

    fn p1(&self) -> Figure {
        let over = |floor| Against::Over(read(floor, "one_way_ns"));
        Figure {
            method: "Ping-pong of two spinning processes, halved; the figure is the median block of 500 round trips. \
                     The bare cache line is the floor of the machine, the bare ring is the floor of a message",
            cells: ["line", "ring", "busway"].map(|side| self.cell(side, "oneway", 300_000)).to_vec(),
            claims: vec![
                claim(
                    "busway / bare ring",
                    read("busway oneway", "one_way_ns"),
                    over("ring oneway"),
                    Bar::AtMost(1.3),
                ),
                claim(
                    "busway / bare cache line",
                    read("busway oneway", "one_way_ns"),
                    over("line oneway"),
                    Bar::None,
                ),
                claim(
                    "bare ring / bare cache line",
                    read("ring oneway", "one_way_ns"),
                    over("line oneway"),
                    Bar::None,
                ),
            ],
            ..plain("P1", "64 B one way through memory, spinning, against a bare ring")
        }
    }

    fn p2(&self) -> Figure {
        Figure {
            method: "As P1. iceoryx2 receives by busy polling and loans its next sample after it has sent one, \
                     as its own benchmark does",
            cells: ["line", "ring", "busway", "iceoryx2"]
                .map(|side| self.cell(side, "oneway", 300_000))
                .to_vec(),
            claims: vec![
                claim(
                    "busway / iceoryx2",
                    read("busway oneway", "one_way_ns"),
                    Against::Over(read("iceoryx2 oneway", "one_way_ns")),
                    Bar::AtMost(0.5),
                ),
                claim(
                    "iceoryx2 / bare cache line",
                    read("iceoryx2 oneway", "one_way_ns"),
                    Against::Over(read("line oneway", "one_way_ns")),
                    Bar::None,
                ),
            ],
            ..plain("P2", "64 B one way through memory, spinning, against iceoryx2")
        }
    }

    fn fixed_rate(&self) -> Figure {
        let sides = ["ring", "busway", "iceoryx2"];
        let cells = RATES.iter().flat_map(|rate| {
            // A second of messages, so that several beats of the control threads fall into each cell.
            sides.map(|side| Plan { rate: *rate, ..self.cell(side, "rate", *rate) })
        });
        let claims = RATES.iter().flat_map(|rate| {
            ["p50", "p99"].map(|name| {
                claim(
                    &format!("{name} at {rate}/s, busway / bare ring"),
                    read(&format!("busway rate at {rate}/s"), name),
                    Against::Over(read(&format!("ring rate at {rate}/s"), name)),
                    Bar::None,
                )
            })
        });
        Figure {
            method: "Not a target of its own: the latencies of P1 and P2 under a load that does not wait for answers",
            cells: cells.collect(),
            claims: claims.collect(),
            ..plain("RATE", "64 B one way at fixed rates, against intended send times")
        }
    }

    fn p3(&self) -> Figure {
        let at = |count: usize| read(&label("busway", "fanout", count), "publish_cpu_ns");
        let mut claims = vec![
            claim("256 over 1", at(256), Against::Over(at(1)), Bar::AtMost(1.25)),
            claim("256 minus 1", at(256), Against::Minus(at(1)), Bar::AtMost(15.0)),
        ];
        claims.extend(
            [8, 64]
                .map(|count| claim(&format!("{count} over 1"), at(count), Against::Over(at(1)), Bar::None)),
        );
        Figure {
            method: "Processor time of the sending thread per message, sent without a pause for half a second, to N processes that poll every 10 ms \
                     and never sleep on the bell. They share the second processor and are lapped, which is counted as loss",
            cells: self.each(&["busway"], "fanout", 500, &FANOUT),
            claims,
            ..plain("P3", "What a publish costs its thread at 1, 8, 64 and 256 attached processes")
        }
    }

    fn p3b(&self) -> Figure {
        let claims = FANOUT.iter().flat_map(|count| {
            let ours = label("busway", "wake-all", *count);
            let floor = label("futex", "wake-all", *count);
            let row = |name: &str, reading, bar| {
                let against = Against::Over(read(&floor, reading));
                claim(&format!("{name}, {count} asleep"), read(&ours, reading), against, bar)
            };
            [
                row("thread's processor time a message", "wake_cpu_ns", Bar::AtMost(1.5)),
                row("whole process", "wake_process_cpu_ns", Bar::None),
                row("until the last is awake", "last_awake_ns", Bar::None),
            ]
        });
        Figure {
            method: "One message to N processes that sleep, then a pause until all sleep again; the median message. The floor wakes N processes by one `FUTEX_WAKE`. \
                     The bus hands wakes beyond the first to its control thread, so the whole process and the last sleeper are shown beside the caller",
            cells: self.each(&["futex", "busway"], "wake-all", 60, &FANOUT),
            claims: claims.collect(),
            ..plain(
                "P3b",
                "What a publish costs its thread while N processes sleep, against a bare futex wake of N",
            )
        }
    }

    fn p4(&self) -> Figure {
        let ours = |count: usize| read(&label("busway", "fanout", count), "publish_cpu_ns");
        let theirs = |count: usize| read(&label("iceoryx2", "fanout", count), "publish_cpu_ns");
        let row = |count: usize, bar| {
            claim(&format!("busway / iceoryx2 at {count}"), ours(count), Against::Over(theirs(count)), bar)
        };
        Figure {
            method: "As P3. iceoryx2's `max_subscribers` is exactly the number of subscribers, and its queues overflow as ours lap",
            cells: self.each(&["busway", "iceoryx2"], "fanout", 500, &FANOUT),
            claims: vec![
                row(64, Bar::AtMost(0.1)),
                row(1, Bar::None),
                row(8, Bar::None),
                row(256, Bar::None),
            ],
            // 256 subscribers of the rival need most of a minute to meet.
            rounds_max: 5,
            ..plain("P4", "Publish cost at 64 subscribers, against iceoryx2")
        }
    }

    fn p5(&self) -> Figure {
        let rate = |side: &str| read(&format!("{side} throughput"), "messages_per_s");
        let over = |side: &str| Against::Over(rate(side));
        Figure {
            method: "One process sends as fast as the receiver lets it; the clock stops when the receiver has read the last. Nothing may be lost",
            cells: vec![
                self.cell("ring", "throughput", 20_000_000),
                self.cell("busway", "throughput", 20_000_000),
                self.cell("iceoryx2", "throughput", 2_000_000),
            ],
            claims: vec![
                claim("busway, messages a second", rate("busway"), Against::Nothing, Bar::AtLeast(10e6)),
                claim("busway, lost", read("busway throughput", "lost"), Against::Nothing, Bar::AtMost(0.0)),
                claim("busway / bare ring", rate("busway"), over("ring"), Bar::None),
                claim("busway / iceoryx2", rate("busway"), over("iceoryx2"), Bar::None),
            ],
            ..plain("P5", "64 B messages a second, reliable, one to one")
        }
    }

    fn p6(&self) -> Figure {
        let row = |name: &str, large, small, bar| {
            let small = Against::Over(read("busway loan", small));
            claim(name, read("busway loan", large), small, bar)
        };
        let floor = |name: &str, large, small| {
            claim(name, read("flag loan", large), Against::Over(read("flag loan", small)), Bar::None)
        };
        let bar = Bar::AtMost(1.1);
        Figure {
            method: "A loan is filled before the clock starts; then `send`, and the receiver reads first and last byte. Sizes alternate within one cell, through chunks that both \
                     sides have already mapped and touched. `edges`: only the first and last byte are written anew, and the sender's caches are warm at both sizes. `filled whole, caches alike`: \
                     all of the loan is written; who has filled 64 MiB finds nothing else in its caches, so the sender of 4 KiB fills 64 MiB of other memory as well before the clock starts. \
                     `filled whole, caches as they are`: the sender of 4 KiB fills nothing else; the ratio is what filling 64 MiB costs the `send` that follows it, whatever is sent. \
                     Filled is what has left the processor's buffer of stores: a fence goes before the clock. \
                     The bare flag does the same with plain shared memory in huge pages and one word: its ratios are the machine's. 4 KiB of which one half lies 64 MiB behind the other \
                     tell what the distance of first and last byte costs, whatever lies between",
            cells: vec![self.cell("busway", "loan", 60), self.cell("flag", "loan", 60)],
            claims: vec![
                row("64 MiB / 4 KiB, edges", "edges_64mib_ns", "edges_4kib_ns", bar),
                row(
                    "64 MiB / 4 KiB, filled whole, caches alike",
                    "whole_64mib_ns",
                    "whole_4kib_then_other_ns",
                    bar,
                ),
                row(
                    "64 MiB / 4 KiB, filled whole, caches as they are",
                    "whole_64mib_ns",
                    "whole_4kib_ns",
                    bar,
                ),
                floor("a bare flag, 64 MiB / 4 KiB, edges", "edges_64mib_ns", "edges_4kib_ns"),
                floor(
                    "a bare flag, 64 MiB / 4 KiB, filled whole, caches alike",
                    "whole_64mib_ns",
                    "whole_4kib_then_other_ns",
                ),
                floor(
                    "a bare flag, 64 MiB / 4 KiB, filled whole, caches as they are",
                    "whole_64mib_ns",
                    "whole_4kib_ns",
                ),
                floor(
                    "a bare flag, 4 KiB whose halves lie 64 MiB apart / 4 KiB, caches alike",
                    "ends_64mib_then_other_ns",
                    "whole_4kib_then_other_ns",
                ),
            ],
            ..plain("P6", "`send` to `recv` of 64 MiB against 4 KiB")
        }
    }

    fn p7(&self) -> Figure {
        Figure {
            method: "A stamp, a message, and the clock of the process that slept; a message a millisecond, the sender keeps its processor awake. \
                     `slept share`: voluntary switches of the receiver per message, at least 1 when it slept each time",
            cells: ["futex", "busway"].map(|side| self.cell(side, "wake", 1500)).to_vec(),
            claims: vec![
                claim(
                    "busway / bare futex, p50",
                    read("busway wake", "p50"),
                    Against::Over(read("futex wake", "p50")),
                    Bar::AtMost(1.3),
                ),
                claim(
                    "busway / bare futex, p99",
                    read("busway wake", "p99"),
                    Against::Over(read("futex wake", "p99")),
                    Bar::None,
                ),
                claim("busway, slept share", read("busway wake", "slept_share"), Against::Nothing, Bar::None),
            ],
            ..plain("P7", "Wake from sleep, one way, against a bare futex")
        }
    }

    fn p8(&self) -> Figure {
        let p50 = |side: &str| read(&format!("{side} oneway-asleep"), "p50");
        Figure {
            method: "Ping-pong of two processes over TCP of loopback, halved, each side waiting until something comes: the socket in a blocking read, ours in `recv`, which looks again for up to 40 us before it sleeps while that pays, so that in this cell it seldom sleeps. Each of our processes embeds its node. \
                     The median round trip is judged, as a mean would be that of the few trips during which somebody else had the processor",
            cells: ["tcp", "link"].map(|side| self.cell(side, "oneway-asleep", 20_000)).to_vec(),
            claims: vec![claim(
                "busway / bare socket, p50",
                p50("link"),
                Against::Over(p50("tcp")),
                Bar::AtMost(1.6),
            )],
            ..plain("P8", "64 B one way over TCP, blocking, against a bare socket")
        }
    }

    fn p9(&self) -> Figure {
        let p50 = |side: &str| read(&format!("{side} oneway"), "p50");
        Figure {
            method: "As P8, with sides that spin: the socket in reads that do not block, ours in `try_recv`",
            cells: ["tcp", "link"].map(|side| self.cell(side, "oneway", 20_000)).to_vec(),
            claims: vec![claim(
                "busway / bare socket, p50",
                p50("link"),
                Against::Over(p50("tcp")),
                Bar::AtMost(1.5),
            )],
            ..plain("P9", "64 B one way over TCP, spinning, against a bare socket")
        }
    }

    fn p10(&self) -> Figure {
        Figure {
            claims: rates(64, 2.0),
            cells: self.sized(&RIVALS, 64, 3_000_000),
            method: FLOOD,
            ..plain("P10", "64 B messages a second over TCP, against libzmq, zenoh and NATS")
        }
    }

    fn p11(&self) -> Figure {
        Figure {
            claims: rates(1024, 1.5),
            cells: self.sized(&RIVALS, 1024, 1_500_000),
            method: FLOOD,
            ..plain("P11", "1 KiB messages a second over TCP, against libzmq, zenoh and NATS")
        }
    }

    fn p12(&self) -> Figure {
        let sizes = [(65_536, 20_000), (1_048_576, 1_500)];
        let cells = sizes.map(|(size, messages)| self.sized(&["tcp", "link"], size, messages)).concat();
        let claims = sizes.iter().flat_map(|(size, _)| {
            let rate = |side: &str| read(&format!("{side} flood of {size}"), "bytes_per_s");
            let lost = read(&format!("link flood of {size}"), "lost");
            [
                claim(
                    &format!("busway / bare socket at {size} B"),
                    rate("link"),
                    Against::Over(rate("tcp")),
                    Bar::AtLeast(0.7),
                ),
                claim(&format!("busway, lost at {size} B"), lost, Against::Nothing, Bar::AtMost(0.0)),
            ]
        });
        Figure {
            method: "As P10. The bare socket writes and reads each payload with one call or more, without frames and without checksums. It stands still whenever one of its two processes does; ours has a ring on each side between, \
                     so that a machine that others use as well favours ours: a ratio above 1 says that it was such a machine",
            cells,
            claims: claims.collect(),
            ..plain("P12", "Bytes a second over TCP at 64 KiB and 1 MiB, against a bare socket")
        }
    }

    fn p13(&self) -> Figure {
        let rate = |side: &str| read(&format!("{side} flood of 65536"), "bytes_per_s");
        let lost = read("link-tls flood of 65536", "lost");
        Figure {
            method: "As P12, between our own nodes: with certificates and TLS 1.3, and without",
            cells: self.sized(&["link", "link-tls"], 65_536, 20_000),
            claims: vec![
                claim("with TLS / without", rate("link-tls"), Against::Over(rate("link")), Bar::AtLeast(0.4)),
                claim("with TLS, lost", lost, Against::Nothing, Bar::AtMost(0.0)),
            ],
            ..plain("P13", "Bytes a second over TCP at 64 KiB with TLS 1.3, against the same without")
        }
    }

    /// One cell a side, with payloads of one size.
    fn sized(&self, sides: &[&str], size: u64, messages: u64) -> Vec<Plan> {
        sides.iter().map(|side| Plan { size, ..self.cell(side, "flood", messages) }).collect()
    }

    fn p14(&self) -> Figure {
        let at_once = [(1_u64, 100_000), (100, 1_000_000)];
        let sides = ["busway", "libzmq", "zenoh", "nats"];
        let plans = |(size, messages): (u64, u64)| {
            sides.map(|side| Plan { size, ..self.cell(side, "requests", messages) })
        };
        let claims = at_once.iter().flat_map(|(count, _)| {
            let rate = move |side: &str| read(&format!("{side} requests of {count}"), "requests_per_s");
            sides[1..].iter().map(move |rival| {
                let name = format!("busway / {rival}, {count} under way");
                claim(&name, rate("busway"), Against::Over(rate(rival)), Bar::AtLeast(1.5))
            })
        });
        Figure {
            method: "One caller, one service, 64 B asked and 64 B replied, 1 and 100 requests under way; both sides sleep when there is nothing to do. Each reply is compared with its request. \
                     Ours are a requester and a responder; libzmq has REQ and REP for one request under way, DEALER and ROUTER for more, over a socket of the host; zenoh gets of a queryable, peer to peer over TCP of loopback; NATS its requests, with its server between, a third process, which may use both processors",
            cells: at_once.into_iter().flat_map(plans).collect(),
            claims: claims.collect(),
            ..plain("P14", "Requests a second on one host, against libzmq, zenoh and NATS")
        }
    }

    fn p14b(&self) -> Figure {
        let all = read("busway requests-slow", "all_replied_ns");
        Figure {
            method: "A hundred requests are asked at once of a service that takes 50 ms for each, a thread a request; from before the first is asked until the last reply was read, the median of the tries of a round",
            cells: vec![self.cell("busway", "requests-slow", 20)],
            claims: vec![claim("a hundred requests", all, Against::Nothing, Bar::AtMost(100e6))],
            rounds_max: 3,
            ..plain("P14b", "A hundred requests at once to a service of 50 ms")
        }
    }

    fn p18(&self) -> Figure {
        let row = |name: &'static str, title: &str, bar| {
            claim(title, read("busway allocations", name), Against::Nothing, bar)
        };
        Figure {
            method: "A counting allocator in both processes, after a warm-up, over messages of 64 B (in the slot) and 1 KiB (in a chunk); threads of the process counted with them",
            cells: vec![self.cell("busway", "allocations", 200_000)],
            claims: vec![
                row("sender_allocations_inline", "publisher's thread, 64 B", Bar::AtMost(0.0)),
                row("sender_allocations_chunk", "publisher's thread, 1 KiB", Bar::AtMost(0.0)),
                row("receiver_allocations_inline", "subscriber's thread, 64 B", Bar::AtMost(0.0)),
                row("receiver_allocations_chunk", "subscriber's thread, 1 KiB", Bar::AtMost(0.0)),
                row("sender_process_allocations", "publisher's whole process", Bar::None),
                row("receiver_process_allocations", "subscriber's whole process", Bar::None),
            ],
            rounds_max: 3,
            ..plain("P18", "Allocations per message in the steady state")
        }
    }

    fn p19(&self) -> Figure {
        let row = |name: &'static str, title: &str| {
            claim(title, read("busway first", name), Against::Nothing, Bar::AtMost(20e6))
        };
        Figure {
            method: "From just before the process is started to its first message in another process's hands, and to another's first message in its own; the other runs already",
            cells: vec![self.cell("busway", "first", 40)],
            claims: vec![
                row("publisher_started_p50_ns", "a publisher starts, median"),
                row("subscriber_started_p50_ns", "a subscriber starts, median"),
            ],
            ..plain("P19", "The first message after a process starts")
        }
    }

    fn p20(&self) -> Figure {
        let command = self.settings.busway.display().to_string();
        let plan = Plan { command, ..self.cell("busway", "footprint", 10) };
        Figure {
            method: "The release build of the command; resident memory of `busway up` two seconds after it is ready, nobody joined",
            cells: vec![plan],
            claims: vec![
                claim(
                    "size of the command",
                    read("busway footprint", "size_bytes"),
                    Against::Nothing,
                    Bar::AtMost(25e6),
                ),
                claim(
                    "idle, resident",
                    read("busway footprint", "resident_bytes"),
                    Against::Nothing,
                    Bar::AtMost(30e6),
                ),
            ],
            rounds_max: 3,
            ..plain("P20", "Size of the command and idle memory of `busway up`")
        }
    }

    fn p21(&self) -> Figure {
        let quick = self.settings.quick;
        let (sizes, receivers) = if quick { ([10, 20, 50, 100], 4) } else { ([10, 100, 1_000, 10_000], 100) };
        let cells = ["rings", "busway", "link"]
            .iter()
            .flat_map(|side| sizes.map(|size| Plan { size, receivers, ..self.cell(side, "topics", 40_000) }));
        let [_, few, _, many] = sizes;
        let trickle = [few, many].map(|size| Plan {
            size,
            receivers,
            rate: TRICKLE,
            ..self.cell("rings", "topics", 40_000)
        });
        let cells = cells.chain(trickle);
        let at = |side: &str, size: u64, name| read(&format!("{side} topics to {receivers} of {size}"), name);
        let claims = ["busway", "link"].iter().flat_map(|side| {
            let medium = if *side == "link" { "over a link" } else { "in memory" };
            let ratio = |name, title: &str, bar| {
                let title = format!("{medium}, {title}: {many} over {few}");
                claim(&title, at(side, many, name), Against::Over(at(side, few, name)), bar)
            };
            let plain = |name, title: &str| {
                claim(&format!("{medium}, {title}"), at(side, many, name), Against::Nothing, Bar::None)
            };
            [
                ratio("message_cpu_ns", "a message that is taken", Bar::AtMost(1.5)),
                ratio("publish_cpu_ns", "a message that is published", Bar::None),
                ratio("subscribe_ns", "a subscription", Bar::None),
                plain("subscribe_ns", "a subscription"),
                plain("empty_look_ns", "a look that finds nothing"),
                plain("topic_bytes", "resident for a topic"),
                plain("subscription_bytes", "resident for a subscription"),
            ]
        });
        let taken = "message_cpu_ns";
        let floor = claim(
            &format!("bare rings, a message that is taken: {many} over {few}"),
            at("rings", many, taken),
            Against::Over(at("rings", few, taken)),
            Bar::None,
        );
        let slow = |size| read(&format!("rings topics to {receivers} at {TRICKLE}/s of {size}"), taken);
        let slowly = claim(
            &format!("bare rings filled at {TRICKLE} a second, a message that is taken: {many} over {few}"),
            slow(many),
            Against::Over(slow(few)),
            Bar::None,
        );
        let over = sizes.iter().map(|size| {
            let (ours, floor) = (at("busway", *size, taken), at("rings", *size, taken));
            claim(&format!("busway in memory / bare rings at {size}"), ours, Against::Over(floor), Bar::None)
        });
        Figure {
            method: "One process publishes 64 B on each topic in turn; 100 subscribers, each with one pattern for all of them, take every message. Processor time: of the publishing thread, and of all threads of the subscribers' processes, \
                     their looks for messages with them. A subscription is one subscriber at one topic, until its publisher knows of it. \
                     The bare rings do the same in as many processes with plain shared memory: for each ring a head, for each pair a cursor word, and nothing else. Their ratio is the machine's: \
                     what it costs that so many rings fit no cache. Filled at a rate, as messages come over a link, they say what it costs a hundred readers to look where there is little",
            cells: cells.collect(),
            claims: claims.chain([floor, slowly]).chain(over).collect(),
            rounds_max: 3,
            ..plain("P21", "10 000 topics with 100 subscribers each")
        }
    }

    fn p22(&self) -> Figure {
        Figure {
            method: "`cargo run --release -- tour` with an empty target directory, packages already fetched, until the first line of its output that holds a number",
            cells: vec![self.cell("busway", "cold-tour", 1)],
            claims: vec![claim(
                "to the first number",
                read("busway cold-tour", "first_number_ns"),
                Against::Nothing,
                Bar::AtMost(180e9),
            )],
            by_hand: true,
            rounds_max: 1,
            ..plain("P22", "Cold `cargo run --release -- tour` to its first number")
        }
    }

    fn a6(&self) -> Figure {
        let cell = |size| Plan { size, ..self.cell("busway", "lookup", 200) };
        let many = if self.settings.quick { 1000 } else { 100_000 };
        let at = |size| read(&format!("busway lookup of {size}"), "publisher_open_ns");
        Figure {
            method: "Another process makes a publisher for a topic with one subscriber, while the rendezvous holds 10 or 100 000 subscriptions to other topics; the median of many. \
                     The time holds the whole registration: the question, the match, the answer, the row and the seat",
            cells: vec![cell(10), cell(many)],
            claims: vec![claim("100 000 over 10", at(many), Against::Over(at(10)), Bar::AtMost(1.25))],
            rounds_max: 3,
            ..plain("A6", "Look-up by topic at 10 and at 100 000 registrations")
        }
    }

    fn a10(&self) -> Figure {
        let row = |name: &'static str| {
            claim(name, read("busway wake", name), Against::Over(read("futex wake", name)), Bar::None)
        };
        Figure {
            method: "The distributions behind P7, from more messages: a wake-up by a timer would show as a step at the timer's period",
            cells: ["futex", "busway"].map(|side| self.cell(side, "wake", 5000)).to_vec(),
            claims: vec![row("p50"), row("p99"), row("p999"), row("max")],
            rounds_max: 3,
            ..plain("A10", "Distribution of the wake latency")
        }
    }

    fn a22(&self) -> Figure {
        let row = |name: &'static str, bar| claim(name, read("busway death", name), Against::Nothing, bar);
        Figure {
            method: "A reliable subscriber is killed while the publisher waits for it in `send`, its ring full: from the call of `kill` to the return of `send`. 200 kills a round",
            cells: vec![self.cell("busway", "death", 200)],
            claims: vec![row("p50", Bar::None), row("p99", Bar::None), row("max", Bar::AtMost(10e6))],
            rounds_max: 1,
            ..plain("A22", "Death seen: distribution over 200 kills")
        }
    }
}

fn plain(id: &'static str, title: &'static str) -> Figure {
    Figure {
        id,
        title,
        method: "",
        cells: Vec::new(),
        claims: Vec::new(),
        by_hand: false,
        rounds_max: u64::MAX,
    }
}

fn claim(name: &str, value: Reading, against: Against, bar: Bar) -> Claim {
    Claim { name: name.to_owned(), value, against, bar }
}

fn read(cell: &str, name: &'static str) -> Reading {
    Reading { cell: cell.to_owned(), name }
}

fn label(side: &str, cell: &str, receivers: usize) -> String {
    match receivers {
        1 => format!("{side} {cell}"),
        count => format!("{side} {cell} to {count}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    fn settings() -> Settings {
        Settings {
            quick: false,
            rounds: 5,
            cpus: [0, 1],
            peers: None,
            busway: PathBuf::from("busway"),
            machine: String::new(),
            commit: String::new(),
        }
    }

    #[test]
    fn every_claim_reads_a_cell_that_its_figure_runs() {
        for figure in figures(&settings()) {
            let labels: BTreeSet<String> = figure.cells.iter().map(Plan::label).collect();
            assert_eq!(labels.len(), figure.cells.len(), "{}: two cells have one name", figure.id);
            for claim in &figure.claims {
                let mut readings = vec![&claim.value];
                match &claim.against {
                    Against::Nothing => {}
                    Against::Over(reading) | Against::Minus(reading) => readings.push(reading),
                }
                for reading in readings {
                    assert!(labels.contains(&reading.cell), "{}: nothing runs {:?}", figure.id, reading.cell);
                }
            }
        }
    }

    #[test]
    fn every_target_of_the_first_build_has_a_figure() {
        let ids: BTreeSet<&str> = figures(&settings()).iter().map(|figure| figure.id).collect();
        for id in [
            "P1", "P2", "P3", "P3b", "P4", "P5", "P6", "P7", "P18", "P19", "P20", "P21", "P22", "A6", "A10",
            "A22",
        ] {
            assert!(ids.contains(id), "{id} is missing");
        }
    }
}
