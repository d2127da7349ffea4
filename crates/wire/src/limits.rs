//! Every limit of the system, with its reason and what happens when it is reached.
//!
//! Counts count from 1, sizes are in bytes, times carry their unit. A limit that a user may set has a name that
//! ends in `_DEFAULT`; all others are fixed, because both sides of a format must agree on them. This file
//! enforces nothing: who reaches a limit finds here what it has to do.

use crate::control::Control;
use crate::header::HEADER_SIZE;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

// Names.

/// Bytes of a topic's name or of a pattern's text. A length then fits one byte, and 255 is what MQTT, ZMTP and
/// file systems made people expect. A longer name is refused where it is given.
pub const NAME_BYTES_MAX: usize = 255;

/// Bytes of a domain's name. It becomes `NAME.sock` in a `sockaddr_un`, whose path ends at 107 bytes, behind a
/// directory as long as `/run/user/4294967295/busway/`. A longer name is refused when the bus is opened.
pub const DOMAIN_NAME_BYTES_MAX: usize = 64;

/// Bytes of a process's name, which only people read: one column of `busway ls`. A longer one is refused.
pub const PROCESS_NAME_BYTES_MAX: usize = 64;

/// The longest that a puller may take to acknowledge a message: a day. It is the time for which a message may be with a puller that
/// hangs; work that takes longer is better acknowledged when it begins. More is refused where the group is named.
pub const GROUP_ACK_MS_MAX: u32 = 86_400_000;

/// Pullers to which a message may be given one after the other: a claim word counts them in six bits, and the last value says that
/// there were more. More are refused where the group is named.
pub const GROUP_ATTEMPTS_MAX: u8 = 62;

/// Groups at one ring: each is looked at before a slot is overwritten. The puller of a further one is refused.
pub const GROUPS_MAX: usize = 16;

/// Pullers of one group at one ring: each has a cache line there. A further one is refused.
pub const GROUP_PULLERS_MAX: u16 = 256;

/// Bytes of the reason in a refusal: a few sentences in any script. A sender cuts it, a receiver refuses more.
pub const REASON_BYTES_MAX: usize = 1024;

// Messages.

/// Bytes of one message: header, extensions and payload. The largest chunk; its size fits 32 bits with room to
/// add to it without overflow. A larger `loan` or `send` fails with "too large" before memory is asked for.
pub const MESSAGE_BYTES_MAX: u64 = GIB;

/// Bytes of all extensions of one message: their length is one byte, in units of 8. More is refused by `seal`.
pub const EXTENSION_BYTES_MAX: usize = 255 * 8;

/// Bytes of a `tracestate`: W3C Trace Context asks for 512 at least, and each message of a trace bears them. A longer one is refused
/// by who sets it; one that came is left away.
pub const TRACE_STATE_BYTES_MAX: usize = 512;

/// Members of a `tracestate`: as many as W3C Trace Context allows. As above.
pub const TRACE_STATE_MEMBERS_MAX: usize = 32;

/// Bytes that the ids which one reader remembers take at most, to drop what comes again. More is refused when the reader is made.
pub const IDS_SEEN_BYTES_MAX: usize = 64 << 20;

/// Bytes of one of them, counted generously: the id twice, once in order of its coming and once in order of its value, with what the two lists
/// have to spare.
pub const ID_SEEN_BYTES: usize = 64;

/// Ids that one reader remembers at most: see [`IDS_SEEN_BYTES_MAX`].
pub const IDS_SEEN_MAX: u32 = (IDS_SEEN_BYTES_MAX / ID_SEEN_BYTES) as u32;

/// Bytes of one control message, header included. One datagram of a unix socket, well below the 208 KiB that
/// the kernel queues by default. Encoding fails above it; a longer datagram is refused before it is read.
pub const CONTROL_BYTES_MAX: usize = 64 << 10;

/// Processes named in one `Published`: 10 bytes each at most, so that the message fits `CONTROL_BYTES_MAX`. The
/// holder names the first 6 000; the publisher's constructor then waits for those only, the rest still match.
pub const MATCHED_MAX: usize = 6_000;

/// Descriptors beside one message: the kernel's `SCM_MAX_FD`. More go in further messages; a truncated control
/// block (`MSG_CTRUNC`) is refused.
pub const MESSAGE_FDS_MAX: usize = 253;

// Arenas, chunks and rings.

/// Rings of one process, which is also its publishers: 16 bits in a slot's address. Opening one more publisher
/// fails with "too many publishers in this process"; closed ones make room.
pub const RINGS_MAX: u32 = 65_536;

/// Rows of one process, one a pair of subscriber and publisher: 16 bits. One more match is refused by the
/// subscriber, which reports it and tries again.
pub const ROWS_MAX: u32 = 65_536;

/// Extents of one arena. 12 bits of a chunk's address, of which one value means "none". When all are taken,
/// a loan fails with "out of memory" naming the arena.
pub const EXTENTS_MAX: u32 = 4_095;

/// Chunks of one extent: the other 12 bits of a chunk's address. A full extent makes the pool take another.
pub const EXTENT_CHUNKS_MAX: u32 = 4_096;

/// Payload bytes that lie in the slot itself: what 128 bytes, two cache lines, leave beside the slot's word and
/// 24 bytes of header. One byte more takes a chunk.
pub const INLINE_BYTES_MAX: usize = 96;

/// Bytes of one chunk, header included. Above it a message is refused, see [`MESSAGE_BYTES_MAX`].
pub const CHUNK_BYTES_MAX: u64 = MESSAGE_BYTES_MAX;

/// From this size on a chunk lies in the bulk arena, whose free memory goes back to the kernel. Below, punching
/// holes would cost more than the memory is worth.
pub const BULK_BYTES_MIN: u64 = MIB;

/// Slots of a new ring: one page of 128-byte slots. A full ring grows to twice its size, up to its bound.
pub const RING_SLOTS_INITIAL: u32 = 32;

/// Slots up to which a ring grows unless the publisher says otherwise: 4 ms of a million messages a second.
/// Then the oldest slot is overwritten, or the publisher waits, as the subscribers' policies say.
pub const RING_SLOTS_MAX_DEFAULT: u32 = 4_096;

/// The largest bound that a publisher may ask for: 128 MiB of slots. More is refused by the builder.
pub const RING_SLOTS_HARD_MAX: u32 = 1 << 20;

/// Bytes that a ring's unread messages may keep unless the publisher says otherwise: one process cannot fill a
/// domain with a topic that nobody reads. Past it the oldest slots are given up, counted as `ring_bytes`.
pub const RING_BYTES_DEFAULT: u64 = 64 * MIB;

/// Bytes of address space of an arena: sparse, so that it costs nothing until it is used, and never has to move. Peers
/// map as much of it as has been used. Clamped to `RLIMIT_FSIZE` and a part of `RLIMIT_AS`; when it is used up, a loan fails with "out of memory".
pub const ARENA_BYTES_DEFAULT: u64 = 64 * GIB;

/// A domain's byte budget is the machine's memory, or the cgroup's limit, divided by this: a bus should not be
/// what pushes its machine into swap. Past the budget a loan fails before the kernel is asked.
pub const DOMAIN_BUDGET_DIVISOR: u64 = 4;

// What a subscriber may keep.

/// Messages that one process may hold at once: the words in its arena that publishers scan. Past it a take
/// copies, or fails if the message is larger than [`HOLD_COPY_BYTES_MAX`]; the publisher never notices.
pub const HOLDS_MAX: u32 = 256;

/// Bytes that one process may hold at once, as [`HOLDS_MAX`]. It is what a stopped subscriber can cost others.
pub const HOLD_BYTES_MAX: u64 = 64 * MIB;

/// The largest message that is copied out when a hold would pass the budget. A larger one fails to be taken and
/// is counted as `hold_budget` if it is lapped.
pub const HOLD_COPY_BYTES_MAX: usize = 64 << 10;

