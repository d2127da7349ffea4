//! What a driver does while both sides live.

use std::time::Duration;

use busway_io::{Admission, Backlog, ConnectionId, Driver, Event, Fault, PIECES_COUNT_MAX, Read, Submitted};

use crate::place::{Parcel, Place};
use crate::scene::{Scene, Who, landed, landing};

/// One direction of a transfer: what is left to send, and what has come.
struct Way {
    from: (Who, ConnectionId),
    to: (Who, ConnectionId),
    bytes: Vec<u8>,
    sent: usize,
    writing: bool,
    reading: bool,
    came: Vec<u8>,
}

impl Way {
    fn is_done(&self) -> bool {
        self.came.len() >= self.bytes.len()
    }

    /// Takes what has completed, and submits what is next.
    fn go_on<P: Place>(&mut self, scene: &mut Scene<P>) {
        let (who, connection) = self.from;
        let index = scene
            .said(who)
            .iter()
            .position(|s| matches!(s, Event::Written { connection: c, .. } if *c == connection));
        if let Some(Event::Written { result, .. }) = index.map(|index| scene.said(who).remove(index)) {
            self.writing = false;
            self.sent += result.unwrap();
        }
        if !self.writing && self.sent < self.bytes.len() {
            let parcel = pieces_of(&mut scene.dice, &self.bytes[self.sent..]);
            match scene.driver(who).write(connection, parcel) {
                Submitted::Done { result, .. } => self.sent += result.unwrap(),
                Submitted::Pending => self.writing = true,
            }
        }
        let (who, connection) = self.to;
        let index = scene
            .said(who)
            .iter()
            .position(|s| matches!(s, Event::Read { connection: c, .. } if *c == connection));
        if let Some(Event::Read { space, result, .. }) = index.map(|index| scene.said(who).remove(index)) {
            self.reading = false;
            self.take(landed(&space, count_of(result)));
        }
        if !self.reading && !self.is_done() {
            let sizes = [scene.dice.usize(0..3000), scene.dice.usize(1..70_000)];
            match scene.driver(who).read(connection, landing(sizes)) {
                Submitted::Done { buffer, result } => self.take(landed(&buffer, count_of(result))),
                Submitted::Pending => self.reading = true,
            }
        }
    }

    fn take(&mut self, bytes: Vec<u8>) {
        self.came.extend(bytes);
    }
}

fn count_of(result: Result<Read, Fault>) -> usize {
    match result {
        Ok(Read::Bytes(count)) => count,
        other => panic!("{other:?}"),
    }
}

fn pieces_of(dice: &mut fastrand::Rng, bytes: &[u8]) -> Parcel {
    let mut left = &bytes[..bytes.len().min(200_000)];
    let mut pieces = Vec::new();
    while !left.is_empty() {
        let (piece, rest) = left.split_at(dice.usize(0..=left.len()));
        pieces.push(piece.to_vec());
        left = rest;
    }
    Parcel(pieces)
}

pub(crate) fn bytes_cross_both_ways_unchanged_whatever_their_sizes<P: Place>(mut scene: Scene<P>) {
    let pair = scene.connect();
    for size in [1, 1000, 1_000_000] {
        let mut bytes = || std::iter::repeat_with(|| scene.dice.u8(..)).take(size).collect::<Vec<u8>>();
        let (there, back) = (bytes(), bytes());
        let way = |from, to, bytes| Way {
            from,
            to,
            bytes,
            sent: 0,
            writing: false,
            reading: false,
            came: Vec::new(),
        };
        let (near, far) = ((Who::Near, pair.near), (Who::Far, pair.far));
        let mut ways = [way(near, far, there), way(far, near, back)];
        scene.until("both have all", |scene| {
            ways.iter_mut().for_each(|way| way.go_on(scene));
            ways.iter().all(Way::is_done).then_some(())
        });
        for way in ways {
            assert!(way.came == way.bytes, "bytes have changed on their way; {}", scene.place.describe());
        }
    }
}

