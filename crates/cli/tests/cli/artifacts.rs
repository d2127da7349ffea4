//! `put`, `get` and `artifacts`: files among programs and nodes, by the node of their host.
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

use std::fs;
use std::io::{BufRead, BufReader};

use rustix::process::Signal;

use crate::harness::{Place, Running, keys, names};
use crate::node::{until, up};

/// Of what comes in pieces.
const SIZE: usize = 2_000_000;

/// Bytes that are no text.
fn bytes(size: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(size).collect()
}

/// Two places whose nodes are linked.
fn two() -> [(Place, Running); 2] {
    let second = Place::new();
    let (other, line) = up(&second, &["--index", "1", "--listen", "127.0.0.1:0"]);
    let address = line.split("listen=").nth(1).expect("it listens").split_whitespace().next().expect("there");
    // The lower index dials the higher.
    let (first, peer) = (Place::new(), format!("1={address}"));
    let (node, _) = up(&first, &["--index", "0", "--peer", &peer]);
    [(first, node), (second, other)]
}

#[test]
fn a_file_that_is_put_is_got_on_another_host_whole_by_topic_and_by_id() {
    let [(here, _node), (there, _other)] = two();
    let (put, got) = (here.temporary().join("put"), there.temporary().join("got"));
    fs::write(&put, bytes(SIZE)).expect("a file");
    let path = put.to_str().expect("text");
    let offered = here.run(&["put", "model.weights", path, "--keep", "--attribute", "v=1", "--json"]);
    let offered = offered.expect(0).object();
    assert_eq!(keys(&offered), ["id", "kept", "size", "topic"]);
    let id = offered["id"].as_str().expect("an id").to_owned();
    let to = got.to_str().expect("text");
    there.run(&["get", "model.weights", "-o", to, "--timeout", "30s"]).expect(0);
    assert!(fs::read(&got).expect("a file") == bytes(SIZE));
    let by_id = there.run(&["get", &id[..12], "--timeout", "30s"]).expect(0);
    assert!(by_id.stdout == bytes(SIZE), "{} bytes", by_id.stdout.len());
    let listed = there.run(&["artifacts", "ls", "model.>", "--json"]).expect(0).object();
    assert_eq!(keys(&listed), ["attribute", "here", "id", "node", "own", "size", "topic"]);
    assert_eq!((listed["id"].as_str(), listed["attribute"].as_str()), (Some(&*id), Some("v=1")));
    assert_eq!((listed["own"].as_bool(), listed["node"].as_u64()), (Some(false), Some(0)));
    let text = here.run(&["artifacts", "ls"]).expect(0).text();
    assert!(text.contains(&id) && text.contains(" own "), "{text}");
    assert!(there.run(&["artifacts", "info", &id]).expect(0).text().contains("size        2000000\n"));
    // Only its own node takes it back.
    assert_eq!(there.run(&["artifacts", "rm", &id]).expect(1).report().0, "BUS-0805");
    here.run(&["artifacts", "rm", &id]).expect(0);
    until("its end is known there", || there.run(&["artifacts", "ls"]).expect(0).text().is_empty());
    assert_eq!(here.run(&["artifacts", "info", &id]).expect(1).report().0, "BUS-0805");
    println!("evidence: hosts=2 bytes={SIZE} by_topic=1 by_id=1 removed=1");
}

#[test]
fn what_is_put_reaches_all_nodes_or_says_which_it_has_not_reached() {
    let [(here, _node), (there, other)] = two();
    until("they are linked", || here.run(&["peers", "--json"]).expect(0).text().contains("\"connected\""));
    let ended = here.run_with(b"for all", &["put", "a.b", "-", "--reach-all", "30s"]).expect(0);
    assert_eq!(ended.text().trim_end().len(), 64, "{}", ended.text());
    let kept = here.run_with(b"this too", &["put", "a.b", "-", "--keep", "--reach-all", "30s", "--wait"]);
    kept.expect(0);
    other.stop();
    let (code, cause, ..) =
        here.run_with(b"not all", &["put", "a.b", "-", "--reach-all", "500ms"]).expect(1).report();
    assert_eq!((code.as_str(), cause.as_str()), ("BUS-0804", "node 1 have not said that they have it"));
    other.signal(Signal::CONT);
    drop(there);
    println!("evidence: reached=2 missed=1");
}