/// Publishers of one subscriber whose names are kept in memory together, where it has more than a look at each time: a
/// sample that is kept then keeps the names of so many, some 10 KiB at most, also when they are gone. Sixteen make the
/// counting of them a sixteenth of what it is for each alone. Those that follow are kept with others.
pub const SAMPLE_SOURCES_MAX: usize = 16;

/// The largest depth of drop-newest: each message kept is a hold. A deeper one is refused where it is given.
pub const DROP_NEWEST_DEPTH_MAX: u32 = HOLDS_MAX;

// Waiting and waking.

/// How long a publisher waits for a slow subscriber unless it says otherwise. Then the subscriber is stalled or
/// evicted: a stopped process must not stop its publishers for ever.
pub const MAX_WAIT_MS_DEFAULT: u64 = 1_000;

/// Lines of a domain's bell, 64 bytes each: 4 MiB, sparse. Topics share lines beyond it, which costs a needless
/// wake-up and never a message. Line 0 means any topic.
pub const BELL_LINES: u32 = 65_536;

/// Sleepers that a publisher wakes itself, about 44 us; its control thread wakes the rest (1 000 at once cost
/// 5.6 ms in the caller).
pub const WAKE_IN_CALLER_MAX: u32 = 8;

/// Milliseconds between two beats of a process, which is also its control thread's tick: 4 wake-ups a second.
pub const BEAT_MS: u64 = 250;

/// Milliseconds without a beat after which a process is reported as hung. Nothing is taken from it.
pub const HUNG_AFTER_MS: u64 = 3_000;

/// Milliseconds that a holder of the rendezvous has for an answer before it is reported by name and pid.
/// Existing pairs need it for nothing, so nothing else happens. After a take-over a sound holder answers only when the
/// others have had 100 ms to come again; a busy machine adds to that.
pub const HOLDER_ANSWER_MS: u64 = 500;

// The rendezvous.

/// Members of one domain: processes, each with one connection to the holder. A member costs the holder three descriptors
/// and two mappings, one or two more where they talk to each other, and a process has 65 530 mappings (`vm.max_map_count`)
/// and 128 TiB of addresses, of which a pair takes half a gigabyte. The holder refuses the next with a reason; its limit
/// of descriptors is usually reached before.
pub const MEMBERS_MAX: usize = 16_384;

/// Bytes that wait for one member that does not read. Past it the holder disconnects the member with a reason;
/// it registers again when it wakes.
pub const MEMBER_QUEUE_BYTES_MAX: usize = 1 << 20;

/// Seats that a process asks for at once of one publishing process. The others wait for their turn. So 2 048 processes may
/// ask one for all of its rings in the same moment, and what waits for it stays below [`MEMBER_QUEUE_ASKS_MAX`].
pub const ASKED_MAX: usize = 8;

/// Requests for seats that wait for one member, beside [`MEMBER_QUEUE_MESSAGES_MAX`]: others ask for them, however fast it
/// reads, and each asks for [`ASKED_MAX`]. With descriptors counted once for each that asks they are some 3 MiB. Past it the member is disconnected.
pub const MEMBER_QUEUE_ASKS_MAX: usize = 16_384;

/// Messages that wait for one member, as [`MEMBER_QUEUE_BYTES_MAX`].
pub const MEMBER_QUEUE_MESSAGES_MAX: usize = 1_024;

/// Descriptors that wait for one member, as [`MEMBER_QUEUE_BYTES_MAX`]: those in flight count against the
/// sender's own `RLIMIT_NOFILE`.
pub const MEMBER_QUEUE_FDS_MAX: usize = 4_096;

/// Milliseconds for which the holder stops accepting when it has no descriptor left. Who connects waits.
pub const ACCEPT_PAUSE_MS: u64 = 100;

/// Milliseconds that others leave to the process that a holder hands over to, before they try for the lock.
pub const HAND_OVER_MS: u64 = 50;

// Links between hosts.

/// Bytes of one frame that is no user's message, header included: it is kept whole until it is complete. A larger
/// one is refused with its header; encoding fails above it.
pub const LINK_FRAME_BYTES_MAX: usize = 64 << 10;

/// Bytes of one piece of a message that a link carries at once, without header and extensions. A larger piece is
/// refused with its header, so that a frame's deadline means something; senders cut at [`LINK_PART_BYTES`], or at it where that is no time.
pub const LINK_PIECE_BYTES_MAX: u64 = MIB;

/// Bytes of payload of one part of a larger message while nothing more urgent shares the link: large enough that header
/// and checksum cost little, small enough that who comes meanwhile waits for 64 KiB at most; but see [`LINK_PART_BYTES_MAX`].
pub const LINK_PART_BYTES: usize = 64 << 10;

/// The same where there is room in the kernel for four of it, or nobody bounds what lies there: one header, and one wake-up of its receiver, which costs its sender as much as copying 64 KiB. Who comes meanwhile finds as much in the kernel anyway.
pub const LINK_PART_BYTES_MAX: usize = LINK_PIECE_BYTES_MAX as usize;

/// The same while something more urgent shares the link, which goes between two of them: 0.7 ms at 100 Mbit/s, and one hundredth of it are headers. A larger message is bulk; one up to this size goes in one piece. A word about artifacts that goes is no reason to cut what it is about.
pub const LINK_FRAGMENT_BYTES: usize = 8 << 10;

/// Bytes that are left of a message and go with the part before them: an eighth of a fragment. A chunk of an artifact is two fragments and a few bytes.
pub const LINK_ALONG_BYTES: usize = LINK_FRAGMENT_BYTES / 8;

/// Milliseconds for which something more urgent is taken to share the link after the last of it, but for words about artifacts: two turns of a source that speaks a hundred times a second.
pub const LINK_SHARED_MS: u64 = 20;

/// Bytes of higher ranks that go before a lower one that waits: seven fragments, so that of eight one is its own. With
/// less a flood of small messages would be slowed down for bulk, with nothing bulk would not get through a flood.
pub const LINK_SHARE_BYTES: usize = 7 * LINK_FRAGMENT_BYTES;

/// From this size on a payload that has not arrived whole is read straight into the memory where it stays. Below,
/// a copy costs less than a second system call.
pub const LINK_DIRECT_BYTES: usize = 16 << 10;

/// Milliseconds for which the rest of such a payload is waited for before its receiver is woken; then what is there is read,
/// so that a slow peer is not taken for a silent one.
pub const LINK_AWAITED_MS: u64 = 100;

/// Payloads below it are copied into the batch, others go out from where they lie: an entry of a vectored write, and
/// a chunk that is held until it was written, cost as much as copying about that much.
pub const LINK_COPY_BYTES: usize = 4 << 10;

/// Payloads up to this go in runs, with others of their source: about as much as is copied into the batch anyway, so
/// that nothing goes by a run that would not be copied without one. A run with a larger one is refused.
pub const LINK_RUN_PAYLOAD_BYTES_MAX: usize = LINK_COPY_BYTES;

/// Messages of one run: a window's quarter, after which the peer has something to acknowledge. A run with more is
/// refused; the next message begins another one. In bytes it has [`LINK_FRAME_BYTES_MAX`].
pub const LINK_RUN_MESSAGES_MAX: u64 = 1_024;

/// Bytes that one call of `transmit` puts into a batch: what a socket takes at once. The rest waits in the queue,
/// where what is more urgent can still pass it.
pub const LINK_BATCH_BYTES: usize = 256 << 10;

/// Messages that wait in a link for the batch, bulk and all else counted apart. When it is full no source is asked for its
/// next message, of those whose latest was of that sort.
pub const LINK_QUEUE_MESSAGES_MAX: usize = 1_024;

/// Bytes that wait in a link for the batch, as [`LINK_QUEUE_MESSAGES_MAX`]; one message of a
/// source may be more.
pub const LINK_QUEUE_BYTES_MAX: u64 = MIB;

/// The same for all links of a host together, and again for their batches: of more than 64 each has less, so that a
/// thousand peers that take nothing cost no more than these.
pub const LINK_QUEUE_BYTES_ALL: u64 = 64 * MIB;