pub(crate) fn both_families_connect_and_tell_where_the_peer_comes_from<P: Place>(mut scene: Scene<P>) {
    for ip in scene.place.far_addresses() {
        let listening = scene.listen_at(ip, b"");
        assert_ne!(listening.address.port(), 0, "the kernel has chosen a port");
        let (pair, peer) = scene.connect_to(listening.address);
        assert_eq!(peer.ip(), scene.place.near_address(ip));
        let leaves = scene.place.near().local_ip(pair.near).expect("it stands");
        assert_eq!(
            leaves.is_loopback(),
            scene.place.is_one_host(),
            "{ip} is reached by an interface: {leaves}"
        );
        scene.send(Who::Far, pair.far, b"hello");
        assert_eq!(scene.receive(Who::Near, pair.near, 5), b"hello");
    }
}

pub(crate) fn a_burst_of_newcomers_is_taken_in_whole<P: Place>(mut scene: Scene<P>) {
    const COUNT: usize = 300;
    let listening = scene.listen();
    let dialed: Vec<ConnectionId> = (0..COUNT).map(|_| scene.place.near().dial(listening.address)).collect();
    for connection in &dialed {
        assert_eq!(scene.dialed(Who::Near, *connection), Ok(()));
    }
    let mut accepted: Vec<ConnectionId> = (0..COUNT).map(|_| scene.accepted().0).collect();
    accepted.sort_unstable();
    accepted.dedup();
    assert_eq!(accepted.len(), COUNT, "each has a name of its own");
    assert_eq!(scene.place.far().counters().accepted, COUNT as u64);
    println!("evidence: newcomers={COUNT} lost=0");
}

pub(crate) fn who_comes_while_the_listener_is_held_waits_and_is_then_taken_in<P: Place>(mut scene: Scene<P>) {
    let listening = scene.listen();
    scene.place.far().admit(listening.listener, Admission::Held);
    let near = scene.place.near().dial(listening.address);
    assert_eq!(scene.dialed(Who::Near, near), Ok(()), "the kernel has it");
    scene.send(Who::Near, near, b"patience");
    scene.quiet("nobody is taken in", |said| matches!(said, Event::Accepted { .. }));
    scene.place.far().admit(listening.listener, Admission::Open);
    let (far, _) = scene.accepted();
    assert_eq!(scene.receive(Who::Far, far, 8), b"patience");
}

pub(crate) fn a_read_fills_the_first_span_before_the_second<P: Place>(mut scene: Scene<P>) {
    let pair = scene.connect();
    scene.send(Who::Near, pair.near, b"0123456789");
    let mut came = Vec::new();
    while came.len() < 10 {
        let (landing, result) = scene.read(Who::Far, pair.far, [3, 4]);
        let Ok(Read::Bytes(count)) = result else { panic!("{result:?}") };
        assert!(count <= 7, "there was room for 7");
        assert!(landing.first[count.min(3)..].iter().all(|byte| *byte == 0), "beyond what was read");
        assert!(
            landing.second[count.saturating_sub(3)..].iter().all(|byte| *byte == 0),
            "beyond what was read"
        );
        came.extend(landed(&landing, count));
    }
    assert_eq!(came, b"0123456789");
}

pub(crate) fn more_pieces_than_one_write_takes_are_sent_by_the_next_ones<P: Place>(mut scene: Scene<P>) {
    let pair = scene.connect();
    let bytes: Vec<u8> = (0..=255).cycle().take(3 * PIECES_COUNT_MAX).collect();
    let mut sent = 0;
    let mut writes = 0;
    while sent < bytes.len() {
        // Empty pieces between them are no pieces.
        let parcel = Parcel(bytes[sent..].iter().flat_map(|byte| [vec![*byte], Vec::new()]).collect());
        let (_, result) = scene.write(Who::Near, pair.near, parcel);
        let count = result.unwrap();
        assert!((1..=PIECES_COUNT_MAX).contains(&count), "{count} pieces in one write");
        sent += count;
        writes += 1;
    }
    assert!(writes >= 3);
    assert!(scene.receive(Who::Far, pair.far, bytes.len()) == bytes, "the pieces are in order");
}

