//! What a driver does when something ends, fails or runs out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use busway_io::{ConnectionId, Driver, Event, Fault, Listen, ListenError, Read, Submitted};

use crate::place::{Parcel, Place};
use crate::scene::{Scene, Who, landing};

pub(crate) fn a_dial_to_where_nobody_listens_is_refused_and_leaves_nothing<P: Place>(mut scene: Scene<P>) {
    let listening = scene.listen_apart();
    scene.place.far().unlisten(listening.listener);
    let connection = scene.place.near().dial(listening.address);
    assert_eq!(scene.dialed(Who::Near, connection), Err(Fault::Refused));
    scene.place.near().close(connection);
    scene.quiet("it is gone", |said| matches!(said, Event::Closed { .. } | Event::Accepted { .. }));
}

pub(crate) fn an_address_that_cannot_be_listened_at_is_named_with_the_reason<P: Place>(mut scene: Scene<P>) {
    let listening = scene.listen_apart();
    let how = |address| Listen { address, backlog: 8, refusal: Vec::new() };
    let address = listening.address;
    let error = scene.place.far().listen(how(address)).unwrap_err();
    assert_eq!(error, ListenError { address, fault: Fault::AddressInUse });
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    // An address for documentation: no host has it.
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 0);
    let error = scene.place.far().listen(how(address)).unwrap_err();
    assert_eq!(error, ListenError { address, fault: Fault::AddressUnknown });
    scene.place.far().unlisten(listening.listener);
    assert!(scene.place.far().listen(how(listening.address)).is_ok(), "it is free again");
}

pub(crate) fn who_comes_after_the_end_of_listening_is_refused<P: Place>(mut scene: Scene<P>) {
    let listening = scene.listen_apart();
    let (pair, _) = scene.connect_to(listening.address);
    scene.place.far().unlisten(listening.listener);
    let late = scene.place.near().dial(listening.address);
    assert_eq!(scene.dialed(Who::Near, late), Err(Fault::Refused));
    scene.send(Who::Near, pair.near, b"those who came before go on");
    assert_eq!(scene.receive(Who::Far, pair.far, 27), b"those who came before go on");
}

pub(crate) fn a_half_that_is_shut_ends_for_the_peer_who_may_go_on<P: Place>(mut scene: Scene<P>) {
    let pair = scene.connect();
    scene.send(Who::Near, pair.near, b"that is all");
    assert_eq!(scene.place.near().shutdown(pair.near), Ok(()));
    assert_eq!(scene.place.near().shutdown(pair.near), Ok(()), "twice is once");
    let (_, result) = scene.write(Who::Near, pair.near, Parcel(vec![vec![1]]));
    assert_eq!(result, Err(Fault::ShutDown));
    assert_eq!(scene.drain(Who::Far, pair.far), (b"that is all".to_vec(), Ok(())));
    scene.send(Who::Far, pair.far, b"but I have more");
    assert_eq!(scene.receive(Who::Near, pair.near, 15), b"but I have more");
    let (_, result) = scene.read(Who::Far, pair.far, [1, 1]);
    assert_eq!(result, Ok(Read::End), "an end stays one");
}

pub(crate) fn a_close_sends_what_was_written_and_then_the_end<P: Place>(mut scene: Scene<P>) {
    let pair = scene.connect();
    let bytes = vec![9; 30_000];
    scene.send(Who::Near, pair.near, &bytes);
    scene.place.near().close(pair.near);
    let (came, end) = scene.drain(Who::Far, pair.far);
    assert!(came == bytes, "{} of 30000 bytes have come", came.len());
    assert_eq!(end, Ok(()));
}

pub(crate) fn a_close_over_unread_bytes_is_a_reset_for_the_peer<P: Place>(mut scene: Scene<P>) {
    let pair = scene.connect();
    scene.send(Who::Near, pair.near, b"nobody reads this");
    scene.place.far().watch(pair.far);
    scene.wait(Who::Far, "the bytes are there", |said| matches!(said, Event::Readable { .. }).then_some(()));
    scene.place.far().close(pair.far);
    let (came, end) = scene.drain(Who::Near, pair.near);
    assert_eq!((came.as_slice(), end), (&[][..], Err(Fault::Reset)));
}

