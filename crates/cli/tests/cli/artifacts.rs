//! `put`, `get` and `artifacts`: files among programs and nodes, by the node of their host.
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;

use crate::harness::{Place, Running, keys, names};
use crate::node::{address, until, up};

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
    let (code, cause, _, remedy) = there.run(&["artifacts", "rm", &id]).expect(1).report();
    assert_eq!((code.as_str(), cause.as_str()), ("BUS-0805", "others offer it, and this node does not"));
    assert!(remedy.contains("the host of its NODE"), "{remedy}");
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
fn who_waits_for_what_nobody_offers_is_told_so_and_what_is_near_and_goes_on_waiting() {
    let place = Place::new();
    let (_node, _) = up(&place, &[]);
    place.run_with(b"other", &["put", "model.weights", "-", "--keep"]).expect(0);
    let id = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    let begun = |what: &str| {
        let mut waiting = place.start(&["get", what]);
        let note = waiting.stderr_until(|line| line.starts_with("note: nobody offers "));
        (waiting, note)
    };
    let (by_topic, near) = begun("model.wieghts");
    assert!(near.contains("near: model.weights") && near.contains("--timeout"), "{near}");
    let all = [by_topic, begun(id).0, begun(&id[..12]).0];
    // The artifact of no bytes.
    place.run(&["put", "model.wieghts", "/dev/null", "--keep"]).expect(0);
    let told: usize = all
        .into_iter()
        .map(|waiting| {
            let ended = waiting.finish().expect(0);
            assert!(ended.stdout.is_empty(), "{}", ended.text());
            ended.stderr.iter().filter(|line| line.starts_with("note: nobody offers ")).count()
        })
        .sum();
    assert_eq!(told, 3, "once each");
    let quiet = place.run(&["get", "not.there", "-q", "--timeout", "1500ms"]).expect(1);
    assert_eq!(quiet.stderr.len(), 3, "{:?}", quiet.stderr);
    println!("evidence: told={told} got=3");
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
    let (code_of, cause, at, remedy) = place.run(&["put", "a.b", "/"]).expect(1).report();
    assert_eq!((code_of.as_str(), at.as_str()), ("BUS-0802", "reading /"));
    assert!(cause.contains("directory") && remedy.contains("tar"), "{cause}: {remedy}");
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

#[test]
fn who_looks_for_one_by_its_id_declines_no_other() {
    const PUTS: usize = 5;
    let [(here, _node), (there, _other)] = two();
    until("they are linked", || here.run(&["peers", "--json"]).expect(0).text().contains("\"connected\""));
    let looking = there.start(&["get", "00000000"]);
    until("it looks", || there.run(&["shm", "ls", "--json"]).expect(0).text().contains("busway-get"));
    for number in 0..PUTS {
        let body = [&bytes(100_000)[..], &[number as u8]].concat();
        here.run_with(&body, &["put", "a.b", "-", "--reach-all", "30s"]).expect(0);
        let id = here.run_with(&body, &["put", "a.c", "-", "--keep"]).expect(0).text();
        until("it is seen there", || {
            there.run(&["artifacts", "ls", "a.c"]).expect(0).text().contains(id.trim_end())
        });
    }
    // What all nodes have, that one has too.
    let counted = there.run(&["artifacts", "info", "--json"]).expect(0).object();
    let useful = counted["bytes_useful"].as_u64().expect("a count");
    assert!(useful >= PUTS as u64 * 100_000, "{useful}");
    looking.signal(Signal::INT);
    looking.finish().expect(130);
    println!("evidence: reached={PUTS} bytes_there={useful} listed={PUTS}");
}

#[test]
fn a_get_that_is_killed_or_interrupted_while_it_writes_leaves_no_file() {
    let place = Place::new();
    let (node, _) = up(&place, &[]);
    let (large, folder) = (place.temporary().join("large"), place.temporary().join("files"));
    fs::write(&large, bytes(64 << 20)).expect("a file");
    fs::create_dir(&folder).expect("a directory");
    place.run(&["put", "a.b", large.to_str().expect("text"), "--keep"]).expect(0);
    let file = folder.join("file");
    let to = file.to_str().expect("text");
    for signal in [Signal::INT, Signal::KILL] {
        // One that is done before its node stands still is tried again.
        let getting = loop {
            let getting = place.start(&["get", "a.b", "-o", to]);
            let fds = format!("/proc/{}/fd", getting.pid());
            let writes = || {
                let fds = fs::read_dir(&fds).into_iter().flatten().flatten();
                let mut open = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
                open.any(|open| open.starts_with(&folder))
            };
            until("it writes, or is done", || writes() || file.exists());
            node.signal(Signal::STOP);
            if writes() && !file.exists() {
                break getting;
            }
            node.signal(Signal::CONT);
            getting.finish().expect(0);
            fs::remove_file(&file).expect("it is there");
        };
        getting.signal(signal);
        let ended = getting.finish();
        if signal == Signal::INT {
            ended.expect(130);
        }
        assert_eq!(names(&folder), [""; 0]);
        node.signal(Signal::CONT);
    }
    place.run(&["get", "a.b", "-o", to]).expect(0);
    assert!(fs::read(&file).expect("a file") == bytes(64 << 20));
    println!("evidence: interrupted=1 killed=1 files_left=0");
}

#[test]
fn what_is_no_file_is_written_to_and_a_file_keeps_its_rights_and_its_link() {
    let place = Place::new();
    let (_node, _) = up(&place, &[]);
    place.run_with(b"all of it", &["put", "a.b", "-", "--keep"]).expect(0);
    let folder = place.temporary().join("files");
    fs::create_dir(&folder).expect("a directory");
    let get = |to: &std::path::Path| place.run(&["get", "a.b", "-o", to.to_str().expect("text")]).expect(0);
    let (pipe, secret, link) = (folder.join("pipe"), folder.join("secret"), folder.join("link"));
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).expect("a pipe");
    let reading = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).expect("it is written")
    });
    get(&pipe);
    assert_eq!(reading.join().expect("it has read"), b"all of it");
    fs::write(&secret, b"before").expect("a file");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("it is ours");
    std::os::unix::fs::symlink(&secret, &link).expect("a link");
    get(&link);
    let mode = fs::metadata(&secret).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((fs::read(&secret).expect("a file"), mode), (b"all of it".to_vec(), 0o600));
    assert!(fs::symlink_metadata(&link).expect("it is there").is_symlink());
    assert_eq!(names(&folder), ["link", "pipe", "secret"]);
    println!("evidence: pipe=1 link=1 mode=600");
}