pub(crate) fn a_write_waits_for_room_and_the_backlog_says_how_much_is_under_way<P: Place>(
    mut scene: Scene<P>,
) {
    let pair = scene.connect();
    assert_eq!(scene.place.near().backlog(pair.near), Ok(Backlog::default()));
    let mut sent = 0;
    // Nobody reads: at some point there is no room, and stays none.
    loop {
        match scene.place.near().write(pair.near, Parcel(vec![vec![7; 50_000]])) {
            Submitted::Done { result, .. } => sent += result.unwrap(),
            Submitted::Pending => {
                scene.quiet("the peer reads nothing", |_| false);
                let done = |said: &Event<_, _>| matches!(said, Event::Written { .. });
                let index = scene.said(Who::Near).iter().position(done);
                match index.map(|index| scene.said(Who::Near).remove(index)) {
                    Some(Event::Written { result, .. }) => sent += result.unwrap(),
                    _ => break,
                }
            }
        }
    }
    // The kernel may have some of it in hand still.
    let unacknowledged = scene.until("the peer has no room: nothing of it waits to leave", |scene| {
        let Backlog { unacknowledged, here } = scene.place.near().backlog(pair.near).unwrap();
        (here == 0).then_some(unacknowledged)
    });
    assert!(
        unacknowledged > 0 && unacknowledged <= sent as u64,
        "{unacknowledged} of {sent} bytes are under way"
    );
    let mut read = 0;
    let mut last = None;
    scene.until("the write is done", |scene| {
        let said = scene.said(Who::Near).iter().position(|said| matches!(said, Event::Written { .. }));
        if let Some(Event::Written { result, .. }) = said.map(|index| scene.said(Who::Near).remove(index)) {
            last = Some(result.unwrap());
        }
        if last.is_none() {
            let (_, result) = scene.read(Who::Far, pair.far, [10_000, 10_000]);
            read += count_of(result);
        }
        last
    });
    let rest = sent + last.unwrap() - read;
    assert!(scene.receive(Who::Far, pair.far, rest).iter().all(|byte| *byte == 7));
    scene.until("all is acknowledged", |scene| {
        (scene.place.near().backlog(pair.near) == Ok(Backlog::default())).then_some(())
    });
}

pub(crate) fn an_idle_connection_is_watched_without_a_buffer<P: Place>(mut scene: Scene<P>) {
    let pair = scene.connect();
    for round in 0..3 {
        scene.place.far().watch(pair.far);
        scene.place.far().watch(pair.far);
        scene.quiet("nothing was sent", |said| matches!(said, Event::Readable { .. }));
        scene.send(Who::Near, pair.near, &[round]);
        let named = scene.wait(Who::Far, "it is readable", |said| match said {
            Event::Readable { connection } => Some(*connection),
            _ => None,
        });
        assert_eq!(named, pair.far);
        scene.quiet("it was told once", |said| matches!(said, Event::Readable { .. }));
        assert_eq!(scene.receive(Who::Far, pair.far, 1), [round]);
    }
    scene.send(Who::Near, pair.near, b"x");
    scene.quiet("nobody watches", |said| matches!(said, Event::Readable { .. }));
    scene.place.far().watch(pair.far);
    scene.wait(Who::Far, "what is there already is told too", |said| {
        matches!(said, Event::Readable { .. }).then_some(())
    });
}

