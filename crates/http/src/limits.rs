//! Every limit of the HTTP door, with its reason, and what happens when it is reached.
//!
//! Those that end in `DEFAULT` are set by the configuration. What is refused is counted in `/metrics` by its cause.

use std::time::Duration;

/// Threads on which sockets wait: what they do is moving bytes, which one thread does for a thousand connections; the second is for when the first prints JSON.
pub const THREADS: usize = 2;

/// How nice the threads of this door are: a seventieth of what others of this host are given of a processor that all want, and all of one that nobody wants. Beside four programs that never
/// pause, on two processors, half of the answers take 7 ms then and none of sixty took more than 140. What they hold they give back in that time. With 10 a message of others beside a door that was pressed took 2.07 times as long as
/// alone, and 1.52 to 1.62 times with this (bench/RESULTS.md). Where the kernel does not allow it they are as others.
pub const NICE: i32 = 19;

/// Threads on which the bus may be waited for: a publisher that a slow subscriber holds up keeps one of them for [`SEND_TIME`] at most, a topic has one at
/// a time, and one caller half of them. What is more waits its turn, within that time and the requests that may be under way. Artifacts that come have [`UPLOADS_MAX`] beside these.
pub const THREADS_WAITING_MAX: usize = 8;

/// Connections: a browser opens 6, so that some hundred users fit, in about 40 KiB each while they send and are answered, and 10 KiB while
/// they are silent. One more is told 503 and closed. One address has
/// half of them, also that of this host: its users cannot be told apart by it, but those of other hosts can. One more of it is told 429 and closed.
pub const CONNECTIONS_MAX_DEFAULT: u32 = 512;

/// Bytes of the head of a request: twice what browsers send, with a `Last-Event-ID` of 64 publishers. More is refused with 431.
pub const HEADER_BYTES_MAX: usize = 16 << 10;

/// Lines of a head: browsers send some twenty. More is refused with 431.
pub const HEADERS_MAX: usize = 64;

/// How long a head may take to come, and how long a connection may say nothing between two requests. After that it is closed.
pub const HEADER_TIME: Duration = Duration::from_secs(5);

/// How long a body may take to come, whatever its size: 1 MiB in that time is 1 Mbit/s. After that it is refused with 408.
pub const BODY_TIME: Duration = Duration::from_secs(10);

/// Bytes of one body: messages are small, and what is large is an artifact. More is refused with 413, before it has come where its length is said. A message or a
/// reply with more is not given to a reader, who is told: each stream has one at a time in memory, thrice, each with at most twice its bytes as JSON.
pub const BODY_BYTES_MAX_DEFAULT: u64 = 1 << 20;

/// The most that the configuration may allow for one body: half of [`BYTES_DEFAULT`], so that two of them fit.
pub const BODY_BYTES_MAX_MAX: u64 = 32 << 20;

/// Requests of the flow `ingress` that may be under way, of one topic half of them, and of one caller half. One more is refused with 429.
pub const IN_FLIGHT_DEFAULT: u32 = 100;

/// Bytes of their bodies, of one caller half of them. More is refused with 429.
pub const BYTES_DEFAULT: u64 = 64 << 20;

/// Bytes of a body for which room is taken beside those that have come, at least; of one that goes on, as much again as has come. What a head says takes none:
/// as many heads as there are connections would take all of it.
pub const BODY_BYTES_AHEAD: u64 = 16 << 10;

/// Questions about all of the bus (`/v1/topics`, `/v1/artifacts`, `/metrics`) that are looked into at a time: half of [`THREADS_WAITING_MAX`], so that publishes have
/// the other. One caller has half of these. One more waits for [`SEND_TIME`], and is refused with 429.
pub const QUESTIONS_MAX: usize = THREADS_WAITING_MAX / 2;

/// Streams of messages (SSE, WebSocket): each has rows in every publisher that it reads. One caller has half of them. One more is refused with 429.
pub const STREAMS_MAX_DEFAULT: u32 = 128;

/// After so long who was refused for want of room may come again: seconds, in `Retry-After`.
pub const RETRY_AFTER_S: u32 = 1;

/// How long what is sent may wait from when it has come: for its turn at the port of its topic, for a thread, and for subscribers that asked to be waited for. After that
/// it is refused, with 429 where it had no turn and with 503 where its subscribers were waited for, and was not sent.
pub const SEND_TIME: Duration = Duration::from_millis(500);

/// How long a request waits for its replies unless it says so.
pub const ASK_TIME_DEFAULT: Duration = Duration::from_secs(5);

/// The most that it may say: what takes longer is a task, and is pushed.
pub const ASK_TIME_MAX: Duration = Duration::from_secs(60);

/// Topics whose publishers, pushers or requesters are kept open, of each kind: one more closes the one that was used least recently.
pub const PORTS_MAX: usize = 256;

/// Bytes of one artifact that is put: what is common in a cluster. More is refused with 413, before it has come.
pub const ARTIFACT_BYTES_MAX_DEFAULT: u64 = 256 << 20;

