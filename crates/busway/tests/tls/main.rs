//! Links that are encrypted, over the loopback: who is let in, who is not, and that both ends are told why.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

mod permissions;
mod pki;
#[path = "../scene/stranger.rs"]
#[expect(dead_code, reason = "it serves other tests as well, which use the rest")]
mod stranger;
mod tokens;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway::{Bus, Code, Node, NodeBuilder, Policy, Principal, Subscriber, Tls};
use busway_shm::clock::Deadline;
use busway_wire::link::{Frame, Hello, Identity, Refusal, RefusalCode, decode, encode};
use busway_wire::{HEADER_SIZE, Header, Seed, cluster_id};
use pki::Pki;

/// Far longer than anything takes, also on a machine that does ten other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let random = fastrand::u64(..);
        let path = std::env::temp_dir().join(format!("busway-tls-{}-{random:x}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A host: a domain of its own, and a node.
struct Host {
    node: Node,
    bus: Bus,
    _directory: Directory,
}

impl Host {
    fn new(build: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Self {
        let directory = Directory::new();
        let bus = Bus::builder().directory(&directory.0).domain("tls").arena_bytes(1 << 30).open().unwrap();
        let node = build(Node::builder().cluster("test")).open(&bus).unwrap();
        Host { node, bus, _directory: directory }
    }

    fn node(index: u8, tls: Tls, peers: &[(u8, SocketAddr)]) -> Self {
        Self::new(|mut builder| {
            for (peer, address) in peers {
                builder = builder.peer(*peer, &address.to_string());
            }
            builder.index(index).listen("127.0.0.1:0".parse().unwrap()).tls(tls)
        })
    }

    fn address(&self) -> SocketAddr {
        self.node.listening()[0]
    }

    fn wait_for_peers(&self, count: usize) {
        assert!(self.node.wait_for_peers(count, PATIENCE), "{:?}", self.node.peers());
    }

    /// Waits until a peer, or a stranger, is shown with an error that contains `text`.
    fn wait_for_error(&self, text: &str) {
        let deadline = Deadline::after(PATIENCE);
        let told = |node: &Node| {
            node.peers().iter().any(|peer| peer.last_error.as_ref().is_some_and(|error| error.contains(text)))
        };
        while !told(&self.node) {
            assert!(!deadline.expired(), "no error with `{text}`: {:?}", self.node.peers());
            std::thread::yield_now();
        }
        assert!(!self.node.wait_for_peers(1, Duration::ZERO), "{:?}", self.node.peers());
    }
}

fn receive(subscriber: &mut Subscriber) -> Vec<u8> {
    subscriber.recv_timeout(PATIENCE).unwrap().expect("a message").to_vec()
}

/// Carries bytes both ways between whoever connects and `to`, and keeps a copy.
fn tap(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let kept = seen.clone();
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (Ok(near), Ok(far)) = (near, TcpStream::connect(to)) else { return };
            for (mut from, mut to) in [
                (near.try_clone().unwrap(), far.try_clone().unwrap()),
                (far.try_clone().unwrap(), near.try_clone().unwrap()),
            ] {
                let kept = kept.clone();
                std::thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(count @ 1..) = from.read(&mut bytes) {
                        kept.lock().unwrap().extend_from_slice(&bytes[..count]);
                        if to.write_all(&bytes[..count]).is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    (address, seen)
}

#[test]
fn messages_of_every_size_cross_encrypted_both_ways_and_nobody_between_reads_them() {
    let pki = Pki::new();
    let far = Host::node(1, pki.node(1), &[]);
    let (address, seen) = tap(far.address());
    let near = Host::node(0, pki.node(0), &[(1, address)]);
    near.wait_for_peers(1);
    let secret = b"nobody between two nodes reads this";
    for (from, to, topic) in [(&near, &far, "towards"), (&far, &near, "backwards")] {
        let mut subscriber = to.bus.subscriber(topic).open().unwrap();
        let mut publisher = from.bus.publisher(topic).open().unwrap();
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        publisher.send(secret).unwrap();
        assert_eq!(receive(&mut subscriber), secret);
    }
    let said = seen.lock().unwrap().clone();
    for hidden in [&secret[..], b"towards", b"backwards"] {
        assert!(!said.windows(hidden.len()).any(|window| window == hidden), "{hidden:?} is in clear");
    }
    for (from, to, topic) in [(&near, &far, "there"), (&far, &near, "back")] {
        let mut subscriber = to.bus.subscriber(topic).policy(Policy::Block).open().unwrap();
        let mut publisher = from.bus.publisher(topic).open().unwrap();
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        for size in [0, 1, 88, 97, 1_023, 16_383, 16_384, 16_385, 65_536, 65_537, 1 << 20, 5_000_001] {
            let payload: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            publisher.send(&payload).unwrap();
            assert!(receive(&mut subscriber) == payload, "{size} bytes {topic}");
        }
        // Many small ones: records and frames end at different places.
        for n in 0..5_000_u32 {
            publisher.send(&vec![n as u8; n as usize % 300]).unwrap();
        }
        for n in 0..5_000_u32 {
            assert_eq!(receive(&mut subscriber), vec![n as u8; n as usize % 300]);
        }
    }
    assert!(seen.lock().unwrap().len() > 10_000_000, "all of it went this way");
}

#[test]
fn a_certificate_of_another_ca_is_refused_and_both_ends_are_told() {
    let (pki, other) = (Pki::new(), Pki::new());
    let far = Host::node(1, pki.node(1), &[]);
    let near = Host::node(0, other.node(0), &[(1, far.address())]);
    near.wait_for_error("not signed by our CA");
    far.wait_for_error("another CA has signed our certificate");
    // The other way round: what the dialer shows is not believed, and it believes what it is shown.
    let both = [pki.ca_pem(), other.ca_pem()].concat();
    let (cert, key) = other.issue(&["busway://test/node/0"], 30);
    let near = Host::node(
        0,
        Tls::from_pem(both.as_bytes(), cert.as_bytes(), key.as_bytes()).unwrap(),
        &[(1, far.address())],
    );
    near.wait_for_error("another CA has signed our certificate");
    far.wait_for_error("not signed by our CA");
}

#[test]
fn a_certificate_that_has_expired_is_refused_and_both_ends_are_told() {
    let pki = Pki::new();
    let old = |index: u8| pki.tls(&[&format!("busway://test/node/{index}")], -1);
    let far = Host::node(1, pki.node(1), &[]);
    let near = Host::node(0, old(0), &[(1, far.address())]);
    near.wait_for_error("our certificate has expired");
    far.wait_for_error("the peer's certificate has expired");
    let far = Host::node(1, old(1), &[]);
    let near = Host::node(0, pki.node(0), &[(1, far.address())]);
    near.wait_for_error("the peer's certificate has expired");
    far.wait_for_error("our certificate has expired");
}

#[test]
fn a_peer_without_a_certificate_is_refused_and_both_ends_are_told() {
    let pki = Pki::new();
    let far = Host::node(1, pki.node(1), &[]);
    let client = Host::new(|builder| {
        builder.client(7).peer(1, &far.address().to_string()).tls(pki.without_certificate())
    });
    client.wait_for_error("credentials");
    far.wait_for_error("no certificate");
}

#[test]
fn a_node_that_is_not_the_one_that_was_dialed_is_refused_and_both_ends_are_told() {
    let pki = Pki::new();
    let far = Host::node(1, pki.node(1), &[]);
    let near = Host::node(0, pki.node(0), &[(2, far.address())]);
    near.wait_for_error("the certificate is of node/1 where node/2 was dialed");
    far.wait_for_error("the certificate is of node/1 where node/2 was dialed");
}

#[test]
fn a_certificate_of_somebody_else_is_refused_before_a_link_is_tried() {
    let pki = Pki::new();
    let directory = Directory::new();
    let bus = Bus::builder().directory(&directory.0).domain("tls").arena_bytes(1 << 30).open().unwrap();
    let builder = || Node::builder().cluster("test").listen("127.0.0.1:0".parse().unwrap());
    for (builder, tls) in [
        (builder().index(1), pki.node(0)),
        (builder().index(0), pki.tls(&["busway://other/node/0"], 30)),
        (builder().index(0), pki.tls(&[], 30)),
        (builder().index(0), pki.tls(&["busway://test/node/0", "busway://test/node/1"], 30)),
        (builder().index(0), pki.without_certificate()),
        (builder().client(8).peer(0, "127.0.0.1:1"), pki.tls(&["busway://test/client/7"], 30)),
        (builder().client(8).peer(0, "127.0.0.1:1"), pki.tls(&["busway://test/client/lamp"], 30)),
    ] {
        assert_eq!(builder.tls(tls).open(&bus).unwrap_err().code(), Code::BadCredentials);
    }
    let client =
        builder().client(lamp_id()).peer(0, "127.0.0.1:1").tls(pki.tls(&["busway://test/client/lamp"], 30));
    drop(client.open(&bus).unwrap());
}

#[test]
fn an_address_beyond_this_host_may_be_listened_at_with_a_certificate() {
    let pki = Pki::new();
    let everywhere =
        Host::new(|builder| builder.index(0).listen("0.0.0.0:0".parse().unwrap()).tls(pki.node(0)));
    assert!(everywhere.address().ip().is_unspecified());
}

#[test]
fn a_hello_that_says_more_than_the_certificate_is_refused_with_a_reason() {
    let pki = Pki::new();
    let far = Host::node(1, pki.node(1), &[]);
    for (uri, identity, reason) in [
        ("busway://test/client/7", Identity::Client { id: 8 }, "the certificate is of client/7"),
        ("busway://test/client/7", Identity::Node { index: 0 }, "the certificate is of client/7"),
        ("busway://test/client/lamp", Identity::Client { id: 7 }, "the certificate is of client/lamp"),
        ("busway://test/client/007", Identity::Client { id: 7 }, "not of a member of cluster test"),
        ("busway://test/node/2", Identity::Node { index: 0 }, "the certificate is of node/2"),
        ("busway://other/node/0", Identity::Node { index: 0 }, "not of a member of cluster test"),
        ("https://test/node/0", Identity::Node { index: 0 }, "not of a member of cluster test"),
    ] {
        let mut stranger = pki.connect(far.address(), Some(uri));
        let refusal = say_hello(&mut stranger, identity);
        assert_eq!(refusal.code, RefusalCode::Credentials);
        assert!(refusal.reason.contains(reason), "{refusal:?}");
        far.wait_for_error(reason);
    }
}

#[test]
fn an_id_belongs_to_the_client_of_whose_name_it_is_made_whoever_comes_first() {
    let pki = Pki::new();
    let far = Host::node(1, pki.node(1), &[]);
    let address = far.address().to_string();
    let mut thief = pki.connect(far.address(), Some("busway://test/client/thief"));
    let refusal = say_hello(&mut thief, Identity::Client { id: lamp_id() });
    assert_eq!(refusal.code, RefusalCode::Credentials);
    let own = Principal::client("thief").unwrap().id().unwrap();
    assert!(refusal.reason.contains(&format!("client/thief, whose id is {own}")), "{refusal:?}");
    let lamp = Host::new(|builder| {
        builder.client(lamp_id()).peer(1, &address).tls(pki.tls(&["busway://test/client/lamp"], 30))
    });
    lamp.wait_for_peers(1);
}

#[test]
fn a_client_that_was_known_before_anything_had_to_be_shown_is_let_in_with_its_certificate() {
    let pki = Pki::new();
    let far = Host::new(|builder| builder.index(1).listen("127.0.0.1:0".parse().unwrap()));
    let address = far.address().to_string();
    let unproven = Host::new(|builder| builder.client(lamp_id()).peer(1, &address));
    unproven.wait_for_peers(1);
    far.wait_for_peers(1);
    drop(unproven);
    far.node.set_tls(pki.node(1)).unwrap();
    let lamp = Host::new(|builder| {
        builder.client(lamp_id()).peer(1, &address).tls(pki.tls(&["busway://test/client/lamp"], 30))
    });
    lamp.wait_for_peers(1);
}

/// The id of the client `lamp`.
fn lamp_id() -> u64 {
    Principal::client("lamp").unwrap().id().unwrap()
}

/// Says hello, and reads the refusal.
fn say_hello(stream: &mut (impl Read + Write), identity: Identity) -> Refusal {
    say_hello_with(stream, identity, b"")
}

fn say_hello_with(stream: &mut (impl Read + Write), identity: Identity, token: &[u8]) -> Refusal {
    stream.write_all(&hello_of(identity, token)).unwrap();
    read_refusal(stream)
}

fn hello_of(identity: Identity, token: &[u8]) -> Vec<u8> {
    let hello = Hello { token: token.to_vec(), ..stranger::hello("test", identity) };
    let mut bytes = Vec::new();
    encode(&Frame::Hello(hello), Seed(cluster_id("test")), &mut bytes).unwrap();
    bytes
}

fn read_refusal(stream: &mut impl Read) -> Refusal {
    let mut head = [0; HEADER_SIZE];
    stream.read_exact(&mut head).unwrap();
    let header = Header::validate_head(&head, Seed::LOCAL).unwrap();
    let mut body = vec![0; header.size.get() as usize - HEADER_SIZE];
    stream.read_exact(&mut body).unwrap();
    match decode(&header, &body).unwrap() {
        Frame::Refusal(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_speaks_no_tls_is_told_so_in_clear_and_so_is_who_does_where_nobody_else_does() {
    let pki = Pki::new();
    let far = Host::node(1, pki.node(1), &[]);
    let near = Host::new(|builder| builder.index(0).peer(1, &far.address().to_string()));
    near.wait_for_error("speaks TLS only");
    far.wait_for_error("speaks TLS only");
    let far = Host::new(|builder| builder.index(1).listen("127.0.0.1:0".parse().unwrap()));
    let near = Host::node(0, pki.node(0), &[(1, far.address())]);
    near.wait_for_error("does not speak TLS");
    far.wait_for_error("does not speak TLS");
}

#[test]
fn a_full_node_says_so_in_clear_before_any_tls() {
    let pki = Pki::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = Host::node(0, pki.node(0), &[(1, listener.local_addr().unwrap())]);
    let mut peer = listener.accept().unwrap().0;
    let mut bytes = Vec::new();
    let full = Frame::Refusal(Refusal::new(RefusalCode::Full, "not today", 60_000));
    encode(&full, Seed::LOCAL, &mut bytes).unwrap();
    peer.write_all(&bytes).unwrap();
    near.wait_for_error("refused (full): not today");
    // In clear nothing else is believed: not a hello either.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = Host::node(0, pki.node(0), &[(1, listener.local_addr().unwrap())]);
    let mut peer = listener.accept().unwrap().0;
    let mut ours = [0; 3];
    peer.read_exact(&mut ours).unwrap();
    assert_eq!(ours[..2], [22, 3], "a handshake, and no hello");
    let mut bytes = Vec::new();
    encode(&Frame::Goodbye { reason: String::new() }, Seed::LOCAL, &mut bytes).unwrap();
    peer.write_all(&bytes).unwrap();
    near.wait_for_error("does not speak TLS");
}

/// What a client of TLS 1.2 says first: no extension names a newer version.
fn hello_of_tls_1_2() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    // No session; ECDHE-ECDSA-AES128-GCM; no compression; the groups and signatures that everybody knows.
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3];
    hello.extend([0, extensions.len() as u8]);
    hello.extend(extensions);
    let mut record = vec![22, 3, 1, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    record.extend(hello);
    record
}

#[test]
fn tls_1_2_is_refused_with_an_alert_that_says_so() {
    let pki = Pki::new();
    let far = Host::node(1, pki.node(1), &[]);
    let mut old = TcpStream::connect(far.address()).unwrap();
    old.set_read_timeout(Some(PATIENCE)).unwrap();
    old.write_all(&hello_of_tls_1_2()).unwrap();
    let mut alert = [0; 7];
    old.read_exact(&mut alert).unwrap();
    // An alert, fatal: protocol_version.
    assert_eq!((alert[0], &alert[5..]), (21, &[2, 70][..]), "{alert:?}");
    far.wait_for_error("does not speak TLS 1.3");
    // And a node that is offered it: a server of TLS 1.2 answers without saying a newer version.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = Host::node(0, pki.node(0), &[(1, listener.local_addr().unwrap())]);
    let mut peer = listener.accept().unwrap().0;
    let mut answer = vec![22, 3, 3, 0, 42, 2, 0, 0, 38, 3, 3];
    answer.extend([9; 32]);
    answer.extend([0, 0xc0, 0x2b, 0]);
    peer.write_all(&answer).unwrap();
    near.wait_for_error("TLS");
    let mut said = Vec::new();
    let _ = peer.read_to_end(&mut said);
    assert_eq!(said[said.len() - 7..][..1], [21], "the peer is told by an alert");
}

#[test]
fn a_handshake_that_is_trickled_is_cut_off_and_others_are_let_in_meanwhile() {
    let pki = Pki::new();
    let far = Host::node(1, pki.node(1), &[]);
    let mut slow = TcpStream::connect(far.address()).unwrap();
    slow.set_nonblocking(true).unwrap();
    let near = Host::node(0, pki.node(0), &[(1, far.address())]);
    near.wait_for_peers(1);
    let hello = hello_of_tls_1_2();
    let deadline = Deadline::after(PATIENCE);
    let mut said = 0;
    // One byte at a time, never the last one; whatever it sends, it is cut off.
    loop {
        assert!(!deadline.expired(), "it is still there");
        if said + 1 < hello.len() && slow.write_all(&hello[said..=said]).is_ok() {
            said += 1;
        }
        match slow.read(&mut [0; 64]) {
            Ok(0) => break,
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
            Ok(_) | Err(_) => std::thread::park_timeout(Duration::from_millis(20)),
        }
    }
    let deadline = Deadline::after(PATIENCE);
    while !far.node.peers().iter().any(|peer| peer.peer == "stranger") {
        assert!(!deadline.expired(), "{:?}", far.node.peers());
        std::thread::yield_now();
    }
    near.wait_for_peers(1);
}

#[test]
fn bytes_that_are_no_tls_end_a_connection_at_every_place_of_a_handshake() {
    let pki = Pki::new();
    let far = Host::node(1, pki.node(1), &[]);
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    // At once: what makes the other side wait for more is ended by its deadline.
    std::thread::scope(|scope| {
        for _ in 0..40 {
            let (pki, address) = (&pki, far.address());
            let (at, mask) = (random.usize(..1_500), random.u8(1..));
            scope.spawn(move || {
                // A true handshake of which one byte is another.
                let mut stream = pki.connect_damaged(address, "busway://test/client/7", at, mask);
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest);
            });
        }
    });
    let near = Host::node(0, pki.node(0), &[(1, far.address())]);
    near.wait_for_peers(1);
}

#[test]
fn new_certificates_are_used_by_new_links() {
    let (pki, next) = (Pki::new(), Pki::new());
    let far = Host::node(1, pki.node(1), &[]);
    let near = Host::node(0, pki.node(0), &[(1, far.address())]);
    near.wait_for_peers(1);
    assert_eq!(far.node.set_tls(next.node(2)).unwrap_err().code(), Code::BadCredentials);
    far.node.set_tls(next.node(1)).unwrap();
    assert!(near.node.wait_for_peers(1, Duration::ZERO), "a link that stands goes on");
    let late = Host::new(|builder| {
        let tls = pki.tls(&["busway://test/client/5"], 30);
        builder.client(5).peer(1, &far.address().to_string()).tls(tls)
    });
    late.wait_for_error("not signed by our CA");
    late.node.set_tls(next.tls(&["busway://test/client/5"], 30)).unwrap();
    late.wait_for_peers(1);
}

#[test]
fn a_key_that_others_may_read_is_refused_with_the_remedy() {
    let (pki, directory) = (Pki::new(), Directory::new());
    let (cert, key) = pki.issue(&["busway://test/node/0"], 30);
    let paths = ["ca.pem", "node.pem", "node.key"].map(|name| directory.0.join(name));
    for (path, text) in paths.iter().zip([&pki.ca_pem(), &cert, &key]) {
        std::fs::write(path, text).unwrap();
    }
    let [ca, cert, key] = &paths;
    for mode in [0o640, 0o604, 0o644] {
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(mode)).unwrap();
        let refused = Tls::from_files(ca, cert, key).unwrap_err();
        assert_eq!(refused.code(), Code::BadCredentials);
        assert_eq!(refused.try_(), format!("chmod 600 {}", key.display()));
    }
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let tls = Tls::from_files(ca, cert, key).unwrap();
    assert!(!format!("{tls:?}").contains("PRIVATE"), "nothing shows a key");
    for broken in [
        Tls::from_files(cert, ca, key),
        Tls::from_files(ca, cert, ca),
        Tls::from_files(ca, directory.0.join("nothing"), key),
        Tls::from_files(ca, &directory.0, key),
        Tls::from_pem(b"", b"", b""),
    ] {
        let broken = broken.unwrap_err();
        assert_eq!(broken.code(), Code::BadCredentials, "{broken}");
    }
}