pub(crate) fn who_waits_for_many_bytes_is_told_when_they_are_there_or_will_not_come<P: Place>(
    mut scene: Scene<P>,
) {
    const MANY: usize = 20_000;
    let readable = |said: &Event<_, _>| matches!(said, Event::Readable { .. });
    let pair = scene.connect();
    for least in [MANY, 1, MANY] {
        scene.place.far().watch_for(pair.far, least);
        scene.send(Who::Near, pair.near, &[1; 100]);
        if least > 1 {
            scene.quiet("a few have come", readable);
            scene.send(Who::Near, pair.near, &[1; MANY - 100]);
        }
        scene.wait(Who::Far, "enough have come", |said| readable(said).then_some(()));
        scene.receive(Who::Far, pair.far, least.max(100));
    }
    // Who waits for less than before is told of what lies there.
    scene.place.far().watch_for(pair.far, MANY);
    scene.send(Who::Near, pair.near, &[2; 100]);
    scene.quiet("a few have come", readable);
    scene.place.far().watch(pair.far);
    scene.wait(Who::Far, "any are enough", |said| readable(said).then_some(()));
    assert_eq!(scene.receive(Who::Far, pair.far, 100), [2; 100]);
    // More than any buffer takes.
    scene.place.far().watch_for(pair.far, 1 << 30);
    scene.send(Who::Near, pair.near, &[3; 100]);
    scene.place.near().shutdown(pair.near).unwrap();
    scene.wait(Who::Far, "no more will come", |said| readable(said).then_some(()));
    assert_eq!(scene.receive(Who::Far, pair.far, 100), [3; 100]);
}

pub(crate) fn a_wake_ends_a_poll_and_is_no_event<P: Place>(mut scene: Scene<P>) {
    let pair = scene.connect();
    scene.place.near().watch(pair.near);
    scene.step();
    let mut events = Vec::new();
    for _ in 0..3 {
        scene.place.near().wake();
        // A poll that a wake does not end would sleep until its timeout, or let the clock run so far.
        let before_ns = scene.place.near().now_ns();
        scene.place.near().poll(Some(Duration::from_secs(100)), &mut events);
        assert!(scene.place.near().now_ns() - before_ns < 60_000_000_000, "the poll slept on");
        assert!(events.is_empty(), "{events:?}");
    }
}

pub(crate) fn what_cannot_be_done_gives_its_buffer_back_at_once<P: Place>(mut scene: Scene<P>) {
    let pair = scene.connect();
    let driver = scene.place.near();
    let refused_read = |connection, sizes| match driver.read(connection, landing(sizes)) {
        Submitted::Done { buffer, result } => {
            assert_eq!([buffer.first.len(), buffer.second.len()], sizes, "the same buffer");
            result.unwrap_err()
        }
        Submitted::Pending => panic!("it was taken"),
    };
    assert_eq!(refused_read(pair.near, [0, 0]), Fault::Empty);
    assert_eq!(refused_read(ConnectionId(u64::MAX), [1, 1]), Fault::Closed);
    assert!(matches!(driver.read(pair.near, landing([8, 0])), Submitted::Pending), "nothing was sent");
    assert_eq!(refused_read(pair.near, [4, 4]), Fault::Busy);
    for parcel in [vec![], vec![vec![]]] {
        match driver.write(pair.near, Parcel(parcel.clone())) {
            Submitted::Done { buffer, result } => {
                assert_eq!((buffer.0, result), (parcel, Err(Fault::Empty)));
            }
            Submitted::Pending => panic!("it was taken"),
        }
    }
    assert_eq!(driver.backlog(ConnectionId(u64::MAX)), Err(Fault::Closed));
    assert_eq!(driver.local_ip(ConnectionId(u64::MAX)), None);
    assert_eq!(driver.shutdown(ConnectionId(u64::MAX)), Err(Fault::Closed));
    scene.send(Who::Far, pair.far, b"y");
    let (landing, result) = scene.read_done(Who::Near, pair.near);
    assert_eq!((landed(&landing, 1), result), (b"y".to_vec(), Ok(Read::Bytes(1))));
}