/// What of it each link has, however many there are: two fragments.
pub const LINK_QUEUE_BYTES_MIN: u64 = 2 * LINK_FRAGMENT_BYTES as u64;

/// Bytes that lie in the kernel, not acknowledged, over all links of an interface, before bulk waits: at least this much,
/// or a link of 100 Mbit/s would run dry between two looks. It is 1.3 ms of it.
pub const GATE_BYTES_MIN: u64 = 16 << 10;

/// The same before anything was measured: twice that, 5 ms at 50 Mbit/s. An interface that is fast has it empty at the next look, and is given as much again; on a way it is so much in a round trip, until a window has
/// measured it.
pub const GATE_BYTES_FIRST: u64 = 2 * GATE_BYTES_MIN;

/// Nanoseconds of the interface's rate that may lie in the kernel beyond a round trip: what is urgent waits for that, and
/// with less the interface runs dry while nobody looks.
pub const GATE_QUEUE_NS: u64 = 1_000_000;

/// Nanoseconds over which a rate is measured, or a round trip if that is longer: ten looks or more.
pub const GATE_WINDOW_NS: u64 = 10_000_000;

/// Nanoseconds for which a host may put off what it acknowledges, as far as that is made up for: the time of Linux, and more than a radio gathers. Who says nothing for longer stands still.
/// No more than a round trip of it is made up for: on a short way a pause is the turn of others who send to the same host, and their queue would grow by it.
pub const GATE_PAUSE_NS_MAX: u64 = 40_000_000;

/// Nanoseconds until the next look while bulk waits: no look is worth less than a fragment at 1 Gbit/s.
pub const GATE_WAIT_NS_MIN: u64 = 50_000;

/// The same at most, since less than half of [`GATE_QUEUE_NS`] must run dry meanwhile.
pub const GATE_WAIT_NS_MAX: u64 = 500_000;

/// Nanoseconds for which others wait for the look of a link whose turn it is before an interface: twice the longest time until that look, since a
/// thread may be late. What may lie in the kernel lasts as long.
pub const GATE_TURN_NS: u64 = 2 * GATE_WAIT_NS_MAX;

/// As [`GATE_WAIT_NS_MAX`], where only the way behind this host is full: what comes through it lies before its end meanwhile.
pub const GATE_WAIT_FAR_NS_MAX: u64 = 5_000_000;

/// Nanoseconds for each link between two looks at all of them: ten times what a look takes.
pub const GATE_LOOK_NS: u64 = 2_000;

/// Nanoseconds after which a link is looked at that waits for others while something of it is on its way: five looks in [`GATE_WINDOW_NS`], by which
/// its rate is measured.
pub const GATE_LOOKED_NS_MAX: u64 = GATE_WINDOW_NS / 5;

/// Milliseconds between two measurements of a round trip while bulk goes and what lies on the way runs dry, or nothing is known.
pub const GATE_ASK_MS: u64 = 20;

/// As [`GATE_ASK_MS`], at other times: behind a queue they tell little, and each costs two frames.
pub const GATE_ASK_MS_MAX: u64 = 200;

/// Milliseconds over which the shortest round trip is taken; it is forgotten after [`GATE_EPOCHS`] of them: a route that has changed. Once in that time the queues run dry to measure it, for a hundredth of it at most
/// where a round trip takes less than 60 ms.
pub const GATE_EPOCH_MS: u64 = 10_000;

/// So many of these the shortest round trip is kept for: where many send to one, none of them finds the way empty while the others go on, and what
/// each measured before they began is the way without them. A way that has become longer carries
/// [`GATE_BYTES_MIN`] in a round trip for up to a minute, 3 Mbit/s at 50 ms, since it cannot be told from a crowd.
pub const GATE_EPOCHS: usize = 6;

/// Milliseconds for which the queues may run dry at most where they do not: a fiftieth of [`GATE_EPOCH_MS`]. What is small is never held up, and may be all that lies there.
pub const GATE_DRAIN_MS_MAX: u64 = 200;

/// Entries of one interest: each has 263 bytes at most, so that 128 fit [`LINK_FRAME_BYTES_MAX`]. More go in
/// further frames; a frame with more is refused.
pub const LINK_INTEREST_ENTRIES_MAX: usize = 128;

/// Patterns that one peer may ask for at once. One more is a violation, and the link is closed with a reason.
pub const LINK_INTERESTS_MAX: usize = 4_096;

/// Sources that one peer may have announced at once: as many as publishers of one process. One more gets no
/// answer, so that its messages stay where they are; it is counted.
pub const LINK_SOURCES_MAX: usize = 65_536;

/// Sources that one peer may have at once on reserved topics: an endpoint of a cluster has one, and for a moment one of
/// each earlier start. As [`LINK_SOURCES_MAX`], so that who opens many fills no more than the queues of so many.
pub const LINK_RESERVED_SOURCES_MAX: usize = 8;

/// Ended sources of which a peer's progress is remembered, so that one that comes back is not delivered twice.
/// Past it the oldest is forgotten.
pub const LINK_ENDED_SOURCES_MAX: usize = 1_024;

/// Ranges of lost messages that a source remembers until the peer has acknowledged them. Past it two neighbours
/// become one, with the cause of the later and what lies between them.
pub const LINK_GAPS_MAX: usize = 64;

/// Messages that may be under way to one peer, of all sources: 2 MiB of notes about them. A peer that grants more
/// gets no more than this.
pub const LINK_FLIGHT_MESSAGES_MAX: usize = 65_536;

/// Milliseconds for a peer to announce again, on a new link, the sources that it had announced before. What it has
/// not, is taken for ended.
pub const LINK_RESUME_MS: u64 = 10_000;

/// Nodes of one cluster: each has a link to each other, and an index fits 6 bits. More are refused by `config check`.
pub const LINK_NODES_MAX: u8 = 64;

/// Clients of one node unless the user says otherwise. One more takes the place of the idlest.
pub const LINK_CLIENTS_DEFAULT: u32 = 1_024;

/// Connections of one node that have not said who they are, unless the user says otherwise: a burst of newcomers
/// for as long as one handshake takes. One more takes the place of the oldest.
pub const LINK_UNIDENTIFIED_DEFAULT: u32 = 64;

/// Of those, connections from one address beyond this host: half, so that who opens many keeps nobody else out. One more
/// takes the place of the oldest of them after [`LINK_STRANGER_MS`], and is refused before. Of an IPv6 address the first 64 bits count, which is what one subscriber has.
pub const LINK_UNIDENTIFIED_OF_ADDRESS_DEFAULT: u32 = LINK_UNIDENTIFIED_DEFAULT / 2;

/// Milliseconds in which a stranger can say who it is, unless it or its network is very slow. While all strangers
/// are younger, newcomers wait in the kernel; after that the oldest gives way.
pub const LINK_STRANGER_MS: u64 = 100;

/// Milliseconds for a connect. Within one data centre it takes one; a host that is gone never answers.
pub const LINK_CONNECT_MS: u64 = 500;

/// Milliseconds before a peer is dialed again, at least. So a peer that refuses at once costs 20 connects a second.
pub const LINK_BACKOFF_MS: u64 = 50;

/// Milliseconds before a node dials a node again, at most: a node that was restarted is linked within two seconds.
pub const LINK_BACKOFF_NODE_MS_MAX: u64 = 1_000;

/// Milliseconds before a client dials a node again, at most: of 10 000 clients 700 come back in a second.
pub const LINK_BACKOFF_CLIENT_MS_MAX: u64 = 30_000;

/// Milliseconds that a refused peer is asked to wait, at least. What it waits is spread over four times that.
pub const LINK_RETRY_AFTER_MS: u64 = 1_000;

/// Milliseconds that a refusal can make us wait: a peer that says more is believed so much.
pub const LINK_RETRY_AFTER_MS_MAX: u64 = 300_000;

/// Bytes of the token of a hello: room for any signed one. A longer one is refused.
pub const LINK_TOKEN_BYTES_MAX: usize = 1_024;