pub(crate) fn writing_to_a_peer_that_has_gone_is_a_fault<P: Place>(mut scene: Scene<P>) {
    let pair = scene.connect();
    scene.place.far().close(pair.far);
    assert_eq!(scene.drain(Who::Near, pair.near), (Vec::new(), Ok(())));
    // The first write finds out that nobody is there; one after it is told.
    let fault = scene
        .until("a write fails", |scene| scene.write(Who::Near, pair.near, Parcel(vec![vec![1; 10]])).1.err());
    assert_eq!(fault, Fault::Reset);
}

pub(crate) fn a_close_gives_each_buffer_back_once_and_then_nothing_more_is_heard<P: Place>(
    mut scene: Scene<P>,
) {
    let pair = scene.connect();
    let driver = scene.place.near();
    assert!(matches!(driver.read(pair.near, landing([5, 6])), Submitted::Pending));
    // Until there is no room, so that a write is in flight.
    while let Submitted::Done { result, .. } = driver.write(pair.near, Parcel(vec![vec![7; 50_000]])) {
        result.unwrap();
    }
    driver.close(pair.near);
    driver.close(pair.near);
    let (space, result) = scene.read_done(Who::Near, pair.near);
    assert_eq!((space.first.len(), space.second.len(), result), (5, 6, Err(Fault::Closed)));
    let (parcel, result) = scene.written(Who::Near, pair.near);
    // On a rough network the write may have been done before the close.
    assert_eq!(parcel.0[0].len(), 50_000);
    assert!(result == Err(Fault::Closed) || result.is_ok(), "{result:?}");
    scene.wait(Who::Near, "it is closed", |said| match said {
        Event::Closed { connection } => (*connection == pair.near).then_some(()),
        _ => None,
    });
    scene.place.near().watch(pair.near);
    let near = pair.near;
    scene.quiet("it was the last", |said| match said {
        Event::Closed { connection }
        | Event::Read { connection, .. }
        | Event::Written { connection, .. }
        | Event::Readable { connection } => *connection == near,
        Event::Accepted { .. } | Event::Dialed { .. } => false,
    });
    let (_, result) = scene.read(Who::Near, pair.near, [1, 1]);
    assert_eq!(result, Err(Fault::Closed));
    let (_, result) = scene.write(Who::Near, pair.near, Parcel(vec![vec![1]]));
    assert_eq!(result, Err(Fault::Closed));
}

pub(crate) fn a_dial_that_is_closed_is_not_answered<P: Place>(mut scene: Scene<P>) {
    let listening = scene.listen();
    let driver = scene.place.near();
    let connection = driver.dial(listening.address);
    let result = match driver.read(connection, landing([1, 1])) {
        Submitted::Done { result, .. } => result,
        Submitted::Pending => panic!("nobody knows yet whether there is anything to read"),
    };
    assert_eq!(result, Err(Fault::Dialing));
    driver.close(connection);
    scene.wait(Who::Near, "it is closed", |said| matches!(said, Event::Closed { .. }).then_some(()));
    scene.quiet("nobody waits for it", |said| matches!(said, Event::Dialed { .. }));
    let (pair, _) = scene.connect_to(listening.address);
    assert_ne!(pair.near, connection, "no name is used twice");
}

pub(crate) fn without_descriptors_newcomers_are_told_why_and_counted_until_there_are_some<P: Place>(
    mut scene: Scene<P>,
) {
    const COUNT: usize = 20;
    let ip = scene.place.far_addresses()[0];
    let listening = scene.listen_at(ip, b"no room");
    let dialed: Vec<ConnectionId> = (0..COUNT).map(|_| scene.place.near().dial(listening.address)).collect();
    // Only the near side: so they stand in the kernel before the far side may not take them in.
    scene.far_sleeps(true);
    for connection in &dialed {
        assert_eq!(scene.dialed(Who::Near, *connection), Ok(()));
    }
    scene.far_sleeps(false);
    scene.place.limit_far(true);
    for connection in &dialed {
        assert_eq!(scene.drain(Who::Near, *connection), (b"no room".to_vec(), Ok(())));
        scene.place.near().close(*connection);
    }
    let counters = scene.place.far().counters();
    assert_eq!((counters.accepted, counters.refused), (0, COUNT as u64));
    assert!(counters.pauses > 0, "it pauses and does not spin");
    scene.place.limit_far(false);
    let (pair, _) = scene.connect_to(listening.address);
    scene.send(Who::Near, pair.near, b"room again");
    assert_eq!(scene.receive(Who::Far, pair.far, 10), b"room again");
    println!("evidence: refused={COUNT} pauses={} served_after=1", counters.pauses);
}
