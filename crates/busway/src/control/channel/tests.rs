//! A channel carries whole messages or none, and what is wrong is an error and never a panic.

use super::{Channel, ChannelError, Enclosed, MemberFds, Received};
use busway_shm::arena::{ArenaOptions, OwnArena};
use busway_wire::limits::{CONTROL_BYTES_MAX, MEMBER_QUEUE_MESSAGES_MAX};
use busway_wire::{Control, PortId, ProcessId};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, socketpair,
};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::sync::Arc;

fn pair() -> (Channel, Channel) {
    let (one, other) = raw_pair();
    (Channel::new(one).unwrap(), Channel::new(other).unwrap())
}

fn raw_pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

fn gone(process: u64) -> Control {
    Control::Gone { process: ProcessId(process) }
}

fn receive(channel: &Channel) -> Result<Received, ChannelError> {
    channel.receive(&mut Vec::new())
}

/// Sends bytes and descriptors as they are.
fn send_raw(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty()).unwrap();
}

fn bytes_of(message: &Control) -> Vec<u8> {
    let mut bytes = Vec::new();
    busway_wire::encode(message, &mut bytes).unwrap();
    bytes
}

fn arena() -> Arc<OwnArena> {
    OwnArena::create(&ArenaOptions { name: "test".to_owned(), bytes_max: 1 << 30, monitored: true }).unwrap()
}

#[test]
fn messages_arrive_in_order_with_their_descriptors() {
    let (mut one, other) = pair();
    let own = arena();
    one.send(&gone(1), Enclosed::Nothing).unwrap();
    one.send(&gone(2), Enclosed::Own(Arc::clone(&own))).unwrap();
    assert!(
        matches!(receive(&other), Ok(Received::Message(message, fds)) if message == gone(1) && fds.is_empty())
    );
    let Ok(Received::Message(_, fds)) = receive(&other) else { panic!("the second message") };
    let fds = MemberFds::from_received(fds).expect("three descriptors");
    let same = |one: BorrowedFd<'_>, other: BorrowedFd<'_>| {
        rustix::fs::fstat(one).unwrap().st_ino == rustix::fs::fstat(other).unwrap().st_ino
    };
    assert!(same(fds.arena.as_fd(), own.arena_fd()) && same(fds.bulk.as_fd(), own.bulk_fd()));
    assert!(matches!(receive(&other), Ok(Received::Nothing)));
}

#[test]
fn a_peer_that_does_not_read_overflows_a_bounded_queue_and_gets_all_of_it_when_it_reads() {
    let (mut one, other) = pair();
    let mut sent = 0;
    let error = loop {
        match one.send(&gone(sent), Enclosed::Nothing) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 100_000, "the queue has a bound");
    };
    assert!(matches!(error, ChannelError::Overflow), "{error}");
    assert!(one.wants_to_write() && one.room() == 0);
    assert!(sent >= MEMBER_QUEUE_MESSAGES_MAX as u64);
    for n in 0..sent {
        one.flush().unwrap();
        assert!(
            matches!(receive(&other), Ok(Received::Message(message, _)) if message == gone(n)),
            "message {n}"
        );
    }
    assert!(one.is_empty());
}

#[test]
fn a_hang_up_is_told_from_silence() {
    let (mut one, other) = pair();
    assert!(matches!(receive(&one), Ok(Received::Nothing)));
    drop(other);
    assert!(matches!(receive(&one), Err(ChannelError::HungUp)));
    assert!(matches!(one.send(&gone(1), Enclosed::Nothing), Err(ChannelError::HungUp)));
}

#[test]
fn more_descriptors_than_any_message_has_are_refused_and_closed() {
    let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
    for count in [9, 10, 32] {
        let (raw, socket) = raw_pair();
        let other = Channel::new(socket).unwrap();
        let fds = vec![raw.as_fd(); count];
        send_raw(&raw, &bytes_of(&gone(1)), &fds);
        assert!(matches!(receive(&other), Err(ChannelError::DescriptorsLost)), "{count} descriptors");
    }
    // Other tests open and close as well, so only a leak of the 51 would show.
    let after = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(after < before + 51, "{before} descriptors before, {after} after");
}

#[test]
fn a_datagram_longer_than_any_message_is_refused() {
    for size in [CONTROL_BYTES_MAX, CONTROL_BYTES_MAX + 1, CONTROL_BYTES_MAX + 1_000] {
        let (raw, socket) = raw_pair();
        let other = Channel::new(socket).unwrap();
        send_raw(&raw, &vec![0; size], &[]);
        let error = receive(&other).expect_err("it is no message");
        assert_eq!(matches!(error, ChannelError::Shortened), size > CONTROL_BYTES_MAX, "{size}: {error}");
    }
}

#[test]
fn every_flipped_bit_of_a_message_is_refused() {
    let message = Control::Subscribed { port: PortId(77), publishers: 3 };
    let bytes = bytes_of(&message);
    for bit in 0..bytes.len() * 8 {
        let (raw, socket) = raw_pair();
        let other = Channel::new(socket).unwrap();
        let mut broken = bytes.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        send_raw(&raw, &broken, &[]);
        assert!(matches!(receive(&other), Err(ChannelError::Undecodable(_))), "bit {bit}");
    }
}
