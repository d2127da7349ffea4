//! Clients that show a token, over TLS and on one host.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use busway::{Code, Tls};
use busway_wire::link::{Frame, Identity, RefusalCode, decode};
use busway_wire::{HEADER_SIZE, Header, Seed};

use crate::pki::Pki;
use crate::{Host, PATIENCE, lamp_id, receive, say_hello_with};

const LOOPBACK: &str = "127.0.0.1:0";

fn node_with_token(tls: Option<Tls>) -> Host {
    Host::new(|mut builder| {
        if let Some(tls) = tls {
            builder = builder.tls(tls);
        }
        builder = builder.accept_token("lamp", "shines-by-night").accept_token("node/0", "of-the-first-node");
        builder.index(1).listen(LOOPBACK.parse().unwrap())
    })
}

fn client(address: SocketAddr, tls: Option<Tls>, token: Option<&str>) -> Host {
    Host::new(|mut builder| {
        if let Some(tls) = tls {
            builder = builder.tls(tls);
        }
        if let Some(token) = token {
            builder = builder.token(token);
        }
        builder.client(lamp_id()).peer(1, &address.to_string())
    })
}

#[test]
fn a_client_with_a_token_is_let_in_over_tls_and_on_one_host_and_one_without_is_not() {
    let pki = Pki::new();
    for encrypted in [true, false] {
        let far = node_with_token(encrypted.then(|| pki.node(1)));
        let tls = || encrypted.then(|| pki.without_certificate());
        let lamp = client(far.address(), tls(), Some("shines-by-night"));
        lamp.wait_for_peers(1);
        let mut subscriber = lamp.bus.subscriber("news").open().unwrap();
        let mut publisher = far.bus.publisher("news").open().unwrap();
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        publisher.send(b"hello").unwrap();
        assert_eq!(receive(&mut subscriber), b"hello");
        drop(lamp);
        let far = node_with_token(encrypted.then(|| pki.node(1)));
        let without = client(far.address(), tls(), None);
        without.wait_for_error("shows neither a certificate nor a token");
        far.wait_for_error("shows neither a certificate nor a token");
        for wrong in ["shines-by-day", "s", "shines-by-nightt"] {
            let far = node_with_token(encrypted.then(|| pki.node(1)));
            let other = client(far.address(), tls(), Some(wrong));
            other.wait_for_error("not one that is accepted");
            far.wait_for_error("not one that is accepted");
        }
    }
}

#[test]
fn a_client_with_a_certificate_needs_no_token_and_a_node_needs_its_certificate() {
    let pki = Pki::new();
    let far = node_with_token(Some(pki.node(1)));
    let certified = Host::new(|builder| {
        let tls = pki.tls(&["busway://test/client/7"], 30);
        builder.client(7).peer(1, &far.address().to_string()).tls(tls)
    });
    certified.wait_for_peers(1);
    // Whoever has a token is no node by that.
    let far = node_with_token(Some(pki.node(1)));
    let mut stranger = pki.connect(far.address(), None);
    let refusal = say_hello_with(&mut stranger, Identity::Node { index: 0 }, b"of-the-first-node");
    assert_eq!(refusal.code, RefusalCode::Credentials);
    far.wait_for_error("shows no certificate");
}

#[test]
fn in_clear_a_node_is_one_by_its_token_and_nobody_by_that_of_another() {
    let far = node_with_token(None);
    for (identity, token, reason) in [
        (Identity::Node { index: 0 }, &b""[..], "neither a certificate nor a token"),
        (Identity::Node { index: 0 }, b"shines-by-night", "the token is of client/lamp"),
        (Identity::Node { index: 2 }, b"of-the-first-node", "the token is of node/0"),
        (Identity::Client { id: 1 }, b"shines-by-night", "the token is of client/lamp"),
        (Identity::Client { id: 1 }, b"of-the-first-node", "the token is of node/0"),
    ] {
        let mut stranger = TcpStream::connect(far.address()).unwrap();
        stranger.set_read_timeout(Some(PATIENCE)).unwrap();
        let refusal = say_hello_with(&mut stranger, identity, token);
        assert!(refusal.reason.contains(reason), "{refusal:?}");
        far.wait_for_error(reason);
    }
    let near =
        Host::new(|builder| builder.index(0).peer(1, &far.address().to_string()).token("of-the-first-node"));
    near.wait_for_peers(1);
}

#[test]
fn a_token_is_said_to_who_was_dialed_only_and_never_in_clear_beyond_this_host() {
    // Dialed: the hello that it says first has the token.
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let near = client(listener.local_addr().unwrap(), None, Some("shines-by-night"));
    let mut stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut said, mut part) = (Vec::new(), [0; 4096]);
    while !said.windows(15).any(|window| window == b"shines-by-night") {
        let count = stream.read(&mut part).unwrap();
        assert!(count > 0, "its hello has no token");
        said.extend_from_slice(&part[..count]);
    }
    drop((near, stream));
    // Accepted: ours has none, whatever the peer has shown.
    let far = Host::new(|builder| {
        builder
            .index(1)
            .listen(LOOPBACK.parse().unwrap())
            .token("the-nodes-own")
            .accept_token("lamp", "of-lamp")
    });
    let mut stranger = TcpStream::connect(far.address()).unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    stranger.write_all(&crate::hello_of(Identity::Client { id: lamp_id() }, b"of-lamp")).unwrap();
    let mut head = [0; HEADER_SIZE];
    stranger.read_exact(&mut head).unwrap();
    let header = Header::validate_head(&head, Seed::LOCAL).unwrap();
    let mut body = vec![0; header.size.get() as usize - HEADER_SIZE];
    stranger.read_exact(&mut body).unwrap();
    let Frame::Hello(hello) = decode(&header, &body).unwrap() else { panic!("its hello") };
    assert!(hello.token.is_empty());
    // Beyond this host, an address of the documentation.
    let near = Host::new(|builder| {
        builder.client(7).peer(1, "192.0.2.1:4420").allow_plain_beyond_loopback().token("shines-by-night")
    });
    near.wait_for_error("a token is not sent in clear");
}

#[test]
fn what_is_no_token_is_refused_when_the_node_is_made() {
    let host = Host::new(|builder| builder.index(0));
    let builder = || busway::Node::builder().cluster("test").index(1);
    for wrong in ["", " ", "with space", "line\n"] {
        assert_eq!(builder().token(wrong).open(&host.bus).unwrap_err().code(), Code::BadCredentials);
        assert_eq!(
            builder().accept_token("lamp", wrong).open(&host.bus).unwrap_err().code(),
            Code::BadCredentials
        );
    }
    let twice = builder().accept_token("lamp", "same").accept_token("other", "same");
    assert!(!format!("{twice:?}").contains("same"), "nothing shows a token");
    assert_eq!(twice.open(&host.bus).unwrap_err().code(), Code::BadCredentials);
    assert!(!host.node.wait_for_peers(1, Duration::ZERO));
}