/// Tokens that one node accepts: as many as clients unless the user says otherwise, and each is compared at each
/// handshake. More are refused when the node is made.
pub const LINK_TOKENS_MAX: usize = LINK_CLIENTS_DEFAULT as usize;

/// Rules and patterns of the permissions of one node: each is compared once for each topic that a peer meets. More are
/// refused when they are read.
pub const ACL_PATTERNS_MAX: usize = 4_096;

// Work across links.

/// Words about work that wait for a peer to confirm them: who keeps to the page causes some thousand, an answer for each task that it
/// may give and has given. It is some 30 MB of heap. Past it what waits is dropped, and both begin anew.
pub const WORK_WORDS_MAX: usize = 262_144;

/// Bytes of a word that comes in pieces from a peer which has no work of ours and may give us none: more than any word has without a
/// payload. What is larger is not kept, and both begin anew.
pub const WORK_STRANGER_BYTES_MAX: usize = 64 << 10;

/// Bytes of the largest word about work that goes by the source of the small ones: what a link does not cut, so that such a source never stands in bulk. A larger one
/// goes by the other source, to who wants that.
pub const WORK_QUICK_BYTES: usize = LINK_FRAGMENT_BYTES;

/// Bytes of one piece of a larger word: its header and checksum cost a thousandth of it, and the window of one source has room for some of them, so that a word which is
/// larger than all that a link grants takes no more of that than others do.
pub const WORK_PIECE_BYTES: usize = 256 << 10;

/// Bytes of words that wait for one peer by each of the two sources, said and not confirmed: what a link of 10 Gbit/s carries in 13 ms. Beyond it nothing more is given
/// to that peer that would go by the same until it has confirmed some; a single larger task goes beyond it, and the next when less than this is left of it.
pub const WORK_WAITING_BYTES_MAX: usize = 16 << 20;

/// Bytes of memory of words that wait for all peers of a node together: the heap that a node may have for work of others to take. A word counts in full until the last of it is confirmed. Beyond it nothing more is given to a
/// peer that has more than [`WORK_WAITING_BYTES_FLOOR`] waiting.
pub const WORK_WAITING_BYTES_ALL: usize = 256 << 20;

/// Bytes of words that may wait for each peer, whatever waits for others: small tasks go on beside peers that confirm nothing.
pub const WORK_WAITING_BYTES_FLOOR: usize = 64 << 10;

/// Bytes of large replies of one topic to one peer that were taken from who answers and have no room among the words: what waits by one source, once more. Beyond it nothing
/// more is taken of that topic, small ones neither, until there is room, or their requests are waited for no longer; a single larger one is kept alone.
pub const WORK_HELD_BYTES_MAX: usize = WORK_WAITING_BYTES_MAX;

/// The same of all topics for one peer: some that stand still hold up no other.
pub const WORK_HELD_BYTES_PEER: usize = 4 * WORK_HELD_BYTES_MAX;

/// Bytes of replies of one service that wait for their requests of another host, beside those that may be told. Beyond it what lies in the rings of who answers stays there, and nothing
/// of it is lost.
pub const WORK_TAKEN_IN_BYTES_MAX: u64 = 16 * MIB;

/// Bytes of a word about work beside the payload of its task: topic, extensions and fields. A task that is larger with them than the peer takes is not
/// given to it.
pub const WORK_WORD_BYTES: usize = 4 << 10;

/// For so long a task that is too large for a peer is left to others. If nobody who could have it is there then, nor was before, it is a dead letter where its
/// group acknowledges, and is lost as `link_budget` elsewhere; if somebody is, it is left to others again.
pub const WORK_TOO_LARGE_NS: u64 = 5_000_000_000;

/// Bytes of replies of a peer that wait until the lanes to who asked are open, which takes as long as the rendezvous does. A request whose reply has no room is told
/// that it has no answer.
pub const WORK_REPLIES_BYTES_MAX: usize = 16 << 20;

/// Pulls of a peer that wait for one of its [`WORK_PULLS_MAX`] to end. A further one is not heard at all.
pub const WORK_PULLS_WAITING_MAX: usize = 4_096;

/// Tasks of one pull that a peer has at a time: more than any host works on. Beyond it nothing more is given for that pull.
pub const WORK_GIVEN_MAX: u64 = 1_024;

/// Pulls of a peer: as many groups and patterns as a host has, by far. A further one waits until one of them ends.
pub const WORK_PULLS_MAX: usize = 4_096;

/// Topics of one pull that the peer may not be given, as it said. At one more nothing is given for that pull any more.
pub const WORK_DENIED_MAX: usize = 1_024;

/// Pullers that are opened for one peer at a time: one after the other, in turn with those for others. The next waits for one of them.
pub const WORK_OPENINGS_MAX: usize = 16;

// Artifacts.

/// Bytes of an artifact that stand in its offer: about what its bytes, asked for apart, would cost in words and in a round trip
/// on a fast link. A larger one is asked for.
pub const ARTIFACT_INSIDE_BYTES_MAX: usize = 1 << 10;

/// Bytes of an artifact that is asked for whole, of one node at a time: 21 ms at 100 Mbit/s. A larger one comes in pieces.
pub const ARTIFACT_WHOLE_BYTES_MAX: u64 = 256 << 10;

/// Bytes of a piece of an artifact of at most [`ARTIFACT_SMALL_BYTES_MAX`]. A piece is passed on when all of it is there, so the last waits for as many of its size as there are others:
/// of 4 MiB among 8 nodes a twentieth of what all of it takes, and with 64 KiB a tenth.
pub const ARTIFACT_PIECE_BYTES_MIN: u64 = 32 << 10;

/// Bytes of an artifact that has such pieces, at most: of larger ones the last is a small part of all anyway, and words about pieces cost a fifth of a hundredth more.
pub const ARTIFACT_SMALL_BYTES_MAX: u64 = 8 << 20;

/// Bytes of a piece of a larger one, at least and at most: as few as leave an artifact not more than [`ARTIFACT_PIECES_AIM`] pieces. The most is what a hash is checked of, and kept in memory until then.
pub const ARTIFACT_PIECE_BYTES: u64 = 64 << 10;

/// As [`ARTIFACT_PIECE_BYTES`], the most.
pub const ARTIFACT_PIECE_BYTES_MAX: u64 = 256 << 10;

/// Pieces for which the smaller sizes of pieces are enough: their values are 32 KiB, at most a thousandth of the artifact.
pub const ARTIFACT_PIECES_AIM: u64 = 1 << 10;

/// Bytes of an artifact, at most: 16 384 pieces, of which each node keeps 32 bytes in memory while they come. An offer of a larger one is
/// refused where it is made, and dropped where it is told.
pub const ARTIFACT_BYTES_MAX: u64 = ARTIFACT_PIECE_BYTES_MAX << 14;

/// What is kept in memory for each piece of an artifact while it comes, counted generously; it is charged as bytes of artifacts are.
pub const GOSSIP_PIECE_BYTES: u64 = 512;

/// Milliseconds until others are told which pieces we have that they can have of others, too: many come together.
pub const GOSSIP_HAVE_MS: u64 = 250;

/// Milliseconds without a byte of an artifact in pieces after which who has all of it is asked for what others should have passed on.
pub const GOSSIP_DRY_MS: u64 = 200;

/// Who wants the same artifact in pieces and tells of none that it got for so many times as long as it has usually taken to do so is away: others get
/// what was its own to get and to pass on. It costs a piece that comes twice where it was not.
pub const GOSSIP_AWAY_TIMES: u64 = 4;

/// That time in milliseconds, at least: what a busy processor does to who is well.
pub const GOSSIP_AWAY_MS_MIN: u64 = 100;

/// That time in milliseconds, at most, however rarely pieces come.
pub const GOSSIP_AWAY_MS_MAX: u64 = 10_000;

/// Bytes of one chunk, which all chunks but the last have: two fragments of a link. What was begun and is not wanted any more costs
/// so much, and a header for each of them costs half a hundredth. A chunk of another size is blamed on who sent it.
pub const ARTIFACT_CHUNK_BYTES: usize = 2 * LINK_FRAGMENT_BYTES;

