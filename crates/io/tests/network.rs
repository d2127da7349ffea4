//! The faults of the network in memory: each does what its name says, and the seed decides everything.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests unwrap and print their evidence")]

#[path = "conformance/place.rs"]
#[expect(dead_code, reason = "TCP has no part here")]
mod place;

use std::net::SocketAddr;
use std::time::Duration;

use busway_io::{
    Backlog, ConnectionId, Crash, Driver, Event, FakeDriver, Fault, HostId, Listen, Manners, Network, Path,
    Read, Submitted,
};
use place::{Landing, Parcel};

type Host = FakeDriver<Landing, Parcel>;

const NEAR: HostId = HostId(1);
const FAR: HostId = HostId(2);
const SECOND: Duration = Duration::from_secs(1);

/// Two hosts and a connection between them.
struct Pair {
    network: Network,
    near: Host,
    far: Host,
    address: SocketAddr,
    ends: (ConnectionId, ConnectionId),
}

fn listen(host: &Host) -> SocketAddr {
    let address = SocketAddr::new(host.host().ipv4(), 0);
    host.listen(Listen { address, backlog: 64, refusal: Vec::new() }).unwrap().address
}

fn pair(seed: u64, manners: Manners) -> Pair {
    let network = Network::new(seed, manners);
    let (near, far): (Host, Host) = (network.start(NEAR), network.start(FAR));
    let address = listen(&far);
    let dialed = near.dial(address);
    network.advance(SECOND);
    let accepted = match events(&far).as_slice() {
        [Event::Accepted { connection, .. }] => *connection,
        other => panic!("{other:?}"),
    };
    assert!(matches!(events(&near).as_slice(), [Event::Dialed { result: Ok(()), .. }]));
    Pair { network, near, far, address, ends: (dialed, accepted) }
}

fn events(host: &Host) -> Vec<Event<Landing, Parcel>> {
    let mut events = Vec::new();
    host.poll(Some(Duration::ZERO), &mut events);
    events
}

fn write(host: &Host, connection: ConnectionId, bytes: &[u8]) -> Result<usize, Fault> {
    match host.write(connection, Parcel(vec![bytes.to_vec()])) {
        Submitted::Done { result, .. } => result,
        Submitted::Pending => Ok(0),
    }
}

/// All that has landed, and how it goes on: Ok(true) is an end.
fn read(host: &Host, connection: ConnectionId) -> (Vec<u8>, Result<bool, Fault>) {
    let mut bytes = Vec::new();
    loop {
        let landing = Landing { first: vec![0; 100_000], second: Vec::new() };
        match host.read(connection, landing) {
            Submitted::Done { buffer, result: Ok(Read::Bytes(count)) } => {
                bytes.extend(&buffer.first[..count])
            }
            Submitted::Done { result: Ok(Read::End), .. } => return (bytes, Ok(true)),
            Submitted::Done { result: Err(Fault::Busy), .. } | Submitted::Pending => {
                return (bytes, Ok(false));
            }
            Submitted::Done { result: Err(fault), .. } => return (bytes, Err(fault)),
        }
    }
}

/// What a pending read has brought since.
fn pending_read(host: &Host) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events(host) {
        match event {
            Event::Read { space, result: Ok(Read::Bytes(count)), .. } => bytes.extend(&space.first[..count]),
            other => panic!("{other:?}"),
        }
    }
    bytes
}

#[test]
fn a_cut_path_keeps_bytes_until_it_heals() {
    let p = pair(1, Manners::smooth());
    p.network.cut(NEAR, FAR, true);
    assert_eq!(write(&p.near, p.ends.0, b"one"), Ok(3));
    assert_eq!(write(&p.far, p.ends.1, b"two"), Ok(3));
    p.network.advance(60 * SECOND);
    assert_eq!(read(&p.far, p.ends.1), (Vec::new(), Ok(false)), "nothing comes through");
    assert_eq!(read(&p.near, p.ends.0), (b"two".to_vec(), Ok(false)), "the way back is another path");
    assert_eq!(
        p.far.backlog(p.ends.1).map(|found| found.unacknowledged),
        Ok(3),
        "but nothing acknowledges it"
    );
    p.network.cut(NEAR, FAR, false);
    p.network.advance(SECOND);
    assert_eq!(pending_read(&p.far), b"one");
    assert_eq!([p.far.backlog(p.ends.1), p.near.backlog(p.ends.0)], [Ok(Backlog::default()); 2]);
}

