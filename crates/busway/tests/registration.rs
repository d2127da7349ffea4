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

use busway::Code;
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
        let bare = Bare::connect(path);
        let hello = bare.hello(layout_hash());
        bare.say(&hello, &[bare.arena.arena_fd(), bare.arena.bulk_fd()]);
        let (answer, fds) = bare.hear();
        assert!(matches!(answer, Control::Welcome { .. }) && fds.len() == 1, "{answer:?}");
        bare
    }

    fn connect(path: &Path) -> Bare {
        let options = ArenaOptions { name: "bare".to_owned(), bytes_max: 8 << 30, monitored: false };
        let arena = OwnArena::create(&options).unwrap();
        let life = LifeLock::acquire(arena.clone(), OwnArena::life_word).unwrap();
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        Bare { socket, arena, _life: life }
    }

    fn hello(&self, layout_hash: u64) -> Control {
        let (process, name) = (self.arena.process(), "bare".to_owned());
        Control::Hello { layout_hash, process, pid: std::process::id(), name, monitored: false }
    }

    fn say(&self, message: &Control, fds: &[BorrowedFd<'_>]) {
        say(&self.socket, message, fds);
    }

    fn hear(&self) -> (Control, Vec<OwnedFd>) {
        hear(&self.socket)
    }
}

fn say(socket: &OwnedFd, message: &Control, fds: &[BorrowedFd<'_>]) {
    let mut bytes = Vec::new();
    busway_wire::encode(message, &mut bytes).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || beside.push(SendAncillaryMessage::ScmRights(fds)));
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut beside, SendFlags::empty()).unwrap();
}

fn hear(socket: &OwnedFd) -> (Control, Vec<OwnedFd>) {
    let mut bytes = vec![0; 64 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(&mut bytes)];
    let got = rustix::net::recvmsg(socket, into, &mut beside, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    let mut fds = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    (busway_wire::decode(&bytes[..got]).unwrap(), fds)
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
    bare.say(&Control::Subscribe { port, pattern, policy, created_ns: monotonic_ns(), export: false }, &[]);
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

/// What is said to who asks with another version, and by whom: both layouts and the remedy are in it.
fn names_both(cause: &str, theirs: u64) {
    for part in [format!("{theirs:016x}"), format!("{:016x}", layout_hash()), "busway 0.".to_owned()] {
        assert!(cause.contains(&part), "{part} is missing in {cause}");
    }
}

#[test]
fn a_member_of_another_version_is_told_so_whatever_it_sends_beside_and_the_others_go_on() {
    let scene = Scene::new();
    let bus = scene.bus("this version");
    let (mut publisher, mut subscriber) =
        (bus.publisher("a").open().unwrap(), bus.subscriber("a").open().unwrap());
    for descriptors in 0..4 {
        let bare = Bare::connect(bus.socket_path());
        bare.say(&bare.hello(0x0123), &vec![bare.arena.arena_fd(); descriptors][..descriptors.min(3)]);
        let (answer, _) = bare.hear();
        let Control::Refused { code, reason } = answer else { panic!("{answer:?}") };
        assert_eq!(code, Code::LayoutDiffers.number(), "{reason}");
        names_both(&reason, 0x0123);
        assert!(reason.contains("use the same version of Busway"), "{reason}");
    }
    publisher.send(b"x").unwrap();
    assert_eq!(subscriber.recv().unwrap()[..], *b"x");
}

#[test]
fn a_program_that_meets_a_holder_of_another_version_ends_with_both_and_the_remedy() {
    let scene = Scene::new();
    let path = scene.bus("makes the directory").socket_path().to_owned();
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 8).unwrap();
    let holder = std::thread::spawn(move || {
        // As a holder of any version answers: the first field of a Hello is the layout, and it looks at nothing else.
        let socket = rustix::net::accept(&listener).unwrap();
        let (hello, _) = hear(&socket);
        let error = hello.check_layout(0x4567).unwrap_err();
        let (code, reason) = (Code::LayoutDiffers.number(), format!("{error}; this is busway 0.9.9"));
        say(&socket, &Control::Refused { code, reason }, &[]);
    });
    let error = place::join(scene.directory(), "this version").open().unwrap_err();
    holder.join().unwrap();
    assert_eq!(error.code(), Code::LayoutDiffers, "{error}");
    names_both(error.cause(), 0x4567);
    let ours = concat!("(busway ", env!("CARGO_PKG_VERSION"), ")");
    assert!(error.cause().contains("busway 0.9.9") && error.cause().contains(ours), "{error}");
    assert_eq!(error.try_(), "run the same version of busway everywhere");
    assert_eq!(error.place(), path.display().to_string());
}