/// Bytes of the attribute of an offer: a few fields, by which its receivers decide whether they want it. A longer one is refused where it is
/// given; a word with one is no word.
pub const ARTIFACT_ATTRIBUTE_BYTES_MAX: usize = 256;

/// Bytes of a word about artifacts, without a chunk behind it: one fragment of a link with its header, so that no word about who has what goes as bulk.
/// A larger one is no word.
pub const GOSSIP_WORD_BYTES_MAX: usize = LINK_FRAGMENT_BYTES;

/// Slots, marks or questions in one word: what fits, since none has fewer than three bytes. More are no word.
pub const GOSSIP_WORD_ENTRIES_MAX: usize = 2_048;

/// Patterns of a filter: half of a word, where each has its 255 bytes. More are refused where they are given.
pub const GOSSIP_FILTER_PATTERNS_MAX: usize = 16;

/// Bytes that a slot of another node is charged beside its topic, its attribute and what it has inside: what it takes in memory,
/// counted generously, with its places in the lists. Where there is no room for it, it is dropped, and asked for again later.
pub const GOSSIP_SLOT_BYTES: u64 = 512;

/// Changes of slots that are under way to one peer and that it has not done with: 12 KiB of notes, and more than go in a round trip. Further ones wait
/// in the table, where newer ones take their places.
pub const GOSSIP_FLIGHT_SLOTS_MAX: usize = 1_024;

/// Milliseconds until a peer is told that its words are done with, unless there are [`GOSSIP_HANDLED_TELLS`]: some come together.
pub const GOSSIP_HANDLED_MS: u64 = 5;

/// Words of a peer after which it is told so at once: a quarter of what is under way at most, where each is full of small artifacts.
pub const GOSSIP_HANDLED_TELLS: u64 = 32;

/// Milliseconds until others are told that we have an artifact: a few come together, and who waits for it finds one more to ask.
pub const GOSSIP_MARKS_MS: u64 = 5;

/// The same for a small one, which its origin gives to all who are linked to it: whoever tells us first is not told.
pub const GOSSIP_MARKS_INSIDE_MS: u64 = 100;

/// Milliseconds until a peer is told that its marks are known: it keeps what is over for who has not said so, and no longer.
pub const GOSSIP_MARKS_HANDLED_MS: u64 = 1_000;

/// Slots or marks that are looked at for one word, so that who knows and wants nothing of many costs no more than others. The rest is
/// looked at for the next word.
pub const GOSSIP_WALK_MAX: usize = 2_048;

/// What a peer has that we do not know, and what it asks, at a time: 300 KiB of notes. What is beyond it of its marks is dropped, and asked for again
/// later; a question beyond it is blamed on who asked.
pub const GOSSIP_ASKS_MAX: usize = 4_096;

/// Milliseconds between two attempts to be told again what was dropped for want of room, and half of that between two that are followed: a later one
/// waits, and takes the place of what waits.
pub const GOSSIP_AGAIN_MS: u64 = 1_000;

/// The longest of these: each one that comes to nothing is waited for twice as long.
pub const GOSSIP_AGAIN_MS_MAX: u64 = 60_000;

/// Milliseconds until the next wants of an origin are looked at, where the first cannot be asked for: a thousand are looked at in a third of a second.
pub const GOSSIP_LOOK_MS: u64 = 5;

/// Requests for artifacts under way to all peers, as the flow `request` has them. Further ones wait, in order.
pub const GOSSIP_PULLS_MAX: usize = 100;

/// Of those, to one peer, of all but small pieces: 512 KiB where pieces have 64 KiB, which it sends in 20 ms at 200 Mbit/s. Others are asked meanwhile.
pub const GOSSIP_PULLS_OF_PEER_MAX: usize = 8;

/// Of pieces of [`ARTIFACT_PIECE_BYTES_MIN`], to one peer: as many bytes as eight of 64 KiB have. Each counts for half of any other request.
pub const GOSSIP_PIECES_OF_PEER_MAX: usize = 16;

/// Requests of one peer that wait for their bytes: many times what it asks for at a time, so that cancelled ones count. What is beyond it is not
/// answered, and blamed on who asked.
pub const GOSSIP_SERVED_MAX: usize = 64;

/// Nanoseconds over which it is measured how fast bytes of artifacts come. No more is asked for at a time than comes in a second, so that who is asked answers soon; of pieces see [`GOSSIP_OWED_PARTS`].
pub const GOSSIP_RATE_NS: u64 = 250_000_000;

/// The same in bytes before anything was measured, and at least: four of the largest.
pub const GOSSIP_OWED_BYTES_FIRST: u64 = 4 * ARTIFACT_WHOLE_BYTES_MAX;

/// As [`GOSSIP_OWED_BYTES_FIRST`], however slowly they come; two requests at a time in any case.
pub const GOSSIP_OWED_BYTES_MIN: u64 = 64 << 10;

/// Nanoseconds for which all that is owed can excuse who is silent, at most: it excuses as long as it takes at the rate at which bytes come.
pub const GOSSIP_PATIENCE_NS_MAX: u64 = 10_000_000_000;

/// Milliseconds of silence of a peer that owes bytes, after which others are asked for them.
pub const GOSSIP_STALL_MS: u64 = 2_000;

/// Milliseconds for which who has failed us is asked last, and not for the same artifact; twice as long after each further time.
pub const GOSSIP_FAULT_MS: u64 = 500;

/// The longest of these, in milliseconds.
pub const GOSSIP_FAULT_MS_MAX: u64 = 60_000;

/// Milliseconds after which an answer is late while too few were seen to know better.
pub const GOSSIP_HEDGE_MS_FIRST: u64 = 500;

/// One of so many requests may be made a second time, of another peer, because its answer is late: what that costs is a chunk at most. With one
/// of 128, of 32 MiB among 8 nodes at 50 Mbit/s 0.9 to 1.0 % came twice, and 0.2 to 0.4 % with this, in a time that differs by less than the runs do.
pub const GOSSIP_HEDGE_PARTS: u64 = 512;

/// And so many more where nothing else is to be asked for: then all waits for the slowest.
pub const GOSSIP_HEDGE_LAST: u64 = 4;

/// Where artifacts come in pieces no more is asked for at a time than comes in one of so many parts of a second: what was asked stands in the queue
/// of a peer, and nobody else can be asked meanwhile. A quarter of a second is a round trip or more between any two places; who
/// owes nothing is asked for a piece in any case. With a second, of 32 MiB among 8 nodes at 50 Mbit/s 1.7 % came twice, and 1.0 % with this.
pub const GOSSIP_OWED_PARTS: u64 = 4;

/// Pieces that who takes them may keep to itself beside twice as many as others usually do: one that comes, and one that it passes on.
pub const GOSSIP_KEPT_PIECES: usize = 1;

/// Who gives nothing has one of so many bytes while others wait for some: it costs them little, and who gives again is seen to.
pub const GOSSIP_BEHIND_PARTS: u64 = 16;

/// Milliseconds for which who gives nothing waits for others, at most, whatever they take: it has a chunk then, one of all such peers.
pub const GOSSIP_BEHIND_MS: u64 = 100;

/// Artifacts that a node offers at a time unless the user says otherwise, as the flow `advert` has them. One more is refused where it is offered.
pub const GOSSIP_OFFERS_DEFAULT: u32 = 100_000;

/// Bytes of the artifacts in pieces that a node has, unless the user says otherwise: some of the sizes that take a minute at 100 Mbit/s. What a further one needs is taken from what
/// nobody needs, the oldest first; where there is none, it waits, or its offer is refused.
pub const ARTIFACT_STORE_BYTES_DEFAULT: u64 = 1_024 * MIB;

/// Bytes of an artifact that a program is given in one piece of memory: what a store in memory has a few of. A larger one is read in parts.
pub const ARTIFACT_IN_MEMORY_BYTES_MAX: u64 = 256 * MIB;