/// The most that the configuration may allow for one artifact: what the bus allows.
pub const ARTIFACT_BYTES_MAX_MAX: u64 = 4 << 30;

/// Bytes of all artifacts that were put over HTTP and stand: half of what a node has room for by itself, so that others have the rest. More is refused with 507.
pub const ARTIFACTS_BYTES_DEFAULT: u64 = 512 << 20;

/// Artifacts that were put over HTTP and stand: each is a slot of the node, and told to every peer. One more is refused with 507.
pub const ARTIFACTS_MAX: u32 = 1_000;

/// Bytes of the attribute of an artifact that is put, as the bus has them. More is refused with 400.
pub const ATTRIBUTE_BYTES_MAX: usize = 256;

/// Artifacts that are put or given at the moment: each has [`TRANSFER_BYTES`] in memory, and may take its time. One more is refused with 429.
pub const TRANSFERS_MAX_DEFAULT: u32 = 16;

/// Of these, those that are put: each keeps a thread, which writes it down. One more is refused with 429.
pub const UPLOADS_MAX: u32 = 4;

/// Bytes of an artifact that are read at a time: several socket buffers, and a quarter of the largest piece.
pub const PART_BYTES: usize = 64 << 10;

/// Bytes that an artifact on its way has in memory: a part that is read, one that waits, and what the socket is given. It is charged as bytes under way.
pub const TRANSFER_BYTES: u64 = 4 * PART_BYTES as u64;

/// Bytes in a second that an artifact has to make on its way, beside [`TRANSFER_GRACE`]: half a megabit. Who sends less is refused with 408, who takes less is cut off.
pub const TRANSFER_BYTES_PER_S_MIN: u64 = 64 << 10;

/// What an artifact on its way may take whatever its size; and how long it may stand still.
pub const TRANSFER_GRACE: Duration = Duration::from_secs(30);

/// How often it is looked whether bytes have come that were not here.
pub const COME: Duration = Duration::from_millis(10);

/// Artifacts that a list has: some hundred kilobytes of text. Where there are more it says so.
pub const LISTED_MAX: usize = 1_000;

/// Messages that each publisher of this door keeps for who comes later: for readers whose connection breaks for a moment.
pub const HISTORY: u32 = 256;

/// Bytes that the ring of each publisher of this door may have: [`PORTS_MAX`] of them fit into 1 GiB of addresses.
pub const RING_BYTES_MAX: u64 = 4 << 20;

/// Publishers of which the id of an event says how far its reader is. Of more, those that were silent longest are left out, and what they have kept may come again.
pub const PLACES_MAX: usize = 64;

/// Messages from before that a reader who comes back is given of each publisher, if it has kept them.
pub const RESUME_MAX: u64 = 1 << 20;

/// Bytes of events that are put together before they are written; one larger event goes alone.
pub const WRITE_BYTES: usize = 32 << 10;

/// Messages that a stream looks at before others have their turn on its thread: at the most patterns that rules may have, some milliseconds of looking.
pub const LOOKED_MAX: u32 = 64;

/// How often a silent stream says that it is there.
pub const BEAT: Duration = Duration::from_secs(15);

/// A peer that takes no byte for so long is given up.
pub const STALL: Duration = Duration::from_secs(30);

/// How long, and how many bytes, what a peer sends is thrown away after it was refused in the midst of its body, so that it reads why: a body as large as one may be by itself, and shorter
/// than [`GRACE`]. After that the connection is reset.
pub const LINGER: Duration = Duration::from_millis(500);
/// See [`LINGER`].
pub const LINGER_BYTES: usize = 1 << 20;

/// Bytes of a frame that a reader may send over a WebSocket: those that it is closed with. What has more, or is part of a message, ends it.
pub const FRAME_BYTES_MAX: usize = 125;

/// How long what is under way may take when the door is closed: longer than [`SEND_TIME`]. Streams end at once.
pub const GRACE: Duration = Duration::from_millis(800);

/// Names of hosts, and origins, that a configuration may list: they are looked through for each request.
pub const NAMES_MAX: usize = 64;

const _: () =
    assert!(BODY_BYTES_MAX_DEFAULT <= BODY_BYTES_MAX_MAX && 2 * BODY_BYTES_MAX_MAX <= BYTES_DEFAULT);
const _: () =
    assert!(ARTIFACT_BYTES_MAX_DEFAULT <= ARTIFACTS_BYTES_DEFAULT && UPLOADS_MAX < TRANSFERS_MAX_DEFAULT);
// All that may be on the way fit beside the largest body.
const _: () = assert!(TRANSFERS_MAX_DEFAULT as u64 * TRANSFER_BYTES <= BYTES_DEFAULT / 4);
// What waits for its subscribers when the door closes is answered.
const _: () = assert!(SEND_TIME.as_millis() < GRACE.as_millis() && LINGER.as_millis() < GRACE.as_millis());
// `v1`, and of each publisher a comma, 16 digits, a point and at most 20 digits.
const _: () = assert!(2 + PLACES_MAX * 38 < HEADER_BYTES_MAX / 2);