#[test]
fn an_offer_ends_with_its_command_and_a_get_that_is_interrupted_leaves_no_file() {
    let place = Place::new();
    // One that was told of no other host serves the programs of its own.
    let (node, _) = up(&place, &[]);
    let mut command = place.command(&["put", "a.b", "-"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let (stdin, body) = std::io::pipe().expect("a pipe");
    command.stdout(writer).stdin(stdin);
    std::io::Write::write_all(&mut { body }, b"mine").expect("it fits");
    let offering = Running::start(command);
    let mut id = String::new();
    BufReader::new(reader).read_line(&mut id).expect("an id");
    assert_eq!(place.run(&["get", id.trim_end()]).expect(0).text(), "mine");
    offering.signal(Signal::INT);
    offering.finish().expect(130);
    until("it is not offered any more", || place.run(&["artifacts", "ls"]).expect(0).text().is_empty());
    let folder = place.temporary().join("files");
    fs::create_dir(&folder).expect("a directory");
    let file = folder.join("file");
    let waiting = place.start(&["get", "a.b", "-o", file.to_str().expect("text")]);
    until("it waits", || place.run(&["shm", "ls", "--json"]).expect(0).text().contains("busway-get"));
    waiting.signal(Signal::INT);
    waiting.finish().expect(130);
    assert_eq!(names(&folder), [""; 0]);
    let (code, ..) = place.run(&["get", "a.b", "--timeout", "100ms"]).expect(1).report();
    assert_eq!(code, "BUS-0804");
    // A file that is there is replaced only by a whole one.
    fs::write(&file, b"before").expect("a file");
    place.run_with(b"after", &["put", "a.b", "-", "--keep"]).expect(0);
    place.run(&["get", "a.b", "-o", file.to_str().expect("text")]).expect(0);
    assert_eq!(
        (fs::read(&file).expect("a file"), names(&folder)),
        (b"after".to_vec(), vec!["file".to_owned()])
    );
    place.run(&["get", "a.b", "-o", "/no/such/directory/x"]).expect(1);
    node.signal(Signal::TERM);
    node.finish().expect(0);
    println!("evidence: interrupted=2 files_left=0 replaced=1");
}

#[test]
fn what_cannot_be_put_or_got_is_said_with_its_code() {
    let place = Place::new();
    for arguments in [&["put", "a.b", "-"][..], &["get", "a.b"], &["artifacts", "ls"]] {
        let (code, cause, _, remedy) = place.run_with(b"x", arguments).expect(3).report();
        assert_eq!((code.as_str(), cause.as_str()), ("BUS-0213", "no node of this host shares artifacts"));
        assert!(remedy.contains("busway up"), "{remedy}");
    }
    let (_node, _) = up(&place, &[]);
    let code = |ended: crate::harness::Ended| ended.report().0;
    assert_eq!(code(place.run(&["put", "a.b", "/no/such/file"]).expect(1)), "BUS-0802");
    assert_eq!(code(place.run_with(b"x", &["put", "$a", "-"]).expect(2)), "BUS-0105");
    assert_eq!(code(place.run_with(b"x", &["put", "a.*", "-"]).expect(2)), "BUS-0101");
    assert_eq!(code(place.run(&["get", "a b"]).expect(2)), "BUS-0102");
    let long = "x".repeat(257);
    assert_eq!(code(place.run_with(b"x", &["put", "a.b", "-", "--attribute", &long]).expect(2)), "BUS-0107");
    place.run(&["put", "a.b", "-", "--wait"]).expect(2);
    place.run(&["get", "a.b", "-n", "2", "-o", "/tmp/no-such-directory-of-ours"]).expect(2);
    assert_eq!(code(place.run(&["artifacts", "info", "00000000"]).expect(1)), "BUS-0805");
    assert!(place.run(&["artifacts", "info"]).expect(0).text().contains("refused"));
}