/// Bytes of the artifacts that a node offers, as [`GOSSIP_OFFERS_DEFAULT`]: some hundred of the largest.
pub const GOSSIP_OFFERS_BYTES_DEFAULT: u64 = 64 * MIB;

/// Artifacts and adverts that wait for one who subscribes to them: as many as it can be asked for at a time, many times. What comes meanwhile stays with the node, which
/// has it as long as it is offered, and follows when there is room.
pub const ARTIFACT_EVENTS_MAX: usize = 1_024;

/// The same in bytes of artifacts: 32 of the largest. One that is larger waits alone.
pub const ARTIFACT_EVENTS_BYTES_MAX: usize = 8 << 20;

/// Bytes of a word between a program and the node of its host: a page of a list is the longest. One that is longer is not read.
pub const HATCH_WORD_BYTES_MAX: usize = 64 << 10;

/// Bytes of an artifact behind such a word: enough that their number costs little, few enough that others have their turn soon.
pub const HATCH_BYTES_MAX: usize = 1 << 20;

/// Entries of a list that are said at once. The rest is asked for behind the last.
pub const HATCH_LISTED_MAX: usize = 64;

/// Nodes that an offer is told to have missed: as many as a node's index can name.
pub const HATCH_MISSING_MAX: usize = 256;

/// Causes by which a change is not kept.
pub const HATCH_DROPPED: usize = 3;

/// Programs of its host that a node has at a time for artifacts. One more is refused until another has gone.
pub const HATCH_SESSIONS_MAX: usize = 256;

/// Subscribers to artifacts that one program has with the node of its host. One more is refused. With what each may have waiting all of it lies in one lane.
pub const HATCH_READERS_MAX: usize = 32;

/// What a subscriber in another program has been told and has not taken. What comes meanwhile waits with the node, as [`ARTIFACT_EVENTS_MAX`] says.
pub const HATCH_NOTES_MAX: u32 = 64;

/// The same in bytes of artifacts; one more goes where there are fewer.
pub const HATCH_NOTES_BYTES_MAX: u64 = MIB;

/// Ends of offers that a program was told and has not taken. Others wait with the node.
pub const HATCH_ENDS_MAX: u32 = 512;

/// Large artifacts that a node holds for one program: the program has each in hand. What is to be given beyond waits until one was let go.
pub const HATCH_HELD_MAX: usize = 256;

/// Large artifacts that come at a time from the programs of a host, each with a thread that takes it in. One more is refused.
pub const HATCH_TAKEN_MAX: usize = 16;

/// Parts of one that wait to be taken in, each copied: with those in hand 48 MiB for all that come at a time. One more is refused.
pub const HATCH_AHEAD_MAX: usize = 2;

/// Milliseconds between two parts of it, after which it is given up.
pub const HATCH_PAUSE_MS_MAX: u64 = 60_000;

/// Milliseconds in which a node notices that a program has gone.
pub const HATCH_LOOK_MS: u64 = 250;

/// Threads that tell a handler of artifacts of one flow: as many peers are handled at a time. More are refused where they are asked for.
pub const ARTIFACT_FLOW_WORKERS_MAX: usize = 16;

/// Milliseconds between two calls of the timer of a handler of artifacts, unless the user says otherwise: nothing but deadlines hangs on it.
pub const ARTIFACT_TIMER_MS: u64 = 100;

/// Milliseconds for which the threads of a handler of artifacts are waited for when they end: they end at once where it returns. One that does not return keeps its thread, and nobody else.
pub const ARTIFACT_JOIN_MS: u64 = 1_000;

/// Words that a handler of a program's own may have waiting for a peer in a lane: what goes in a turn. Who says more waits.
pub const ARTIFACT_VOICE_WORDS_MAX: usize = 64;

/// Artifacts that wait at a broadcaster for their turn, as many as a node offers. One more is dropped and counted.
pub const ARTIFACT_BROADCAST_MAX: usize = 100_000;

/// Bytes of them: as many as a store in memory has. One that would go above is dropped and counted, unless it waits alone.
pub const ARTIFACT_BROADCAST_BYTES_MAX: u64 = 256 * MIB;

/// Words about artifacts that a peer is told before others have their turn: a full window of chunks is some more.
pub const GOSSIP_TURN_WORDS: usize = 64;

// Credit.

/// Messages that a peer may have under way to us unless the user says otherwise: half a million a second over
/// 32 ms. Past it the peer waits.
pub const LINK_CREDIT_MESSAGES_DEFAULT: u64 = 16_384;

/// Bytes that a peer may have under way to us unless the user says otherwise: what 10 Gbit/s carry in 25 ms. Past
/// it the peer waits; a message that is larger goes alone.
pub const LINK_CREDIT_BYTES_DEFAULT: u64 = 32 * MIB;

/// As [`LINK_CREDIT_MESSAGES_DEFAULT`], for one source: a quarter, so that one does not stop the others.
pub const LINK_WINDOW_MESSAGES_DEFAULT: u32 = 4_096;

/// As [`LINK_CREDIT_BYTES_DEFAULT`], for one source.
pub const LINK_WINDOW_BYTES_DEFAULT: u64 = 8 * MIB;

/// Bytes that all flows of one host may keep for its peers beyond what each peer is guaranteed, unless the user says
/// otherwise. Past it each flow does what it does when it is full.
pub const FLOW_BYTES_ALL_DEFAULT: u64 = GIB;

/// A link is granted one part in so many of what is left of that, at most: so that something is left for who comes later.
/// The first 24 peers find as much as [`LINK_CREDIT_BYTES_DEFAULT`], the 64th a hundred kilobytes beside its floor.
pub const FLOW_GRANT_PARTS: u64 = 8;

/// Messages of one flow that each peer is guaranteed unless the user says otherwise, whatever the others hold: so nobody is
/// kept out by others. As many of 4 KiB as [`FLOW_FLOOR_BYTES`].
pub const FLOW_FLOOR_MESSAGES: u64 = 64;

/// Bytes of one flow that each peer is guaranteed unless the user says otherwise: four pieces of a large message. For a
/// thousand peers it is a quarter of [`FLOW_BYTES_ALL_DEFAULT`].
pub const FLOW_FLOOR_BYTES: u64 = 4 * LINK_PART_BYTES as u64;

/// Milliseconds for the handshake of a link, however its bytes come. Then it is closed, with a reason.
pub const LINK_HANDSHAKE_MS: u64 = 2_000;

/// Milliseconds for the rest of a frame that has begun, or for the next [`LINK_PART_BYTES`] of a larger one: one byte a
/// second is no peer. Then the link is closed, with a reason.
pub const LINK_PARTIAL_MS: u64 = 10_000;

/// Milliseconds of silence after which a peer is asked whether it is there.
pub const LINK_PING_MS: u64 = 1_000;

/// Milliseconds of silence after which a link is closed: three questions without an answer.
pub const LINK_IDLE_MS: u64 = 4_000;

/// Milliseconds for a link that ends in order: what is on its way is acknowledged, or told as lost.
pub const LINK_DRAIN_MS: u64 = 2_000;

/// Milliseconds that an acknowledgement waits for more to acknowledge. Larger progress is acknowledged at once.
pub const LINK_ACKNOWLEDGE_MS: u64 = 5;

/// Milliseconds until a peer is told what was consumed of its credit, where that is little: a large part of it is told at once, so only a
/// message larger than three quarters of all would wait for the rest; from the first of those on it is told as what is acknowledged. Every 5 ms it was a fiftieth of the bytes that a link of a swarm carries.
pub const LINK_CREDIT_MS: u64 = 50;

/// Milliseconds until a peer is told what arrived of its words about artifacts, and what of its credit they took, where that is little: nobody waits
/// for it. It goes with an answer to a ping before that. Every 5 ms it was a hundredth of the bytes that a link of a swarm carries.
pub const LINK_LAZY_MS: u64 = 200;