#[test]
fn a_path_that_stays_cut_ends_in_a_time_out_for_who_sends() {
    let p = pair(1, Manners::smooth());
    p.network.cut(NEAR, FAR, true);
    assert_eq!(write(&p.near, p.ends.0, b"one"), Ok(3));
    p.network.advance(1000 * SECOND);
    assert_eq!(read(&p.near, p.ends.0), (Vec::new(), Err(Fault::TimedOut)));
    assert_eq!(read(&p.far, p.ends.1), (Vec::new(), Ok(false)), "nobody tells who only listens");
}

#[test]
fn a_reset_ends_both_and_loses_what_is_under_way() {
    let p = pair(1, Manners::smooth());
    assert_eq!(write(&p.near, p.ends.0, b"landed"), Ok(6));
    p.network.advance(SECOND);
    assert_eq!(write(&p.near, p.ends.0, b"lost"), Ok(4));
    p.network.reset(NEAR, FAR);
    p.network.advance(SECOND);
    assert_eq!(read(&p.far, p.ends.1), (b"landed".to_vec(), Err(Fault::Reset)));
    assert_eq!(write(&p.near, p.ends.0, b"more"), Err(Fault::Reset));
    assert_eq!(read(&p.near, p.ends.0), (Vec::new(), Err(Fault::Reset)));
}

#[test]
fn a_truncation_ends_at_any_byte_as_if_that_were_all() {
    let sent: Vec<u8> = (0..=255).collect();
    let mut sizes = Vec::new();
    for seed in 0..200 {
        let p = pair(seed, Manners::smooth());
        assert_eq!(write(&p.near, p.ends.0, &sent), Ok(256));
        p.network.truncate(NEAR, FAR);
        p.network.advance(SECOND);
        let (came, end) = read(&p.far, p.ends.1);
        assert_eq!(end, Ok(true), "seed {seed}");
        assert_eq!(came, sent[..came.len()], "seed {seed}");
        assert_eq!(read(&p.near, p.ends.0).1, Err(Fault::Reset), "seed {seed}");
        sizes.push(came.len());
    }
    sizes.sort_unstable();
    sizes.dedup();
    assert!(sizes.len() > 50, "{} different sizes", sizes.len());
    println!("evidence: truncations=200 sizes={}", sizes.len());
}

#[test]
fn corruption_flips_one_bit_of_a_segment() {
    let p = pair(1, Manners::smooth());
    let path = p.network.path(NEAR, FAR);
    p.network.set_path(NEAR, FAR, Path { corrupt_ppm: 1_000_000, ..path });
    assert_eq!(write(&p.near, p.ends.0, &[0; 100]), Ok(100));
    p.network.advance(SECOND);
    let (came, _) = read(&p.far, p.ends.1);
    assert_eq!((came.len(), came.iter().map(|byte| byte.count_ones()).sum::<u32>()), (100, 1));
}

#[test]
fn a_slow_path_takes_the_time_that_its_rate_says() {
    let p = pair(1, Manners::smooth());
    let path = p.network.path(NEAR, FAR);
    p.network.set_path(NEAR, FAR, Path { bytes_per_second: Some(10_000), ..path });
    assert_eq!(write(&p.near, p.ends.0, &[1; 20_000]), Ok(20_000));
    p.network.advance(SECOND);
    assert!(read(&p.far, p.ends.1).0.len() < 20_000, "the second half is still on the wire");
    assert_eq!(p.near.backlog(p.ends.0).map(|has| has.here), Ok(10_000), "and waits here");
    p.network.advance(2 * SECOND);
    assert_eq!(p.near.backlog(p.ends.0), Ok(Backlog::default()));
}

#[test]
fn a_black_hole_answers_no_connect_until_the_dialer_gives_up() {
    let p = pair(1, Manners::smooth());
    p.network.swallow_connects(FAR, true);
    let connection = p.near.dial(p.address);
    p.network.advance(60 * SECOND);
    assert!(events(&p.near).is_empty(), "nobody has answered");
    p.network.advance(120 * SECOND);
    match events(&p.near).as_slice() {
        [Event::Dialed { connection: c, result: Err(Fault::TimedOut) }] => assert_eq!(*c, connection),
        other => panic!("{other:?}"),
    }
    let again = p.near.dial(p.address);
    p.network.swallow_connects(FAR, false);
    p.network.advance(2 * SECOND);
    assert!(
        matches!(events(&p.near).as_slice(), [Event::Dialed { connection: c, result: Ok(()) }] if *c == again)
    );
    let nowhere = SocketAddr::new(HostId(9).ipv4(), 1);
    p.near.dial(nowhere);
    p.network.advance(SECOND);
    assert!(matches!(events(&p.near).as_slice(), [Event::Dialed { result: Err(Fault::Unreachable), .. }]));
}

