//! What the first bytes of a newcomer are taken for.

use busway_protocol::{Batch, Config, Link, PeerId, Time};

use super::{Heard, Newcomer};
use crate::runtime::cipher::First;
use crate::runtime::scene::{NEAR, address, config};

const NODE: PeerId = PeerId::Node { index: 0 };
const DIALED: PeerId = PeerId::Node { index: 1 };
/// Starts of a process: some of the first so many say a hello that begins as a record does.
const STARTS_MAX: u64 = 1_000_000;

fn of(identity: PeerId, instance: u64) -> Config {
    Config::new(7, identity, instance)
}

/// What is said first by the start of a node whose hello begins with these two bytes.
fn hello(begin: [u8; 2]) -> Vec<u8> {
    let said = |instance| {
        let mut link = Link::<Vec<u8>>::dial(&of(NODE, instance), DIALED, Time(0));
        let mut batch = Batch::new();
        link.transmit(Time(0), &mut batch);
        batch.pieces().collect::<Vec<_>>().concat()
    };
    (0..STARTS_MAX).map(said).find(|said| said.starts_with(&begin)).expect("some start says it")
}

fn newcomer() -> Newcomer {
    Newcomer::new(Link::accept(&of(DIALED, 1), Time(0)), address(NEAR), None)
}

/// Says `bytes` in pieces of so many, as they are read: what is not done with comes again.
fn say(newcomer: &mut Newcomer, bytes: &[u8], piece: usize) -> Heard {
    let config = config(1, NEAR, &[]);
    for piece in bytes.chunks(piece) {
        let mut read = [newcomer.begun(), piece].concat();
        match newcomer.hear(Time(0), &config, &mut read) {
            Heard::More => {}
            heard => return heard,
        }
    }
    Heard::More
}

#[test]
fn a_hello_is_one_though_it_begins_as_tls_does_and_comes_byte_by_byte() {
    for begin in [[0x16, 3], [0x15, 3], [0x17, 4]] {
        let said = hello(begin);
        for piece in [said.len(), 60, 1] {
            match say(&mut newcomer(), &said, piece) {
                Heard::Hello(identity, _) => assert_eq!(identity, NODE),
                Heard::More => panic!("{begin:x?} in pieces of {piece}: it is waited for more"),
                Heard::Refused(reason) => panic!("{begin:x?} in pieces of {piece}: {reason}"),
            }
        }
    }
}

#[test]
fn who_speaks_tls_where_nobody_does_is_told_so_as_soon_as_it_is_known() {
    let mut client_hello = vec![0x16, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3];
    client_hello.resize(261, 0xa5);
    let alert = [0x15, 3, 3, 0, 2, 2, 40];
    for (said, least) in [(&client_hello[..], 64), (&alert[..], alert.len())] {
        for piece in [said.len(), 1] {
            let Heard::Refused(reason) = say(&mut newcomer(), &said[..least], piece) else {
                panic!("{said:x?} in pieces of {piece} is taken for Busway");
            };
            assert!(reason.contains("does not speak TLS"), "{reason}");
        }
        assert_eq!(First::of(&said[..least - 1]), First::Either);
    }
}