/// Bytes of one source after which an acknowledgement waits for no more: until it comes the origin keeps their memory, and
/// fills other memory meanwhile, which no cache has.
pub const LINK_ACKNOWLEDGE_BYTES: u64 = 512 << 10;

// Endpoints of a cluster.

/// Messages that wait between two replicas in one direction, at each of them: a pipeline of requests as deep as any
/// consensus keeps. Past it `send` says `Full`.
pub const CLUSTER_REPLICA_QUEUE_MESSAGES_MAX: u32 = 1_024;

/// Bytes, as [`CLUSTER_REPLICA_QUEUE_MESSAGES_MAX`]: a few of the largest messages.
pub const CLUSTER_REPLICA_QUEUE_BYTES_MAX: u64 = 16 * MIB;

/// Messages that wait between a replica and a client in one direction, at each of them. A client has few requests open,
/// and there are many clients. Past it `send` says `Full`.
pub const CLUSTER_CLIENT_QUEUE_MESSAGES_MAX: u32 = 256;

/// Bytes, as [`CLUSTER_CLIENT_QUEUE_MESSAGES_MAX`]. A single larger message goes alone.
pub const CLUSTER_CLIENT_QUEUE_BYTES_MAX: u64 = 4 * MIB;

/// Bytes of one message between endpoints: the batch of a consensus, not a snapshot. `send` says `TooLarge`.
pub const CLUSTER_MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Events that an endpoint keeps for who asks late. Past it the oldest is forgotten, and how many is told.
pub const CLUSTER_EVENTS_MAX: usize = 1_024;

/// Milliseconds in which an endpoint that closes waits for acknowledgements. What has none is counted.
pub const CLUSTER_DRAIN_MS: u64 = 1_000;

/// How deep a value in MessagePack may nest where it is decoded, as one in JSON may: each level takes stack. A deeper one is an error.
pub const VALUE_DEPTH_MAX: usize = 128;

// Requests.

/// Lanes of one process, one for each requester that it answers: each is a ring of a page and a seat. Past it the one that was used longest ago
/// is closed, and opened again with its next reply.
pub const LANES_MAX: usize = 1_024;

/// Milliseconds without a reply after which a lane is closed: to open one takes a word with the rendezvous, and a page is little.
pub const LANE_IDLE_MS: u64 = 10_000;

/// Milliseconds that the last responder of a process waits, when it is dropped, for requesters that it has answered and that have not taken notice of their lanes
/// yet: a rendezvous that is busy takes some hundred. What they have not noticed then is lost, and their requests are told so.
pub const LANE_LINGER_MS: u64 = 3_000;

/// Replies that a lane keeps for a requester that does not take them: one to each request that it may have under way, and half a mebibyte.
/// Past it, which streams alone can come, the oldest are lost, and their requests told so.
pub const LANE_SLOTS_MAX: u32 = 4_096;

/// Bytes of larger replies that a lane keeps. Past it as with `LANE_SLOTS_MAX`; a single larger reply is sent all the same.
pub const LANE_BYTES_MAX: u64 = 64 * MIB;

/// Bytes of the lanes of one process, slots and larger replies: a few that are full. Past it lanes are closed that were not used for longest, first those whose
/// replies were taken; what lies in the others is lost, and told as with `LANE_SLOTS_MAX`. A single larger reply is sent all the same.
pub const LANES_BYTES_MAX: u64 = 4 * LANE_BYTES_MAX;

/// Replies behind the first to their request that a requester keeps until they are asked for. Past it the newest is lost, and its request told so.
pub const REPLIES_KEPT_MAX: usize = 4_096;

/// Requests of one requester that have not ended, unless the user says otherwise: a thousand callers at once. One more waits for one of them to end.
pub const REQUESTS_UNDER_WAY_DEFAULT: u32 = 1_024;

/// As [`REQUESTS_UNDER_WAY_DEFAULT`], whatever the user says: so that all of their replies lie in one lane until they are taken.
pub const REQUESTS_UNDER_WAY_MAX: u32 = LANE_SLOTS_MAX;

/// So many times as many requests as may be under way can be sent, unless the user says otherwise, after one that has not ended: a request keeps its
/// place among those that were sent, and some take much longer than others. One more waits for the oldest to end.
pub const REQUESTS_AHEAD_PARTS: u32 = 8;

/// Requests of one requester whose replies nobody has taken yet, those under way included: each keeps its first reply. One more is refused.
pub const REQUESTS_UNREAD_MAX: usize = 16_384;

/// Milliseconds after which a request that was answered, as its responder says, is told that the reply was lost: longer than a responder that goes
/// waits for us. While the responder is there and its lane is not yet, nothing is lost.
pub const REPLY_MISSING_MS: u64 = 4_000;

// Services.

/// Failures that a breaker counts before it opens: their times are kept. Who asks for more gets this many.
pub const BREAKER_FAILURES_MAX: u32 = 1_024;

/// Probes of a half-open breaker: a few tell as much as many. Who asks for more gets this many.
pub const BREAKER_PROBES_MAX: u32 = 64;

/// Tries after the first. What fails a hundred times, with pauses that double, fails always. Who asks for more gets this many.
pub const RETRY_TIMES_MAX: u32 = 100;

/// Milliseconds before something is tried again: an hour, after which it is no retry any more. Who asks for more gets this.
pub const RETRY_PAUSE_MS_MAX: u64 = 3_600_000;

/// Milliseconds that a task which was given back is left alone before its second delivery, unless its puller says otherwise: what it needs may be away, and
/// whoever gave it back would be given it again at once. Before each further delivery it is twice as long.
pub const REDELIVERY_MS_DEFAULT: u64 = 100;

/// The longest of these pauses, in milliseconds, but where the first was asked to be longer: one that grows for ever is a loss.
pub const REDELIVERY_MS_MAX: u64 = 10_000;

/// Handlers of one service: each has a subscriber and a place in a list that is gone through. The builder refuses more.
pub const SERVICE_HANDLERS_MAX: usize = 1_024;

/// Threads of one service. Handlers that wait for others want many, and each has a stack. The builder refuses more.
pub const SERVICE_WORKERS_MAX: u32 = 256;

/// Messages that one handler has in hand: being handled, or waiting for their next attempt. The builder refuses more.
pub const SERVICE_CONCURRENCY_MAX: u32 = 1_024;

/// Messages that one handler keeps while others of their topics are in hand, so that other topics behind them are found. When
/// so many wait nothing more is taken, and the subscriber's policy decides.
pub const SERVICE_PARKED_MAX: usize = 64;

/// Dead letters that a service keeps for subscribers who come later and ask for history: enough to see what is wrong. Of those
/// that nobody reads, older ones make place.
pub const SERVICE_DEAD_LETTERS_KEPT: u32 = 64;

/// Milliseconds that a call of a handler may take before it is told, unless it says otherwise: who waits for it would notice.
pub const SERVICE_SLOW_MS_DEFAULT: u64 = 1_000;

/// Milliseconds that the drop of a service waits for what is there, unless it says otherwise.
pub const SERVICE_LINGER_MS_DEFAULT: u64 = 100;