#[test]
fn a_stopped_host_is_told_nothing_and_takes_in_what_fits() {
    let p = pair(1, Manners::smooth());
    p.network.stop(FAR, true);
    let mut taken = 0;
    for _ in 0..100 {
        taken += write(&p.near, p.ends.0, &[1; 10_000]).unwrap_or(0);
        p.network.advance(SECOND);
        events(&p.near);
    }
    assert!((64 << 10..=256 << 10).contains(&taken), "{taken} bytes fit");
    assert!(events(&p.far).is_empty());
    p.network.stop(FAR, false);
    p.far.watch(p.ends.1);
    assert!(matches!(events(&p.far).as_slice(), [Event::Readable { .. }]));
}

#[test]
fn a_killed_process_is_an_end_or_a_reset_and_one_without_power_is_silence() {
    for (how, end) in [(Crash::Process, Ok(true)), (Crash::Power, Ok(false))] {
        let p = pair(1, Manners::smooth());
        p.network.crash(FAR, how);
        p.network.advance(SECOND);
        assert_eq!(read(&p.near, p.ends.0), (Vec::new(), end), "{how:?}");
        assert_eq!(read(&p.far, p.ends.1).1, Err(Fault::Closed), "a dead process has no connections");
        let _ = write(&p.near, p.ends.0, b"is there anybody");
        p.network.advance(SECOND);
        let dialed = p.near.dial(p.address);
        p.network.advance(SECOND);
        let answered = events(&p.near).into_iter().find_map(|event| match event {
            Event::Dialed { connection, result } if connection == dialed => Some(result),
            _ => None,
        });
        assert_eq!(answered, (how == Crash::Process).then_some(Err(Fault::Refused)), "{how:?}");
        let far: Host = p.network.start(FAR);
        assert_eq!(listen(&far).ip(), p.address.ip(), "it is the same host");
        p.network.advance(SECOND);
        assert_eq!(write(&p.near, p.ends.0, b"you have forgotten me"), Err(Fault::Reset), "{how:?}");
    }
}

/// A conversation with faults: everything that was seen, as text.
#[test]
fn many_bytes_through_small_buffers_are_not_cut_ever_smaller() {
    let manners = Manners { send_bytes_max: 2_000, receive_bytes_max: 2_000, ..Manners::rough() };
    let p = pair(7, manners);
    let (mut rest, mut arrived, mut moments) = (Some(vec![1; 100_000]), 0, 0);
    let left = |pieces: Parcel, result: Result<usize, Fault>| {
        let left = pieces.0[0][result.unwrap()..].to_vec();
        (!left.is_empty()).then_some(left)
    };
    while arrived < 100_000 {
        moments += 1;
        assert!(moments < 5_000, "{arrived} bytes in {moments} moments");
        for event in events(&p.near) {
            match event {
                Event::Written { pieces, result, .. } => rest = left(pieces, result),
                other => panic!("{other:?}"),
            }
        }
        while let Some(bytes) = rest.take() {
            if let Submitted::Done { buffer, result } = p.near.write(p.ends.0, Parcel(vec![bytes])) {
                rest = left(buffer, result);
            }
        }
        arrived += pending_read(&p.far).len() + read(&p.far, p.ends.1).0.len();
        let wait_ns = p.network.next_ns().map_or(1, |next_ns| next_ns - p.network.now_ns());
        p.network.advance(Duration::from_nanos(wait_ns.max(1)));
    }
    println!("evidence: moments={moments}");
}

fn run(seed: u64) -> String {
    let p = pair(seed, Manners::rough());
    let path = p.network.path(NEAR, FAR);
    p.network.set_path(NEAR, FAR, Path { corrupt_ppm: 100_000, ..path });
    let mut seen = String::new();
    for round in 0..200u64 {
        let sent = write(&p.near, p.ends.0, &[1; 777]);
        let came = read(&p.far, p.ends.1);
        let told = (events(&p.near).len(), events(&p.far));
        seen.push_str(&format!("{} {round} {sent:?} {came:?} {told:?}\n", p.network.now_ns()));
        p.network.advance(Duration::from_micros(40));
        p.network.cut(NEAR, FAR, round % 50 > 40);
    }
    seen
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    assert!(run(5) == run(5), "a seed decides everything");
    assert!(run(5) != run(6), "and each something else");
}
