//! What a subscription is answered with, seen from the wire: a member that is nothing but a socket and an arena asks, and
//! finds with the answer alone the ring that the publisher really has.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "scene/place.rs"]
mod place;

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use busway_shm::arena::{ArenaOptions, OwnArena, PeerArena};
use busway_shm::clock::monotonic_ns;
use busway_shm::layout::{layout_hash, state, unkey};
use busway_shm::life::LifeLock;
use busway_shm::slot::{Look, SLOT_BYTES, Slot};
use busway_shm::sync::Ordering;
use busway_shm::view::Mapped;
use busway_wire::{Control, Pattern, Policy, PortId};
use place::Scene;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType,
};

/// A member without any code of the library's own side.
struct Bare {
    socket: OwnedFd,
    arena: Arc<OwnArena>,
    _life: LifeLock<OwnArena>,
}

impl Bare {
    fn join(path: &Path) -> Bare {
        let options = ArenaOptions { name: "bare".to_owned(), bytes_max: 8 << 30, monitored: false };
        let arena = OwnArena::create(&options).unwrap();
        let life = LifeLock::acquire(arena.clone(), OwnArena::life_word).unwrap();
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        let bare = Bare { socket, arena, _life: life };
        let hello = Control::Hello {
            layout_hash: layout_hash(),
            process: bare.arena.process(),
            pid: std::process::id(),
            name: "bare".to_owned(),
            monitored: false,
        };
        bare.say(&hello, &[bare.arena.arena_fd(), bare.arena.bulk_fd()]);
        let (answer, fds) = bare.hear();
        assert!(matches!(answer, Control::Welcome { .. }) && fds.len() == 1, "{answer:?}");
        bare
    }

    fn say(&self, message: &Control, fds: &[BorrowedFd<'_>]) {
        let mut bytes = Vec::new();
        busway_wire::encode(message, &mut bytes).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || beside.push(SendAncillaryMessage::ScmRights(fds)));
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut beside, SendFlags::empty()).unwrap();
    }

    fn hear(&self) -> (Control, Vec<OwnedFd>) {
        let mut bytes = vec![0; 64 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut bytes)];
        let got =
            rustix::net::recvmsg(&self.socket, into, &mut beside, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
        let mut fds = Vec::new();
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        (busway_wire::decode(&bytes[..got]).unwrap(), fds)
    }
}

#[test]
fn a_subscription_is_answered_with_the_ring_that_was_really_made() {
    let scene = Scene::new();
    let bus = scene.bus("publishes");
    // The second of its process, so that nothing is right by being zero; a history of 100 takes 128 slots.
    let _other = bus.publisher("real.other").open().unwrap();
    let before_ns = monotonic_ns();
    let mut publisher = bus.publisher("real.ring").history(100).open().unwrap();
    let after_ns = monotonic_ns();
    for message in 1..=5_u64 {
        publisher.send(&message.to_le_bytes()).unwrap();
    }
    let bare = Bare::join(bus.socket_path());
    let pattern = Pattern::parse("real.ring").unwrap();
    let (port, policy) = (PortId(7), Policy::DropOldest { depth: 64 });
    bare.say(&Control::Subscribe { port, pattern, policy, created_ns: monotonic_ns() }, &[]);
    let (answer, fds) = bare.hear();
    let Control::RingAdded {
        subscription,
        process,
        port: source,
        topic,
        ring,
        generation,
        created_ns,
        ring_is_older,
    } = answer
    else {
        panic!("not answered with a ring: {answer:?}")
    };
    assert_eq!((subscription, source, topic.as_str()), (port, publisher.id(), "real.ring"));
    assert!((before_ns..=after_ns).contains(&created_ns) && ring_is_older, "when it was made");
    let (answer, _) = bare.hear();
    assert_eq!(answer, Control::Subscribed { port, publishers: 1 });

    // What the descriptors and numbers of the answer lead to is the publisher's ring and no description of it.
    let [arena, bulk] = <[OwnedFd; 2]>::try_from(fds).unwrap();
    let peer = PeerArena::map(arena, bulk, process).unwrap();
    assert_eq!((peer.name().as_str(), peer.pid()), ("publishes", std::process::id()));
    let entry = peer.tables().ring(ring.0).unwrap();
    assert_eq!(unkey(entry.key.load(Ordering::Acquire)), (generation.0, state::ACTIVE));
    assert_eq!(entry.port.load(Ordering::Relaxed), source.0);
    assert_eq!(entry.created_ns.load(Ordering::Relaxed), created_ns);
    assert_eq!(peer.tables().ring_topic(ring.0).unwrap(), topic);
    let stage = entry.stage_at[0].load(Ordering::Relaxed);
    let (base, slots) = (stage & !63, 1_u64 << (stage & 63));
    assert_eq!(
        (slots, base % 4096),
        (128, 0),
        "the ring has the slots that were asked for, on pages of its own"
    );
    let slots: Mapped<[Slot]> = peer.tables().arena().slice(base, slots).unwrap();
    assert_eq!(size_of_val(&slots[0]), SLOT_BYTES);
    assert_eq!(peer.tables().head(ring.0).unwrap().load(Ordering::Acquire), 5);
    for message in 1..=5_u64 {
        let Look::Inline(found) = slots[usize::try_from(message).unwrap()].look(message) else {
            panic!("message {message} is not where the answer says")
        };
        assert_eq!(found.payload(), message.to_le_bytes());
    }
    println!(
        "evidence: ring={ring} generation={generation} slots=128 slot_bytes={SLOT_BYTES} base={base:#x} messages_found=5"
    );
}