// Relations between limits: whoever changes one is told what else rests on it.
const _: () = {
    assert!(NAME_BYTES_MAX <= u8::MAX as usize);
    assert!(MESSAGE_BYTES_MAX <= u32::MAX as u64);
    assert!(CHUNK_BYTES_MAX <= MESSAGE_BYTES_MAX);
    assert!(BULK_BYTES_MIN > INLINE_BYTES_MAX as u64 && BULK_BYTES_MIN < CHUNK_BYTES_MAX);
    assert!(BULK_BYTES_MIN >= 16 * KIB);
    assert!(EXTENTS_MAX < 1 << 12 && EXTENT_CHUNKS_MAX == 1 << 12);
    assert!(RING_SLOTS_INITIAL.is_power_of_two() && RING_SLOTS_MAX_DEFAULT.is_power_of_two());
    assert!(RING_SLOTS_HARD_MAX.is_power_of_two() && RING_SLOTS_MAX_DEFAULT <= RING_SLOTS_HARD_MAX);
    assert!(RING_SLOTS_INITIAL * 128 == 4_096, "a new ring is one page");
    assert!(DROP_NEWEST_DEPTH_MAX <= HOLDS_MAX);
    assert!(HOLD_COPY_BYTES_MAX as u64 <= HOLD_BYTES_MAX);
    assert!(HUNG_AFTER_MS >= 4 * BEAT_MS, "one late beat is no hang");
    // The largest message of each variable part: the rest of a body is at most 256 bytes.
    assert!(HEADER_SIZE + 256 + MATCHED_MAX * 10 <= CONTROL_BYTES_MAX);
    assert!(HEADER_SIZE + 256 + NAME_BYTES_MAX + REASON_BYTES_MAX <= CONTROL_BYTES_MAX);
    assert!(CONTROL_BYTES_MAX <= MEMBER_QUEUE_BYTES_MAX);
    assert!(HEADER_SIZE + 16 + LINK_INTEREST_ENTRIES_MAX * (NAME_BYTES_MAX + 8) <= LINK_FRAME_BYTES_MAX);
    assert!(HEADER_SIZE + 256 + PROCESS_NAME_BYTES_MAX + LINK_TOKEN_BYTES_MAX <= LINK_FRAME_BYTES_MAX);
    assert!(HEADER_SIZE + 256 + NAME_BYTES_MAX + 3 * PROCESS_NAME_BYTES_MAX <= LINK_FRAME_BYTES_MAX);
    assert!(LINK_PART_BYTES as u64 <= LINK_PIECE_BYTES_MAX && LINK_PIECE_BYTES_MAX <= MESSAGE_BYTES_MAX);
    assert!(LINK_COPY_BYTES < LINK_DIRECT_BYTES && LINK_DIRECT_BYTES <= LINK_PART_BYTES);
    assert!(LINK_PART_BYTES < LINK_BATCH_BYTES);
    assert!(WORK_TAKEN_IN_BYTES_MAX <= LANE_BYTES_MAX, "none of it is lost");
    assert!(WORK_PIECE_BYTES as u64 <= LINK_WINDOW_BYTES_DEFAULT / 4 && WORK_QUICK_BYTES < WORK_PIECE_BYTES);
    assert!(LINK_QUEUE_BYTES_MIN < LINK_QUEUE_BYTES_MAX && LINK_QUEUE_BYTES_MAX < LINK_QUEUE_BYTES_ALL);
    assert!(LINK_PART_BYTES < LINK_PART_BYTES_MAX && LINK_PART_BYTES_MAX as u64 <= LINK_PIECE_BYTES_MAX);
    assert!(4 * LINK_AWAITED_MS < LINK_IDLE_MS);
    assert!(GATE_BYTES_MIN >= 2 * LINK_FRAGMENT_BYTES as u64 && GATE_BYTES_MIN <= GATE_BYTES_FIRST);
    assert!(GATE_WAIT_NS_MAX <= GATE_QUEUE_NS / 2 && GATE_QUEUE_NS < GATE_WINDOW_NS);
    assert!(
        GATE_TURN_NS <= GATE_QUEUE_NS,
        "a turn is waited for no longer than what lies in the kernel lasts"
    );
    assert!(LINK_COPY_BYTES < LINK_FRAGMENT_BYTES && LINK_FRAGMENT_BYTES <= LINK_PART_BYTES);
    assert!(
        ARTIFACT_INSIDE_BYTES_MAX + ARTIFACT_ATTRIBUTE_BYTES_MAX + NAME_BYTES_MAX + 64
            <= GOSSIP_WORD_BYTES_MAX,
        "a word has room for any offer"
    );
    assert!(GOSSIP_FILTER_PATTERNS_MAX * (NAME_BYTES_MAX + 2) + 64 <= GOSSIP_WORD_BYTES_MAX);
    assert!(3 * GOSSIP_WORD_ENTRIES_MAX <= GOSSIP_WORD_BYTES_MAX);
    assert!(ARTIFACT_INSIDE_BYTES_MAX < ARTIFACT_CHUNK_BYTES);
    assert!(GOSSIP_PIECES_OF_PEER_MAX == 2 * GOSSIP_PULLS_OF_PEER_MAX && GOSSIP_SERVED_MAX > 32);
    assert!(GOSSIP_FAULT_MS < GOSSIP_STALL_MS && GOSSIP_HEDGE_MS_FIRST < GOSSIP_STALL_MS);
    assert!(ARTIFACT_WHOLE_BYTES_MAX.is_multiple_of(ARTIFACT_CHUNK_BYTES as u64));
    assert!(
        HEADER_SIZE + 16 + LINK_RUN_PAYLOAD_BYTES_MAX <= LINK_FRAME_BYTES_MAX,
        "a run has room for any of them"
    );
    assert!(LINK_RUN_MESSAGES_MAX <= LINK_QUEUE_MESSAGES_MAX as u64);
    assert!(LINK_RUN_MESSAGES_MAX <= LINK_WINDOW_MESSAGES_DEFAULT as u64 / 4);
    assert!(LINK_IDLE_MS > 3 * LINK_PING_MS, "three pings are on their way before a peer is given up");
    assert!(LINK_QUEUE_MESSAGES_MAX <= LINK_FLIGHT_MESSAGES_MAX);
    assert!(
        LINK_BACKOFF_MS < LINK_BACKOFF_NODE_MS_MAX && LINK_BACKOFF_NODE_MS_MAX < LINK_BACKOFF_CLIENT_MS_MAX
    );
    assert!(
        LINK_BACKOFF_NODE_MS_MAX + LINK_CONNECT_MS < 2_000,
        "a node that is back is linked within two seconds"
    );
    assert!(LINK_STRANGER_MS < LINK_HANDSHAKE_MS);
    assert!(CLUSTER_REPLICA_QUEUE_MESSAGES_MAX.is_power_of_two());
    assert!(CLUSTER_CLIENT_QUEUE_MESSAGES_MAX.is_power_of_two());
    assert!(CLUSTER_MESSAGE_BYTES_MAX as u64 <= CLUSTER_CLIENT_QUEUE_BYTES_MAX);
    assert!(
        HATCH_READERS_MAX as u32 * HATCH_NOTES_MAX + HATCH_ENDS_MAX < LANE_SLOTS_MAX,
        "what a program is told and has not taken lies in its lane"
    );
    assert!(
        HATCH_READERS_MAX as u64 * (HATCH_NOTES_BYTES_MAX + ARTIFACT_WHOLE_BYTES_MAX) < LANE_BYTES_MAX,
        "the same in bytes"
    );
    assert!(
        (HATCH_LISTED_MAX + 1) * (ARTIFACT_ATTRIBUTE_BYTES_MAX + NAME_BYTES_MAX + 128)
            <= HATCH_WORD_BYTES_MAX
    );
    assert!(ARTIFACT_WHOLE_BYTES_MAX <= HATCH_BYTES_MAX as u64, "a whole artifact is said at once");
    assert!(LANE_SLOTS_MAX.is_power_of_two() && LANE_SLOTS_MAX <= RING_SLOTS_HARD_MAX);
    assert!(REQUESTS_UNDER_WAY_DEFAULT <= REQUESTS_UNDER_WAY_MAX);
    assert!(REQUESTS_UNDER_WAY_MAX <= LANE_SLOTS_MAX, "the replies to all that is under way lie in one lane");
    assert!(REQUESTS_UNDER_WAY_MAX * REQUESTS_AHEAD_PARTS <= RING_SLOTS_HARD_MAX);
    assert!(REQUESTS_UNREAD_MAX >= 2 * REQUESTS_UNDER_WAY_MAX as usize);
    assert!(LANE_LINGER_MS < REPLY_MISSING_MS && REPLY_MISSING_MS < LANE_IDLE_MS);
    assert!(5 * LINK_RETRY_AFTER_MS <= LINK_RETRY_AFTER_MS_MAX);
    assert!(Control::COUNT < 128, "the number of a control message is one byte of a varint");
};