#[test]
fn a_put_whose_node_stands_still_ends_with_a_signal_and_offers_nothing() {
    let place = Place::new();
    let (node, _) = up(&place, &[]);
    let mut command = place.command(&["put", "a.b", "-", "--keep"]);
    command.stdin(std::process::Stdio::piped());
    let mut putting = Running::start(command);
    let mut stdin = putting.stdin().expect("stdin is a pipe");
    // It has read all but what fits into the pipe, so it has begun.
    std::io::Write::write_all(&mut stdin, &bytes(4 << 20)).expect("it reads");
    node.signal(Signal::STOP);
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &bytes(16 << 20)));
    putting.signal(Signal::INT);
    putting.finish().expect(130);
    // It had not taken all.
    drop(writing.join().expect("it does not panic"));
    node.signal(Signal::CONT);
    assert_eq!(place.run(&["artifacts", "ls"]).expect(0).text(), "");
    println!("evidence: interrupted=1 offered=0");
}

#[test]
fn who_knows_an_id_is_given_none_of_its_bytes_where_it_may_not_see_its_topic() {
    let (here, there) = (Place::new(), Place::new());
    let file = here.temporary().join("busway.toml");
    let rules = "[node]\nindex = 9\nlisten = [\"127.0.0.1:0\"]\n\
                 [[acl]]\nidentity = \"node/*\"\npublish = [\"public.>\"]\nsubscribe = [\"public.>\"]\n";
    fs::write(&file, rules).expect("a file");
    let (_node, line) = up(&here, &["--config", file.to_str().expect("text")]);
    let (_other, _) = up(&there, &["--index", "1", "--peer", &format!("9={}", address(&line))]);
    let put = |place: &Place, topic: &str, body: &[u8]| {
        place.run_with(body, &["put", topic, "-", "--keep"]).expect(0).text().trim_end().to_owned()
    };
    for size in [100, 100_000, SIZE] {
        let body = |last: u8| [&bytes(size)[..], &[last]].concat();
        let secret = put(&here, "secret.a", &body(1));
        // What was offered behind it is there, and it is not.
        let public = put(&here, "public.a", &body(2));
        assert!(there.run(&["get", &public, "--timeout", "30s"]).expect(0).stdout == body(2));
        let refused = |words: &[&str]| {
            let ended = there.run(words).expect(1);
            assert_eq!(ended.stdout.len(), 0, "{words:?}");
            ended.report().0
        };
        assert_eq!(refused(&["get", &secret, "--timeout", "200ms"]), "BUS-0804");
        assert_eq!(refused(&["get", "secret.a", "--timeout", "200ms"]), "BUS-0804");
        assert_eq!(refused(&["artifacts", "info", &secret]), "BUS-0805");
        assert!(!there.run(&["artifacts", "ls"]).expect(0).text().contains(&secret));
        // Programs of its own host see it, on its topic alone.
        assert!(here.run(&["get", &secret, "--timeout", "30s"]).expect(0).stdout == body(1));
        assert!(!here.run(&["artifacts", "ls", "public.>"]).expect(0).text().contains(&secret));
        // Who has the bytes may offer them where it may, and is told nothing of where they lay.
        assert_eq!(put(&there, "public.b", &body(1)), secret);
        let listed = there.run(&["artifacts", "ls", "--json"]).expect(0).text();
        assert!(listed.contains("public.b") && !listed.contains("secret"), "{listed}");
    }
    println!("evidence: sizes=3 ways=4 bytes_given=0");
}
